package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
)

const usage = "kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N], " +
	"kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]"

// usageError is the caller's mistake: invalid arguments or settings.
type usageError string

func (e usageError) Error() string { return string(e) }

// command is what the caller asked for.
type command struct {
	verb, keyID, keyFile, newKeyFile string // keyID is the prefix of a list
	revision                         int64  // of get, 0 for the current one
	data                             []byte // of put
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
	needsKey := parsed.verb != "history" && parsed.verb != "list"
	switch {
	case err != nil:
		return command{}, usageError(fmt.Sprintf("%s; usage: %s", err, usage))
	case !slices.Contains([]string{"put", "get", "rotate", "delete", "history", "list"}, parsed.verb),
		flags.NArg() > 0,
		needsKey != (parsed.keyFile != ""),
		(parsed.verb == "rotate") != (parsed.newKeyFile != ""),
		parsed.verb != "get" && parsed.revision != 0:
		return command{}, usageError("usage: " + usage)
	case parsed.verb != "list" && (parsed.keyID == "" || strings.HasSuffix(parsed.keyID, "/")): // GenerateKey takes both
		return command{}, usageError(`a KEY_ID must not be empty or end in "/"; usage: ` + usage)
	}
	return parsed, nil
}

// connect makes a client by the variables of the environment, and returns how long the command may take.
func connect(getenv func(string) string) (*keyvault.Client, time.Duration, error) {
	seconds, err := strconv.ParseFloat(cmp.Or(getenv("KEYVAULT_TIMEOUT"), "10"), 64)
	if err != nil || !(seconds > 0 && seconds <= 86_400) {
		return nil, 0, usageError("KEYVAULT_TIMEOUT must be a number of seconds greater than 0 and at most a day")
	}
	secure, err := strconv.ParseBool(cmp.Or(getenv("KEYVAULT_TLS"), "false"))
	if err != nil {
		return nil, 0, usageError("KEYVAULT_TLS must be true or false")
	}
	files := keyvault.TLS{
		CA: getenv("KEYVAULT_CA"), Certificate: getenv("KEYVAULT_CERTIFICATE"), PrivateKey: getenv("KEYVAULT_PRIVATE_KEY"),
		ServerName: getenv("KEYVAULT_SERVER_NAME"),
	}
	var options []keyvault.Option
	if secure || files.CA != "" || files.Certificate != "" || files.PrivateKey != "" {
		options = append(options, keyvault.WithTLS(files))
	}
	if path := getenv("KEYVAULT_TOKEN_FILE"); path != "" {
		options = append(options, keyvault.WithTokenFile(path))
	}
	client, err := keyvault.New(cmp.Or(getenv("KEYVAULT_ADDRESS"), "127.0.0.1:50051"), options...)
	if err != nil {
		return nil, 0, usageError(err.Error() + " (KEYVAULT_ADDRESS, KEYVAULT_TLS, KEYVAULT_CA and the like)")
	}
	return client, time.Duration(seconds * float64(time.Second)), nil
}
