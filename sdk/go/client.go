package keyvault

import (
	"context"
	"iter"
	"time"
)

// Vault is what a [Client] does, for programs that put a fake of their own in its place.
type Vault interface {
	GenerateKey(ctx context.Context, scope string) (*DataKey, error)
	RewrapKey(ctx context.Context, key *DataKey) (*DataKey, error)
	UnwrapKey(ctx context.Context, key *DataKey) (*DataKey, error)
	Create(ctx context.Context, keyID string, plaintext []byte, key *DataKey, options ...WriteOption) (Written, error)
	Update(ctx context.Context, keyID string, plaintext []byte, key *DataKey, options ...WriteOption) (Written, error)
	Delete(ctx context.Context, keyID string, key *DataKey, options ...WriteOption) (Written, error)
	RotateKey(ctx context.Context, keyID string, key, newKey *DataKey, options ...WriteOption) (Written, error)
	Restore(ctx context.Context, keyID string, key *DataKey, revision int64) (Written, error)
	Read(ctx context.Context, keyID string, key *DataKey, options ...ReadOption) (*Record, error)
	ReadIfChanged(ctx context.Context, keyID string, key *DataKey, known int64) (*Record, error)
	ReadMany(ctx context.Context, keys map[string]*DataKey) (map[string]Result, error)
	List(ctx context.Context, prefix string, options ...ListOption) iter.Seq2[ListedName, error]
	Revisions(ctx context.Context, keyID string) ([]Revision, error)
	WhoAmI(ctx context.Context) (*Identity, error)
	Close() error
}

var _ Vault = (*Client)(nil)

// Client is a client of one server, safe for concurrent use. Make one for the life of a program, and Close it.
type Client struct {
	settings
	connector *connector
	seen      *seenRevisions
}

// New makes a client of the server at host:port, dns:///host:port or unix:/path. It connects with the first call. A
// non-loopback address needs [WithTLS] or [WithInsecure]. Its error is an ErrInvalidRequest.
func New(address string, options ...Option) (*Client, error) {
	chosen, err := settingsOf(address, options)
	if err != nil {
		return nil, err
	}
	connector, err := newConnector(address, chosen)
	if err != nil {
		return nil, err
	}
	var file *revisionFile
	if chosen.revisionFile != "" {
		file = &revisionFile{path: chosen.revisionFile, address: address, log: chosen.log}
	}
	return &Client{chosen, connector, newSeenRevisions(chosen.remembered, file)}, nil
}

// Close closes the connection, which ends calls in flight. It always returns nil.
func (c *Client) Close() error {
	c.connector.close()
	return nil
}

// Timeout returns what [WithTimeout] set: a command gives it to the context of all its calls.
func (c *Client) Timeout() time.Duration { return c.timeout }

// bounded returns a context with a deadline: that of ctx, or one after the client's timeout.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout)
}
