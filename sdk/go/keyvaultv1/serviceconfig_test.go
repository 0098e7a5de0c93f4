package keyvaultv1_test

import (
	"context"
	"maps"
	"net"
	"path"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// recovering answers the first two calls of each method with UNAVAILABLE.
type recovering struct {
	pb.UnimplementedKeyVaultServer

	mu    sync.Mutex
	calls map[string]int
}

func (r *recovering) Read(context.Context, *pb.ReadRequest) (*pb.ReadResponse, error) {
	return &pb.ReadResponse{Revision: 1}, nil
}

func (r *recovering) GenerateKey(context.Context, *pb.GenerateKeyRequest) (*pb.GenerateKeyResponse, error) {
	return &pb.GenerateKeyResponse{}, nil
}

func (r *recovering) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	r.mu.Lock()
	method := path.Base(info.FullMethod)
	r.calls[method]++
	failing := r.calls[method] <= 2
	r.mu.Unlock()
	if failing {
		return nil, status.Error(codes.Unavailable, "for a moment")
	}
	return handle(ctx, request)
}

func TestBareStubsRetryWhatChangesNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	service := &recovering{calls: map[string]int{}}
	server := grpc.NewServer(grpc.UnaryInterceptor(service.intercept))
	pb.RegisterKeyVaultServer(server, service)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	channel, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(pb.ServiceConfig))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	stub := pb.NewKeyVaultClient(channel)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	_, reading := stub.Read(ctx, &pb.ReadRequest{})
	_, generating := stub.GenerateKey(ctx, &pb.GenerateKeyRequest{})
	if reading != nil || generating != nil {
		t.Error("not retried", reading, generating)
	}
	_, creating := stub.Create(ctx, &pb.CreateRequest{})
	_, updating := stub.Update(ctx, &pb.UpdateRequest{})
	_, deleting := stub.Delete(ctx, &pb.DeleteRequest{})
	_, rotating := stub.RotateKey(ctx, &pb.RotateKeyRequest{})
	for _, changing := range []error{creating, updating, deleting, rotating} {
		if status.Code(changing) != codes.Unavailable {
			t.Error(changing)
		}
	}
	want := map[string]int{"Read": 3, "GenerateKey": 3, "Create": 1, "Update": 1, "Delete": 1, "RotateKey": 1}
	if !maps.Equal(service.calls, want) {
		t.Error(service.calls)
	}
}
