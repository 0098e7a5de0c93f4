package keyvault_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

// forgetSettings keeps what this machine sets out of a test, and its state out of the user's home.
func forgetSettings(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "KEYVAULT_") {
			t.Setenv(name, value) // which restores it
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAClientIsMadeByTheEnvironment(t *testing.T) {
	forgetSettings(t)
	server := kvtest.NewServer(t)
	t.Setenv("KEYVAULT_ADDRESS", server.Address)
	t.Setenv("KEYVAULT_TIMEOUT", "2.5")
	client, err := keyvault.NewFromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WhoAmI(t.Context()); err != nil || client.Timeout() != 2500*time.Millisecond {
		t.Error(client.Timeout(), err)
	}
	t.Setenv("KEYVAULT_ADDRESS", "192.0.2.1:50051")
	for _, variable := range []string{"KEYVAULT_TLS", "KEYVAULT_INSECURE"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "true")
			if _, err := keyvault.NewFromEnvironment(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnInvalidVariableIsNamed(t *testing.T) {
	forgetSettings(t)
	for _, variable := range []string{
		"KEYVAULT_ADDRESS=192.0.2.1:50051", "KEYVAULT_ADDRESS=127.0.0.1.example:1", "KEYVAULT_ADDRESS=127.0.0.1:99999",
		"KEYVAULT_ADDRESS=", "KEYVAULT_TIMEOUT=0", "KEYVAULT_TIMEOUT=NaN", "KEYVAULT_TIMEOUT=86401", "KEYVAULT_CA=",
		"KEYVAULT_TOKEN_FILE=token", "KEYVAULT_CERTIFICATE=a.pem", "KEYVAULT_CA=absent.pem", "KEYVAULT_TLS=perhaps",
		"KEYVAULT_SERVER_NAME=db.example", "KEYVAULT_INSECURE=maybe",
	} {
		t.Run(variable, func(t *testing.T) {
			name, value, _ := strings.Cut(variable, "=")
			t.Setenv(name, value)
			_, err := keyvault.NewFromEnvironment()
			if keyvault.ExitCode(err) != 2 || !strings.Contains(err.Error(), "KEYVAULT_") {
				t.Error(err)
			}
		})
	}
}

func TestTheExitCodeSaysWhatAScriptCanDo(t *testing.T) {
	server := kvtest.NewServer(t)
	client, key := clientWithKey(t, server)
	for _, one := range []struct {
		code   codes.Code
		reason string
		want   int
	}{
		{codes.InvalidArgument, "INVALID_KEY_ID", 1}, {codes.DataLoss, "RECORD_CORRUPT", 1}, {codes.Internal, "INTERNAL", 1},
		{codes.NotFound, "RECORD_NOT_FOUND", 3}, {codes.Aborted, "STALE_REVISION", 4}, {codes.AlreadyExists, "RECORD_EXISTS", 4},
		{codes.PermissionDenied, "POLICY_DENIED", 5}, {codes.PermissionDenied, "NOT_AUTHORIZED", 5},
		{codes.ResourceExhausted, "STORE_FULL", 6}, {codes.FailedPrecondition, "MASTER_KEY_UNUSABLE", 1},
	} {
		server.Fail("Read", kvtest.Refusal(one.code, one.reason, "because", nil))
		_, err := client.Read(t.Context(), keyID, key)
		if got := keyvault.ExitCode(fmt.Errorf("wrapped: %w", err)); got != one.want {
			t.Errorf("%d for %v", got, err)
		}
	}
	server.Fail("Create", kvtest.Refusal(codes.Internal, "INTERNAL", "because", nil))
	_, unknown := client.Create(t.Context(), keyID, nil, key)
	_, usage := client.Read(t.Context(), "prod/", key)
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	_, ended := client.Read(interrupted, keyID, key)
	for err, want := range map[error]int{unknown: 7, usage: 2, ended: 130, nil: 0, errors.New("else"): 1} {
		if got := keyvault.ExitCode(err); got != want {
			t.Errorf("%d for %v", got, err)
		}
	}
}

func TestProgramsThatMakeAKeyFileAtOnceUseTheSame(t *testing.T) {
	server := kvtest.NewServer(t)
	folder := t.TempDir()
	for round := range 20 {
		path := filepath.Join(folder, fmt.Sprint(round, ".key"))
		got := make([]*keyvault.DataKey, 8)
		var all sync.WaitGroup
		for i := range got {
			client := server.Client(t)
			all.Go(func() {
				var err error
				if got[i], err = keyvault.LoadOrGenerateKey(t.Context(), client, path, "prod/"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, key := range got {
			if key == nil || !key.Secret().Equal(got[0].Secret()) {
				t.Fatal("another key")
			}
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 20 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestRotationsAtOnceHandTheRecordToOneKey is two commands that name the same new key file.
func TestRotationsAtOnceHandTheRecordToOneKey(t *testing.T) {
	server := kvtest.NewServer(t)
	folder := t.TempDir()
	for round := range 10 {
		name := fmt.Sprint("prod/", round)
		old, path := filepath.Join(folder, fmt.Sprint(round, ".key")), filepath.Join(folder, fmt.Sprint(round, ".new"))
		client := server.Client(t)
		key, err := keyvault.LoadOrGenerateKey(t.Context(), client, old, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Create(t.Context(), name, []byte("one"), key); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 4 {
			own := server.Client(t)
			all.Go(func() {
				newKey, err := keyvault.LoadOrGenerateKey(t.Context(), own, path, name)
				if err == nil {
					_, err = own.RotateKey(t.Context(), name, key, newKey)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		newKey, err := keyvault.LoadDataKey(path)
		if err != nil {
			t.Fatal(err)
		}
		if record, err := client.Read(t.Context(), name, newKey); err != nil || record.Revision != 2 {
			t.Error(record, err)
		}
	}
}
