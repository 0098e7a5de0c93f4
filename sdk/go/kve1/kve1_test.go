package kve1

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The shared vectors, the same file in every language; docs/envelope.md of the repository, section 11, describes it.
const vectorFile = "testdata/kve1.json"

type vectors struct {
	Algorithm     string
	Schema        string
	NumberOfTests int
	Notes         map[string]string
	TestGroups    []struct {
		Type, Comment string
		Tests         []vector
	}
}

type vector struct {
	TcID            int
	Comment         string
	Flags           []string
	Key             hexBytes
	Tenant, KeyID   string
	Envelope, Head  hexBytes
	Base            int
	Edits           []edit
	Result, Phase   string
	Kind, Revision  string
	Commits         *bool
	Plaintext       *hexBytes
	PlaintextLength int
	PlaintextSha256 hexBytes
}

type edit struct {
	Op             string
	Offset, Length int
	Value          byte
	Hex            hexBytes
	Order          []int
}

type hexBytes []byte

var zeros = keyOf(make([]byte, KeySize))

// keyOf panics if these are not the bytes of a key.
func keyOf(secret []byte) DataKey {
	key, err := NewDataKey(secret)
	if err != nil {
		panic(err)
	}
	return key
}

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

func TestVectors(t *testing.T) {
	file := readVectors(t)
	envelopes := map[int][]byte{}
	count := map[string]int{}
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			if test.Envelope != nil {
				envelopes[test.TcID] = test.Envelope
			}
		}
	}
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			count[test.Result]++
			if test.Base != 0 {
				test.Envelope = edited(t, envelopes[test.Base], test.Edits)
			}
			check := map[string]func(*testing.T){"EnvelopeTest": test.check, "HeadTest": test.checkHead}[group.Type]
			t.Run(fmt.Sprintf("%d %s", test.TcID, test.Comment), check)
		}
	}
	if sum := count["valid"] + count["invalid"]; sum != file.NumberOfTests || sum == 0 {
		t.Fatalf("ran %d tests of %d", sum, file.NumberOfTests)
	}
	if !t.Failed() {
		fmt.Printf("kve1.json: %d valid, %d invalid, all agree\n", count["valid"], count["invalid"])
	}
}

func readVectors(tb testing.TB) vectors {
	tb.Helper()
	content, err := os.ReadFile(vectorFile)
	if err != nil {
		tb.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields() // a field that nobody checks is no agreement
	var file vectors
	if err := decoder.Decode(&file); err != nil {
		tb.Fatal(err)
	}
	return file
}

func edited(t *testing.T, base []byte, edits []edit) []byte {
	t.Helper()
	if len(base) == 0 {
		t.Fatal("the base has no envelope")
	}
	envelope := bytes.Clone(base)
	for _, edit := range edits {
		switch edit.Op {
		case "xor":
			envelope[edit.Offset] ^= edit.Value
		case "set":
			copy(envelope[edit.Offset:edit.Offset+len(edit.Hex)], edit.Hex)
		case "truncate":
			envelope = envelope[:edit.Length]
		case "append":
			envelope = append(envelope, edit.Hex...)
		case "pad":
			envelope = append(envelope, make([]byte, edit.Length-len(envelope))...)
		case "chunks":
			body := envelope[HeadSize:]
			envelope = bytes.Clone(envelope[:HeadSize])
			for _, i := range edit.Order {
				begin := i * (chunkSize + tagSize)
				envelope = append(envelope, body[begin:min(begin+chunkSize+tagSize, len(body))]...)
			}
		default:
			t.Fatalf("unknown edit %q", edit.Op)
		}
	}
	return envelope
}

func (v vector) check(t *testing.T) {
	key := keyOf(v.Key)
	header, err := Parse(v.Envelope)
	plaintext, openErr := Open(key, v.Tenant, v.KeyID, v.Envelope)
	if v.Phase == "parse" {
		if v.Result != "invalid" || !errors.Is(err, ErrMalformed) || !errors.Is(openErr, ErrMalformed) || plaintext != nil {
			t.Fatalf("Parse: %v, Open: %v, want ErrMalformed of both", err, openErr)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if kind, revision := kindOf(header), strconv.FormatInt(header.Revision, 10); kind != v.Kind || revision != v.Revision {
		t.Errorf("%s at revision %s, want %s at %s", kind, revision, v.Kind, v.Revision)
	}
	if commits, err := CommitsTo(v.Envelope[:HeadSize], key, v.Tenant, v.KeyID); err != nil || commits != *v.Commits {
		t.Errorf("CommitsTo: %v, %v, want %v", commits, err, *v.Commits)
	}
	switch v.Result + v.Phase {
	case "invalidopen":
		if !errors.Is(openErr, ErrNotOpened) || plaintext != nil {
			t.Errorf("Open: %v, want ErrNotOpened and nothing else", openErr)
		}
	case "valid":
		v.checkValid(t, header, plaintext, openErr)
	default:
		t.Errorf("unknown result %q, phase %q", v.Result, v.Phase)
	}
}

func (v vector) checkHead(t *testing.T) {
	commits, err := CommitsTo(v.Head, keyOf(v.Key), v.Tenant, v.KeyID)
	switch v.Result + v.Phase {
	case "invalidparse":
		if !errors.Is(err, ErrMalformed) || commits {
			t.Errorf("CommitsTo: %v, %v, want ErrMalformed", commits, err)
		}
	case "valid":
		if err != nil || commits != *v.Commits {
			t.Errorf("CommitsTo: %v, %v, want %v", commits, err, *v.Commits)
		}
	default:
		t.Errorf("unknown result %q, phase %q", v.Result, v.Phase)
	}
}

func (v vector) checkValid(t *testing.T, header Header, plaintext []byte, err error) {
	if err != nil {
		t.Fatal(err)
	}
	if want := v.wanted(t); !bytes.Equal(plaintext, want) {
		t.Errorf("the plaintext has %d bytes, want %d, or differs", len(plaintext), len(want))
	}
	sealed, err := seal(keyOf(v.Key), v.Tenant, v.KeyID, header, plaintext, v.Envelope[headerSize:saltEnd])
	if err != nil || !bytes.Equal(sealed, v.Envelope) {
		t.Errorf("sealing gives another envelope, or fails: %v", err)
	}
}

// wanted is the plaintext, written down or made by the rule that the length and the digest are of.
func (v vector) wanted(t *testing.T) []byte {
	if v.Plaintext != nil {
		return *v.Plaintext
	}
	plaintext := make([]byte, v.PlaintextLength)
	for i := range plaintext {
		plaintext[i] = byte(i % 251)
	}
	if digest := sha256.Sum256(plaintext); !bytes.Equal(digest[:], v.PlaintextSha256) {
		t.Fatal("the digest is not that of the rule's plaintext")
	}
	return plaintext
}

func kindOf(header Header) string {
	return map[Kind]string{Data: "DATA", Tombstone: "TOMBSTONE", Rekey: "REKEY"}[header.Kind]
}

func TestWhatSealMakesOpensAndIsNeverTheSameTwice(t *testing.T) {
	header := Header{Data, 7}
	one, err := Seal(keyOf(bytes.Repeat([]byte{1}, KeySize)), "acme", "prod/db", header, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := Seal(keyOf(bytes.Repeat([]byte{1}, KeySize)), "acme", "prod/db", header, []byte("hunter2"))
	if err != nil || bytes.Equal(one[headerSize:saltEnd], other[headerSize:saltEnd]) {
		t.Fatalf("the salt repeats, or %v", err)
	}
	for _, envelope := range [][]byte{one, other} {
		if plaintext, err := Open(keyOf(bytes.Repeat([]byte{1}, KeySize)), "acme", "prod/db", envelope); string(plaintext) != "hunter2" {
			t.Errorf("%q, %v", plaintext, err)
		}
	}
}

func TestSealRefusesWhatNoReaderAccepts(t *testing.T) {
	long := strings.Repeat("x", 65_536)
	for name, test := range map[string]struct {
		header Header
		keyID  string
		size   int
	}{
		"revision 0":            {Header{Data, 0}, "k", 0},
		"revision 2^63":         {Header{Data, -1 << 63}, "k", 0},
		"kind 0":                {Header{0, 1}, "k", 0},
		"kind 4":                {Header{4, 1}, "k", 0},
		"too long a plaintext":  {Header{Data, 1}, "k", MaxPlaintext + 1},
		"a tombstone with data": {Header{Tombstone, 1}, "k", 1},
		"half a digest":         {Header{Rekey, 1}, "k", 16},
		"a name of 65,536":      {Header{Data, 1}, long, 0},
	} {
		if envelope, err := Seal(zeros, "acme", test.keyID, test.header, make([]byte, test.size)); err == nil {
			t.Errorf("%s: sealed %d bytes", name, len(envelope))
		}
	}
	if _, err := Seal(zeros, "acme", long[1:], Header{Data, 1}, make([]byte, MaxPlaintext)); err != nil {
		t.Errorf("the largest of all: %v", err)
	}
}

func TestANameThatIsNotUTF8IsRefused(t *testing.T) {
	sealed, err := Seal(zeros, "acme", "k", Header{Data, 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 65_536)
	for _, name := range []string{"\xff", "a\xc3", "\xed\xa0\x80", long} { // the third is how a lone surrogate would look
		for _, names := range [][2]string{{name, "k"}, {"acme", name}} {
			_, sealErr := Seal(zeros, names[0], names[1], Header{Data, 1}, nil)
			_, openErr := Open(zeros, names[0], names[1], sealed)
			_, commitsErr := CommitsTo(sealed[:HeadSize], zeros, names[0], names[1])
			for _, err := range []error{sealErr, openErr, commitsErr} {
				if !errors.Is(err, ErrInvalidName) {
					t.Errorf("%.20q: %v", names, err)
				}
			}
		}
	}
}

func TestADataKeyIsNeverPrinted(t *testing.T) {
	key := keyOf([]byte("0123456789abcdef0123456789abcdef"))
	nested := struct {
		Shown  DataKey
		hidden DataKey
		inside map[string][]DataKey
	}{key, key, map[string][]DataKey{"k": {key}}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%c"} {
		for _, value := range []any{key, &key, []DataKey{key}, nested, &nested} {
			if printed := fmt.Sprintf(verb, value); discloses(printed) {
				t.Errorf("%s prints %s", verb, printed)
			}
		}
	}
	var logged bytes.Buffer
	for _, logger := range []*slog.Logger{
		slog.New(slog.NewTextHandler(&logged, nil)), slog.New(slog.NewJSONHandler(&logged, nil)),
	} {
		logger.Info("here", "key", key, "pointer", &key, "nested", nested)
	}
	if logged.Len() == 0 || discloses(logged.String()) {
		t.Errorf("logged: %s", logged.String())
	}
	for _, value := range []any{key, &key, nested} {
		if encoded, err := json.Marshal(value); err == nil || discloses(string(encoded)+err.Error()) {
			t.Errorf("encoded: %s, %v", encoded, err)
		}
	}
}

// discloses returns whether a text has a part of the key, as text, in hexadecimal, in decimal or in base64.
func discloses(text string) bool {
	for _, part := range []string{"0123", "3031", "48 49", "48,49", "0x30, 0x31", "MDEy"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

func TestAKeyIsACopyOf32Bytes(t *testing.T) {
	for _, size := range []int{0, 31, 33} {
		if key, err := NewDataKey(make([]byte, size)); err == nil || !key.IsZero() {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	secret := bytes.Repeat([]byte{7}, KeySize)
	key := keyOf(secret)
	secret[0] = 0
	key.Reveal()[1] = 0
	if !bytes.Equal(key.Reveal(), bytes.Repeat([]byte{7}, KeySize)) {
		t.Error("the key changed")
	}
	if !key.Equal(keyOf(bytes.Repeat([]byte{7}, KeySize))) || key.Equal(zeros) || (DataKey{}).Equal(DataKey{}) {
		t.Error("Equal is wrong")
	}
}

func TestNoKeySealsAndOpensNothing(t *testing.T) {
	sealed, err := Seal(zeros, "acme", "k", Header{Data, 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Seal(DataKey{}, "acme", "k", Header{Data, 1}, nil); !errors.Is(err, errNoKey) {
		t.Errorf("sealed: %v", err)
	}
	if _, err := Open(DataKey{}, "acme", "k", sealed); !errors.Is(err, errNoKey) {
		t.Errorf("opened: %v", err)
	}
	if commits, err := CommitsTo(sealed[:HeadSize], DataKey{}, "acme", "k"); commits || !errors.Is(err, errNoKey) {
		t.Errorf("commits: %v, %v", commits, err)
	}
}

// FuzzOpen: `go test -fuzz FuzzOpen`. Whatever comes, Open fails with one of its two errors or returns a
// plaintext of which Seal makes these very bytes.
func FuzzOpen(f *testing.F) {
	secret, tenant, keyID := make([]byte, KeySize), "acme", "prod/db-password"
	for i := range secret {
		secret[i] = byte(i)
	}
	key := keyOf(secret)
	for _, test := range readVectors(f).TestGroups[0].Tests {
		f.Add([]byte(test.Envelope))
	}
	f.Fuzz(func(t *testing.T, envelope []byte) {
		header, malformed := Parse(envelope)
		plaintext, err := Open(key, tenant, keyID, envelope)
		if malformed != nil {
			if !errors.Is(err, ErrMalformed) || plaintext != nil {
				t.Fatalf("Open of what does not parse: %v", err)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, ErrNotOpened) || plaintext != nil {
				t.Fatal(err)
			}
			return
		}
		sealed, err := seal(key, tenant, keyID, header, plaintext, envelope[headerSize:saltEnd])
		if err != nil || !bytes.Equal(sealed, envelope) {
			t.Fatalf("opens, and is not what Seal makes: %v", err)
		}
	})
}
