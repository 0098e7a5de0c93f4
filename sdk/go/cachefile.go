package keyvault

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

const (
	maxCacheFile   = 64 << 20
	cacheLabel     = "keyvault: cache file v1"
	cacheVersion   = 1
	cacheBeginning = "{\n \"keyvault_cache\":"
	// clockSlack is how far a time in the file may be ahead of the clock. One that is further ahead counts as 1970.
	clockSlack = time.Minute
	// timesEvery is when the file gets new times if no record changed, so that a cache costs the disk little.
	timesEvery = 5 * time.Minute
)

// sealedRecord is a record of a cache's file. Only its name and envelope mean anything before it is opened.
type sealedRecord struct {
	keyID                       string
	envelope                    []byte
	created, updated, confirmed time.Time // confirmed: when the server last said so, by this machine's clock
	mac                         []byte
}

// sum is the MAC of what the envelope does not authenticate, bound to this envelope by its head.
func (s *sealedRecord) sum(key *DataKey) []byte {
	secret := key.secret.Reveal()
	defer clear(secret)
	mac := hmac.New(sha256.New, secret)
	_, _ = io.WriteString(mac, cacheLabel)
	writeParts(mac, key.tenant, s.keyID, cacheTime(s.created), cacheTime(s.updated), cacheTime(s.confirmed),
		string(s.envelope[:kve1.HeadSize]))
	return mac.Sum(nil)
}

// open opens the record as one of the server is opened.
func (s *sealedRecord) open(key *DataKey) (*Record, error) {
	if err := checkUsable(key, s.keyID); err != nil {
		return nil, err
	}
	header, err := kve1.Parse(s.envelope)
	if err != nil {
		return nil, err
	}
	record, err := opened(s.keyID, &pb.ReadResponse{Envelope: s.envelope, Revision: header.Revision}, key, kve1.Data)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(s.mac, s.sum(key)) {
		return nil, newError(ErrRecordDamaged, "the times of %s were changed", s.keyID)
	}
	record.CreateTime, record.UpdateTime = s.created, s.updated
	return record, nil
}

// confirmedAt returns when the server confirmed the record; 1970 for a time that is ahead of the clock.
func (s *sealedRecord) confirmedAt() time.Time {
	if time.Until(s.confirmed) > clockSlack {
		return time.Unix(0, 0)
	}
	return s.confirmed
}

// cacheTime is a time as the file has it: RFC 3339 in UTC, with microseconds unless they are 0.
func cacheTime(t time.Time) string {
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < 1 || t.Year() > 9999 {
		t = time.Unix(0, 0).UTC()
	}
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05Z")
	}
	return t.Format("2006-01-02T15:04:05.000000Z")
}

// cacheContent is the file, in the format of the Python client.
type cacheContent struct {
	Version int                    `json:"keyvault_cache"`
	Records map[string]cacheRecord `json:"records"`
}

type cacheRecord struct {
	Revision    int64  `json:"revision"`
	CreateTime  string `json:"create_time"`
	UpdateTime  string `json:"update_time"`
	ConfirmTime string `json:"confirm_time"`
	MAC         string `json:"mac"`
	Envelope    string `json:"envelope"`
}

// cacheFile keeps the sealed records of one cache, for a start while the server is away. A file that cannot be used is a
// warning, never an error: the server has the records. One that is not a cache's, or cannot be read, is left alone: the
// path may be a mistake.
type cacheFile struct {
	path string
	log  *slog.Logger

	foreign, failing bool
	written          map[string][]byte // envelopes
	newest           time.Time         // of the times that were written
}

// load returns what the file has.
func (f *cacheFile) load() map[string]*sealedRecord {
	content, err := f.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var records map[string]*sealedRecord
	if err == nil {
		records, err = parseCache(content)
	}
	if err != nil {
		f.log.Warn("the file of the cache is ignored: " + printable(f.path+": "+err.Error()))
	}
	return records
}

// read returns the content of the file, and notes whether it is one of ours.
func (f *cacheFile) read() ([]byte, error) {
	if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() { // a pipe would wait for a writer
		f.foreign = true
		return nil, errors.New("not a file")
	}
	file, err := os.Open(f.path)
	if err != nil {
		f.foreign = !errors.Is(err, fs.ErrNotExist)
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		f.foreign = true
		return nil, err
	}
	if why := whyShared(file, info); why != "" {
		return nil, errors.New("it " + why)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxCacheFile+1))
	f.foreign = err != nil || len(content) > 0 && !bytes.HasPrefix(content, []byte(cacheBeginning))
	switch {
	case err != nil:
		return nil, err
	case f.foreign:
		return nil, errors.New("not the file of a cache: remove it, or name another one")
	case len(content) > maxCacheFile:
		return nil, errors.New("too large")
	}
	return content, nil
}

func parseCache(content []byte) (map[string]*sealedRecord, error) {
	damaged := errors.New("truncated or damaged")
	var file cacheContent
	if json.Unmarshal(content, &file) != nil {
		return nil, damaged
	}
	if file.Version != cacheVersion {
		return nil, errors.New("the file of a cache of another KeyVault version")
	}
	records := map[string]*sealedRecord{}
	for name, one := range file.Records {
		record, err := one.sealed(name)
		if err != nil {
			return nil, damaged
		}
		records[name] = record
	}
	return records, nil
}

func (r cacheRecord) sealed(name string) (*sealedRecord, error) {
	strict := base64.StdEncoding.Strict()
	created, first := time.Parse(time.RFC3339Nano, r.CreateTime)
	updated, second := time.Parse(time.RFC3339Nano, r.UpdateTime)
	confirmed, third := time.Parse(time.RFC3339Nano, r.ConfirmTime)
	mac, fourth := strict.DecodeString(r.MAC)
	envelope, fifth := strict.DecodeString(r.Envelope)
	_, sixth := kve1.Parse(envelope)
	err := errors.Join(checkKeyID(name), first, second, third, fourth, fifth, sixth)
	return &sealedRecord{name, envelope, created, updated, confirmed, mac}, err
}

// save writes the file if a record changed, or if its times are old.
func (f *cacheFile) save(records map[string]*sealedRecord, keys map[string]*DataKey) {
	if f.foreign || !f.isDue(records) {
		return
	}
	content := cacheContent{cacheVersion, map[string]cacheRecord{}}
	for name, one := range records {
		header, err := kve1.Parse(one.envelope)
		if err != nil {
			continue // it was opened
		}
		content.Records[name] = cacheRecord{
			header.Revision, cacheTime(one.created), cacheTime(one.updated), cacheTime(one.confirmed),
			base64.StdEncoding.EncodeToString(one.sum(keys[name])), base64.StdEncoding.EncodeToString(one.envelope),
		}
	}
	if err := f.replace(content); err != nil {
		if !f.failing {
			f.log.Warn("the file of the cache is not written: " + printable(fileError(f.path, err).Error()))
		}
		f.failing = true
		return
	}
	f.failing = false
	f.remember(records)
}

// remember notes what the file has, opened or written.
func (f *cacheFile) remember(records map[string]*sealedRecord) {
	f.written, f.newest = map[string][]byte{}, time.Time{}
	for name, one := range records {
		f.written[name] = one.envelope
		if one.confirmed.After(f.newest) {
			f.newest = one.confirmed
		}
	}
}

func (f *cacheFile) isDue(records map[string]*sealedRecord) bool {
	if len(records) != len(f.written) {
		return true
	}
	for name, one := range records {
		if !bytes.Equal(f.written[name], one.envelope) || one.confirmed.Sub(f.newest) >= timesEvery {
			return true
		}
	}
	return false
}

// replace gives the file new content durably, with mode 0600.
func (f *cacheFile) replace(content cacheContent) error {
	encoded, err := json.MarshalIndent(content, "", " ")
	if err == nil && len(encoded) > maxCacheFile {
		err = errors.New("it would be too large")
	}
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(f.path) // a symbolic link stays one
	if err != nil {
		target = f.path
	}
	draft, err := drafted(target, encoded)
	if err != nil {
		return err
	}
	if err := os.Rename(draft, target); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return syncFolder(filepath.Dir(target))
}
