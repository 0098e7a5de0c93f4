// Command kv keeps secrets in a KeyVault server: a small program on top of the library in sdk/go.
//
// A secret goes through files and standard streams, never through an argument. A failure is one line on standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
)

const usage = "kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N], " +
	"kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]"

// takes has the options of each verb, as they may be given.
var takes = map[string][]string{
	"put": {" --key"}, "get": {" --key", " --key --revision"}, "delete": {" --key"}, "rotate": {" --key --new-key"},
	"history": {""}, "list": {""},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // so that it says what is known
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kv:", keyvault.Printable(err.Error()))
		os.Exit(keyvault.ExitCode(err))
	}
}

// command is what the caller asked for. keyID is the prefix of a list.
type command struct {
	verb, keyID, keyFile, newKeyFile string
	read                             []keyvault.ReadOption
}

func parse(arguments []string) (command, error) {
	var parsed command
	flags := flag.NewFlagSet("kv", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&parsed.keyFile, "key", "", "")
	flags.StringVar(&parsed.newKeyFile, "new-key", "", "")
	flags.Func("revision", "", func(text string) error {
		revision, err := strconv.ParseInt(text, 10, 64)
		parsed.read = append(parsed.read, keyvault.AtRevision(revision))
		return err
	})
	words, err := []string{}, flags.Parse(arguments)
	for err == nil && flags.NArg() > 0 { // options may stand before and after a word
		words = append(words, flags.Arg(0))
		err = flags.Parse(flags.Args()[1:])
	}
	given := ""
	flags.Visit(func(one *flag.Flag) { given += " --" + one.Name }) // in the order of their names
	words = append(words, "", "")
	parsed.verb, parsed.keyID = words[0], words[1]
	isName := parsed.keyID != "" && !strings.HasSuffix(parsed.keyID, "/") // a key may be for a prefix, a record is not
	if err == nil && (len(words) > 4 || !slices.Contains(takes[parsed.verb], given) || !isName && parsed.verb != "list") {
		err = errors.New("unknown verb, or not its arguments")
	}
	return parsed, err
}

func run(ctx context.Context, arguments []string, stdin io.Reader, stdout io.Writer) error {
	asked, err := parse(arguments)
	if err != nil {
		return fmt.Errorf("%w: %w; usage: %s", keyvault.ErrInvalidRequest, err, usage)
	}
	vault, err := keyvault.NewFromEnvironment()
	if err != nil {
		return err
	}
	defer vault.Close()
	var data []byte
	if asked.verb == "put" {
		if data, err = io.ReadAll(io.LimitReader(stdin, keyvault.MaxPlaintext+1)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, vault.Timeout()) // for all calls of the command
	defer cancel()
	out, err := asked.run(ctx, vault, data)
	if err == nil {
		_, err = stdout.Write(out)
	}
	return err
}

func (c command) run(ctx context.Context, vault keyvault.Vault, data []byte) (out []byte, err error) {
	switch c.verb {
	case "list":
		for name, err := range vault.List(ctx, c.keyID) {
			if err != nil {
				return nil, err
			}
			out = append(out, name.KeyID+"\n"...)
		}
		return out, nil
	case "history":
		revisions, err := vault.Revisions(ctx, c.keyID)
		for _, r := range revisions {
			out = fmt.Appendf(out, "revision %d  %s  %d bytes sealed\n", r.Revision, r.UpdateTime.Format(time.RFC3339), r.Size)
		}
		return out, err
	}
	key, err := keyvault.LoadDataKey(c.keyFile)
	if c.verb == "put" {
		key, err = keyvault.LoadOrGenerateKey(ctx, vault, c.keyFile, c.keyID)
	}
	if err != nil {
		return nil, err
	}
	if c.verb != "get" {
		done, err := c.change(ctx, vault, data, key)
		return fmt.Appendf(nil, "%s is at revision %d\n", c.keyID, done.Revision), err
	}
	record, err := vault.Read(ctx, c.keyID, key, c.read...)
	if err != nil {
		return nil, err
	}
	return record.Plaintext, nil
}

func (c command) change(ctx context.Context, vault keyvault.Vault, data []byte, key *keyvault.DataKey) (keyvault.Written, error) {
	switch c.verb {
	case "put":
		done, err := vault.Create(ctx, c.keyID, data, key)
		if errors.Is(err, keyvault.ErrAlreadyExists) {
			return vault.Update(ctx, c.keyID, data, key)
		}
		return done, err
	case "delete":
		return vault.Delete(ctx, c.keyID, key)
	}
	newKey, err := keyvault.LoadOrGenerateKey(ctx, vault, c.newKeyFile, c.keyID)
	if err != nil {
		return keyvault.Written{}, err
	}
	return vault.RotateKey(ctx, c.keyID, key, newKey)
}
