package keyvault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

func TestAnAddressThatCannotBeIsRefused(t *testing.T) {
	for _, address := range []string{
		"", "vault", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:+1", ":50051", "::1", "::1:50051", "[::1]",
		"http://127.0.0.1:1", "unix:", "unix:///", "unix:/" + strings.Repeat("x", 107), "127.0.0.1:\x1b[2J",
	} {
		_, err := keyvault.New(address)
		if !errors.Is(err, keyvault.ErrInvalidRequest) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/run/kv.sock"} {
		if _, err := keyvault.New(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestSecretsDoNotLeaveThisMachineInPlaintext(t *testing.T) {
	for _, address := range []string{"192.0.2.1:1", "127.0.0.1.example:1", "localhost.example:1", "dns:///vault:1"} {
		if _, err := keyvault.New(address); !errors.Is(err, keyvault.ErrInvalidRequest) {
			t.Errorf("%s: %v", address, err)
		}
		if _, err := keyvault.New(address, keyvault.WithInsecure()); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	source := keyvault.WithTokenSource(func(context.Context) (string, error) { return "t", nil })
	if _, err := keyvault.New("127.0.0.1:1", source); !errors.Is(err, keyvault.ErrInvalidRequest) {
		t.Errorf("a token without TLS: %v", err)
	}
}

func TestAnImpossibleOptionIsRefused(t *testing.T) {
	for what, option := range map[string]keyvault.Option{
		"timeout": keyvault.WithTimeout(0), "long": keyvault.WithTimeout(25 * time.Hour), "memory": keyvault.WithRemembered(-1),
		"logger": keyvault.WithLogger(nil), "half": keyvault.WithTLS(keyvault.TLS{Certificate: "a.pem"}),
		"roots": keyvault.WithTLS(keyvault.TLS{CA: "absent.pem"}),
	} {
		if _, err := keyvault.New("127.0.0.1:1", option); !errors.Is(err, keyvault.ErrInvalidRequest) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := keyvault.New("127.0.0.1:1", keyvault.WithTLS(keyvault.TLS{CA: "absent.pem"}))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "absent.pem") {
		t.Error(err)
	}
}

func TestATokenThatIsNoneIsNotQuoted(t *testing.T) {
	folder := t.TempDir()
	roots := selfSigned(t, folder, "localhost")
	path := filepath.Join(folder, "token")
	for _, text := range []string{"", "SECRET SECRET", "SECRET\x00", strings.Repeat("SECRET", 2000)} {
		write(t, path, text)
		_, err := keyvault.New("127.0.0.1:1", keyvault.WithTLS(roots), keyvault.WithTokenFile(path))
		if !errors.Is(err, keyvault.ErrInvalidRequest) || strings.Contains(err.Error(), "SECRET") {
			t.Error(err)
		}
	}
	source := func(context.Context) (string, error) { return "SECRET\n", nil }
	s := serve(t, nil)
	vault := s.client(keyvault.WithTLS(roots), keyvault.WithTokenSource(source))
	_, err := vault.Read(t.Context(), keyID, newKey(t, 1))
	if !errors.Is(err, keyvault.ErrInvalidRequest) || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}

// TestRenewedFilesAreUsedWithoutARestart renews the certificate, the roots and the token of a client that has connected.
func TestRenewedFilesAreUsedWithoutARestart(t *testing.T) {
	key := newKey(t, 1)
	folder := t.TempDir()
	files := selfSigned(t, folder, "first")
	token := filepath.Join(folder, "token")
	write(t, token, "first\n")
	var seen []string
	noted := func(ctx context.Context, request any) (any, error) {
		sent, _ := metadata.FromIncomingContext(ctx)
		who, _ := peer.FromContext(ctx)
		shown := who.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].DNSNames[0]
		seen = append(seen, shown+" "+strings.Join(sent["authorization"], ","))
		return stored(key, kve1.Data, 3, 3, "three")(ctx, request)
	}
	// The server shows and trusts whatever is in the files at each handshake.
	shortLived := keepalive.ServerParameters{MaxConnectionAge: 500 * time.Millisecond, MaxConnectionAgeGrace: time.Second}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		own, err := tls.LoadX509KeyPair(files.Certificate, files.PrivateKey)
		return &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert,
		}, err
	}}
	age := grpc.KeepaliveParams(shortLived)
	s := serve(t, []grpc.ServerOption{grpc.Creds(credentials.NewTLS(config)), age}, noted, noted)
	vault := s.client(keyvault.WithTLS(files), keyvault.WithTokenFile(token))
	if _, err := vault.Read(t.Context(), keyID, key); err != nil {
		t.Fatal(err)
	}
	selfSigned(t, folder, "second")
	write(t, token, "second\n")
	before := time.Now().Add(-time.Minute)
	if err := os.Chtimes(token, before, before); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond) // the server ends the connection
	if _, err := vault.Read(t.Context(), keyID, key); err != nil {
		t.Fatal(err)
	}
	if strings.Join(seen, "; ") != "first Bearer first; second Bearer second" {
		t.Errorf("seen: %q", seen)
	}
}

func TestATLSFailureNamesItsCauseAtOnce(t *testing.T) {
	files := selfSigned(t, t.TempDir(), "localhost")
	other := selfSigned(t, t.TempDir(), "localhost")
	foreign := other
	foreign.CA = files.CA
	own, err := tls.LoadX509KeyPair(files.Certificate, files.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	demanding := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: x509.NewCertPool(),
	}
	secure := serve(t, []grpc.ServerOption{grpc.Creds(credentials.NewTLS(demanding))})
	plain := serve(t, nil)
	for what, test := range map[string]struct {
		server *scripted
		files  keyvault.TLS
		says   string
	}{
		"another CA":        {secure, keyvault.TLS{CA: other.CA}, "is not trusted"},
		"the system's":      {secure, keyvault.TLS{}, "is not trusted"},
		"another name":      {secure, keyvault.TLS{CA: files.CA, ServerName: "elsewhere"}, "is for another host name"},
		"no certificate":    {secure, keyvault.TLS{CA: files.CA}, "Does it require a client certificate"},
		"its certificate":   {secure, foreign, "Does it require a client certificate"},
		"a plaintext peer":  {plain, keyvault.TLS{CA: files.CA}, "does not speak TLS"},
		"plaintext to TLS ": {secure, keyvault.TLS{Certificate: "none"}, "Does it require TLS?"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		options := []keyvault.Option{keyvault.WithTLS(test.files)}
		if test.files.Certificate == "none" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			options = nil
		}
		_, err := test.server.client(options...).Read(ctx, keyID, newKey(t, 1))
		inTime := ctx.Err() == nil || options == nil
		if !errors.Is(err, keyvault.ErrUnavailable) || !strings.Contains(err.Error(), test.says) || !inTime {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
	_, err = secure.client(keyvault.WithTLS(keyvault.TLS{CA: other.CA})).Read(t.Context(), keyID, newKey(t, 1))
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("the cause is lost: %v", err)
	}
}

// selfSigned makes a certificate for either side, or writes over the one that is there.
func selfSigned(t *testing.T, folder, name string) keyvault.TLS {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	write(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return keyvault.TLS{CA: certificate, Certificate: certificate, PrivateKey: key}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
