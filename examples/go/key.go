package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	pb "example.com/kv/keyvaultv1"
	"example.com/kv/kve1"
)

// maxWrappedKey is the most bytes of a wrapped key (keyvault.proto).
const maxWrappedKey = 8192

// dataKey is what GenerateKey answers, and what a key file holds as that message's JSON. The secret alone reads;
// together with its wrapped form it writes.
type dataKey struct {
	tenant  string
	secret  kve1.DataKey
	wrapped []byte
}

// loadKey reads a key file. Its error never quotes the file.
func loadKey(path string) (dataKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return dataKey{}, err
	}
	var answer pb.GenerateKeyResponse
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(content, &answer); err != nil {
		return dataKey{}, fmt.Errorf("%s: not a key file: expected JSON with tenant, scope, plaintext_key and wrapped_key", path)
	}
	key, err := keyOf(&answer)
	if err != nil {
		return dataKey{}, fmt.Errorf("%s: not a key file: %w", path, err)
	}
	return key, nil
}

// loadOrMakeKey reads a key file, or makes it, with a fresh key for this key_id alone.
func (v vault) loadOrMakeKey(ctx context.Context, path, keyID string) (dataKey, error) {
	key, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	answer, err := call(ctx, v.rpc.GenerateKey, &pb.GenerateKeyRequest{Scope: keyID}, 0)
	if err != nil {
		return dataKey{}, err
	}
	if key, err = keyOf(answer); err != nil {
		return dataKey{}, fmt.Errorf("the server answered GenerateKey with an invalid key: %w", err)
	}
	if answer.GetScope() != keyID { // a wider one would let its holder change other records
		return dataKey{}, fmt.Errorf("the server answered GenerateKey with a key for %q instead of %q", answer.GetScope(), keyID)
	}
	content, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true}.Marshal(answer)
	if err != nil {
		return dataKey{}, err
	}
	return key, writeDurably(path, append(content, '\n')) // before it is used: it cannot be regenerated
}

func keyOf(answer *pb.GenerateKeyResponse) (dataKey, error) {
	secret := answer.GetPlaintextKey()
	switch {
	case len(secret) != len(kve1.DataKey{}):
		return dataKey{}, fmt.Errorf("its plaintext_key must be %d bytes", len(kve1.DataKey{}))
	case answer.GetTenant() == "" || len(answer.GetWrappedKey()) == 0:
		return dataKey{}, errors.New("it has no tenant or no wrapped_key")
	case len(answer.GetWrappedKey()) > maxWrappedKey:
		return dataKey{}, fmt.Errorf("its wrapped_key must be at most %d bytes", maxWrappedKey)
	}
	return dataKey{answer.GetTenant(), kve1.DataKey(secret), answer.GetWrappedKey()}, nil
}

// writeDurably makes a file that only its owner reads and that survives a crash. It never writes over another one.
func writeDurably(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // half a key would be in the way of the next try
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (k dataKey) seal(keyID string, kind kve1.Kind, revision int64, plaintext []byte) ([]byte, error) {
	return kve1.Seal(k.secret, k.tenant, keyID, kve1.Header{Kind: kind, Revision: revision}, plaintext)
}

// open returns what the envelope of a Read proves, after a check that the server described it correctly. It is a
// tombstone only if it may be deleted.
func (k dataKey) open(keyID string, stored *pb.ReadResponse, deleted bool) (kve1.Header, []byte, error) {
	header, err := kve1.Parse(stored.GetEnvelope())
	if err != nil {
		return kve1.Header{}, nil, fmt.Errorf("%s: %w", keyID, err)
	}
	plaintext, err := kve1.Open(k.secret, k.tenant, keyID, stored.GetEnvelope())
	if err != nil {
		return kve1.Header{}, nil, fmt.Errorf("%s: %w: is it another key's?", keyID, err)
	}
	fits := header.Kind == kve1.Data || header.Kind == kve1.Tombstone && deleted
	if header.Revision != stored.GetRevision() || !fits {
		return kve1.Header{}, nil, fmt.Errorf("%s: the server's answer contradicts its envelope", keyID)
	}
	return header, plaintext, nil
}
