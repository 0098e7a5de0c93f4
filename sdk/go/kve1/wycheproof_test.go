package kve1

import (
	"bytes"
	"compress/zlib"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestWycheproof runs the vectors that others publish of Cobblestone-256, the layer below KVE1. WYCHEPROOF names a clone
// of github.com/C2SP/wycheproof; its doc/c2sp_chunked_encryption.md says what the fields mean.
func TestWycheproof(t *testing.T) {
	clone := os.Getenv("WYCHEPROOF")
	if clone == "" {
		t.Skip("WYCHEPROOF names no clone of Wycheproof")
	}
	content, err := os.ReadFile(filepath.Join(clone, "testvectors_v1", "c2sp_chunked_encryption_aes_256_gcm_test.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct{ Tests []wycheproof }
	}
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			count[test.Result]++
			t.Run(test.Comment, test.check)
		}
	}
	if sum := count["valid"] + count["invalid"]; sum != file.NumberOfTests || sum == 0 {
		t.Fatalf("ran %d tests of %d", sum, file.NumberOfTests)
	}
	if !t.Failed() {
		fmt.Printf("wycheproof: %d valid, %d invalid, all agree\n", count["valid"], count["invalid"])
	}
}

type wycheproof struct {
	Comment, Result string
	Key, Ctx, Ct    hexBytes
	MsgSha512       hexBytes
}

func (v wycheproof) check(t *testing.T) {
	reader, err := zlib.NewReader(bytes.NewReader(v.Ct))
	if err != nil {
		t.Fatal(err)
	}
	message, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Key) != KeySize { // the type refuses it
		if v.Result != "invalid" {
			t.Errorf("a key of %d bytes, and %s", len(v.Key), v.Result)
		}
		return
	}
	plaintext, err := openMessage(keyOf(v.Key), v.Ctx, message)
	if v.Result != "valid" {
		if !errors.Is(err, ErrNotOpened) || plaintext != nil {
			t.Errorf("%v, want ErrNotOpened", err)
		}
		return
	}
	if digest := sha512.Sum512(plaintext); err != nil || !bytes.Equal(digest[:], v.MsgSha512) {
		t.Fatalf("opens to something else: %v", err)
	}
	if sealed, err := sealMessage(nil, keyOf(v.Key), v.Ctx, plaintext, message[:saltSize]); err != nil || !bytes.Equal(sealed, message) {
		t.Errorf("sealing gives another message, or fails: %v", err)
	}
}
