package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	pb "example.com/kv/keyvaultv1"
)

const (
	// pageSize is how many names a page is asked for, the most that a server gives.
	pageSize = 1000

	// maxEmptyPages is how many pages without a name may follow each other.
	maxEmptyPages = 100

	// maxRevisions is how many revisions of a record a server lists at most.
	maxRevisions = 16
)

// keyIDs are what a record may be called, except that a key_id does not end in "/".
var keyIDs = regexp.MustCompile(`^[A-Za-z0-9._~:@/+=-]{1,255}$`)

// list passes the names that begin with prefix to write, page by page. A server may lie: they have to ascend, and the
// pages to end.
func (v vault) list(ctx context.Context, prefix string, write func(name string) error) error {
	last, token := "", ""
	for empty := 0; empty < maxEmptyPages; {
		request := &pb.ListRequest{Prefix: prefix, PageSize: pageSize, PageToken: token}
		page, err := call(ctx, v.rpc.List, request, 0)
		if err != nil {
			return err
		}
		empty++
		for _, listed := range page.GetNames() {
			name := listed.GetKeyId()
			valid := keyIDs.MatchString(name) && !strings.HasSuffix(name, "/")
			if !valid || !strings.HasPrefix(name, prefix) || name <= last { // strings compare by their bytes
				return fmt.Errorf("the server listed %q after %q among the names that begin with %q", name, last, prefix)
			}
			if err := write(name); err != nil {
				return err
			}
			last, empty = name, 0
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		if page.GetNextPageToken() == token {
			break
		}
		token = page.GetNextPageToken()
	}
	return fmt.Errorf("the server's list of names that begin with %q does not go on", prefix)
}

// history returns the revisions of a record that can be read, newest first, a line each. Nothing proves them.
func (v vault) history(ctx context.Context, keyID string) (string, error) {
	answer, err := call(ctx, v.rpc.ListRevisions, &pb.ListRevisionsRequest{KeyId: keyID}, 0)
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	above := int64(0)
	for i, one := range answer.GetRevisions() {
		if one.GetRevision() < 1 || i > 0 && one.GetRevision() >= above || i == maxRevisions {
			return "", fmt.Errorf("the server answered ListRevisions of %s with an impossible list", keyID)
		}
		above = one.GetRevision()
		written := one.GetUpdateTime().AsTime().Format(time.RFC3339)
		fmt.Fprintf(&lines, "revision %d  %s  %d bytes sealed\n", above, written, one.GetSize())
	}
	if above == 0 {
		return "", fmt.Errorf("the server answered ListRevisions of %s with an empty list", keyID)
	}
	return lines.String(), nil
}

// getRevision returns the content that a record had at an earlier revision.
func (v vault) getRevision(ctx context.Context, keyID string, key dataKey, revision int64) ([]byte, error) {
	answer, err := call(ctx, v.rpc.Read, &pb.ReadRequest{KeyId: keyID, Revision: revision}, 0)
	if err != nil {
		return nil, err
	}
	if answer.GetRevision() != revision { // an older server ignores the field
		return nil, fmt.Errorf("the server answered with revision %d of %s instead of %d: it is an older KeyVault, "+
			"which cannot read earlier revisions", answer.GetRevision(), keyID, revision)
	}
	_, plaintext, err := key.open(keyID, answer, false)
	return plaintext, err
}
