package keyvault

import (
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// MaxPlaintext is how many bytes a record holds at most.
const MaxPlaintext = kve1.MaxPlaintext

// Record is a record as it was read and opened.
type Record struct {
	KeyID string
	// Plaintext is the record's data. fmt does not print it as a part of a Record.
	Plaintext []byte
	Revision  int64
	// CreateTime and UpdateTime are by the server's clock; informational.
	CreateTime, UpdateTime time.Time
}

// Format implements [fmt.Formatter], without the data.
func (r Record) Format(state fmt.State, _ rune) {
	_, _ = io.WriteString(state, fmt.Sprintf("[record %s at revision %d]", r.KeyID, r.Revision))
}

// Written is the result of an accepted mutation.
type Written struct {
	Revision int64
	// CreateTime and UpdateTime are by the server's clock; informational.
	CreateTime, UpdateTime time.Time
	// Replayed says that an earlier attempt had been accepted and its answer was lost.
	Replayed bool
}

// mutated is an answer to a mutation.
type mutated interface {
	GetRevision() int64
	GetCreateTime() *timestamppb.Timestamp
	GetUpdateTime() *timestamppb.Timestamp
	GetReplayed() bool
}

func writtenOf(answer mutated) Written {
	return Written{
		answer.GetRevision(), answer.GetCreateTime().AsTime(), answer.GetUpdateTime().AsTime(), answer.GetReplayed(),
	}
}

// seal makes an envelope under the key. Its error is an ErrInvalidRequest.
func seal(key *DataKey, keyID string, kind kve1.Kind, revision int64, plaintext []byte) ([]byte, error) {
	if err := checkUsable(key, keyID); err != nil {
		return nil, err
	}
	if err := checkRevision("revision", revision); err != nil {
		return nil, err
	}
	if len(plaintext) > MaxPlaintext {
		return nil, invalid("the plaintext is %d bytes: a record holds at most %d", len(plaintext), MaxPlaintext)
	}
	header := kve1.Header{Kind: kind, Revision: revision}
	envelope, err := kve1.Seal(key.secret, key.tenant, keyID, header, plaintext)
	if err != nil {
		return nil, because(newError(ErrInvalidRequest, "%s: %v", keyID, err), err)
	}
	return envelope, nil
}

// opened is the record in an answer, opened under the key that it has to be of. Its error is an ErrRecordDamaged.
func opened(keyID string, answer *pb.ReadResponse, key *DataKey, kind kve1.Kind) (*Record, error) {
	if err := key.checkSecret(); err != nil {
		return nil, err
	}
	header, err := kve1.Parse(answer.GetEnvelope())
	var plaintext []byte
	if err == nil {
		plaintext, err = kve1.Open(key.secret, key.tenant, keyID, answer.GetEnvelope())
	}
	if err != nil {
		return nil, because(newError(ErrRecordDamaged,
			"%s does not open under this key: the record is another key's, or damaged", keyID), err)
	}
	if header != (kve1.Header{Kind: kind, Revision: answer.GetRevision()}) {
		return nil, newError(ErrRecordDamaged, "the server's answer for %s contradicts its envelope", keyID)
	}
	return &Record{keyID, plaintext, header.Revision, answer.GetCreateTime().AsTime(), answer.GetUpdateTime().AsTime()}, nil
}
