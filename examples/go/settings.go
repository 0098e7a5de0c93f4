package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// maxMessage is the contract's limit of one message, in bytes.
const maxMessage = 512 << 10

// settings are this program's environment variables. Their rule: keys and tokens leave this machine over TLS alone.
type settings struct {
	address                 string        // KEYVAULT_ADDRESS, host:port or unix:/path
	ca                      string        // KEYVAULT_CA, PEM roots; turns TLS on
	certificate, privateKey string        // KEYVAULT_CERTIFICATE, KEYVAULT_PRIVATE_KEY, PEM; turn TLS on too
	tokenFile               string        // KEYVAULT_TOKEN_FILE, a bearer token
	timeout                 time.Duration // KEYVAULT_TIMEOUT, in seconds, for the whole command
}

func settingsFrom(getenv func(string) string) (settings, error) {
	seconds, err := strconv.ParseFloat(cmp.Or(getenv("KEYVAULT_TIMEOUT"), "10"), 64)
	if err != nil || !(seconds > 0 && seconds <= 1e6) {
		return settings{}, usageError("KEYVAULT_TIMEOUT must be a number of seconds greater than 0")
	}
	s := settings{
		address:     cmp.Or(getenv("KEYVAULT_ADDRESS"), "127.0.0.1:50051"),
		ca:          getenv("KEYVAULT_CA"),
		certificate: getenv("KEYVAULT_CERTIFICATE"),
		privateKey:  getenv("KEYVAULT_PRIVATE_KEY"),
		tokenFile:   getenv("KEYVAULT_TOKEN_FILE"),
		timeout:     time.Duration(seconds * float64(time.Second)),
	}
	switch {
	case (s.certificate == "") != (s.privateKey == ""):
		return settings{}, usageError("KEYVAULT_CERTIFICATE and KEYVAULT_PRIVATE_KEY must be set together")
	case s.tls():
	case s.tokenFile != "":
		return settings{}, usageError("KEYVAULT_TOKEN_FILE requires TLS: set KEYVAULT_CA")
	case !isLoopback(s.address):
		return settings{}, usageError("refusing plaintext to another machine (" + s.address + "): set KEYVAULT_CA")
	}
	return s, nil
}

func (s settings) tls() bool { return s.ca != "" || s.certificate != "" }

func isLoopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return strings.HasPrefix(address, "unix:") || host == "localhost" || net.ParseIP(host).IsLoopback()
}

// connect makes a connection that opens with the first call.
func (s settings) connect() (*grpc.ClientConn, error) {
	pace := backoff.Config{BaseDelay: firstWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	options := []grpc.DialOption{
		grpc.WithDisableRetry(), // call retries itself: it knows what an answer means
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pace, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{ // or a half-open connection would never be left
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
	transport := insecure.NewCredentials()
	if s.tls() {
		config, err := s.tlsConfig()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	if s.tokenFile != "" {
		token, err := readToken(s.tokenFile)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithPerRPCCredentials(token))
	}
	return grpc.NewClient(s.address, append(options, grpc.WithTransportCredentials(transport))...)
}

func (s settings) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		roots, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool() // without KEYVAULT_CA, the system's
		if !config.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("KEYVAULT_CA: %s: not a PEM certificate", s.ca)
		}
	}
	if s.certificate != "" {
		own, err := tls.LoadX509KeyPair(s.certificate, s.privateKey)
		if err != nil {
			return nil, fmt.Errorf("KEYVAULT_CERTIFICATE, KEYVAULT_PRIVATE_KEY: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// bearer is a token that shows who calls.
type bearer string

func readToken(path string) (bearer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("KEYVAULT_TOKEN_FILE: %s: not a bearer token", path)
	}
	return bearer(token), nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }
