package keyvault

import (
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// NewFromEnvironment makes a client by the variables that the command `keyvault` has: KEYVAULT_ADDRESS (127.0.0.1:50051
// if it is not set), KEYVAULT_TIMEOUT in seconds, KEYVAULT_TLS, KEYVAULT_CA, KEYVAULT_CERTIFICATE, KEYVAULT_PRIVATE_KEY,
// KEYVAULT_SERVER_NAME, KEYVAULT_TOKEN_FILE and KEYVAULT_INSECURE. An empty one is refused: KEYVAULT_CA=$CA is to fail
// where CA is not set. The options count more. Its error is an ErrInvalidRequest.
//
// KEYVAULT_STATE is the file of [WithRevisionFile], that of `keyvault` if it is not set: keyvault/revisions.json in
// XDG_STATE_HOME or ~/.local/state. An empty one keeps none.
func NewFromEnvironment(options ...Option) (*Client, error) {
	found := environment{}
	address := found.text("KEYVAULT_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	chosen := found.options()
	if found.err != nil {
		return nil, found.err
	}
	client, err := New(address, append(chosen, options...)...)
	if err != nil {
		about := newError(ErrInvalidRequest, "%v (by KEYVAULT_ADDRESS, KEYVAULT_TLS, KEYVAULT_CA and the like)", err)
		return nil, because(about, err)
	}
	return client, nil
}

// environment reads variables, and keeps the first error.
type environment struct{ err error }

func (e *environment) fail(format string, values ...any) {
	if e.err == nil {
		e.err = invalid(format, values...)
	}
}

// text returns the value of a variable, "" if it is not set.
func (e *environment) text(name string) string {
	value, isSet := os.LookupEnv(name)
	if isSet && value == "" {
		e.fail("%s is empty: give it a value, or unset it", name)
	}
	return value
}

func (e *environment) isTrue(name string) bool {
	value := e.text(name)
	chosen, err := strconv.ParseBool(value)
	if value != "" && err != nil {
		e.fail("%s must be true or false, not %s", name, quote(value))
	}
	return chosen
}

func (e *environment) options() []Option {
	var chosen []Option
	if value := e.text("KEYVAULT_TIMEOUT"); value != "" {
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil || !(seconds > 0 && seconds <= longestTimeout.Seconds()) { // NaN is neither
			e.fail("KEYVAULT_TIMEOUT must be more than 0 and at most 86400 seconds, not %s", quote(value))
		}
		chosen = append(chosen, WithTimeout(time.Duration(seconds*float64(time.Second))))
	}
	files := TLS{
		CA: e.text("KEYVAULT_CA"), Certificate: e.text("KEYVAULT_CERTIFICATE"), PrivateKey: e.text("KEYVAULT_PRIVATE_KEY"),
		ServerName: e.text("KEYVAULT_SERVER_NAME"),
	}
	switch {
	case e.isTrue("KEYVAULT_TLS") || files.CA != "" || files.Certificate != "" || files.PrivateKey != "":
		chosen = append(chosen, WithTLS(files))
	case files.ServerName != "":
		e.fail("KEYVAULT_SERVER_NAME needs TLS: set KEYVAULT_TLS, KEYVAULT_CA or KEYVAULT_CERTIFICATE")
	}
	if e.isTrue("KEYVAULT_INSECURE") {
		chosen = append(chosen, WithInsecure())
	}
	if path := e.text("KEYVAULT_TOKEN_FILE"); path != "" {
		chosen = append(chosen, WithTokenFile(path))
	}
	if path := stateFile(); path != "" {
		chosen = append(chosen, WithRevisionFile(path))
	}
	return chosen
}

// stateFile returns the path of the file of revisions, "" for none.
func stateFile() string {
	if path, isSet := os.LookupEnv("KEYVAULT_STATE"); isSet {
		return path
	}
	folder := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(folder) { // the specification ignores it then
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		folder = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(folder, "keyvault", "revisions.json")
}
