package keyvault_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

func TestTheNextRunNoticesARollback(t *testing.T) {
	key := newKey(t, 1)
	server := serve(t, nil, stored(key, kve1.Data, 3, 3, "three"), stored(key, kve1.Data, 2, 2, "two"),
		stored(key, kve1.Data, 2, 2, "two"), stored(newKey(t, 2), kve1.Data, 1, 1, "another key's"))
	path := filepath.Join(t.TempDir(), "state", "revisions.json")
	run := func(key *keyvault.DataKey, options ...keyvault.Option) error {
		_, err := server.client(options...).Read(t.Context(), keyID, key)
		return err
	}
	if err := run(key, keyvault.WithRevisionFile(path)); err != nil {
		t.Fatal(err)
	}
	err := run(key, keyvault.WithRevisionFile(path))
	if about, ok := errors.AsType[*keyvault.RolledBack](err); !ok || about.Seen != 3 || about.Revision != 2 {
		t.Error(err)
	}
	if err := run(key); err != nil {
		t.Error("without a file:", err)
	}
	if err := run(newKey(t, 2), keyvault.WithRevisionFile(path)); err != nil {
		t.Error("a key of another server on this address:", err)
	}
	content, err := os.ReadFile(path)
	info, missing := os.Stat(path)
	if err != nil || missing != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(content), "prod") {
		t.Errorf("%s, %v, %v", content, err, missing)
	}
}

// TestTheFileIsThatOfThePythonClient has the entry that RevisionFile("revisions.json", "unix:kv.sock") writes for this key.
func TestTheFileIsThatOfThePythonClient(t *testing.T) {
	t.Chdir(t.TempDir())
	const format = `{"revisions": {"00000000000000000000000000000000": 9, "b06833a0d05fb9b786097ff88424fa25": %d}}`
	if err := os.WriteFile("revisions.json", fmt.Appendf(nil, format, 7), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", "kv.sock")
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t, 1)
	server := serveOn(t, listener, "unix:kv.sock", nil, stored(key, kve1.Data, 6, 6, "six"), stored(key, kve1.Data, 8, 8, "eight"))
	client := server.client(keyvault.WithRevisionFile("revisions.json"))
	_, err = client.Read(t.Context(), keyID, key)
	if about, ok := errors.AsType[*keyvault.RolledBack](err); !ok || about.Seen != 7 {
		t.Error(err)
	}
	if _, err := client.Read(t.Context(), keyID, key); err != nil {
		t.Error(err)
	}
	if content, err := os.ReadFile("revisions.json"); err != nil || string(content) != fmt.Sprintf(format, 8) {
		t.Errorf("%s, %v", content, err)
	}
}

func TestProgramsAtOnceLoseNoRevision(t *testing.T) {
	server := kvtest.NewServer(t)
	path := filepath.Join(t.TempDir(), "revisions.json")
	key, err := server.Client(t).GenerateKey(t.Context(), "prod/")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		client := server.Client(t, keyvault.WithRevisionFile(path))
		all.Go(func() {
			for j := range 5 {
				if _, err := client.Create(t.Context(), fmt.Sprint("prod/", i, "-", j), nil, key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if content, err := os.ReadFile(path); err != nil || strings.Count(string(content), ": 1") != 40 {
		t.Errorf("%s, %v", content, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 {
		t.Error("left besides the lock:", left, err)
	}
}

func TestWhatRaisesNoRevisionWritesNothing(t *testing.T) {
	server := kvtest.NewServer(t)
	folder := t.TempDir()
	client, key := clientWithKey(t, server)
	keys := map[string]*keyvault.DataKey{}
	for i := range 50 {
		name := fmt.Sprint("prod/", i)
		keys[name] = key
		if _, err := client.Create(t.Context(), name, nil, key); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "revisions.json")
	reader := server.Client(t, keyvault.WithRevisionFile(path))
	if _, err := reader.ReadMany(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ReadMany(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("written although no revision rose:", err)
	}
}

func TestAnInvalidFileOfRevisionsStopsTheCall(t *testing.T) {
	key := newKey(t, 1)
	for _, content := range []string{
		"", "[]", "{}", `{"revisions": []}`, `{"revisions": {"a": "1"}}`, `{"revisions": {"a": 0}}`, `{"revisions": {"a": 1.5}}`,
		`{"revisions": {"a": 9223372036854775808}}`, `{"revisions": {"a": {}}}`, `{"revisions": {}}` + strings.Repeat(" ", 4<<20),
	} {
		path := filepath.Join(t.TempDir(), "revisions.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		client := serve(t, nil).client(keyvault.WithRevisionFile(path)) // one call is one too many
		_, reading := client.Read(t.Context(), keyID, key)
		_, changing := client.Update(t.Context(), keyID, nil, key)
		_, batch := client.ReadMany(t.Context(), map[string]*keyvault.DataKey{keyID: key})
		for _, err := range []error{reading, changing, batch} {
			if keyvault.ExitCode(err) != 2 || !strings.Contains(err.Error(), path) {
				t.Errorf("%.40s: %v", content, err)
			}
		}
	}
}

func TestAFileThatCannotBeWrittenIsAWarning(t *testing.T) {
	key := newKey(t, 1)
	taken := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	server := serve(t, nil, stored(key, kve1.Data, 1, 1, "one"), stored(key, kve1.Data, 2, 2, "two"))
	client := server.client(keyvault.WithRevisionFile(filepath.Join(taken, "revisions.json")),
		keyvault.WithLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	for range 2 {
		if _, err := client.Read(t.Context(), keyID, key); err != nil {
			t.Error(err)
		}
	}
	if strings.Count(logged.String(), "cannot keep revisions across runs") != 1 {
		t.Error(logged.String())
	}
}
