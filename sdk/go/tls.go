package keyvault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// TLS has the PEM files of a TLS connection. The server is always verified. The files are read for every new connection,
// so changed ones are used from the next one on; a server closes a connection after some minutes.
type TLS struct {
	// CA has the roots that the server is verified against; empty for the system's.
	CA string
	// Certificate and PrivateKey have the client's chain and its key, where the server requires them.
	Certificate, PrivateKey string
	// ServerName is the name in the server's certificate, where the address has another one.
	ServerName string
}

// config reads the files. Its error is an ErrInvalidRequest.
func (t TLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if (t.Certificate == "") != (t.PrivateKey == "") {
		return nil, invalid("a client certificate and its private key must be given together")
	}
	if t.CA != "" {
		roots, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fileError(t.CA, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(roots) {
			return nil, invalid("%s: not a PEM certificate", printable(t.CA))
		}
	}
	if t.Certificate != "" {
		own, err := t.own()
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// own reads the client's certificate and checks that it is valid now.
func (t TLS) own() (tls.Certificate, error) {
	for _, path := range []string{t.Certificate, t.PrivateKey} {
		if _, err := os.Stat(path); err != nil {
			return tls.Certificate{}, fileError(path, err)
		}
	}
	own, err := tls.LoadX509KeyPair(t.Certificate, t.PrivateKey)
	if err != nil { // its text may quote neither file: crypto/tls says what is wrong, not what it read
		return own, because(newError(ErrInvalidRequest, "%s and %s: not a PEM certificate and its unencrypted private key: %v",
			printable(t.Certificate), printable(t.PrivateKey), err), err)
	}
	if now := time.Now(); own.Leaf != nil && now.After(own.Leaf.NotAfter) {
		return own, invalid("%s: the certificate expired at %v: get a new one", printable(t.Certificate), own.Leaf.NotAfter.UTC())
	} else if own.Leaf != nil && now.Before(own.Leaf.NotBefore) {
		return own, invalid("%s: not valid before %v. Is this machine's clock right?", printable(t.Certificate), own.Leaf.NotBefore.UTC())
	}
	return own, nil
}

// handshakes are gRPC's credentials of TLS: they read the files for each connection, and keep why the last one failed,
// which gRPC has in a text alone.
type handshakes struct {
	files TLS
	log   *slog.Logger

	mu     sync.Mutex
	usable *tls.Config
	failed error
}

// ClientHandshake implements credentials.TransportCredentials.
func (h *handshakes) ClientHandshake(
	ctx context.Context, authority string, raw net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := credentials.NewTLS(h.config()).ClientHandshake(ctx, authority, raw)
	h.note(err)
	if err != nil {
		return nil, nil, err
	}
	return &firstRead{Conn: conn, note: h.note}, info, nil
}

// config returns that of the files, or the last usable one.
func (h *handshakes) config() *tls.Config {
	config, err := h.files.config()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.log.Error("reload failed: " + err.Error() + "; keeping the previous files")
		return h.usable
	}
	h.usable = config
	return config
}

func (h *handshakes) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = err
}

// refused returns why TLS failed in a way that another attempt does not change, nil if it did not.
func (h *handshakes) refused() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var unverified *tls.CertificateVerificationError
	var plaintext tls.RecordHeaderError
	var answered *net.OpError
	switch {
	case errors.As(h.failed, &unverified), errors.As(h.failed, &plaintext):
		return h.failed
	case errors.As(h.failed, &answered) && answered.Op == "remote error": // an alert
		return h.failed
	}
	return nil
}

// Info implements credentials.TransportCredentials.
func (h *handshakes) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: h.files.ServerName}).Info()
}

// Clone implements credentials.TransportCredentials: the clones share what failed.
func (h *handshakes) Clone() credentials.TransportCredentials { return h }

// ServerHandshake implements credentials.TransportCredentials.
func (h *handshakes) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a client's credentials")
}

// OverrideServerName implements credentials.TransportCredentials.
func (h *handshakes) OverrideServerName(string) error { return errors.New("give TLS.ServerName") }

// firstRead notes how the first read ends: in TLS 1.3 a client learns only then that its certificate was refused.
type firstRead struct {
	net.Conn
	once sync.Once
	note func(error)
}

// Read implements net.Conn.
func (f *firstRead) Read(into []byte) (int, error) {
	n, err := f.Conn.Read(into)
	f.once.Do(func() { f.note(err) })
	return n, err
}
