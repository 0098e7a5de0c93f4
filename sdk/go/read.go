package keyvault

import (
	"context"
	"errors"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// ReadOption changes what [Client.Read] reads.
type ReadOption func(*readOptions)

type readOptions struct {
	revision int64
	named    bool
}

// AtRevision reads an earlier revision, which [Client.Revisions] lists. The error is an ErrRevisionNotFound if the server
// does not keep it.
func AtRevision(revision int64) ReadOption {
	return func(o *readOptions) { o.revision, o.named = revision, true }
}

// Read reads and opens a record. Its error may be an ErrNotFound, an ErrRolledBack, or an ErrRecordDamaged, which is also
// what a record of another key is.
func (c *Client) Read(ctx context.Context, keyID string, key *DataKey, options ...ReadOption) (*Record, error) {
	var chosen readOptions
	for _, option := range options {
		option(&chosen)
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if chosen.named {
		return c.readEarlier(ctx, keyID, key, chosen.revision)
	}
	return c.read(ctx, keyID, key)
}

// ReadIfChanged reads as [Client.Read] does, or returns nil without data if the record is still at the known revision. A
// lower revision is a [RolledBack].
func (c *Client) ReadIfChanged(ctx context.Context, keyID string, key *DataKey, known int64) (*Record, error) {
	if err := checkRevision("known revision", known); err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := c.fetch(ctx, key, &pb.ReadRequest{KeyId: keyID, KnownRevision: known})
	if err != nil {
		return nil, err
	}
	return c.acceptIfChanged(keyID, answer, key, known)
}

// read returns the current record, opened.
func (c *Client) read(ctx context.Context, keyID string, key *DataKey) (*Record, error) {
	answer, err := c.fetch(ctx, key, &pb.ReadRequest{KeyId: keyID})
	if err != nil {
		return nil, err
	}
	return c.accept(keyID, answer, key)
}

// readEarlier returns this revision of the record, opened. A low revision that was asked for is no rollback; a server
// that says of a record that it never was at a proved revision, is one.
func (c *Client) readEarlier(ctx context.Context, keyID string, key *DataKey, revision int64) (*Record, error) {
	if err := checkUsable(key, keyID); err != nil {
		return nil, err
	}
	if err := checkRevision("revision", revision); err != nil {
		return nil, err
	}
	floor, err := c.seen.get(key, keyID) // before the call, as in fetch
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, c, pb.KeyVaultClient.Read, &pb.ReadRequest{KeyId: keyID, Revision: revision}, 0)
	if err != nil {
		var about *Error
		if errors.Is(err, ErrRevisionNotFound) && errors.As(err, &about) && about.CurrentRevision > 0 &&
			about.CurrentRevision < floor {
			return nil, &RolledBack{KeyID: keyID, Revision: about.CurrentRevision, Seen: floor}
		}
		return nil, err
	}
	if answer.GetRevision() != revision {
		return nil, serverFailure("the server answered with revision %d of %s instead of %d: it is an older KeyVault, "+
			"which cannot read earlier revisions", answer.GetRevision(), keyID, revision)
	}
	return c.accept(keyID, answer, key)
}

// fetch asks for a record, which is not opened yet. Its revision is not below what was proved before.
func (c *Client) fetch(ctx context.Context, key *DataKey, request *pb.ReadRequest) (*pb.ReadResponse, error) {
	if err := checkUsable(key, request.GetKeyId()); err != nil {
		return nil, err
	}
	floor, err := c.seen.get(key, request.GetKeyId()) // before the call: a write of ours may raise it while we wait
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, c, pb.KeyVaultClient.Read, request, 0)
	if err != nil {
		return nil, err
	}
	// What the caller knows was proved, too.
	return answer, checkSeen(request.GetKeyId(), answer.GetRevision(), max(floor, request.GetKnownRevision()))
}

// accept opens the record in an answer, and remembers its revision.
func (c *Client) accept(keyID string, answer *pb.ReadResponse, key *DataKey) (*Record, error) {
	record, err := opened(keyID, answer, key, kve1.Data)
	if err == nil {
		c.seen.note(key, keyID, record.Revision)
	}
	return record, err
}

// acceptIfChanged is accept for a caller that has the known revision, 0 if none: it returns nil if that is current.
func (c *Client) acceptIfChanged(keyID string, answer *pb.ReadResponse, key *DataKey, known int64) (*Record, error) {
	if !answer.GetNotModified() {
		return c.accept(keyID, answer, key)
	}
	if known == 0 || answer.GetRevision() != known {
		return nil, serverFailure("the server's answer for %s contradicts the request: not modified, but changed", keyID)
	}
	return nil, nil
}

// deletedRevision returns the revision of the tombstone under a name that a Create has found in use, opened under key.
func (c *Client) deletedRevision(ctx context.Context, keyID string, key *DataKey, stale *Conflict) (int64, error) {
	if stale.Vacant {
		about := *stale.err
		about.message += "; the name was purged, so nothing proves its revision: check it with the operator, and name it " +
			"(IfRevision) to go on from there"
		return 0, &Conflict{stale.CurrentRevision, true, stale.rememberedSince, &about}
	}
	answer, err := c.fetch(ctx, key, &pb.ReadRequest{KeyId: keyID, IncludeDeleted: true})
	if errors.Is(err, ErrNotFound) {
		return 0, stale
	}
	if err != nil {
		return 0, err
	}
	if !answer.GetDeleted() {
		exists := newError(ErrAlreadyExists, "a record of %s exists", keyID)
		return 0, &Conflict{answer.GetRevision(), false, -1, exists}
	}
	tombstone, err := opened(keyID, answer, key, kve1.Tombstone)
	if err != nil {
		return 0, err
	}
	c.seen.note(key, keyID, tombstone.Revision)
	return tombstone.Revision, nil
}

// checkUsable fails unless the key may be used for this name, and seals and opens envelopes.
func checkUsable(key *DataKey, keyID string) error {
	if err := checkScope(key, keyID); err != nil {
		return err
	}
	return key.checkSecret()
}
