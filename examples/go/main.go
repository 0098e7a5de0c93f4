// Command kv keeps secrets in a KeyVault server: a small program on top of the library in sdk/go.
//
// A secret goes through files, standard input and standard output, never through an argument. A failure is one line on
// standard error and an exit code that says what a script can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
)

func main() {
	// An interrupted command still says whether its outcome is known.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "kv:", oneLine(err.Error()))
	os.Exit(exitCode(err))
}

// exitCode is that of the command keyvault for the same failure.
func exitCode(err error) int {
	for _, one := range []struct {
		kind error
		code int
	}{
		{keyvault.ErrOutcomeUnknown, 7},
		{context.Canceled, 130},
		{keyvault.ErrUnavailable, 6}, {keyvault.ErrBusy, 6},
		{keyvault.ErrDenied, 5}, {keyvault.ErrNotAuthorized, 5},
		{keyvault.ErrConflict, 4}, {keyvault.ErrAlreadyExists, 4},
		{keyvault.ErrNotFound, 3},
	} {
		if errors.Is(err, one.kind) {
			return one.code
		}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if about, ok := errors.AsType[*keyvault.Error](err); ok && about.Reason == "" && errors.Is(err, keyvault.ErrInvalidRequest) {
		return 2 // found before anything was sent
	}
	return 1
}

func run(ctx context.Context, arguments []string, stdin io.Reader, stdout io.Writer) error {
	asked, err := parse(arguments)
	if err != nil {
		return err
	}
	vault, timeout, err := connect(os.Getenv)
	if err != nil {
		return err
	}
	defer vault.Close()
	if asked.verb == "put" {
		if asked.data, err = io.ReadAll(io.LimitReader(stdin, keyvault.MaxPlaintext+1)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return asked.run(ctx, vault, stdout)
}

func (c command) run(ctx context.Context, vault keyvault.Vault, stdout io.Writer) error {
	switch c.verb {
	case "list":
		for name, err := range vault.List(ctx, c.keyID) {
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(stdout, name.KeyID); err != nil {
				return err
			}
		}
		return nil
	case "history":
		return history(ctx, vault, c.keyID, stdout)
	case "get":
		return c.get(ctx, vault, stdout)
	}
	done, err := c.change(ctx, vault)
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s is at revision %d\n", c.keyID, done.Revision)
	}
	return err
}

func history(ctx context.Context, vault keyvault.Vault, keyID string, stdout io.Writer) error {
	revisions, err := vault.Revisions(ctx, keyID)
	for _, one := range revisions {
		written := one.UpdateTime.Format(time.RFC3339)
		if _, err := fmt.Fprintf(stdout, "revision %d  %s  %d bytes sealed\n", one.Revision, written, one.Size); err != nil {
			return err
		}
	}
	return err
}

func (c command) get(ctx context.Context, vault keyvault.Vault, stdout io.Writer) error {
	key, err := keyvault.LoadDataKey(c.keyFile)
	if err != nil {
		return err
	}
	var options []keyvault.ReadOption
	if c.revision != 0 {
		options = append(options, keyvault.AtRevision(c.revision))
	}
	record, err := vault.Read(ctx, c.keyID, key, options...)
	if err == nil {
		_, err = stdout.Write(record.Plaintext)
	}
	return err
}

// change runs the verbs that change a record. put makes the key file that is missing, and rotate the new one.
func (c command) change(ctx context.Context, vault keyvault.Vault) (keyvault.Written, error) {
	load := keyvault.LoadDataKey
	if c.verb == "put" {
		load = func(path string) (*keyvault.DataKey, error) { return loadOrMakeKey(ctx, vault, path, c.keyID) }
	}
	key, err := load(c.keyFile)
	if err != nil {
		return keyvault.Written{}, err
	}
	switch c.verb {
	case "put":
		done, err := vault.Create(ctx, c.keyID, c.data, key)
		if errors.Is(err, keyvault.ErrAlreadyExists) {
			return vault.Update(ctx, c.keyID, c.data, key)
		}
		return done, err
	case "delete":
		return vault.Delete(ctx, c.keyID, key)
	}
	newKey, err := loadOrMakeKey(ctx, vault, c.newKeyFile, c.keyID)
	if err != nil {
		return keyvault.Written{}, err
	}
	return vault.RotateKey(ctx, c.keyID, key, newKey)
}

// loadOrMakeKey reads a key file, or makes it, with a fresh key for this key_id alone.
func loadOrMakeKey(ctx context.Context, vault keyvault.Vault, path, keyID string) (*keyvault.DataKey, error) {
	key, err := keyvault.LoadDataKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = vault.GenerateKey(ctx, keyID); err != nil {
		return nil, err
	}
	return key, key.Save(path) // before it is used: it cannot be regenerated
}

// oneLine keeps what a file's name brings along from moving the cursor or reordering the line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
