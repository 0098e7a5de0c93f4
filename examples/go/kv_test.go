package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "example.com/kv/keyvaultv1"
	"example.com/kv/kve1"
)

const (
	keyID   = "prod/db"
	unknown = "the outcome is unknown, get the record to see: "
)

// TestMain keeps the settings of the environment out of the tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "KEYVAULT_") {
			_ = os.Unsetenv(name)
		}
	}
	m.Run()
}

// step is how a server answers one call. What a real server does to order, the tests of the whole repository try; a
// scripted one also loses answers, refuses and lies.
type step func(ctx context.Context, request any) (any, error)

type server struct {
	t        *testing.T
	mu       sync.Mutex
	steps    []step
	methods  []string
	requests []any
}

// serve answers with the steps in turn, and makes it the server of this test's environment.
func serve(t *testing.T, steps ...step) *server {
	t.Helper()
	s := &server{t: t, steps: steps}
	s.listen()
	return s
}

func (s *server) listen(options ...grpc.ServerOption) {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	listening := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.answer))...)
	pb.RegisterKeyVaultServer(listening, pb.UnimplementedKeyVaultServer{})
	go func() { _ = listening.Serve(listener) }()
	s.t.Cleanup(listening.Stop)
	s.t.Setenv("KEYVAULT_ADDRESS", listener.Addr().String())
}

func (s *server) answer(ctx context.Context, request any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	if len(s.steps) == 0 {
		s.mu.Unlock()
		s.t.Errorf("one call too many: %s", info.FullMethod)
		return nil, status.Error(codes.FailedPrecondition, "the script is over")
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	s.methods = append(s.methods, filepath.Base(info.FullMethod))
	s.requests = append(s.requests, request)
	s.mu.Unlock()
	return next(ctx, request)
}

// called fails the test unless the calls were these, and no others were expected.
func (s *server) called(methods ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.methods, methods) || len(s.steps) != 0 {
		s.t.Errorf("called %v, want %v; %d steps are left", s.methods, methods, len(s.steps))
	}
}

// envelope returns that of call i, and fails the test unless it is sealed for this revision.
func (s *server) envelope(i int, revision int64) string {
	s.t.Helper()
	envelope := s.requests[i].(interface{ GetEnvelope() []byte }).GetEnvelope()
	if header, err := kve1.Parse(envelope); err != nil || header.Revision != revision {
		s.t.Errorf("call %d is for revision %d, want %d: %v", i, header.Revision, revision, err)
	}
	return string(envelope)
}

// accept answers as a server that accepts the envelope.
func accept(_ context.Context, request any) (any, error) {
	header, _ := kve1.Parse(request.(interface{ GetEnvelope() []byte }).GetEnvelope())
	switch request.(type) {
	case *pb.CreateRequest:
		return &pb.CreateResponse{Revision: header.Revision}, nil
	case *pb.UpdateRequest:
		return &pb.UpdateResponse{Revision: header.Revision}, nil
	case *pb.DeleteRequest:
		return &pb.DeleteResponse{Revision: header.Revision}, nil
	}
	return &pb.RotateKeyResponse{Revision: header.Revision}, nil
}

// refuse answers as a server that remembers 16 envelopes of a record at current.
func refuse(code codes.Code, reason string, current int64) step {
	about := map[string]string{"request_id": "r-1"}
	if current != 0 {
		about["current_revision"] = strconv.FormatInt(current, 10)
		about["remembered_since"] = strconv.FormatInt(max(1, current-15), 10)
	}
	return refuseWith(code, reason, about)
}

func refuseWith(code codes.Code, reason string, about map[string]string) step {
	refused, _ := status.New(code, "because").WithDetails(
		&errdetails.ErrorInfo{Reason: reason, Domain: "keyvault", Metadata: about})
	return func(context.Context, any) (any, error) { return nil, refused.Err() }
}

func stale(current int64) step { return refuse(codes.Aborted, staleRevision, current) }

func lose(context.Context, any) (any, error) {
	return nil, status.Error(codes.Unavailable, "the answer is lost")
}

func hang(ctx context.Context, _ any) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// stored answers Read with what key seals, and says that it is at the revision claimed.
func stored(t *testing.T, key dataKey, kind kve1.Kind, sealed, claimed int64, plaintext string) step {
	t.Helper()
	envelope, err := key.seal(keyID, kind, sealed, []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context, any) (any, error) {
		return &pb.ReadResponse{Tenant: key.tenant, Envelope: envelope, Revision: claimed}, nil
	}
}

// keyFile writes a key file that grpcurl could have written, and returns its path and the key.
func keyFile(t *testing.T, secret byte) (string, dataKey) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.key")
	text := `{"tenant": "acme", "scope": "prod/", "plaintextKey": "` + strings.Repeat(string(rune('A'+secret)), 42) + `A=", "wrappedKey": "AQID"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := loadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, key
}

func kv(stdin string, arguments ...string) (stdout, failure string) {
	var out bytes.Buffer
	if err := run(arguments, strings.NewReader(stdin), &out); err != nil {
		failure = oneLine(err.Error())
	}
	return out.String(), failure
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatIsNotAnsweredIsRetriedWithTheSameBytes(t *testing.T) {
	path, _ := keyFile(t, 1)
	s := serve(t, lose, refuse(codes.Unavailable, "BACKEND_UNAVAILABLE", 0), accept)
	stdout, failure := kv("one", "put", keyID, "--key", path)
	expect(t, stdout+failure, "prod/db is at revision 1\n")
	s.called("Create", "Create", "Create")
	if first := s.envelope(0, 1); first != s.envelope(1, 1) || first != s.envelope(2, 1) {
		t.Error("the bytes differ")
	}
}

func TestAThrottledCallWaitsAsLongAsTheServerSays(t *testing.T) {
	path, _ := keyFile(t, 1)
	throttled, _ := status.New(codes.ResourceExhausted, "slowly").WithDetails(
		&errdetails.ErrorInfo{Reason: "RATE_LIMITED", Domain: "keyvault"},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(300 * time.Millisecond)})
	s := serve(t, func(context.Context, any) (any, error) { return nil, throttled.Err() }, accept)
	begin := time.Now()
	stdout, failure := kv("one", "put", keyID, "--key", path)
	expect(t, stdout+failure, "prod/db is at revision 1\n")
	s.called("Create", "Create")
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("retried after %v", took)
	}
}

func TestAFullStoreIsNotAskedAgain(t *testing.T) {
	path, _ := keyFile(t, 1)
	s := serve(t, refuse(codes.ResourceExhausted, "STORE_FULL", 0))
	_, failure := kv("one", "put", keyID, "--key", path)
	expect(t, failure, "RESOURCE_EXHAUSTED STORE_FULL: because (request r-1)")
	s.called("Create")
}

func TestWhatStandsBetweenDoesNotSpeakForKeyVault(t *testing.T) {
	path, _ := keyFile(t, 1)
	refused, _ := status.New(codes.PermissionDenied, "because\x1b[2J\n").WithDetails(
		&errdetails.ErrorInfo{Reason: staleRevision, Domain: "proxy.example", Metadata: map[string]string{"current_revision": "4"}})
	s := serve(t, func(context.Context, any) (any, error) { return nil, refused.Err() })
	_, failure := kv("one", "put", keyID, "--key", path)
	expect(t, failure, unknown+"the change was sent, then: PERMISSION_DENIED: because [2J ")
	s.called("Create")
}

func TestWhatIsTooLongIsNotSent(t *testing.T) {
	path, _ := keyFile(t, 1)
	serve(t)
	_, failure := kv(strings.Repeat("x", kve1.MaxPlaintext+1), "put", keyID, "--key", path)
	expect(t, failure, "standard input is too long: a record holds at most 380000 bytes")
}

func TestAChangeThatIsNeverAnsweredHasAnUnknownOutcome(t *testing.T) {
	path, key := keyFile(t, 1)
	t.Setenv("KEYVAULT_TIMEOUT", "0.5")
	read := stored(t, key, kve1.Data, 1, 1, "one")
	for verb, steps := range map[string][]step{"put": {lose, hang}, "delete": {read, hang}} {
		serve(t, steps...)
		if _, failure := kv("one", verb, keyID, "--key", path); !strings.HasPrefix(failure, unknown) {
			t.Errorf("%s: %s", verb, failure)
		}
	}
}

func TestWhatWasNeverSentIsNoUnknownOutcome(t *testing.T) {
	path, _ := keyFile(t, 1)
	t.Setenv("KEYVAULT_TIMEOUT", "0.5")
	serve(t, hang)
	_, failure := kv("", "get", keyID, "--key", path)
	if !strings.HasPrefix(failure, "DEADLINE_EXCEEDED: ") { // whose clock ends it, theirs or ours, is all the same
		t.Error(failure)
	}
	t.Setenv("KEYVAULT_ADDRESS", "127.0.0.1:1")
	if _, failure = kv("one", "put", keyID, "--key", path); !strings.HasPrefix(failure, "UNAVAILABLE: connection error") {
		t.Error(failure)
	}
}

func TestARefusedRevisionIsSealedAgainFromWhatOpens(t *testing.T) {
	path, key := keyFile(t, 1)
	s := serve(t, stale(4), stored(t, key, kve1.Tombstone, 4, 4, ""), accept)
	stdout, _ := kv("one", "put", keyID, "--key", path)
	expect(t, stdout, "prod/db is at revision 5\n")
	s.called("Create", "Read", "Create")
	s.envelope(2, 5)

	s = serve(t, stored(t, key, kve1.Data, 4, 4, "one"), stale(5), stored(t, key, kve1.Data, 6, 6, "two"), accept)
	stdout, _ = kv("", "delete", keyID, "--key", path)
	expect(t, stdout, "prod/db is at revision 7\n")
	s.called("Read", "Delete", "Read", "Delete")
	s.envelope(1, 5)
	s.envelope(3, 7)
}

func TestPutFollowsWhatOthersDo(t *testing.T) {
	path, key := keyFile(t, 1)
	exists, gone := refuse(codes.AlreadyExists, recordExists, 4), refuse(codes.NotFound, recordNotFound, 0)
	s := serve(t, exists, stored(t, key, kve1.Data, 4, 4, "a"), stale(7), stored(t, key, kve1.Data, 7, 7, "b"), gone,
		stored(t, key, kve1.Tombstone, 8, 8, ""), stale(9), stored(t, key, kve1.Tombstone, 9, 9, ""), accept)
	stdout, _ := kv("one", "put", keyID, "--key", path)
	expect(t, stdout, "prod/db is at revision 10\n")
	s.called("Create", "Read", "Update", "Read", "Update", "Read", "Create", "Read", "Create")
	for i, revision := range []int64{1, 5, 8, 9, 10} {
		s.envelope(2*i, revision)
	}
}

func TestARevisionThatNobodyProvedIsNotSealedFor(t *testing.T) {
	path, key := keyFile(t, 1)
	newPath, _ := keyFile(t, 2)
	_, other := keyFile(t, 3)
	most := int64(1<<63 - 1)
	lie, live := stale(most), stored(t, key, kve1.Data, 1, 1, "one")
	vacant := refuseWith(codes.Aborted, staleRevision,
		map[string]string{"current_revision": "9000", "remembered_since": "9001", "vacant": "true"})
	for name, test := range map[string]struct {
		command string
		steps   []step
	}{
		"nothing there":         {"put", []step{lie, refuse(codes.NotFound, recordNotFound, 0)}},
		"not above":             {"put", []step{lie, live, lie, live}},
		"another key's":         {"put", []step{lie, stored(t, other, kve1.Data, 7, 7, "")}},
		"purged":                {"put", []step{vacant}},
		"delete, not above":     {"delete", []step{live, lie, live}},
		"delete, purged":        {"delete", []step{live, vacant}},
		"delete, not described": {"delete", []step{stored(t, key, kve1.Data, 1, most-1, "")}},
		"rotate, not above":     {"rotate --new-key " + newPath, []step{live, lie, live}},
		"rotate, not described": {"rotate --new-key " + newPath, []step{stored(t, key, kve1.Data, 1, most-1, "")}},
	} {
		s := serve(t, test.steps...)
		arguments := strings.Fields(test.command)
		stdout, failure := kv("one", append([]string{arguments[0], keyID, "--key", path}, arguments[1:]...)...)
		if stdout != "" || failure == "" || strings.HasPrefix(failure, unknown) || len(s.steps) != 0 {
			t.Errorf("%s: %q, %q, %d steps are left", name, stdout, failure, len(s.steps))
		}
		for i, request := range s.requests {
			if sealed, ok := request.(interface{ GetEnvelope() []byte }); ok {
				if header, _ := kve1.Parse(sealed.GetEnvelope()); header.Revision > 2 {
					t.Errorf("%s: call %d is for revision %d", name, i, header.Revision)
				}
			}
		}
	}
}

func TestPutGivesUpWhenOthersAreAlwaysFaster(t *testing.T) {
	path, key := keyFile(t, 1)
	steps := []step{stale(1)}
	for i := range int64(resealings - 1) {
		steps = append(steps, stored(t, key, kve1.Data, i+1, i+1, "theirs"), stale(i+2))
	}
	serve(t, steps...)
	_, failure := kv("one", "put", keyID, "--key", path)
	expect(t, failure, "others were faster 16 times: ABORTED STALE_REVISION: because (request r-1)")
}

func TestALostAnswerIsSealedAgainOnlyWhereTheRecordProvesARefusal(t *testing.T) {
	path, key := keyFile(t, 1)
	there := stored(t, key, kve1.Data, 16, 16, "theirs")
	s := serve(t, lose, refuse(codes.AlreadyExists, recordExists, 16), there, accept) // it remembers 1 to 16
	stdout, _ := kv("one", "put", keyID, "--key", path)
	expect(t, stdout, "prod/db is at revision 17\n")
	s.called("Create", "Create", "Read", "Update")

	for name, about := range map[string]map[string]string{
		"forgotten":      {"current_revision": "17", "remembered_since": "2"},
		"purged":         {"current_revision": "1", "remembered_since": "2", "vacant": "true"},
		"still possible": {"current_revision": "0", "remembered_since": "0"},
		"an old server":  {"current_revision": "1"},
		"no numbers":     {"current_revision": strings.Repeat("9", 5000), "remembered_since": "-1"},
	} {
		s = serve(t, lose, refuseWith(codes.Aborted, staleRevision, about))
		if _, failure := kv("one", "put", keyID, "--key", path); !strings.HasPrefix(failure, unknown) {
			t.Errorf("%s: %s", name, failure)
		}
		s.called("Create", "Create")
	}
}

func TestWhichAnswersSettleAMutation(t *testing.T) {
	path, _ := keyFile(t, 1)
	bare := func(code codes.Code) step {
		return func(context.Context, any) (any, error) { return nil, status.Error(code, "a proxy's") }
	}
	later, _ := status.New(codes.ResourceExhausted, "slowly").WithDetails(
		&errdetails.ErrorInfo{Reason: rateLimited, Domain: "keyvault"},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)})
	limited := func(context.Context, any) (any, error) { return nil, later.Err() }
	for name, test := range map[string]struct {
		steps   []step
		unknown bool
	}{
		"a fault of the server's":     {[]step{refuse(codes.Internal, internal, 0)}, true},
		"a proxy's refusal":           {[]step{bare(codes.Unauthenticated)}, true},
		"another service":             {[]step{bare(codes.Unimplemented)}, true},
		"a proxy's limit":             {[]step{bare(codes.ResourceExhausted)}, true},
		"another revision":            {[]step{func(context.Context, any) (any, error) { return &pb.CreateResponse{Revision: 7}, nil }}, true},
		"limited":                     {[]step{limited}, false},
		"limited, after a lost one":   {[]step{bare(codes.Unknown), limited}, true},
		"refused, after a lost one":   {[]step{bare(codes.Internal), refuse(codes.PermissionDenied, "POLICY_DENIED", 0)}, true},
		"not found, after a lost one": {[]step{lose, refuse(codes.NotFound, recordNotFound, 0)}, true},
		"stopping, then refused":      {[]step{refuse(codes.Unavailable, serverStopping, 0), refuse(codes.PermissionDenied, "POLICY_DENIED", 0)}, false},
	} {
		s := serve(t, test.steps...)
		_, failure := kv("one", "put", keyID, "--key", path)
		if failure == "" || strings.HasPrefix(failure, unknown) != test.unknown || len(s.steps) != 0 {
			t.Errorf("%s: %q, %d steps are left", name, failure, len(s.steps))
		}
	}
}

func TestGetBelievesTheEnvelopeAndNotTheServer(t *testing.T) {
	path, key := keyFile(t, 1)
	_, other := keyFile(t, 2)
	lie := "prod/db: the server's answer contradicts its envelope"
	closed := "prod/db: the envelope does not open under this key, tenant and key_id: is it another key's?"
	for _, test := range []struct {
		read            step
		stdout, failure string
	}{
		{stored(t, key, kve1.Data, 3, 3, "three"), "three", ""},
		{stored(t, key, kve1.Data, 3, 4, "three"), "", lie},
		{stored(t, key, kve1.Tombstone, 3, 3, ""), "", lie},
		{stored(t, other, kve1.Data, 3, 3, "three"), "", closed},
	} {
		serve(t, test.read)
		stdout, failure := kv("", "get", keyID, "--key", path)
		expect(t, stdout, test.stdout)
		expect(t, failure, test.failure)
	}
}

func TestRotateHandsOverWhatItReadAndRepeatedIsDone(t *testing.T) {
	oldPath, oldKey := keyFile(t, 1)
	newPath, newKey := keyFile(t, 2)
	rotate := []string{"rotate", keyID, "--key", oldPath, "--new-key", newPath}
	s := serve(t, stored(t, oldKey, kve1.Data, 3, 3, "three"), stale(4), stored(t, oldKey, kve1.Data, 4, 4, "four"), accept)
	stdout, _ := kv("", rotate...)
	expect(t, stdout, "prod/db is at revision 5\n")
	s.called("Read", "RotateKey", "Read", "RotateKey")
	handed := []byte(s.envelope(3, 5))
	plaintext, _ := kve1.Open(newKey.secret, newKey.tenant, keyID, handed)
	expect(t, string(plaintext), "four")
	authorization, _ := kve1.Open(oldKey.secret, oldKey.tenant, keyID, s.requests[3].(*pb.RotateKeyRequest).GetAuthorization())
	if digest := sha256.Sum256(handed); !bytes.Equal(authorization, digest[:]) {
		t.Error("the old key's authorization is not for these bytes")
	}

	serve(t, stored(t, newKey, kve1.Data, 5, 5, "four"))
	stdout, _ = kv("", rotate...)
	expect(t, stdout, "prod/db is at revision 5\n")

	_, failure := kv("", "rotate", keyID, "--key", oldPath, "--new-key", oldPath)
	expect(t, failure, "the new key is the old one: rotate to another data key")
}

func TestAKeyIsSavedForItsOwnerBeforeItIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.key")
	mode := os.FileMode(0)
	minted := &pb.GenerateKeyResponse{Tenant: "acme", Scope: keyID, PlaintextKey: make([]byte, 32), WrappedKey: []byte{1}}
	s := serve(t,
		func(context.Context, any) (any, error) { return minted, nil },
		func(ctx context.Context, request any) (any, error) {
			if info, err := os.Stat(path); err == nil {
				mode = info.Mode()
			}
			return accept(ctx, request)
		},
		accept)
	for range 2 {
		if _, failure := kv("one", "put", keyID, "--key", path); failure != "" {
			t.Error(failure)
		}
	}
	s.called("GenerateKey", "Create", "Create")
	expect(t, mode.String(), "-rw-------")
	expect(t, s.requests[0].(*pb.GenerateKeyRequest).GetScope(), keyID)
	if err := writeDurably(path, nil); !os.IsExist(err) {
		t.Errorf("another file was written over: %v", err)
	}
}

func TestAFileThatIsNoKeyIsNotQuoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.key")
	for _, text := range []string{"", "SECRET", `{"plaintext_key": "SECRET!"}`, `{"tenant": "acme", "plaintext_key": "SECRET==", "wrapped_key": "AQID"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, failure := kv("", "get", keyID, "--key", path)
		if !strings.Contains(failure, "not a key file") || strings.Contains(failure, "SECRET") {
			t.Error(failure)
		}
	}
}

func TestBadUsageIsItsOwnError(t *testing.T) {
	path, _ := keyFile(t, 1)
	for _, line := range []string{
		"", "frob k --key f", "get", "get k", "get --key f", "get k l --key f", "get k --kez f", "get k --key f --new-key g",
		"rotate k --key f", "put prod/ --key f", "history", "history prod/", "history k --key f", "list a b", "list --key f",
		"get k --key f --revision 0", "get k --key f --revision x", "put k --key f --revision 1",
	} {
		err := run(strings.Fields(line), strings.NewReader(""), &bytes.Buffer{})
		if _, ok := err.(usageError); !ok || !strings.Contains(err.Error(), "usage: "+usage) {
			t.Errorf("%q: %v", line, err)
		}
	}
	for _, variable := range []string{
		"KEYVAULT_ADDRESS=192.0.2.1:50051", "KEYVAULT_ADDRESS=127.0.0.1.example:1", "KEYVAULT_TIMEOUT=0", "KEYVAULT_TIMEOUT=NaN",
		"KEYVAULT_TOKEN_FILE=token", "KEYVAULT_CERTIFICATE=a.pem",
	} {
		name, value, _ := strings.Cut(variable, "=")
		t.Run(variable, func(t *testing.T) {
			t.Setenv(name, value)
			err := run([]string{"get", keyID, "--key", path}, strings.NewReader(""), &bytes.Buffer{})
			if _, ok := err.(usageError); !ok {
				t.Error(err)
			}
		})
	}
}

func TestTheTokenAndTheCertificateGoOverTLS(t *testing.T) {
	path, key := keyFile(t, 1)
	folder := t.TempDir()
	certificate, certificateFile, keyPEMFile := selfSigned(t, folder)
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	read := stored(t, key, kve1.Data, 3, 3, "three")
	var token, subject string
	s := &server{t: t, steps: []step{func(ctx context.Context, request any) (any, error) {
		sent, _ := metadata.FromIncomingContext(ctx)
		token = strings.Join(sent["authorization"], ",")
		who, _ := peer.FromContext(ctx)
		subject = who.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].DNSNames[0]
		return read(ctx, request)
	}}}
	s.listen(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	tokenFile := filepath.Join(folder, "token")
	if err := os.WriteFile(tokenFile, []byte(" a.b.c \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYVAULT_CA", certificateFile)
	t.Setenv("KEYVAULT_CERTIFICATE", certificateFile)
	t.Setenv("KEYVAULT_PRIVATE_KEY", keyPEMFile)
	t.Setenv("KEYVAULT_TOKEN_FILE", tokenFile)
	stdout, failure := kv("", "get", keyID, "--key", path)
	expect(t, stdout+failure, "three")
	expect(t, token, "Bearer a.b.c")
	expect(t, subject, "localhost")
}

// selfSigned makes a certificate that serves either side, and its PEM files.
func selfSigned(t *testing.T, folder string) (certificate tls.Certificate, certificateFile, keyFile string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificateFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	if certificate, err = tls.LoadX509KeyPair(certificateFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certificate, certificateFile, keyFile
}
