package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	pb "example.com/kv/keyvaultv1"
	"example.com/kv/kve1"
)

// resealings is how often a change is sealed again because another writer was faster.
const resealings = 16

// vault is a KeyVault server with the envelopes out of sight. The rule of its methods: the last writer wins, so what
// is refused because of its revision, and nothing else, is sealed again.
type vault struct {
	rpc pb.KeyVaultClient
}

// get returns a record's content.
func (v vault) get(ctx context.Context, keyID string, key dataKey) ([]byte, error) {
	stored, err := v.read(ctx, keyID)
	if err != nil {
		return nil, err
	}
	return key.open(keyID, stored)
}

// put stores plaintext as the record's content, whether or not there is one, and returns the new revision.
func (v vault) put(ctx context.Context, keyID string, key dataKey, plaintext []byte) (int64, error) {
	exists := false
	return sealedAgain(1, func(revision int64) error {
		envelope, err := key.seal(keyID, kve1.Data, revision, plaintext)
		if err != nil {
			return err
		}
		if exists {
			request := &pb.UpdateRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
			_, err = call(ctx, v.rpc.Update, request, revision)
			if reasonOf(err) != recordNotFound {
				return err
			} // else it was deleted since, and Create reports at which revision
		}
		request := &pb.CreateRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
		_, err = call(ctx, v.rpc.Create, request, revision)
		exists = reasonOf(err) == recordExists
		return err
	})
}

// delete puts a tombstone in the record's place and returns its revision.
func (v vault) delete(ctx context.Context, keyID string, key dataKey) (int64, error) {
	stored, err := v.read(ctx, keyID)
	if err != nil {
		return 0, err
	}
	return sealedAgain(stored.Revision+1, func(revision int64) error {
		envelope, err := key.seal(keyID, kve1.Tombstone, revision, nil)
		if err != nil {
			return err
		}
		request := &pb.DeleteRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
		_, err = call(ctx, v.rpc.Delete, request, revision)
		return err
	})
}

// rotate hands the record to newKey, which has to be saved before, and returns the new revision. A record that newKey
// opens already was rotated by an earlier attempt.
func (v vault) rotate(ctx context.Context, keyID string, key, newKey dataKey) (int64, error) {
	if subtle.ConstantTimeCompare(key.secret[:], newKey.secret[:]) == 1 {
		return 0, errors.New("the new key is the old one: rotate to another data key")
	}
	for try := 1; ; try++ {
		revision, err := v.tryRotate(ctx, keyID, key, newKey)
		if reasonOf(err) != staleRevision || try == resealings {
			return revision, err
		}
	}
}

func (v vault) tryRotate(ctx context.Context, keyID string, key, newKey dataKey) (int64, error) {
	stored, err := v.read(ctx, keyID)
	if err != nil {
		return 0, err
	}
	if _, err := newKey.open(keyID, stored); err == nil {
		return stored.Revision, nil
	}
	plaintext, err := key.open(keyID, stored)
	if err != nil {
		return 0, err
	}
	revision := stored.Revision + 1
	envelope, err := newKey.seal(keyID, kve1.Data, revision, plaintext)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256(envelope)
	permit, err := key.seal(keyID, kve1.Rekey, revision, digest[:])
	if err != nil {
		return 0, err
	}
	_, err = call(ctx, v.rpc.RotateKey, &pb.RotateKeyRequest{
		KeyId:         keyID,
		WrappedKey:    key.wrapped,
		Authorization: permit,
		NewWrappedKey: newKey.wrapped,
		Envelope:      envelope,
	}, revision)
	return revision, err
}

func (v vault) read(ctx context.Context, keyID string) (*pb.ReadResponse, error) {
	return call(ctx, v.rpc.Read, &pb.ReadRequest{KeyId: keyID}, 0)
}

// sealedAgain sends what send seals for a revision, and again for the stored one + 1 while other writers are faster.
// It returns the revision that was accepted.
func sealedAgain(revision int64, send func(revision int64) error) (int64, error) {
	for try := 1; ; try++ {
		err := send(revision)
		if err == nil {
			return revision, nil
		}
		refused, ok := errors.AsType[*refusal](err)
		if !ok || refused.currentRevision == 0 {
			return 0, err
		}
		if try == resealings {
			return 0, fmt.Errorf("others were faster %d times: %w", try, err)
		}
		revision = refused.currentRevision + 1
	}
}
