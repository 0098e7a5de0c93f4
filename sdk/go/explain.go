package keyvault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strconv"
	"strings"
)

// explain returns a sentence for why there is no connection, with what to do where that is known. text is gRPC's, failed
// is how TLS failed, nil if it did not.
func explain(text string, failed error, tls bool) string {
	text = strings.TrimPrefix(text, "connection error: desc = ")
	if plain, err := strconv.Unquote(text); err == nil {
		text = plain
	}
	text = printable(strings.TrimPrefix(text, "transport: Error while dialing: "))
	closed := strings.HasSuffix(text, "EOF") || strings.Contains(text, "connection reset") || strings.Contains(text, "broken pipe")
	switch {
	case failed != nil:
		return whyTLS(failed) + " (" + printable(failed.Error()) + ")"
	case strings.Contains(text, "connection refused"):
		return "connection refused. Is the server running?"
	case closed && tls:
		return "the server closed the connection. Does it require a client certificate, and does it trust yours? (" + text + ")"
	case closed:
		return "the server closed the connection. Does it require TLS? (" + text + ")"
	}
	return text
}

func whyTLS(failed error) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var unverified *tls.CertificateVerificationError
	var plaintext tls.RecordHeaderError
	switch {
	case errors.As(failed, &name):
		return "the server's certificate is for another host name. Is the address right, or is TLS.ServerName needed?"
	case errors.As(failed, &authority):
		return "the server's certificate is not trusted. Does the CA belong to this server?"
	case errors.As(failed, &unverified):
		return "the server's certificate is not valid"
	case errors.As(failed, &plaintext):
		return "the server does not speak TLS on this address. Is the address right?"
	}
	return "the server refused the connection. Does it require a client certificate, and does it trust yours?"
}
