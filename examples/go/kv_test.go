package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

// TestMain keeps the settings of the environment out of the tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "KEYVAULT_") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("KEYVAULT_STATE", "") // the user's revisions
	m.Run()
}

func kv(stdin string, arguments ...string) (stdout, failure string) {
	var out bytes.Buffer
	if err := run(context.Background(), arguments, strings.NewReader(stdin), &out); err != nil {
		failure = keyvault.Printable(err.Error())
	}
	return out.String(), failure
}

func expect(t *testing.T, stdin, command, stdout string) {
	t.Helper()
	if got, failure := kv(stdin, strings.Fields(command)...); got != stdout || failure != "" {
		t.Errorf("%s: %q, %q, want %q", command, got, failure, stdout)
	}
}

func TestTheVerbsDoWhatTheySay(t *testing.T) {
	server := kvtest.NewServer(t)
	t.Setenv("KEYVAULT_ADDRESS", server.Address)
	key, newKey := filepath.Join(t.TempDir(), "a.key"), filepath.Join(t.TempDir(), "b.key")
	expect(t, "one", "put prod/db --key "+key, "prod/db is at revision 1\n")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	expect(t, "two", "put --key "+key+" prod/db", "prod/db is at revision 2\n")
	expect(t, "", "get prod/db --key "+key, "two")
	expect(t, "", "get prod/db --revision 1 --key "+key, "one")
	expect(t, "", "list prod/", "prod/db\n")
	if lines, failure := kv("", "history", "prod/db"); strings.Count(lines, " bytes sealed\n") != 2 || failure != "" {
		t.Errorf("%q, %q", lines, failure)
	}
	expect(t, "", "rotate prod/db --key "+key+" --new-key "+newKey, "prod/db is at revision 3\n")
	if _, failure := kv("", "get", "prod/db", "--key", key); !strings.Contains(failure, "does not open under this key") {
		t.Error(failure)
	}
	expect(t, "", "delete prod/db --key "+newKey, "prod/db is at revision 4\n")
	if _, failure := kv("", "get", "prod/db", "--key", newKey); !strings.HasPrefix(failure, "NOT_FOUND RECORD_NOT_FOUND: ") {
		t.Error(failure)
	}
	server.Fail("List", kvtest.Refusal(codes.PermissionDenied, "POLICY_DENIED", "no\x1b[2J", nil))
	if _, failure := kv("", "list"); failure != `PERMISSION_DENIED POLICY_DENIED: no\x1b[2J (request kvtest)` {
		t.Error(failure)
	}
}

func TestBadUsageIsOneLineAndItsOwnExitCode(t *testing.T) {
	t.Setenv("KEYVAULT_ADDRESS", "127.0.0.1:1")
	t.Setenv("KEYVAULT_TIMEOUT", "0.5")
	for _, line := range []string{
		"", "frob k --key f", "get", "get k", "get --key f", "get k l --key f", "get k --kez f", "get k --key f --new-key g",
		"rotate k --key f", "put prod/ --key f", "history", "history prod/", "history k --key f", "list a b", "list --key f",
		"get k --key f --revision 0", "get k --key f --revision x", "put k --key f --revision 1", "delete k l hunter2",
	} {
		err := run(t.Context(), strings.Fields(line), strings.NewReader(""), &bytes.Buffer{})
		if keyvault.ExitCode(err) != 2 || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestAFullDiskIsAFailure(t *testing.T) {
	server := kvtest.NewServer(t)
	t.Setenv("KEYVAULT_ADDRESS", server.Address)
	key := filepath.Join(t.TempDir(), "a.key")
	expect(t, "one", "put prod/db --key "+key, "prod/db is at revision 1\n")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, line := range []string{"get prod/db --key " + key, "list", "history prod/db"} {
		if err := run(t.Context(), strings.Fields(line), strings.NewReader(""), full); keyvault.ExitCode(err) != 1 {
			t.Errorf("%s: %v", line, err)
		}
	}
}
