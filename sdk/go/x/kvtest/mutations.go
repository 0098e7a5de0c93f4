package kvtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// GenerateKey implements the service.
func (s *Server) GenerateKey(_ context.Context, r *pb.GenerateKeyRequest) (*pb.GenerateKeyResponse, error) {
	scope := r.GetScope()
	if scope == "" {
		random := make([]byte, 16)
		_, _ = rand.Read(random) // never fails
		scope = hex.EncodeToString(random)
	}
	secret, token := s.newKey(scope)
	return &pb.GenerateKeyResponse{Tenant: Tenant, Scope: scope, PlaintextKey: secret, WrappedKey: token}, nil
}

// RewrapKey implements the service.
func (s *Server) RewrapKey(_ context.Context, r *pb.RewrapKeyRequest) (*pb.RewrapKeyResponse, error) {
	held, err := s.unwrap(r.GetWrappedKey())
	if err != nil {
		return nil, err
	}
	return &pb.RewrapKeyResponse{WrappedKey: s.wrap(held)}, nil
}

// UnwrapKey implements the service.
func (s *Server) UnwrapKey(_ context.Context, r *pb.UnwrapKeyRequest) (*pb.UnwrapKeyResponse, error) {
	held, err := s.unwrap(r.GetWrappedKey())
	if err != nil {
		return nil, err
	}
	return &pb.UnwrapKeyResponse{Tenant: Tenant, Scope: held.scope, PlaintextKey: held.key.Reveal()}, nil
}

// Create implements the service.
func (s *Server) Create(_ context.Context, r *pb.CreateRequest) (*pb.CreateResponse, error) {
	stored, replayed, err := s.mutate(r.GetKeyId(), r.GetWrappedKey(), r.GetEnvelope(), func(stored *record) error {
		if stored.isLive() {
			return Refusal(codes.AlreadyExists, "RECORD_EXISTS", "the record exists", stored.revisions())
		}
		return nil
	}, kve1.Data)
	if err != nil {
		return nil, err
	}
	now := stored.current()
	return &pb.CreateResponse{Revision: revisionOf(r), CreateTime: stored.created, UpdateTime: now.at, Replayed: replayed}, nil
}

// Update implements the service.
func (s *Server) Update(_ context.Context, r *pb.UpdateRequest) (*pb.UpdateResponse, error) {
	stored, replayed, err := s.mutate(r.GetKeyId(), r.GetWrappedKey(), r.GetEnvelope(), checkLive, kve1.Data)
	if err != nil {
		return nil, err
	}
	now := stored.current()
	return &pb.UpdateResponse{Revision: revisionOf(r), CreateTime: stored.created, UpdateTime: now.at, Replayed: replayed}, nil
}

// Delete implements the service.
func (s *Server) Delete(_ context.Context, r *pb.DeleteRequest) (*pb.DeleteResponse, error) {
	stored, replayed, err := s.mutate(r.GetKeyId(), r.GetWrappedKey(), r.GetEnvelope(), checkLive, kve1.Tombstone)
	if err != nil {
		return nil, err
	}
	now := stored.current()
	return &pb.DeleteResponse{Revision: revisionOf(r), CreateTime: stored.created, UpdateTime: now.at, Replayed: replayed}, nil
}

// RotateKey implements the service.
func (s *Server) RotateKey(_ context.Context, r *pb.RotateKeyRequest) (*pb.RotateKeyResponse, error) {
	stored := s.records[r.GetKeyId()]
	replayed := stored.recalls(r.GetEnvelope())
	if !replayed {
		if err := s.checkRotation(stored, r); err != nil {
			return nil, err
		}
		stored.put(r.GetEnvelope(), revisionOf(r), false)
	}
	now := stored.current()
	return &pb.RotateKeyResponse{Revision: revisionOf(r), CreateTime: stored.created, UpdateTime: now.at, Replayed: replayed}, nil
}

// checkRotation fails unless the old key hands the live record over to the new one by this envelope.
func (s *Server) checkRotation(stored *record, r *pb.RotateKeyRequest) error {
	old, err := s.unwrap(r.GetWrappedKey())
	if err != nil {
		return err
	}
	next, err := s.unwrap(r.GetNewWrappedKey())
	if err != nil {
		return err
	}
	if err := checkNext(r.GetKeyId(), stored, r.GetAuthorization(), checkLive, kve1.Rekey); err != nil {
		return err
	}
	if err := checkOwner(r.GetKeyId(), stored, old); err != nil {
		return err
	}
	if next.key.Equal(old.key) {
		return Refusal(codes.InvalidArgument, "SAME_DATA_KEY", "the new key is the old one", nil)
	}
	digest := sha256.Sum256(r.GetEnvelope())
	permit, err := kve1.Open(old.key, Tenant, r.GetKeyId(), r.GetAuthorization())
	if err != nil || !slices.Equal(permit, digest[:]) {
		return Refusal(codes.InvalidArgument, "ENVELOPE_NOT_UNDER_KEY", "the authorization is for another envelope", nil)
	}
	if err := checkOpens(r.GetKeyId(), next, r.GetEnvelope()); err != nil {
		return err
	}
	return checkNext(r.GetKeyId(), stored, r.GetEnvelope(), checkLive, kve1.Data)
}

// mutate keeps the one rule: an envelope replaces what is stored if it opens under the key that the stored head commits
// to, at the next revision.
func (s *Server) mutate(
	keyID string, token, envelope []byte, check func(*record) error, kind kve1.Kind,
) (stored *record, replayed bool, err error) {
	stored = s.records[keyID]
	held, err := s.unwrap(token)
	if err != nil {
		return nil, false, err
	}
	if stored.recalls(envelope) {
		return stored, true, checkOpens(keyID, held, envelope)
	}
	if err := checkNext(keyID, stored, envelope, check, kind); err != nil {
		return nil, false, err
	}
	if err := checkOwner(keyID, stored, held); err != nil {
		return nil, false, err
	}
	if err := checkOpens(keyID, held, envelope); err != nil {
		return nil, false, err
	}
	wasLive := stored.isLive()
	if stored == nil {
		stored = &record{}
		s.records[keyID] = stored
	}
	if !wasLive {
		stored.created = timestamppb.Now()
	}
	header, _ := kve1.Parse(envelope)
	stored.put(envelope, header.Revision, wasLive && kind == kve1.Data)
	return stored, false, nil
}

func (s *Server) unwrap(token []byte) (wrapped, error) {
	held, ok := s.keys[string(token)]
	if !ok {
		return wrapped{}, Refusal(codes.PermissionDenied, "NOT_AUTHORIZED", "the wrapped key does not unwrap", nil)
	}
	return held, nil
}

func checkLive(stored *record) error {
	if !stored.isLive() {
		return Refusal(codes.NotFound, "RECORD_NOT_FOUND", "no such record", nil)
	}
	return nil
}

// checkNext fails unless an envelope may replace what is stored, as far as can be seen without a key.
func checkNext(keyID string, stored *record, envelope []byte, check func(*record) error, kind kve1.Kind) error {
	header, err := kve1.Parse(envelope)
	if err != nil {
		return Refusal(codes.InvalidArgument, "MALFORMED_ENVELOPE", "not a KVE1 envelope", nil)
	}
	if header.Kind != kind {
		return Refusal(codes.InvalidArgument, "WRONG_KIND", "an envelope of another kind", nil)
	}
	if err := check(stored); err != nil {
		return err
	}
	if header.Revision != stored.revision()+1 {
		return Refusal(codes.Aborted, "STALE_REVISION", keyID+" is at another revision", stored.revisions())
	}
	return nil
}

// checkOwner fails unless the stored head commits to this key.
func checkOwner(keyID string, stored *record, held wrapped) error {
	if stored == nil {
		return nil
	}
	owns, err := kve1.CommitsTo(stored.current().envelope[:kve1.HeadSize], held.key, Tenant, keyID)
	if err != nil || !owns {
		return Refusal(codes.PermissionDenied, "NOT_AUTHORIZED", "not the record's key", nil)
	}
	return nil
}

func checkOpens(keyID string, held wrapped, envelope []byte) error {
	if _, err := kve1.Open(held.key, Tenant, keyID, envelope); err != nil {
		return Refusal(codes.InvalidArgument, "ENVELOPE_NOT_UNDER_KEY", "the envelope does not open", nil)
	}
	return nil
}

// revisionOf is that of the envelope in a request.
func revisionOf(request interface{ GetEnvelope() []byte }) int64 {
	header, _ := kve1.Parse(request.GetEnvelope())
	return header.Revision
}
