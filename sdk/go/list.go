package keyvault

import (
	"context"
	"iter"
	"strings"
	"time"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// maxEmptyPages is how many pages without a name may follow each other; a server may send some at the end.
const maxEmptyPages = 100

// ListedName is the name of a record.
type ListedName struct {
	KeyID string
	// CreateTime is by the server's clock; informational.
	CreateTime time.Time
}

// ListOption changes what [Client.List] lists.
type ListOption func(*pb.ListRequest)

// Deleted lists deleted records instead of live ones.
func Deleted() ListOption { return func(r *pb.ListRequest) { r.Deleted = true } }

// List iterates over the names of the records that begin with prefix, in the order of their bytes:
//
//	for name, err := range vault.List(ctx, "prod/") { ... }
//
// An error is the last pair. It asks for page after page; a context without a deadline gives each page the client's
// timeout. It is no snapshot, and nothing proves that it is complete. The policy has to allow List for the whole prefix.
func (c *Client) List(ctx context.Context, prefix string, options ...ListOption) iter.Seq2[ListedName, error] {
	return func(yield func(ListedName, error) bool) {
		if prefix != "" && !isScope(prefix) {
			yield(ListedName{}, invalid("invalid prefix %s: must be 0 to 255 characters of [A-Za-z0-9._~:@/+=-]", quote(prefix)))
			return
		}
		request := &pb.ListRequest{Prefix: prefix, PageSize: maxPageNames}
		for _, option := range options {
			option(request)
		}
		if err := c.list(ctx, request, yield); err != nil {
			yield(ListedName{}, err)
		}
	}
}

// list passes the names on, page by page. A server may lie: they have to ascend, and the pages to end.
func (c *Client) list(ctx context.Context, request *pb.ListRequest, yield func(ListedName, error) bool) error {
	last := ""
	for empty := 0; empty < maxEmptyPages; {
		page, err := c.page(ctx, request)
		if err != nil {
			return err
		}
		if err := checkNames(request.GetPrefix(), last, page.GetNames()); err != nil {
			return err
		}
		empty++
		for _, one := range page.GetNames() {
			last, empty = one.GetKeyId(), 0
			if !yield(ListedName{one.GetKeyId(), one.GetCreateTime().AsTime()}, nil) {
				return nil
			}
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		if page.GetNextPageToken() == request.GetPageToken() {
			break
		}
		request.PageToken = page.GetNextPageToken()
	}
	return serverFailure("the server's list of names that begin with %s does not go on: report it", quote(request.GetPrefix()))
}

func (c *Client) page(ctx context.Context, request *pb.ListRequest) (*pb.ListResponse, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return call(ctx, c, pb.KeyVaultClient.List, request, 0)
}

// checkNames fails unless these names may follow last in a listing of this prefix.
func checkNames(prefix, last string, page []*pb.ListResponse_Name) error {
	if len(page) > maxPageNames {
		return serverFailure("the server answered List with %d names instead of %d: report it", len(page), maxPageNames)
	}
	for _, one := range page {
		name := one.GetKeyId()
		if !isKeyID(name) || !strings.HasPrefix(name, prefix) {
			return serverFailure("the server listed %s among names that begin with %s: report it", quote(name), quote(prefix))
		}
		if name <= last { // strings compare by their bytes
			return serverFailure("the server listed %s after %s, out of order: report it", quote(name), quote(last))
		}
		last = name
	}
	return nil
}

// Revision is a revision of a record that can be read.
type Revision struct {
	Revision int64
	// UpdateTime is when it was written, by the server's clock; informational.
	UpdateTime time.Time
	// Size is the bytes of its envelope: those of the data, and 88 to 456 more.
	Size int
}

// Revisions returns which revisions of a record Read and Restore can get, newest first: the first one is current. It
// needs no key, so nothing proves what the server says; a Read does.
func (c *Client) Revisions(ctx context.Context, keyID string) ([]Revision, error) {
	if err := checkKeyID(keyID); err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := call(ctx, c, pb.KeyVaultClient.ListRevisions, &pb.ListRevisionsRequest{KeyId: keyID}, 0)
	if err != nil {
		return nil, err
	}
	var found []Revision
	for i, one := range answer.GetRevisions() {
		impossible := one.GetRevision() < 1 || i > 0 && one.GetRevision() >= found[i-1].Revision ||
			int(one.GetSize()) < kve1.MinEnvelope || int(one.GetSize()) > kve1.MaxEnvelope
		if impossible || i == maxRevisions {
			found = nil
			break
		}
		found = append(found, Revision{one.GetRevision(), one.GetUpdateTime().AsTime(), int(one.GetSize())})
	}
	if found == nil {
		return nil, serverFailure("the server answered ListRevisions of %s with an impossible list: report it", keyID)
	}
	return found, nil
}
