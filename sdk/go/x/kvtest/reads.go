package kvtest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// Read implements the service.
func (s *Server) Read(_ context.Context, r *pb.ReadRequest) (*pb.ReadResponse, error) {
	stored := s.records[r.GetKeyId()]
	if stored == nil || !stored.isLive() && !r.GetIncludeDeleted() {
		return nil, Refusal(codes.NotFound, "RECORD_NOT_FOUND", "no such record", nil)
	}
	found := stored.current()
	if r.GetRevision() != 0 {
		i := slices.IndexFunc(stored.history, func(one kept) bool { return one.revision == r.GetRevision() })
		if i < 0 {
			return nil, Refusal(codes.NotFound, "REVISION_NOT_FOUND", "this revision is not kept", stored.revisions())
		}
		found = stored.history[i]
	}
	answer := &pb.ReadResponse{
		Tenant: Tenant, Revision: found.revision, CreateTime: stored.created, UpdateTime: found.at, Deleted: !stored.isLive(),
	}
	if r.GetKnownRevision() == found.revision {
		answer.NotModified = true
	} else {
		answer.Envelope = found.envelope
	}
	return answer, nil
}

// BatchRead implements the service.
func (s *Server) BatchRead(ctx context.Context, r *pb.BatchReadRequest) (*pb.BatchReadResponse, error) {
	answer := &pb.BatchReadResponse{}
	for _, item := range r.GetItems() {
		found, err := s.Read(ctx, &pb.ReadRequest{
			KeyId: item.GetKeyId(), KnownRevision: item.GetKnownRevision(), IncludeDeleted: item.GetIncludeDeleted(),
		})
		result := &pb.BatchReadResponse_Result{Answer: &pb.BatchReadResponse_Result_Record{Record: found}}
		if err != nil {
			refused := status.Convert(err)
			result.Answer = &pb.BatchReadResponse_Result_Error{Error: &pb.BatchReadResponse_Error{
				Code: int32(refused.Code()), Reason: "RECORD_NOT_FOUND", Message: refused.Message(),
			}}
		}
		answer.Results = append(answer.Results, result)
	}
	return answer, nil
}

// List implements the service. A page token is the last name of the page before.
func (s *Server) List(_ context.Context, r *pb.ListRequest) (*pb.ListResponse, error) {
	size := int(r.GetPageSize())
	if size == 0 {
		size = 100
	}
	answer := &pb.ListResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		stored := s.records[name]
		if !strings.HasPrefix(name, r.GetPrefix()) || name <= r.GetPageToken() || stored.isLive() == r.GetDeleted() {
			continue
		}
		if len(answer.Names) == size {
			answer.NextPageToken = answer.Names[size-1].GetKeyId()
			break
		}
		answer.Names = append(answer.Names, &pb.ListResponse_Name{KeyId: name, CreateTime: stored.created})
	}
	return answer, nil
}

// ListRevisions implements the service.
func (s *Server) ListRevisions(_ context.Context, r *pb.ListRevisionsRequest) (*pb.ListRevisionsResponse, error) {
	stored := s.records[r.GetKeyId()]
	if err := checkLive(stored); err != nil {
		return nil, err
	}
	answer := &pb.ListRevisionsResponse{}
	for _, one := range slices.Backward(stored.history) {
		answer.Revisions = append(answer.Revisions, &pb.ListRevisionsResponse_Revision{
			Revision: one.revision, UpdateTime: one.at, Size: int32(len(one.envelope)),
		})
	}
	return answer, nil
}

// WhoAmI implements the service.
func (s *Server) WhoAmI(context.Context, *pb.WhoAmIRequest) (*pb.WhoAmIResponse, error) {
	return &pb.WhoAmIResponse{
		Identity: "anonymous", Tenant: Tenant, ServerVersion: "kvtest",
		Rules: []*pb.WhoAmIResponse_Rule{{Methods: []string{"*"}, Names: []string{"*"}}},
	}, nil
}
