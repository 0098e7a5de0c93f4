package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const buf = "../../.venv/bin/buf"

func TestTheStubsAreWhatTheContractMakes(t *testing.T) {
	if _, err := os.Stat(buf); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("no .venv/bin/buf: python3 dev.py setup")
	}
	made := t.TempDir()
	if output, err := exec.Command(buf, "generate", "../..", "-o", made).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	names := map[string]bool{}
	for _, root := range []string{".", made} {
		found, err := filepath.Glob(filepath.Join(root, "keyvaultv1", "*"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no stubs in %s: %v", root, err)
		}
		for _, path := range found {
			names[filepath.Base(path)] = true
		}
	}
	for name := range names {
		committed, missing := os.ReadFile(filepath.Join("keyvaultv1", name))
		generated, surplus := os.ReadFile(filepath.Join(made, "keyvaultv1", name))
		if missing != nil || surplus != nil || !bytes.Equal(committed, generated) {
			t.Errorf("%s is not what the contract makes: run go generate", name)
		}
	}
}
