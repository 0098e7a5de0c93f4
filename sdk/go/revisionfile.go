package keyvault

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

const (
	// maxRevisionEntries is how many names the file has at most: those that were used longest ago are forgotten.
	maxRevisionEntries = 10_000
	maxRevisionFile    = 4 << 20
	revisionLabel      = "keyvault: revision file v1"
)

// revisionFile keeps the highest proved revisions across runs, in the format of the Python client, which may share it:
// JSON {"revisions": {NAME: REVISION}}, mode 0600, the entries used last at the end. A NAME is 128 bits of HMAC-SHA256
// under the record's data key over server address, tenant and key_id, so the file shows no names.
//
// A revision only rises: programs merge what they know, one after the other, under a lock. A file that cannot be read or
// written is a warning, because the call itself is not affected. Invalid content is an error before the call: to ignore
// it would hide what the file is for.
type revisionFile struct {
	path, address string
	log           *slog.Logger

	mu      sync.Mutex
	known   *revisions // nil before the file was read
	noted   revisions  // what is to be written
	holding int
	warned  bool
}

// revisions are the entries of a file, in its order.
type revisions struct {
	names  []string
	byName map[string]int64
}

// raise makes this entry the last one, and its revision at least this one.
func (r *revisions) raise(name string, revision int64) {
	if r.byName == nil {
		r.byName = map[string]int64{}
	}
	if before, ok := r.byName[name]; ok {
		revision = max(revision, before)
		r.names = slices.DeleteFunc(r.names, func(one string) bool { return one == name })
	}
	r.names = append(r.names, name)
	r.byName[name] = revision
}

// get returns the highest revision of this record under this key, 0 if none is known. Its error is an ErrInvalidRequest.
func (f *revisionFile) get(key *DataKey, keyID string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		known, err := f.read()
		if errors.Is(err, ErrInvalidRequest) {
			return 0, err
		}
		f.warn(err)
		f.known = &known
	}
	return f.known.byName[f.name(key, keyID)], nil
}

// note keeps a revision, unless a higher one is kept. A failure is a warning: the call has succeeded.
func (f *revisionFile) note(key *DataKey, keyID string, revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := f.name(key, keyID)
	if f.known != nil && f.known.byName[name] >= revision {
		return
	}
	f.noted.raise(name, revision)
	if f.holding == 0 {
		f.writeNoted()
	}
}

// together writes once for all that is noted while do runs, which must not wait.
func (f *revisionFile) together(do func()) {
	f.hold(1)
	defer f.hold(-1)
	do()
}

func (f *revisionFile) hold(more int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding += more
	if f.holding == 0 && len(f.noted.names) > 0 {
		f.writeNoted()
	}
}

func (f *revisionFile) writeNoted() {
	noted := f.noted
	f.noted = revisions{}
	f.warn(f.merge(noted))
}

// merge adds what was noted to what other programs wrote in the meantime.
func (f *revisionFile) merge(noted revisions) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(f.path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	known, err := f.read()
	if err != nil {
		return err
	}
	for _, name := range noted.names {
		known.raise(name, noted.byName[name])
	}
	for len(known.names) > maxRevisionEntries {
		delete(known.byName, known.names[0])
		known.names = known.names[1:]
	}
	if err := f.replace(known.content()); err != nil {
		return err
	}
	f.known = &known
	return nil
}

// replace gives the file new content: the old or the new one is there, whole, whatever happens.
func (f *revisionFile) replace(content []byte) error {
	draft := f.path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a program that was killed
		return err
	}
	file, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := written(file, content); err != nil {
		return err
	}
	return os.Rename(draft, f.path)
}

func (f *revisionFile) name(key *DataKey, keyID string) string {
	secret := key.secret.Reveal()
	defer clear(secret)
	mac := hmac.New(sha256.New, secret)
	_, _ = io.WriteString(mac, revisionLabel)
	writeParts(mac, f.address, key.tenant, keyID)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// writeParts writes each part behind its length.
func writeParts(to io.Writer, parts ...string) {
	for _, part := range parts {
		_ = binary.Write(to, binary.BigEndian, uint16(len(part))) // a MAC takes all
		_, _ = io.WriteString(to, part)
	}
}

// read returns what the file has. Its error is that of the file, or an ErrInvalidRequest.
func (f *revisionFile) read() (revisions, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return revisions{}, nil
	}
	if err != nil {
		return revisions{}, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxRevisionFile+1))
	if err != nil {
		return revisions{}, err
	}
	known, ok := parseRevisions(content)
	if !ok || len(content) > maxRevisionFile {
		return revisions{}, invalid("%s: not a file of revisions: remove it to start over, which forgets them", printable(f.path))
	}
	return known, nil
}

func (f *revisionFile) warn(err error) {
	if err == nil || f.warned {
		return
	}
	f.warned = true
	f.log.Warn("cannot keep revisions across runs, a rolled back store may go unnoticed: " + printable(err.Error()))
}

func (r *revisions) content() []byte {
	content := []byte(`{"revisions": {`)
	for i, name := range r.names {
		if i > 0 {
			content = append(content, ", "...)
		}
		content = fmt.Appendf(content, "%q: %d", name, r.byName[name])
	}
	return append(content, "}}"...)
}

// parseRevisions keeps the order of the entries, which tells the ones used last.
func parseRevisions(content []byte) (revisions, bool) {
	var file struct{ Revisions json.RawMessage }
	var found revisions
	if json.Unmarshal(content, &file) != nil || len(file.Revisions) == 0 || file.Revisions[0] != '{' {
		return found, false
	}
	decoder := json.NewDecoder(bytes.NewReader(file.Revisions))
	decoder.UseNumber()
	_, _ = decoder.Token() // the brace
	for decoder.More() {
		name, err := decoder.Token()
		text, isName := name.(string)
		if err != nil || !isName {
			return found, false
		}
		number, err := decoder.Token()
		digits, isNumber := number.(json.Number)
		if err != nil || !isNumber {
			return found, false
		}
		revision, err := strconv.ParseInt(digits.String(), 10, 64)
		if err != nil || revision < 1 {
			return found, false
		}
		found.raise(text, revision)
	}
	return found, true
}
