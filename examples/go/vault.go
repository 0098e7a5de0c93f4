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

// vault is a KeyVault server with the envelopes out of sight. The rule of its methods: the last writer wins, and a
// change is sealed for the revision after one that opened under the key, never for one that the server names.
type vault struct {
	rpc pb.KeyVaultClient
}

// get returns a record's content. A program that runs once cannot notice that the server shows an older record than it
// showed to an earlier run: a longer one remembers the highest revision of each name.
func (v vault) get(ctx context.Context, keyID string, key dataKey) ([]byte, error) {
	_, plaintext, err := v.open(ctx, keyID, key, false)
	return plaintext, err
}

// put stores plaintext as the record's content, whether or not there is one, and returns the new revision.
func (v vault) put(ctx context.Context, keyID string, key dataKey, plaintext []byte) (int64, error) {
	creates, revision := true, int64(1)
	for try := 1; ; try++ {
		envelope, err := key.seal(keyID, kve1.Data, revision, plaintext)
		if err != nil {
			return 0, err
		}
		if creates {
			request := &pb.CreateRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
			_, err = call(ctx, v.rpc.Create, request, revision)
		} else {
			request := &pb.UpdateRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
			_, err = call(ctx, v.rpc.Update, request, revision)
		}
		if err == nil {
			return revision, nil
		}
		if !overtaken(err) && reasonOf(err) != recordExists && reasonOf(err) != recordNotFound {
			return 0, err
		}
		if try == resealings {
			return 0, fmt.Errorf("others were faster %d times: %w", try, err)
		}
		stored, err := v.openAbove(ctx, keyID, key, revision, err)
		if err != nil {
			return 0, err
		}
		creates, revision = stored.Kind == kve1.Tombstone, stored.Revision+1
	}
}

// delete puts a tombstone in the record's place and returns its revision.
func (v vault) delete(ctx context.Context, keyID string, key dataKey) (int64, error) {
	stored, _, err := v.open(ctx, keyID, key, false)
	for try := 1; err == nil; try++ {
		revision := stored.Revision + 1
		var envelope []byte
		if envelope, err = key.seal(keyID, kve1.Tombstone, revision, nil); err != nil {
			break
		}
		request := &pb.DeleteRequest{KeyId: keyID, WrappedKey: key.wrapped, Envelope: envelope}
		if _, err = call(ctx, v.rpc.Delete, request, revision); err == nil {
			return revision, nil
		}
		if !overtaken(err) || try == resealings {
			break
		}
		stored, err = v.openAbove(ctx, keyID, key, revision, err)
		if err == nil && stored.Kind == kve1.Tombstone {
			err = fmt.Errorf("%s: another writer deleted it", keyID)
		}
	}
	return 0, err
}

// rotate hands the record to newKey, which has to be saved before, and returns the new revision. A record that newKey
// opens already was rotated by an earlier attempt.
func (v vault) rotate(ctx context.Context, keyID string, key, newKey dataKey) (int64, error) {
	if subtle.ConstantTimeCompare(key.secret[:], newKey.secret[:]) == 1 {
		return 0, errors.New("the new key is the old one: rotate to another data key")
	}
	var tried int64
	var refused error
	for try := 1; ; try++ {
		revision, err := v.tryRotate(ctx, keyID, key, newKey, tried, refused)
		if !overtaken(err) || revision == 0 || try == resealings {
			return revision, err
		}
		tried, refused = revision, err
	}
}

// tryRotate returns the revision that it tried, 0 if it sent nothing. tried is that of the attempt before, refused its
// answer.
func (v vault) tryRotate(
	ctx context.Context, keyID string, key, newKey dataKey, tried int64, refused error,
) (int64, error) {
	answer, err := v.read(ctx, keyID, false)
	if err != nil {
		return 0, err
	}
	if stored, _, err := newKey.open(keyID, answer, false); err == nil {
		return stored.Revision, nil
	}
	stored, plaintext, err := key.open(keyID, answer, false)
	if err == nil {
		err = checkAbove(keyID, stored, tried, refused)
	}
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

func (v vault) read(ctx context.Context, keyID string, deleted bool) (*pb.ReadResponse, error) {
	return call(ctx, v.rpc.Read, &pb.ReadRequest{KeyId: keyID, IncludeDeleted: deleted}, 0)
}

// open returns what the stored envelope proves; a tombstone only if it may be deleted.
func (v vault) open(ctx context.Context, keyID string, key dataKey, deleted bool) (kve1.Header, []byte, error) {
	answer, err := v.read(ctx, keyID, deleted)
	if err != nil {
		return kve1.Header{}, nil, err
	}
	return key.open(keyID, answer, deleted)
}

// overtaken returns whether the record is at another revision because, as the server says, another writer was faster.
func overtaken(err error) bool { return reasonOf(err) == staleRevision }

// openAbove opens the record, live or deleted, that took the place of what was tried for a revision and refused.
func (v vault) openAbove(
	ctx context.Context, keyID string, key dataKey, tried int64, refused error,
) (kve1.Header, error) {
	if about, ok := errors.AsType[*refusal](refused); ok && about.vacant {
		return kve1.Header{}, fmt.Errorf("%s: the name was purged, so nothing proves its revision: %w", keyID, refused)
	}
	stored, _, err := v.open(ctx, keyID, key, true)
	if reasonOf(err) == recordNotFound {
		err = fmt.Errorf("%s: there is no record that proves this revision: %w", keyID, refused)
	}
	if err != nil {
		return kve1.Header{}, err
	}
	return stored, checkAbove(keyID, stored, tried, refused)
}

// checkAbove fails unless the revision after what opened is above the one that was tried: or it would be refused again,
// because of a number that nobody proved.
func checkAbove(keyID string, stored kve1.Header, tried int64, refused error) error {
	if stored.Revision < tried {
		return fmt.Errorf("%s: the server has revision %d and refuses %d: %w", keyID, stored.Revision, tried, refused)
	}
	return nil
}
