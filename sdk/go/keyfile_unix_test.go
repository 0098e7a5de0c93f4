//go:build unix

package keyvault_test

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

const childFolder = "KEYVAULT_TEST_FULL_DISK"

// TestAFullDiskLeavesNoPartialKey runs itself as a process whose files may have ten bytes, as on a disk that is full.
func TestAFullDiskLeavesNoPartialKey(t *testing.T) {
	if folder := os.Getenv(childFolder); folder != "" {
		saveOnAFullDisk(t, folder)
		return
	}
	folder := t.TempDir()
	if err := printedKey(t).Save(filepath.Join(folder, "old.key")); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAFullDiskLeavesNoPartialKey$")
	child.Env = append(os.Environ(), childFolder+"="+folder)
	if output, err := child.CombinedOutput(); err != nil || discloses(string(output)) {
		t.Fatalf("%v: %s", err, output)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 || left[0].Name() != "old.key" {
		t.Errorf("left %v, %v", left, err)
	}
}

func saveOnAFullDisk(t *testing.T, folder string) {
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10, Max: 10}); err != nil {
		t.Fatal(err)
	}
	key := printedKey(t)
	if err := key.Save(filepath.Join(folder, "new.key")); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("saved: %v", err)
	}
	if err := key.Replace(filepath.Join(folder, "old.key")); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("replaced: %v", err)
	}
	signal.Reset(syscall.SIGXFSZ)
}
