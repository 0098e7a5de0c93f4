package keyvault_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

// lines collects what is logged, also in the background.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// away starts a cache while the server is away; what it logs is in the text.
func away(t *testing.T, keys map[string]*keyvault.DataKey, path string, options ...keyvault.Option) (*keyvault.Cache, string, error) {
	t.Helper()
	var logged lines
	logger := keyvault.WithLogger(slog.New(slog.NewTextHandler(&logged, nil)))
	client, err := keyvault.New("127.0.0.1:1", append(options, logger)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	cache, err := client.NewCache(ctx, keys, keyvault.CacheFile(path))
	if err == nil {
		t.Cleanup(func() { _ = cache.Close() })
	}
	t.Cleanup(func() { _ = client.Close() })
	return cache, logged.String(), err
}

// fixture copies a file that the Python client wrote for newKey(t, 1), and returns its path.
func fixture(t *testing.T, name string, change func(content string) string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "cache", name))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		content = []byte(change(string(content)))
	}
	path := filepath.Join(t.TempDir(), "secrets.cache")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestACacheStartsFromItsFileWhileTheServerIsAway(t *testing.T) {
	client, key := clientWithKey(t, kvtest.NewServer(t))
	keys := map[string]*keyvault.DataKey{keyID: key, "prod/api": key}
	for name := range keys {
		if _, err := client.Create(t.Context(), name, []byte("hunter2"), key); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "secrets.cache")
	if _, _, err := away(t, keys, path); !errors.Is(err, keyvault.ErrUnavailable) {
		t.Fatal("without a file:", err)
	}
	cache, err := client.NewCache(t.Context(), keys, keyvault.CacheFile(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Update(t.Context(), keyID, []byte("hunter3"), key); err != nil {
		t.Fatal(err)
	}
	if err := cache.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = cache.Close()
	content, err := os.ReadFile(path)
	info, missing := os.Stat(path)
	if err != nil || missing != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(content), "hunter") {
		t.Fatalf("%s, %v, %v", content, err, missing)
	}
	later, _, err := away(t, keys, path)
	if err != nil {
		t.Fatal(err)
	}
	record, err := later.Get(keyID)
	if err != nil || string(record.Plaintext) != "hunter3" || record.Revision != 2 || record.UpdateTime.IsZero() {
		t.Error(record, err)
	}
	if age, err := later.Age(keyID); err != nil || age <= 0 || age > time.Minute {
		t.Error(age, err)
	}
	other, err := keyvault.NewDataKey("test", "prod/", []byte{1}, bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, logged, err := away(t, map[string]*keyvault.DataKey{keyID: other}, path); err == nil || !strings.Contains(logged, "ignored") {
		t.Error("opened under another key:", logged, err)
	}
}

// TestAFileOfThePythonClientIsReadAndWritten shows that both make the same file: Go's differs in the new times alone.
func TestAFileOfThePythonClientIsReadAndWritten(t *testing.T) {
	key := newKey(t, 1)
	keys := map[string]*keyvault.DataKey{keyID: key, "prod/api": key}
	path := fixture(t, "python.json", nil)
	cache, _, err := away(t, keys, path)
	if err != nil {
		t.Fatal(err)
	}
	if record, err := cache.Get(keyID); err != nil || string(record.Plaintext) != "three" || record.UpdateTime.Nanosecond() != 120_000_000 {
		t.Error(record, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	unchanged := &pb.BatchReadResponse{}
	for _, revision := range []int64{1, 3} {
		record := &pb.ReadResponse{Revision: revision, NotModified: true}
		unchanged.Results = append(unchanged.Results, &pb.BatchReadResponse_Result{
			Answer: &pb.BatchReadResponse_Result_Record{Record: record},
		})
	}
	client := serve(t, nil, says(unchanged)).client()
	confirmed, err := client.NewCache(t.Context(), keys, keyvault.CacheFile(path))
	if err != nil {
		t.Fatal(err)
	}
	_ = confirmed.Close()
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	times := regexp.MustCompile(`"(confirm_time|mac)": ".*?"`)
	if bytes.Equal(before, after) || times.ReplaceAllString(string(before), "") != times.ReplaceAllString(string(after), "") {
		t.Errorf("%s\n%s", before, after)
	}
	if again, _, err := away(t, keys, path); err != nil {
		t.Error(err)
	} else if age, err := again.Age(keyID); err != nil || age > time.Minute {
		t.Error(age, err)
	}
}

func TestAChangedTimeCountsForNothing(t *testing.T) {
	keys := map[string]*keyvault.DataKey{keyID: newKey(t, 1)}
	for _, name := range []string{"create_time", "update_time", "confirm_time"} {
		times := regexp.MustCompile(`"` + name + `": "2026`)
		path := fixture(t, "python.json", func(content string) string {
			return times.ReplaceAllString(content, `"`+name+`": "2027`)
		})
		if _, logged, err := away(t, keys, path); err == nil || !strings.Contains(logged, "were changed") {
			t.Error(name, logged, err)
		}
	}
	cache, _, err := away(t, keys, fixture(t, "future.json", nil))
	if err != nil {
		t.Fatal(err)
	}
	if age, err := cache.Age(keyID); err != nil || age < 50*365*24*time.Hour {
		t.Error("a time ahead of the clock:", age, err)
	}
}

func TestAFileThatIsNotACachesIsLeftAlone(t *testing.T) {
	client, key := clientWithKey(t, kvtest.NewServer(t))
	if _, err := client.Create(t.Context(), keyID, nil, key); err != nil {
		t.Fatal(err)
	}
	keys := map[string]*keyvault.DataKey{keyID: key}
	for content, isOurs := range map[string]bool{
		"my notes": false, "": true, "{\n \"keyvault_cache\": 1,\n \"rec": true, "{\n \"keyvault_cache\": 2, \"records\": {}}": true,
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cache, err := client.NewCache(t.Context(), keys, keyvault.CacheFile(path))
		if err != nil {
			t.Fatal(err)
		}
		_ = cache.Close()
		if now, err := os.ReadFile(path); err != nil || (string(now) != content) != isOurs {
			t.Errorf("%q became %q, %v", content, now, err)
		}
	}
}

func TestARecordThatWasSeenNewerIsNotTakenFromTheFile(t *testing.T) {
	key := newKey(t, 1)
	folder := t.TempDir()
	revisions := keyvault.WithRevisionFile(filepath.Join(folder, "revisions.json"))
	path := fixture(t, "python.json", nil)
	if _, _, err := away(t, map[string]*keyvault.DataKey{keyID: key}, path, revisions); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(folder, "revisions.json"))
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(content), ": 3", ": 4", 1)
	if err := os.WriteFile(filepath.Join(folder, "revisions.json"), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, logged, err := away(t, map[string]*keyvault.DataKey{keyID: key}, path, revisions); err == nil || !strings.Contains(logged, "seen since") {
		t.Error(logged, err)
	}
}

func TestAStartFromTheFileIsRefreshedAtOnce(t *testing.T) {
	server := kvtest.NewServer(t)
	client, key := clientWithKey(t, server)
	if _, err := client.Create(t.Context(), keyID, []byte("one"), key); err != nil {
		t.Fatal(err)
	}
	keys := map[string]*keyvault.DataKey{keyID: key}
	file := keyvault.CacheFile(filepath.Join(t.TempDir(), "secrets.cache"))
	first, err := client.NewCache(t.Context(), keys, file)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	if _, err := client.Update(t.Context(), keyID, []byte("two"), key); err != nil {
		t.Fatal(err)
	}
	server.Fail("BatchRead", kvtest.Refusal(codes.PermissionDenied, "POLICY_DENIED", "for a moment", nil))
	changes := make(chan keyvault.Result, 1)
	later, err := server.Client(t).NewCache(t.Context(), keys, file, keyvault.RefreshEvery(time.Hour),
		keyvault.OnChange(func(_ string, now keyvault.Result) { changes <- now }))
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	select {
	case now := <-changes:
		if string(now.Record.Plaintext) != "two" {
			t.Error(now)
		}
	case <-time.After(30 * time.Second):
		t.Error("not refreshed")
	}
}
