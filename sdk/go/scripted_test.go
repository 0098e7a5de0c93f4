package keyvault_test

import (
	"context"
	"net"
	"path"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

const keyID = "prod/db"

// step is how a scripted server answers one call, true or not.
type step func(ctx context.Context, request any) (any, error)

type scripted struct {
	t       *testing.T
	address string

	mu       sync.Mutex
	steps    []step
	methods  []string
	requests []any
}

// serve answers with the steps in turn.
func serve(t *testing.T, options []grpc.ServerOption, steps ...step) *scripted {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener, listener.Addr().String(), options, steps...)
}

func serveOn(t *testing.T, listener net.Listener, address string, options []grpc.ServerOption, steps ...step) *scripted {
	s := &scripted{t: t, address: address, steps: steps}
	listening := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.answer))...)
	pb.RegisterKeyVaultServer(listening, pb.UnimplementedKeyVaultServer{})
	go func() { _ = listening.Serve(listener) }()
	t.Cleanup(listening.Stop)
	return s
}

func (s *scripted) answer(ctx context.Context, request any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	if len(s.steps) == 0 {
		s.mu.Unlock()
		s.t.Errorf("one call too many: %s", info.FullMethod)
		return nil, status.Error(codes.FailedPrecondition, "the script is over")
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	s.methods = append(s.methods, path.Base(info.FullMethod))
	s.requests = append(s.requests, request)
	s.mu.Unlock()
	return next(ctx, request)
}

// called fails the test unless the calls were these, and no others were expected.
func (s *scripted) called(methods ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.methods, methods) || len(s.steps) != 0 {
		s.t.Errorf("called %v, want %v; %d steps are left", s.methods, methods, len(s.steps))
	}
}

func (s *scripted) client(options ...keyvault.Option) *keyvault.Client {
	s.t.Helper()
	client, err := keyvault.New(s.address, options...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// says answers with this, whatever was asked.
func says(answer any) step { return func(context.Context, any) (any, error) { return answer, nil } }

// refuses answers as KeyVault does.
func refuses(code codes.Code, reason string, metadata map[string]string) step {
	refused := kvtest.Refusal(code, reason, "because", metadata)
	return func(context.Context, any) (any, error) { return nil, refused }
}

// stored answers Read with what key seals, and says that it is at the revision claimed.
func stored(key *keyvault.DataKey, kind kve1.Kind, sealed, claimed int64, plaintext string) step {
	header := kve1.Header{Kind: kind, Revision: sealed}
	envelope, err := kve1.Seal(key.Secret(), key.Tenant(), keyID, header, []byte(plaintext))
	if err != nil {
		panic(err)
	}
	return says(&pb.ReadResponse{Tenant: key.Tenant(), Envelope: envelope, Revision: claimed})
}

// newKey makes a key of 32 equal bytes for all names below prod/.
func newKey(t *testing.T, secret byte) *keyvault.DataKey {
	t.Helper()
	key, err := keyvault.NewDataKey("acme", "prod/", []byte{1, 2, 3}, slices.Repeat([]byte{secret}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}
