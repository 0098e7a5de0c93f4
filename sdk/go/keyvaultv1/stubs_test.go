package keyvaultv1_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The contract and the generator, where this is a part of KeyVault's repository.
const (
	contract = "../../../protos"
	buf      = "../../../.venv/bin/buf"
)

func TestTheStubsAreWhatTheContractMakes(t *testing.T) {
	if _, err := os.Stat(contract); err != nil {
		t.Skip("not in KeyVault's repository, which has the contract")
	}
	if _, err := os.Stat(buf); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("no .venv/bin/buf: python3 dev.py setup")
	}
	made := t.TempDir()
	program, err := filepath.Abs(buf)
	if err != nil {
		t.Fatal(err)
	}
	generate := exec.Command(program, "generate", "../..", "-o", made)
	generate.Dir = ".."
	if output, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, name := range []string{"keyvault.pb.go", "keyvault_grpc.pb.go"} {
		committed, missing := os.ReadFile(name)
		generated, surplus := os.ReadFile(filepath.Join(made, "keyvaultv1", name))
		if missing != nil || surplus != nil || !bytes.Equal(committed, generated) {
			t.Errorf("%s is not what the contract makes: run go generate", name)
		}
	}
}
