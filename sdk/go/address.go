package keyvault

import (
	"net"
	"strconv"
	"strings"
)

// maxSocketPath is how many bytes the path of a unix socket has at most (unix(7): sun_path without its end).
const maxSocketPath = 107

// checkAddress fails unless this is host:port, dns:///host:port or unix:/path, and may be used so. What gRPC would take
// for another address, or fail to explain, is refused with what to write instead.
func checkAddress(address string, tls, insecure bool) error {
	why := ""
	if strings.HasPrefix(address, "http:") || strings.HasPrefix(address, "https:") {
		why = "write host:port or unix:/path, and give WithTLS for TLS"
	} else if strings.HasPrefix(address, "unix:") {
		why = whyInvalidSocket(address)
	} else {
		why = whyInvalidName(strings.TrimPrefix(address, "dns:///"))
	}
	if why != "" {
		return invalid("invalid address %s: %s", printable(address), why)
	}
	if !tls && !insecure && !isLoopback(address) {
		return invalid("refusing plaintext to another machine (%s): give WithTLS, or WithInsecure to send keys unencrypted",
			printable(address))
	}
	return nil
}

func whyInvalidSocket(address string) string {
	path := strings.TrimPrefix(strings.TrimPrefix(address, "unix:"), "//")
	if strings.Trim(path, "/") == "" {
		return "name the path of the socket, as in unix:/run/keyvault.sock"
	}
	if len(path) > maxSocketPath {
		return "the path has " + strconv.Itoa(len(path)) + " bytes; a socket's has at most " + strconv.Itoa(maxSocketPath)
	}
	return ""
}

func whyInvalidName(name string) string {
	host, port, err := net.SplitHostPort(name)
	switch {
	case net.ParseIP(name) != nil || strings.Count(name, ":") > 1 && !strings.HasPrefix(name, "["):
		return "write an IPv6 address in brackets and name its port, as in [::1]:50051"
	case err != nil:
		return "write host:port, as in 127.0.0.1:50051"
	case host == "" || strings.ContainsAny(host, "/ "):
		return "name its host, as in 127.0.0.1:" + strings.TrimSpace(printable(port))
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 || strings.HasPrefix(port, "+") {
		return "the port must be 1 to 65535"
	}
	return ""
}

// isLoopback returns whether only this machine reaches the address.
func isLoopback(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(address, "dns:///"))
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// target is the address as grpc.NewClient takes it.
func target(address string) string {
	if strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "dns:///") {
		return address
	}
	return "dns:///" + address
}
