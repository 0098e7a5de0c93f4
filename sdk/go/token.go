package keyvault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
)

// maxToken is how many characters the server takes of a token.
const maxToken = 8000

var tokens = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`) // RFC 6750, section 2.1

func isToken(text string) bool { return len(text) <= maxToken && tokens.MatchString(text) }

// tokenFile is a TokenSource: the token in a file. If the changed file is unusable, the earlier token stays in use.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	read    os.FileInfo // of what was read last, nil for no file
	current string
}

func openTokenFile(path string, log *slog.Logger) (*tokenFile, error) {
	read, _ := os.Stat(path) // before it is read, which fails for a missing one
	current, err := readToken(path)
	return &tokenFile{path: path, log: log, read: read, current: current}, err
}

func (f *tokenFile) token(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, isNew := changed(f.path, f.read)
	if !isNew {
		return f.current, nil
	}
	f.read = now
	token, err := readToken(f.path)
	if err != nil {
		f.log.Error("reload failed: " + err.Error() + "; keeping the previous token")
		return f.current, nil
	}
	f.current = token
	return token, nil
}

// readToken returns the token in a file. Its error holds no part of it.
func readToken(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fileError(path, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, 2*maxToken))
	if err != nil {
		return "", fileError(path, err)
	}
	token := strings.TrimSpace(string(bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))))
	if !isToken(token) {
		return "", invalid("%s: not a bearer token: expected one line, as the issuer gave it", printable(path))
	}
	return token, nil
}

// fileError is an ErrInvalidRequest that wraps an error of a file.
func fileError(path string, err error) error {
	cause := err
	if about, ok := errors.AsType[*fs.PathError](err); ok {
		err = about.Err
	} else if about, ok := errors.AsType[*os.LinkError](err); ok {
		err = about.Err
	}
	return because(newError(ErrInvalidRequest, "%s: %v", printable(path), err), cause)
}

// bearer is the token of one attempt. gRPC sends it over TLS alone.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }

// bearerOf asks the source for the token of an attempt.
func bearerOf(ctx context.Context, source TokenSource) (bearer, error) {
	token, err := source(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", because(newError(ErrUnavailable, "timed out while getting a token; the request was not sent"), ctx.Err())
		}
		return "", because(newError(ErrUnavailable, "cannot get a token; the request was not sent: %s", printable(err.Error())), err)
	}
	if !isToken(token) {
		return "", invalid("the token source returned an invalid bearer token: expected one line, as the issuer gave it")
	}
	return bearer(token), nil
}
