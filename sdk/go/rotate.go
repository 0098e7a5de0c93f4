package keyvault

import (
	"context"
	"crypto/sha256"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// RotateKey hands the record from key to newKey, which must be saved before. If newKey opens the record already, an
// earlier attempt rotated it: the result is then Replayed. With [IfRevision] only if the record is at that revision.
func (c *Client) RotateKey(
	ctx context.Context, keyID string, key, newKey *DataKey, options ...WriteOption,
) (Written, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	for _, one := range []*DataKey{key, newKey} {
		if err := checkUsable(one, keyID); err != nil {
			return Written{}, err
		}
	}
	if key.secret.Equal(newKey.secret) {
		return Written{}, invalid("the key and the new key are the same data key: generate a new one")
	}
	chosen := writeOptionsOf(options)
	if chosen.named {
		if _, err := chosen.next(1); err != nil {
			return Written{}, err
		}
	}
	for tried := int64(0); ; {
		record, done, err := c.readForRotation(ctx, keyID, key, newKey)
		if err != nil {
			return Written{}, err
		}
		switch {
		case done:
			return Written{record.Revision, record.CreateTime, record.UpdateTime, true}, nil
		case chosen.named && record.Revision != chosen.revision:
			why := newError(ErrConflict, "%s is at revision %d, not %d", keyID, record.Revision, chosen.revision)
			return Written{}, &Conflict{record.Revision, false, -1, why}
		case record.Revision <= tried:
			return Written{}, contradiction(keyID, record.Revision)
		}
		written, err := c.rotate(ctx, record, key, newKey)
		if conflictOf(err) == nil || chosen.named {
			return written, err
		}
		tried = record.Revision
	}
}

// readForRotation returns the record, opened, and whether newKey has it already.
func (c *Client) readForRotation(ctx context.Context, keyID string, key, newKey *DataKey) (*Record, bool, error) {
	answer, err := c.fetch(ctx, key, &pb.ReadRequest{KeyId: keyID})
	if err != nil {
		return nil, false, err
	}
	done := false
	if _, err := kve1.Parse(answer.GetEnvelope()); err == nil {
		done, _ = kve1.CommitsTo(answer.GetEnvelope()[:kve1.HeadSize], newKey.secret, newKey.tenant, keyID)
	}
	if done {
		key = newKey
	}
	record, err := c.accept(keyID, answer, key)
	return record, done, err
}

func (c *Client) rotate(ctx context.Context, record *Record, key, newKey *DataKey) (Written, error) {
	revision := record.Revision + 1
	envelope, err := seal(newKey, record.KeyID, kve1.Data, revision, record.Plaintext)
	if err != nil {
		return Written{}, err
	}
	digest := sha256.Sum256(envelope)
	authorization, err := seal(key, record.KeyID, kve1.Rekey, revision, digest[:])
	if err != nil {
		return Written{}, err
	}
	answer, err := call(ctx, c, pb.KeyVaultClient.RotateKey, &pb.RotateKeyRequest{
		KeyId:         record.KeyID,
		WrappedKey:    key.wrapped(),
		Authorization: authorization,
		NewWrappedKey: newKey.wrapped(),
		Envelope:      envelope,
	}, revision)
	return c.acknowledged(record.KeyID, newKey, answer, err)
}
