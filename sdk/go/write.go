package keyvault

import (
	"context"
	"errors"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// Which revision a mutation is sealed for. A revision that the caller names is sealed for as it is. Otherwise the last
// writer wins, and the mutation is sealed for the revision after one that this client proved: it opened under the
// record's key, or the server acknowledged it for what was sealed. What a server only says is never sealed for.

// WriteOption changes a mutation.
type WriteOption func(*writeOptions)

type writeOptions struct {
	revision int64
	named    bool
}

// IfRevision writes only if the record is at this revision; the error is else an ErrConflict. A Create takes the last
// revision of a deleted or purged name, as its operator knows it.
func IfRevision(revision int64) WriteOption {
	return func(o *writeOptions) { o.revision, o.named = revision, true }
}

func writeOptionsOf(options []WriteOption) writeOptions {
	var chosen writeOptions
	for _, option := range options {
		option(&chosen)
	}
	return chosen
}

// next returns the revision after the one that the caller named.
func (o writeOptions) next(lowest int64) (int64, error) {
	if o.revision < lowest || o.revision == maxRevision {
		return 0, invalid("invalid revision %d: must be %d to 2^63-2", o.revision, lowest)
	}
	return o.revision + 1, nil
}

// Create stores a new record of at most 380,000 bytes. The error is an ErrAlreadyExists if there is a live one.
//
// If the record was deleted, it takes the same data key again, and the revisions go on: its tombstone has to open under
// the key. A purged name has nothing that opens: without [IfRevision] it is a [*Conflict] that is Vacant.
func (c *Client) Create(
	ctx context.Context, keyID string, plaintext []byte, key *DataKey, options ...WriteOption,
) (Written, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	chosen := writeOptionsOf(options)
	if chosen.named {
		revision, err := chosen.next(0)
		if err != nil {
			return Written{}, err
		}
		return c.create(ctx, keyID, plaintext, key, revision)
	}
	done, err := c.create(ctx, keyID, plaintext, key, 1)
	stale := conflictOf(err)
	if stale == nil || !errors.Is(err, ErrConflict) {
		return done, err
	}
	deleted, err := c.deletedRevision(ctx, keyID, key, stale)
	if err != nil {
		return Written{}, err
	}
	return c.create(ctx, keyID, plaintext, key, deleted+1)
}

// Update replaces the record; with [IfRevision] only if it is at that revision.
func (c *Client) Update(
	ctx context.Context, keyID string, plaintext []byte, key *DataKey, options ...WriteOption,
) (Written, error) {
	return c.mutate(ctx, keyID, key, options, c.updates(keyID, plaintext, key))
}

// Delete deletes the record; its name stays reserved for the owner of the key. With [IfRevision] only if it is at that
// revision.
func (c *Client) Delete(ctx context.Context, keyID string, key *DataKey, options ...WriteOption) (Written, error) {
	return c.mutate(ctx, keyID, key, options, func(ctx context.Context, revision int64) (Written, error) {
		envelope, err := seal(key, keyID, kve1.Tombstone, revision, nil)
		if err != nil {
			return Written{}, err
		}
		request := &pb.DeleteRequest{KeyId: keyID, WrappedKey: key.wrapped(), Envelope: envelope}
		answer, err := call(ctx, c, pb.KeyVaultClient.Delete, request, revision)
		return c.acknowledged(keyID, key, answer, err)
	})
}

// Restore stores the data of an earlier revision as the next one; the last writer wins. The error is an
// ErrRevisionNotFound if the server does not keep that revision.
func (c *Client) Restore(ctx context.Context, keyID string, key *DataKey, revision int64) (Written, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	earlier, err := c.readEarlier(ctx, keyID, key, revision)
	if err != nil {
		return Written{}, err
	}
	// What is remembered may be no more than the earlier revision: the current one is opened in any case.
	current, err := c.read(ctx, keyID, key)
	if err != nil {
		return Written{}, err
	}
	return c.after(ctx, keyID, key, current.Revision, c.updates(keyID, earlier.Plaintext, key))
}

// mutation seals for a revision, and sends.
type mutation func(ctx context.Context, revision int64) (Written, error)

func (c *Client) updates(keyID string, plaintext []byte, key *DataKey) mutation {
	return func(ctx context.Context, revision int64) (Written, error) {
		envelope, err := seal(key, keyID, kve1.Data, revision, plaintext)
		if err != nil {
			return Written{}, err
		}
		request := &pb.UpdateRequest{KeyId: keyID, WrappedKey: key.wrapped(), Envelope: envelope}
		answer, err := call(ctx, c, pb.KeyVaultClient.Update, request, revision)
		return c.acknowledged(keyID, key, answer, err)
	}
}

func (c *Client) create(ctx context.Context, keyID string, plaintext []byte, key *DataKey, revision int64) (Written, error) {
	envelope, err := seal(key, keyID, kve1.Data, revision, plaintext)
	if err != nil {
		return Written{}, err
	}
	request := &pb.CreateRequest{KeyId: keyID, WrappedKey: key.wrapped(), Envelope: envelope}
	answer, err := call(ctx, c, pb.KeyVaultClient.Create, request, revision)
	return c.acknowledged(keyID, key, answer, err)
}

// mutate mutates at the revision that the caller names, or after the proved one.
func (c *Client) mutate(
	ctx context.Context, keyID string, key *DataKey, options []WriteOption, send mutation,
) (Written, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if err := checkUsable(key, keyID); err != nil {
		return Written{}, err
	}
	if chosen := writeOptionsOf(options); chosen.named {
		revision, err := chosen.next(1)
		if err != nil {
			return Written{}, err
		}
		return send(ctx, revision)
	}
	proved, err := c.seen.get(key, keyID)
	if err != nil {
		return Written{}, err
	}
	if proved == 0 {
		stored, err := c.read(ctx, keyID, key)
		if err != nil {
			return Written{}, err
		}
		proved = stored.Revision
	}
	return c.after(ctx, keyID, key, proved, send)
}

// after mutates at this proved revision + 1, and again while other writers are faster.
func (c *Client) after(ctx context.Context, keyID string, key *DataKey, proved int64, send mutation) (Written, error) {
	for {
		done, err := send(ctx, proved+1)
		if conflictOf(err) == nil {
			return done, err
		}
		current, reading := c.read(ctx, keyID, key)
		if reading != nil {
			return Written{}, reading
		}
		if current.Revision <= proved { // it would be refused again, because of a number that nobody proved
			return Written{}, contradiction(keyID, current.Revision)
		}
		proved = current.Revision
	}
}

// acknowledged is the result of a mutation, whose revision the server has acknowledged.
func (c *Client) acknowledged(keyID string, key *DataKey, answer mutated, err error) (Written, error) {
	if err != nil {
		return Written{}, err
	}
	done := writtenOf(answer)
	c.seen.note(key, keyID, done.Revision)
	return done, nil
}

// conflictOf returns the *Conflict in an error, nil if there is none or the outcome is unknown.
func conflictOf(err error) *Conflict {
	found, _ := errors.AsType[*Conflict](err)
	return found
}

// contradiction is the error for a server that refuses the next revision and shows no later one.
func contradiction(keyID string, revision int64) error {
	why := newError(ErrConflict, "the server says that %s was changed, but shows revision %d, which is not new", keyID, revision)
	return &Conflict{revision, false, -1, why}
}
