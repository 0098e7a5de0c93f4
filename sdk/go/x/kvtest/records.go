package kvtest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// remembered is how many envelopes of a record the server recognizes as replayed.
const remembered = 16

// wrapped is what a wrapped key stands for.
type wrapped struct {
	scope string
	key   kve1.DataKey
}

// kept is an envelope of a record, with the time of its write.
type kept struct {
	envelope []byte
	revision int64
	at       *timestamppb.Timestamp
}

// record has the envelopes that can be read, the current one last; a tombstone alone if it is deleted.
type record struct {
	history []kept
	created *timestamppb.Timestamp
	ring    [][32]byte // of the last envelopes, deleted ones included
}

func (r *record) current() kept { return r.history[len(r.history)-1] }

// revision returns that of the current envelope, 0 if there is no record.
func (r *record) revision() int64 {
	if r == nil {
		return 0
	}
	return r.current().revision
}

func (r *record) kind() kve1.Kind {
	header, err := kve1.Parse(r.current().envelope)
	if err != nil {
		panic(err) // it was parsed before it was stored
	}
	return header.Kind
}

func (r *record) isLive() bool { return r != nil && r.kind() == kve1.Data }

// recalls returns whether an envelope was accepted before and is remembered.
func (r *record) recalls(envelope []byte) bool {
	if r == nil {
		return false
	}
	digest := sha256.Sum256(envelope)
	for _, one := range r.ring {
		if subtle.ConstantTimeCompare(one[:], digest[:]) == 1 {
			return true
		}
	}
	return false
}

// put stores an envelope; keeps says whether the earlier ones can still be read.
func (r *record) put(envelope []byte, revision int64, keeps bool) {
	if !keeps {
		r.history = nil
	}
	r.history = append(r.history, kept{envelope, revision, timestamppb.Now()})
	r.ring = append(r.ring, sha256.Sum256(envelope))
	r.history = r.history[max(0, len(r.history)-remembered):]
	r.ring = r.ring[max(0, len(r.ring)-remembered):]
}

// revisions is the metadata of RECORD_EXISTS and STALE_REVISION.
func (r *record) revisions() map[string]string {
	current, since := r.revision(), int64(0)
	if r != nil {
		since = current + 1 - int64(len(r.ring))
	}
	return map[string]string{
		"current_revision": strconv.FormatInt(current, 10), "remembered_since": strconv.FormatInt(since, 10),
	}
}

// Refusal is the error of a call as KeyVault answers it: with an ErrorInfo of its domain.
func Refusal(code codes.Code, reason, message string, metadata map[string]string) error {
	about := map[string]string{"request_id": "kvtest"}
	maps.Copy(about, metadata)
	refused, err := status.New(code, message).WithDetails(
		&errdetails.ErrorInfo{Reason: reason, Domain: "keyvault", Metadata: about})
	if err != nil {
		panic(err) // for codes.OK alone
	}
	return refused.Err()
}

// Rollback drops the last revisions of a record, as somebody does who writes the real server's table.
func (s *Server) Rollback(keyID string, revisions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.records[keyID]
	stored.history = stored.history[:len(stored.history)-revisions]
}

// newKey makes a data key, and the random bytes that stand for it.
func (s *Server) newKey(scope string) (secret, token []byte) {
	secret = make([]byte, kve1.KeySize)
	_, _ = rand.Read(secret) // never fails
	key, err := kve1.NewDataKey(secret)
	if err != nil {
		panic(err) // for another size alone
	}
	return secret, s.wrap(wrapped{scope, key})
}

// wrap makes random bytes that stand for a key.
func (s *Server) wrap(held wrapped) []byte {
	token := make([]byte, kve1.KeySize)
	_, _ = rand.Read(token) // never fails
	s.keys[string(token)] = held
	return token
}
