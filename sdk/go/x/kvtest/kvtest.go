// Package kvtest is a KeyVault server in memory, for the tests of programs that use package keyvault:
//
//	server := kvtest.NewServer(t)
//	vault := server.Client(t)
//
// It keeps the rule of the real server: a mutation is accepted if and only if its envelope opens under the data key that
// the stored record commits to, at the stored revision + 1. It has no policy, no quotas and no disk. [Server.Fail] makes
// it fail.
//
// The x in its path says that it may change with any version.
package kvtest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// Tenant is that of every caller.
const Tenant = "test"

// Server is a server in memory, on a port of loopback.
type Server struct {
	pb.UnimplementedKeyVaultServer

	// Address is host:port.
	Address string

	mu      sync.Mutex
	keys    map[string]wrapped
	records map[string]*record
	fails   map[string][]error
}

// NewServer starts a server, which stops at the end of the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Address: listener.Addr().String(),
		keys:    map[string]wrapped{}, records: map[string]*record{}, fails: map[string][]error{},
	}
	serving := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	pb.RegisterKeyVaultServer(serving, s)
	go func() { _ = serving.Serve(listener) }()
	t.Cleanup(serving.Stop)
	return s
}

// Client returns a client of the server, which is closed at the end of the test.
func (s *Server) Client(t testing.TB, options ...keyvault.Option) *keyvault.Client {
	t.Helper()
	client, err := keyvault.New(s.Address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Fail lets the next calls of a method fail, such as "Read", with these errors in turn, as [Refusal] makes them; nil
// does what was asked.
func (s *Server) Fail(method string, errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails[method] = append(s.fails[method], errs...)
}

func (s *Server) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	method := info.FullMethod[len("/keyvault.v1.KeyVault/"):]
	if queued := s.fails[method]; len(queued) > 0 {
		s.fails[method] = queued[1:]
		if queued[0] != nil {
			return nil, queued[0]
		}
	}
	answer, err := handle(ctx, request)
	if refused, ok := status.FromError(err); err != nil && (!ok || refused.Code() == codes.Unknown) {
		return nil, Refusal(codes.Internal, "INTERNAL", err.Error(), nil)
	}
	return answer, err
}
