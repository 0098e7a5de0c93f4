package keyvault_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

func names(t *testing.T, vault keyvault.Vault, prefix string, options ...keyvault.ListOption) ([]string, error) {
	t.Helper()
	var found []string
	for name, err := range vault.List(t.Context(), prefix, options...) {
		if err != nil {
			return found, err
		}
		found = append(found, name.KeyID)
	}
	return found, nil
}

// clientWithKey returns a client of the server, and a key that it made for all names below prod/.
func clientWithKey(t *testing.T, server *kvtest.Server) (*keyvault.Client, *keyvault.DataKey) {
	t.Helper()
	vault := server.Client(t)
	key, err := vault.GenerateKey(t.Context(), "prod/")
	if err != nil {
		t.Fatal(err)
	}
	return vault, key
}

func TestARecordsWholeLife(t *testing.T) {
	ctx := t.Context()
	vault, key := clientWithKey(t, kvtest.NewServer(t))
	other, err := vault.GenerateKey(ctx, "")
	if err != nil || len(other.Scope()) != 32 {
		t.Fatal(other, err)
	}
	expect := func(what string, done keyvault.Written, err error, revision int64) {
		t.Helper()
		if err != nil || done.Revision != revision || done.Replayed {
			t.Fatalf("%s: revision %d, %v", what, done.Revision, err)
		}
	}
	done, err := vault.Create(ctx, keyID, []byte("one"), key)
	expect("create", done, err, 1)
	if _, err = vault.Create(ctx, keyID, nil, key); !errors.Is(err, keyvault.ErrAlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	done, err = vault.Update(ctx, keyID, []byte("two"), key)
	expect("update", done, err, 2)
	done, err = vault.Restore(ctx, keyID, key, 1)
	expect("restore", done, err, 3)
	if revisions, err := vault.Revisions(ctx, keyID); err != nil || len(revisions) != 3 || revisions[0].Revision != 3 {
		t.Errorf("%v, %v", revisions, err)
	}
	earlier, err := vault.Read(ctx, keyID, key, keyvault.AtRevision(2))
	if err != nil || string(earlier.Plaintext) != "two" {
		t.Errorf("%v, %v", earlier, err)
	}
	if same, err := vault.ReadIfChanged(ctx, keyID, key, 3); same != nil || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	if changed, err := vault.ReadIfChanged(ctx, keyID, key, 2); err != nil || string(changed.Plaintext) != "one" {
		t.Errorf("%v, %v", changed, err)
	}
	newKey, err := vault.GenerateKey(ctx, keyID)
	if err != nil {
		t.Fatal(err)
	}
	done, err = vault.RotateKey(ctx, keyID, key, newKey)
	expect("rotate", done, err, 4)
	if again, err := vault.RotateKey(ctx, keyID, key, newKey); err != nil || !again.Replayed {
		t.Errorf("%v, %v", again, err)
	}
	if _, err = vault.Read(ctx, keyID, key); !errors.Is(err, keyvault.ErrRecordDamaged) {
		t.Errorf("the old key reads: %v", err)
	}
	rewrapped, err := vault.RewrapKey(ctx, newKey)
	if err != nil {
		t.Fatal(err)
	}
	unwrapped, err := vault.UnwrapKey(ctx, rewrapped.WithoutPlaintext())
	if err != nil || !unwrapped.Secret().Equal(newKey.Secret()) {
		t.Fatal(err)
	}
	done, err = vault.Delete(ctx, keyID, unwrapped)
	expect("delete", done, err, 5)
	if _, err = vault.Read(ctx, keyID, newKey); !errors.Is(err, keyvault.ErrNotFound) {
		t.Errorf("read what was deleted: %v", err)
	}
	if deleted, err := names(t, vault, "prod/", keyvault.Deleted()); err != nil || !slices.Equal(deleted, []string{keyID}) {
		t.Errorf("%v, %v", deleted, err)
	}
	done, err = vault.Create(ctx, keyID, nil, newKey)
	expect("create on a tombstone", done, err, 6)
	if who, err := vault.WhoAmI(ctx); err != nil || who.Tenant != kvtest.Tenant || len(who.Rules) != 1 {
		t.Errorf("%v, %v", who, err)
	}
}

func TestWhatIsWrongIsNotSent(t *testing.T) {
	ctx, s := t.Context(), serve(t, nil)
	vault, key := s.client(), newKey(t, 1)
	for what, err := range map[string]error{
		"scope":    second(vault.Read(ctx, "dev/db", key)),
		"name":     second(vault.Read(ctx, "prod/", key)),
		"newline":  second(vault.Read(ctx, "prod/db\n", key)),
		"no key":   second(vault.Read(ctx, keyID, nil)),
		"half key": second(vault.Read(ctx, keyID, key.WithoutPlaintext())),
		"revision": second(vault.Read(ctx, keyID, key, keyvault.AtRevision(0))),
		"known":    second(vault.ReadIfChanged(ctx, keyID, key, 0)),
		"size":     second(vault.Create(ctx, keyID, make([]byte, keyvault.MaxPlaintext+1), key)),
		"update":   second(vault.Update(ctx, keyID, nil, key, keyvault.IfRevision(0))),
		"highest":  second(vault.Update(ctx, keyID, nil, key, keyvault.IfRevision(1<<63-1))),
		"same key": second(vault.RotateKey(ctx, keyID, key, key)),
		"generate": second(vault.GenerateKey(ctx, "prod db")),
		"history":  second(vault.Revisions(ctx, "prod/")),
		"prefix":   second(names(t, vault, "prod\x00")),
	} {
		if !errors.Is(err, keyvault.ErrInvalidRequest) || status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.called()
}

func second[T any](_ T, err error) error { return err }

func TestAnErrorIsOfItsKindAlone(t *testing.T) {
	s := serve(t, nil,
		refuses(codes.NotFound, "REVISION_NOT_FOUND", map[string]string{"current_revision": "7", "request_id": "r-1"}),
		refuses(codes.Aborted, "STALE_REVISION", map[string]string{"current_revision": "7", "vacant": "true"}),
		func(context.Context, any) (any, error) { return nil, status.Error(codes.Unknown, "cut") },
		refuses(codes.Unavailable, "BACKEND_UNAVAILABLE", nil),
		refuses(codes.PermissionDenied, "POLICY_DENIED", map[string]string{"request_id": "r\x1b-2"}),
	)
	vault, key := s.client(), newKey(t, 1)
	_, err := vault.Read(t.Context(), keyID, key, keyvault.AtRevision(9))
	about, ok := errors.AsType[*keyvault.Error](err)
	if !ok || about.CurrentRevision != 7 || about.RequestID != "r-1" || !errors.Is(err, keyvault.ErrNotFound) ||
		!errors.Is(err, keyvault.ErrRevisionNotFound) || status.Code(err) != codes.NotFound {
		t.Errorf("%#v", err)
	}
	_, err = vault.Create(t.Context(), keyID, nil, key)
	conflict, ok := errors.AsType[*keyvault.Conflict](err)
	if !ok || !conflict.Vacant || conflict.CurrentRevision != 7 || !errors.Is(err, keyvault.ErrConflict) ||
		errors.Is(err, keyvault.ErrAlreadyExists) || status.Code(err) != codes.Aborted {
		t.Errorf("%#v", err)
	}
	_, err = vault.Create(t.Context(), keyID, nil, key)
	about, ok = errors.AsType[*keyvault.Error](err)
	if !ok || !errors.Is(err, keyvault.ErrOutcomeUnknown) || about.Reason != "POLICY_DENIED" || status.Code(err) != codes.Unknown {
		t.Errorf("%#v", err)
	}
	// A handler that asks "was nothing written?" first must not be misled by the cause.
	for _, kind := range []error{keyvault.ErrDenied, keyvault.ErrUnavailable, keyvault.ErrBusy, keyvault.ErrConflict} {
		if errors.Is(err, kind) {
			t.Errorf("an unknown outcome is also: %v", kind)
		}
	}
	if cause := about.Cause(); !errors.Is(cause, keyvault.ErrDenied) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("cause: %v", cause)
	}
	if details := status.Convert(err).Details(); len(details) != 0 {
		t.Errorf("the server's details would reach another caller: %v", details)
	}
}

func TestAClosedClientSendsNothing(t *testing.T) {
	s := serve(t, nil)
	vault := s.client()
	_ = vault.Close()
	_, err := vault.Create(t.Context(), keyID, nil, newKey(t, 1))
	if !errors.Is(err, keyvault.ErrClosed) || !errors.Is(err, keyvault.ErrUnavailable) {
		t.Error(err)
	}
	s.called()
}

// page answers List with these names.
func page(token string, listed ...string) step {
	answer := &pb.ListResponse{NextPageToken: token}
	for _, name := range listed {
		answer.Names = append(answer.Names, &pb.ListResponse_Name{KeyId: name})
	}
	return says(answer)
}

func TestListAsksForEveryPage(t *testing.T) {
	s := serve(t, nil, page("1", "p/a", "p/b"), page("2"), page("", "p/c"), page("1", "p/a"))
	vault := s.client()
	if found, err := names(t, vault, "p/"); err != nil || !slices.Equal(found, []string{"p/a", "p/b", "p/c"}) {
		t.Errorf("%v, %v", found, err)
	}
	for name, err := range vault.List(t.Context(), "p/") { // and not for the next one if nobody wants it
		if err != nil || name.KeyID != "p/a" {
			t.Error(name, err)
		}
		break
	}
	s.called("List", "List", "List", "List")
}

func TestAPageThatCannotBeIsRefused(t *testing.T) {
	endless := []step{}
	for i := range 100 {
		endless = append(endless, page(strconv.Itoa(i+1)))
	}
	for what, steps := range map[string][]step{
		"prefix": {page("", "q/a")}, "invalid": {page("", "p/\x1b[2J")}, "folder": {page("", "p/a/")},
		"twice": {page("1", "p/a"), page("", "p/a")}, "repeated": {page("1"), page("1")}, "endless": endless,
	} {
		s := serve(t, nil, steps...)
		_, err := names(t, s.client(), "p/")
		if !errors.Is(err, keyvault.ErrServerFailure) || len(s.steps) != 0 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v, %d steps are left", what, err, len(s.steps))
		}
	}
}

func TestAHistoryThatCannotBeIsRefused(t *testing.T) {
	listed := func(size int32, numbers ...int64) step {
		answer := &pb.ListRevisionsResponse{}
		for _, number := range numbers {
			answer.Revisions = append(answer.Revisions, &pb.ListRevisionsResponse_Revision{
				Revision: number, Size: size, UpdateTime: &timestamppb.Timestamp{Seconds: 1},
			})
		}
		return says(answer)
	}
	for _, lie := range []step{
		listed(99), listed(99, 0), listed(99, 2, 2), listed(99, 2, 3), listed(87, 1), listed(380_457, 1),
		listed(99, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1),
	} {
		if found, err := serve(t, nil, lie).client().Revisions(t.Context(), keyID); !errors.Is(err, keyvault.ErrServerFailure) {
			t.Errorf("%v, %v", found, err)
		}
	}
}

func TestAReadBelievesTheEnvelopeAndNotTheServer(t *testing.T) {
	key, other := newKey(t, 1), newKey(t, 2)
	for what, lie := range map[string]step{
		"revision":  stored(key, kve1.Data, 3, 4, "three"),
		"tombstone": stored(key, kve1.Tombstone, 3, 3, ""),
		"key":       stored(other, kve1.Data, 3, 3, "three"),
		"nothing":   says(&pb.ReadResponse{Revision: 3}),
	} {
		if _, err := serve(t, nil, lie).client().Read(t.Context(), keyID, key); !errors.Is(err, keyvault.ErrRecordDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	record, err := serve(t, nil, stored(key, kve1.Data, 3, 3, "three")).client().Read(t.Context(), keyID, key)
	if err != nil || string(record.Plaintext) != "three" {
		t.Error(record, err)
	}
}

func TestARollbackIsNoticedInEveryRead(t *testing.T) {
	ctx, server := t.Context(), kvtest.NewServer(t)
	vault, key := clientWithKey(t, server)
	_, err := vault.Create(ctx, keyID, []byte("one"), key)
	if err == nil {
		_, err = vault.Update(ctx, keyID, []byte("two"), key)
	}
	if err != nil {
		t.Fatal(err)
	}
	server.Rollback(keyID, 1)
	many, err := vault.ReadMany(ctx, map[string]*keyvault.DataKey{keyID: key})
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"read": second(vault.Read(ctx, keyID, key)), "changed": second(vault.ReadIfChanged(ctx, keyID, key, 1)),
		"many": many[keyID].Err, "earlier": second(vault.Read(ctx, keyID, key, keyvault.AtRevision(2))),
	} {
		about, ok := errors.AsType[*keyvault.RolledBack](err)
		if !ok || !errors.Is(err, keyvault.ErrRolledBack) || about.Seen != 2 || about.Revision != 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if record, err := server.Client(t).Read(ctx, keyID, key); err != nil || record.Revision != 1 {
		t.Errorf("another client remembers: %v, %v", record, err)
	}
}

func TestManyAreReadInFewCalls(t *testing.T) {
	ctx, server := t.Context(), kvtest.NewServer(t)
	vault, key := clientWithKey(t, server)
	keys := map[string]*keyvault.DataKey{"prod/absent": key, "dev/other": key}
	for i := range 120 {
		name := fmt.Sprintf("prod/%03d", i)
		keys[name] = key
		if _, err := vault.Create(ctx, name, []byte(name), key); err != nil {
			t.Fatal(err)
		}
	}
	results, err := vault.ReadMany(ctx, keys)
	if err != nil || !slices.Equal(slices.Sorted(maps.Keys(results)), slices.Sorted(maps.Keys(keys))) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for name, result := range results {
		switch name {
		case "prod/absent":
			if !errors.Is(result.Err, keyvault.ErrNotFound) {
				t.Errorf("%s: %v", name, result.Err)
			}
		case "dev/other":
			if !errors.Is(result.Err, keyvault.ErrInvalidRequest) {
				t.Errorf("%s: %v", name, result.Err)
			}
		default:
			if result.Err != nil || string(result.Record.Plaintext) != name {
				t.Errorf("%s: %v", name, result)
			}
		}
	}
}

func TestWhatHadNoRoomIsAskedForAgain(t *testing.T) {
	key := newKey(t, 1)
	record := func(name string) *pb.BatchReadResponse_Result {
		envelope, err := kve1.Seal(key.Secret(), key.Tenant(), name, kve1.Header{Kind: kve1.Data, Revision: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		read := &pb.ReadResponse{Envelope: envelope, Revision: 1}
		return &pb.BatchReadResponse_Result{Answer: &pb.BatchReadResponse_Result_Record{Record: read}}
	}
	refused := func(code codes.Code, reason string) *pb.BatchReadResponse_Result {
		return &pb.BatchReadResponse_Result{Answer: &pb.BatchReadResponse_Result_Error{
			Error: &pb.BatchReadResponse_Error{Code: int32(code), Reason: reason},
		}}
	}
	answer := func(results ...*pb.BatchReadResponse_Result) step {
		return says(&pb.BatchReadResponse{Results: results})
	}
	full := refused(codes.ResourceExhausted, "BATCH_FULL")
	keys := map[string]*keyvault.DataKey{"prod/a": key, "prod/b": key, "prod/c": key}
	s := serve(t, nil,
		answer(record("prod/a"), full, refused(codes.ResourceExhausted, "RATE_LIMITED")),
		answer(record("prod/b"), record("prod/c")))
	results, err := s.client().ReadMany(t.Context(), keys)
	if err != nil || len(results) != 3 || results["prod/c"].Err != nil {
		t.Errorf("%v, %v", results, err)
	}
	for what, lie := range map[string]step{"none fits": answer(full, full, full), "two of three": answer(full, full)} {
		if _, err := serve(t, nil, lie).client().ReadMany(t.Context(), keys); !errors.Is(err, keyvault.ErrServerFailure) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestACacheFollowsTheServerAndOutlivesIt(t *testing.T) {
	ctx, server := t.Context(), kvtest.NewServer(t)
	vault, key := clientWithKey(t, server)
	if _, err := vault.Create(ctx, keyID, []byte("one"), key); err != nil {
		t.Fatal(err)
	}
	keys := map[string]*keyvault.DataKey{keyID: key, "prod/absent": key}
	if _, err := vault.NewCache(ctx, keys); !errors.Is(err, keyvault.ErrNotFound) {
		t.Errorf("a cache of what is not there: %v", err)
	}
	delete(keys, "prod/absent")
	var changes atomic.Int64
	counted := func(string, keyvault.Result) { changes.Add(1) }
	cache, err := vault.NewCache(ctx, keys, keyvault.RefreshEvery(20*time.Millisecond), keyvault.OnChange(counted))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = vault.Update(ctx, keyID, []byte("two"), key); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { record, err := cache.Get(keyID); return err == nil && string(record.Plaintext) == "two" })
	server.Fail("BatchRead", kvtest.Refusal(codes.PermissionDenied, "POLICY_DENIED", "not today", nil))
	waitFor(t, func() bool { return changes.Load() == 1 })
	if err := cache.Close(); err != nil {
		t.Fatal(err)
	}
	server.Fail("BatchRead", kvtest.Refusal(codes.PermissionDenied, "POLICY_DENIED", "not today", nil))
	for range 3 { // one of them meets the failure, the others find nothing new
		_ = cache.Refresh(ctx)
	}
	if record, err := cache.Get(keyID); err != nil || record.Revision != 2 {
		t.Errorf("%v, %v", record, err)
	}
	if _, err = vault.Delete(ctx, keyID, key); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_ = cache.Refresh(ctx)
	}
	if record, err := cache.Get(keyID); !errors.Is(err, keyvault.ErrNotFound) || changes.Load() != 2 {
		t.Errorf("%v, %v, %d changes", record, err, changes.Load())
	}
	if _, err := cache.Get("prod/other"); !errors.Is(err, keyvault.ErrInvalidRequest) {
		t.Error(err)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 20 s")
		}
	}
}

func TestAKeyThatWasNotAskedForIsRefused(t *testing.T) {
	answer := func(change func(*pb.GenerateKeyResponse)) step {
		made := &pb.GenerateKeyResponse{Tenant: "acme", Scope: keyID, PlaintextKey: make([]byte, 32), WrappedKey: []byte{1}}
		change(made)
		return says(made)
	}
	for what, lie := range map[string]step{
		"wider scope":   answer(func(r *pb.GenerateKeyResponse) { r.Scope = "prod/" }),
		"no tenant":     answer(func(r *pb.GenerateKeyResponse) { r.Tenant = "" }),
		"short key":     answer(func(r *pb.GenerateKeyResponse) { r.PlaintextKey = make([]byte, 31) }),
		"no wrapped":    answer(func(r *pb.GenerateKeyResponse) { r.WrappedKey = nil }),
		"large wrapped": answer(func(r *pb.GenerateKeyResponse) { r.WrappedKey = make([]byte, 8193) }),
	} {
		if key, err := serve(t, nil, lie).client().GenerateKey(t.Context(), keyID); !errors.Is(err, keyvault.ErrServerFailure) {
			t.Errorf("%s: %v, %v", what, key, err)
		}
	}
}
