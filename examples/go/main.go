// Command kv keeps secrets in a KeyVault server: a client in Go, made of the contract and docs/envelope.md alone.
//
// A secret goes through files, standard input and standard output, never through an argument. A failure is one line on
// standard error: exit 1, or 2 for bad usage.
package main

//go:generate ../../.venv/bin/buf generate ../..

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	pb "example.com/kv/keyvaultv1"
	"example.com/kv/kve1"
)

const usage = "kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N], " +
	"kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]"

// usageError is the caller's mistake: invalid arguments or settings.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "kv:", oneLine(err.Error()))
	if _, ok := errors.AsType[usageError](err); ok {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(arguments []string, stdin io.Reader, stdout io.Writer) error {
	command, err := parse(arguments)
	if err != nil {
		return err
	}
	settings, err := settingsFrom(os.Getenv)
	if err != nil {
		return err
	}
	if command.verb == "put" {
		if command.plaintext, err = readPlaintext(stdin); err != nil {
			return err
		}
	}
	connection, err := settings.connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), settings.timeout)
	defer cancel()
	return command.run(ctx, vault{pb.NewKeyVaultClient(connection)}, stdout)
}

// command is what the caller asked for.
type command struct {
	verb, keyID, keyFile, newKeyFile string // keyID is the prefix of a list
	revision                         int64  // of get, 0 for the current one
	plaintext                        []byte
}

func parse(arguments []string) (command, error) {
	if len(arguments) == 0 {
		return command{}, usageError("usage: " + usage)
	}
	parsed := command{verb: arguments[0]}
	flags := flag.NewFlagSet("kv", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&parsed.keyFile, "key", "", "")
	flags.StringVar(&parsed.newKeyFile, "new-key", "", "")
	flags.Func("revision", "", func(text string) (err error) {
		if parsed.revision, err = strconv.ParseInt(text, 10, 64); err == nil && parsed.revision < 1 {
			err = errors.New("must be at least 1")
		}
		return err
	})
	err := flags.Parse(arguments[1:])
	if err == nil && flags.NArg() > 0 { // flags may stand on both sides of the KEY_ID
		parsed.keyID = flags.Arg(0)
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case err != nil:
		return command{}, usageError(fmt.Sprintf("%s; usage: %s", err, usage))
	case !slices.Contains([]string{"put", "get", "rotate", "delete", "history", "list"}, parsed.verb),
		flags.NArg() > 0,
		parsed.needsKey() != (parsed.keyFile != ""),
		(parsed.verb == "rotate") != (parsed.newKeyFile != ""),
		parsed.verb != "get" && parsed.revision != 0:
		return command{}, usageError("usage: " + usage)
	case parsed.verb == "list":
		return parsed, nil
	case parsed.keyID == "" || strings.HasSuffix(parsed.keyID, "/"): // GenerateKey would take either for another scope
		return command{}, usageError(`a KEY_ID must not be empty or end in "/"; usage: ` + usage)
	}
	return parsed, nil
}

func (c command) needsKey() bool { return c.verb != "history" && c.verb != "list" }

func (c command) run(ctx context.Context, v vault, stdout io.Writer) error {
	if c.needsKey() {
		return c.runWithKey(ctx, v, stdout)
	}
	if c.verb == "list" {
		return v.list(ctx, c.keyID, func(name string) error {
			_, err := fmt.Fprintln(stdout, name)
			return err
		})
	}
	lines, err := v.history(ctx, c.keyID)
	if err == nil {
		_, err = io.WriteString(stdout, lines)
	}
	return err
}

func (c command) runWithKey(ctx context.Context, v vault, stdout io.Writer) error {
	load := loadKey
	if c.verb == "put" {
		load = func(path string) (dataKey, error) { return v.loadOrMakeKey(ctx, path, c.keyID) }
	}
	key, err := load(c.keyFile)
	if err != nil {
		return err
	}
	var revision int64
	switch c.verb {
	case "get":
		var plaintext []byte
		if c.revision != 0 {
			plaintext, err = v.getRevision(ctx, c.keyID, key, c.revision)
		} else {
			plaintext, err = v.get(ctx, c.keyID, key)
		}
		if err == nil {
			_, err = stdout.Write(plaintext)
		}
		return err
	case "put":
		revision, err = v.put(ctx, c.keyID, key, c.plaintext)
	case "delete":
		revision, err = v.delete(ctx, c.keyID, key)
	case "rotate":
		var newKey dataKey
		if newKey, err = v.loadOrMakeKey(ctx, c.newKeyFile, c.keyID); err == nil {
			revision, err = v.rotate(ctx, c.keyID, key, newKey)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s is at revision %d\n", c.keyID, revision)
	}
	return err
}

func readPlaintext(stdin io.Reader) ([]byte, error) {
	plaintext, err := io.ReadAll(io.LimitReader(stdin, kve1.MaxPlaintext+1))
	if err == nil && len(plaintext) > kve1.MaxPlaintext {
		err = fmt.Errorf("standard input is too long: a record holds at most %d bytes", kve1.MaxPlaintext)
	}
	return plaintext, err
}

// oneLine keeps what a server or a file's name brings along from moving the cursor or reordering the line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
