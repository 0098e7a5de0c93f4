package main

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "example.com/kv/keyvaultv1"
	"example.com/kv/kve1"
)

// page answers List with these names.
func page(token string, names ...string) step {
	answer := &pb.ListResponse{NextPageToken: token}
	for _, name := range names {
		answer.Names = append(answer.Names, &pb.ListResponse_Name{KeyId: name})
	}
	return func(context.Context, any) (any, error) { return answer, nil }
}

func TestListAsksForEveryPage(t *testing.T) {
	s := serve(t, page("1", "p/a", "p/b"), page("2"), page("", "p/c"))
	stdout, failure := kv("", "list", "p/")
	expect(t, stdout+failure, "p/a\np/b\np/c\n")
	s.called("List", "List", "List")
	for i, token := range []string{"", "1", "2"} {
		request := s.requests[i].(*pb.ListRequest)
		expect(t, request.GetPrefix()+request.GetPageToken(), "p/"+token)
	}
	serve(t, page(""))
	stdout, failure = kv("", "list")
	expect(t, stdout+failure, "")
}

func TestAPageThatCannotBeIsRefused(t *testing.T) {
	endless := []step{}
	for i := range maxEmptyPages {
		endless = append(endless, page(strconv.Itoa(i+1)))
	}
	for name, steps := range map[string][]step{
		"prefix":   {page("", "q/a")},
		"invalid":  {page("", "p/\x1b[2J")},
		"folder":   {page("", "p/a/")},
		"twice":    {page("1", "p/a"), page("", "p/a")},
		"repeated": {page("1"), page("1")},
		"endless":  endless,
	} {
		s := serve(t, steps...)
		_, failure := kv("", "list", "p/")
		if !strings.HasPrefix(failure, "the server") || len(s.steps) != 0 {
			t.Errorf("%s: %q, %d steps are left", name, failure, len(s.steps))
		}
	}
}

// revisions answers ListRevisions with these.
func revisions(numbers ...int64) step {
	answer := &pb.ListRevisionsResponse{}
	for _, number := range numbers {
		written := &timestamppb.Timestamp{Seconds: 1}
		answer.Revisions = append(answer.Revisions,
			&pb.ListRevisionsResponse_Revision{Revision: number, Size: 99, UpdateTime: written})
	}
	return func(context.Context, any) (any, error) { return answer, nil }
}

func TestHistoryShowsALineForEachRevision(t *testing.T) {
	serve(t, revisions(3, 2))
	stdout, failure := kv("", "history", keyID)
	expect(t, stdout+failure, "revision 3  1970-01-01T00:00:01Z  99 bytes sealed\nrevision 2  1970-01-01T00:00:01Z  99 bytes sealed\n")
	for _, lie := range []step{
		revisions(), revisions(0), revisions(2, 2), revisions(2, 3),
		revisions(17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1),
	} {
		serve(t, lie)
		if _, failure = kv("", "history", keyID); !strings.HasPrefix(failure, "the server answered ListRevisions") {
			t.Error(failure)
		}
	}
}

func TestAnEarlierRevisionIsTheOneThatWasAskedFor(t *testing.T) {
	path, key := keyFile(t, 1)
	older := "the server answered with revision 3 of prod/db instead of 2: it is an older KeyVault, " +
		"which cannot read earlier revisions"
	for _, test := range []struct {
		read            step
		stdout, failure string
	}{
		{stored(t, key, kve1.Data, 2, 2, "two"), "two", ""},
		{stored(t, key, kve1.Data, 3, 3, "three"), "", older},
		{stored(t, key, kve1.Data, 3, 2, "three"), "", "prod/db: the server's answer contradicts its envelope"},
		{stored(t, key, kve1.Tombstone, 2, 2, ""), "", "prod/db: the server's answer contradicts its envelope"},
		{refuse(codes.NotFound, "REVISION_NOT_FOUND", 7), "", "NOT_FOUND REVISION_NOT_FOUND: because (request r-1)"},
	} {
		s := serve(t, test.read)
		stdout, failure := kv("", "get", keyID, "--key", path, "--revision", "2")
		expect(t, stdout, test.stdout)
		expect(t, failure, test.failure)
		if asked := s.requests[0].(*pb.ReadRequest).GetRevision(); asked != 2 {
			t.Errorf("asked for revision %d", asked)
		}
	}
}

func TestAnOlderServerIsNamed(t *testing.T) {
	unknown := func(context.Context, any) (any, error) {
		return nil, status.Error(codes.Unimplemented, "unknown method")
	}
	for _, line := range []string{"list", "history k"} {
		serve(t, unknown)
		_, failure := kv("", strings.Fields(line)...)
		expect(t, failure, "UNIMPLEMENTED: unknown method (the server does not know this call: it is an older KeyVault, or another service)")
	}
}
