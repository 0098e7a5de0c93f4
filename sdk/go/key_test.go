package keyvault_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
)

const secret, wrapped = "0123456789abcdef0123456789abcdef", "WRAPPEDWRAPPED"

func printedKey(t *testing.T) *keyvault.DataKey {
	t.Helper()
	key, err := keyvault.NewDataKey("acme", "prod/", []byte(wrapped), []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// discloses returns whether a text has a part of the key in whatever form.
func discloses(text string) bool {
	for _, part := range []string{"0123", "3031", "48 49", "48,49", "0x30, 0x31", "MDEy", "WRAPP", "5752", "V1JB", "87 82"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

func TestADataKeyIsNeverPrinted(t *testing.T) {
	key := printedKey(t)
	nested := struct {
		Shown  keyvault.DataKey
		hidden keyvault.DataKey
		inside map[string]*keyvault.DataKey
	}{*key, *key, map[string]*keyvault.DataKey{"k": key}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{key, *key, []keyvault.DataKey{*key}, nested, &nested} {
			if printed := fmt.Sprintf(verb, value); discloses(printed) {
				t.Errorf("%s prints %s", verb, printed)
			}
		}
	}
	var logged bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(handler).Info("here", "pointer", key, "value", *key, "nested", nested)
	}
	if logged.Len() == 0 || discloses(logged.String()) {
		t.Errorf("logged: %s", logged.String())
	}
	for _, value := range []any{key, *key, nested} {
		if encoded, err := json.Marshal(value); err == nil || discloses(string(encoded)+err.Error()) {
			t.Errorf("encoded: %s, %v", encoded, err)
		}
	}
}

func TestARecordIsPrintedWithoutItsData(t *testing.T) {
	record := keyvault.Record{KeyID: keyID, Plaintext: []byte("hunter2"), Revision: 3}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if printed := fmt.Sprintf(verb, record) + fmt.Sprintf(verb, &record); strings.Contains(printed, "hunter2") {
			t.Errorf("%s prints %s", verb, printed)
		}
	}
}

func TestAKeyFileIsForItsOwnerAndNeverReplaced(t *testing.T) {
	key := printedKey(t)
	path := filepath.Join(t.TempDir(), "a.key")
	if err := key.Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	loaded, err := keyvault.LoadDataKey(path)
	if err != nil || !loaded.Secret().Equal(key.Secret()) || !bytes.Equal(loaded.Wrapped(), key.Wrapped()) {
		t.Errorf("another key was loaded, or %v", err)
	}
	if err := key.Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("saved over a key: %v", err)
	}
	if err := key.WithoutPlaintext().Replace(path); err != nil {
		t.Fatal(err)
	}
	if loaded, err = keyvault.LoadDataKey(path); err != nil || !loaded.Secret().IsZero() {
		t.Errorf("not replaced: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestAKeyFileThatOthersCanUseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.key")
	if err := printedKey(t).Save(path); err != nil {
		t.Fatal(err)
	}
	for mode, accepted := range map[os.FileMode]bool{0o644: false, 0o602: false, 0o601: false, 0o400: true, 0o600: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyvault.LoadDataKey(path); (err == nil) != accepted {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, 65_534, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := keyvault.LoadDataKey(path); !errors.Is(err, keyvault.ErrInvalidRequest) {
		t.Errorf("another user's file was read: %v", err)
	}
}

func TestAFileThatIsNotAKeyIsNotQuoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.key")
	for _, text := range []string{
		"", "SECRET", `{"plaintext_key": "SECRET!"}`, `{"tenant": "acme", "scope": "p/", "plaintext_key": "SECRET==", "wrapped_key": "AQID"}`,
		`{"tenant": "acme", "scope": "p/", "wrapped_key": ""}`, strings.Repeat("SECRET", 20_000),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := keyvault.LoadDataKey(path)
		if !errors.Is(err, keyvault.ErrInvalidRequest) || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	}
	if _, err := keyvault.LoadDataKey(path + ".absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestProtobufsSpellingIsAKeyToo(t *testing.T) {
	text := `{"tenant":"acme","scope":"prod/","plaintextKey":"` + strings.Repeat("A", 43) + `=","wrappedKey":"AQID"}`
	if key, err := keyvault.ParseDataKey([]byte(text)); err != nil || key.Secret().IsZero() {
		t.Error(err)
	}
}
