package keyvault

import (
	"context"
	"log/slog"
	"time"
)

const (
	defaultTimeout    = 10 * time.Second
	longestTimeout    = 24 * time.Hour
	defaultRemembered = 10_000
)

// Option changes how a [Client] connects.
type Option func(*settings)

type settings struct {
	tls        *TLS
	insecure   bool
	token      TokenSource
	tokenFile  string
	timeout    time.Duration
	remembered int
	log        *slog.Logger

	revisionFile string
}

// TokenSource returns a bearer token for the next attempt of a call; it is called before each one. Its error must not
// hold a part of a token.
type TokenSource func(ctx context.Context) (string, error)

// WithTLS connects by TLS. The zero TLS verifies the server against the system's roots.
func WithTLS(files TLS) Option { return func(s *settings) { s.tls = &files } }

// WithInsecure allows plaintext to another machine: keys, and the data key of GenerateKey, are then for all to see.
func WithInsecure() Option { return func(s *settings) { s.insecure = true } }

// WithTokenFile sends the bearer token in a file, which is reloaded when it changes. Needs WithTLS.
func WithTokenFile(path string) Option { return func(s *settings) { s.tokenFile = path } }

// WithTokenSource sends the bearer token that a function returns. Needs WithTLS.
func WithTokenSource(source TokenSource) Option { return func(s *settings) { s.token = source } }

// WithTimeout bounds calls whose context has no deadline: more than 0 and at most a day, 10 seconds by default.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithRemembered sets for how many names the highest proved revision is remembered, 10,000 by default, to notice a store
// that was rolled back. 0 remembers none.
func WithRemembered(names int) Option { return func(s *settings) { s.remembered = names } }

// WithRevisionFile keeps these revisions in a file as well, so that the next run of a program notices a store that was
// rolled back. Programs at once may share it, those of the Python client too. The file shows no names. A file that
// cannot be read or written is a warning in the log; invalid content is an ErrInvalidRequest of each call.
func WithRevisionFile(path string) Option { return func(s *settings) { s.revisionFile = path } }

// WithLogger logs what no call reports, such as files that became unusable; slog.Default() by default.
func WithLogger(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// settingsOf returns the checked settings of a client of this address, except for the files of TLS.
func settingsOf(address string, options []Option) (settings, error) {
	s := settings{timeout: defaultTimeout, remembered: defaultRemembered, log: slog.Default()}
	for _, option := range options {
		option(&s)
	}
	if err := checkAddress(address, s.tls != nil, s.insecure); err != nil {
		return s, err
	}
	switch {
	case s.timeout <= 0 || s.timeout > longestTimeout:
		return s, invalid("invalid timeout %v: must be more than 0 and at most %v", s.timeout, longestTimeout)
	case s.remembered < 0:
		return s, invalid("invalid number of remembered names %d: must be 0 or more", s.remembered)
	case s.log == nil:
		return s, invalid("the logger is nil: leave WithLogger out for slog.Default()")
	case s.token != nil && s.tokenFile != "":
		return s, invalid("give WithTokenFile or WithTokenSource, not both")
	case (s.token != nil || s.tokenFile != "") && s.tls == nil:
		return s, invalid("refusing to send a token to %s without TLS: give WithTLS", address)
	}
	if s.tokenFile != "" {
		file, err := openTokenFile(s.tokenFile, s.log)
		if err != nil {
			return s, err
		}
		s.token = file.token
	}
	return s, nil
}
