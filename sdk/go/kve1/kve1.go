// Package kve1 seals and opens KVE1 envelopes, byte for byte as docs/envelope.md has them.
//
// The module needs the standard library alone and knows nothing of gRPC. Its tests run the vectors that every language
// shares, which travel with it in testdata. Its rules: what comes from outside is parsed before a key touches it; every way to fail after that is
// the one ErrNotOpened; no plaintext is returned before the last chunk has opened.
package kve1

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

const (
	// MaxPlaintext is the longest plaintext, in bytes.
	MaxPlaintext = 380_000
	// HeadSize is how many bytes of an envelope show whose it is.
	HeadSize = 72
	// MinEnvelope and MaxEnvelope are the sizes of the shortest and the longest envelope, in bytes.
	MinEnvelope = HeadSize + tagSize
	MaxEnvelope = MinEnvelope + MaxPlaintext + MaxPlaintext/chunkSize*tagSize

	headerSize     = 16
	saltSize       = 24
	saltEnd        = headerSize + saltSize
	digestSize     = 32 // the plaintext of a REKEY
	chunkSize      = 16_384
	tagSize        = 16
	aesKeySize     = 32
	nonceSize      = 12
	commitmentSize = 32

	magic = "KVE\x01\x01" // with version and alg
	label = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
)

var (
	// ErrMalformed says that bytes are not a KVE1 envelope, whatever the key.
	ErrMalformed = errors.New("not a KVE1 envelope")
	// ErrInvalidName says that a tenant or key_id is not UTF-8, or has more than 65,535 bytes.
	ErrInvalidName = errors.New("invalid tenant or key_id: must be UTF-8 of at most 65,535 bytes")
	// ErrNotOpened says that an envelope does not open: another key, tenant or key_id, or damage. It does not say which.
	ErrNotOpened = errors.New("the envelope does not open under this key, tenant and key_id")
)

// Kind is what an envelope is for.
type Kind byte

// The kinds.
const (
	Data      Kind = 1 // the record's content
	Tombstone Kind = 2 // empty; takes the place of a deleted record
	Rekey     Kind = 3 // SHA-256 of a DATA envelope under another key, which may then take the record's place
)

// Header is what an envelope says of itself in clear: a claim until the envelope has opened.
type Header struct {
	Kind     Kind
	Revision int64 // from 1
}

// Parse reads the header of a well-formed envelope; it needs no key. The error is ErrMalformed.
func Parse(envelope []byte) (Header, error) {
	size := len(envelope)
	if size < MinEnvelope || size > MaxEnvelope {
		return Header{}, ErrMalformed
	}
	header, err := parseHead(envelope[:HeadSize])
	switch {
	case err != nil,
		(size-HeadSize)%(chunkSize+tagSize) < tagSize,
		header.Kind == Tombstone && size != MinEnvelope,
		header.Kind == Rekey && size != MinEnvelope+digestSize:
		return Header{}, ErrMalformed
	}
	return header, nil
}

// parseHead reads the header of an envelope of which there is no more than the head.
func parseHead(head []byte) (Header, error) {
	if len(head) != HeadSize || string(head[:len(magic)]) != magic {
		return Header{}, ErrMalformed
	}
	header := Header{Kind(head[5]), int64(binary.BigEndian.Uint64(head[8:]))}
	switch {
	case header.Kind < Data || header.Kind > Rekey,
		head[6] != 0 || head[7] != 0,
		header.Revision < 1: // 2^63 and more are negative here
		return Header{}, ErrMalformed
	}
	return header, nil
}

// Seal makes an envelope that opens under this key, for this tenant and key_id, with this header, alone. Its error
// names the limit that was passed.
func Seal(key DataKey, tenant, keyID string, header Header, plaintext []byte) ([]byte, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return seal(key, tenant, keyID, header, plaintext, salt)
}

// seal takes the salt from its caller, for the vectors: one that repeats gives plaintexts away.
func seal(key DataKey, tenant, keyID string, header Header, plaintext, salt []byte) ([]byte, error) {
	if err := checkSealable(header, len(plaintext)); err != nil {
		return nil, err
	}
	envelope := make([]byte, 0, MinEnvelope+len(plaintext)+len(plaintext)/chunkSize*tagSize)
	envelope = append(envelope, magic...)
	envelope = append(envelope, byte(header.Kind), 0, 0)
	envelope = binary.BigEndian.AppendUint64(envelope, uint64(header.Revision))
	context, err := contextOf(envelope, tenant, keyID)
	if err != nil {
		return nil, err
	}
	return sealMessage(envelope, key, context, plaintext, salt)
}

// sealMessage appends a Cobblestone-256 message, which an envelope is from its salt on.
func sealMessage(to []byte, key DataKey, context, plaintext, salt []byte) ([]byte, error) {
	keys, err := derive(key, context, salt)
	if err != nil {
		return nil, err
	}
	to = append(append(to, salt...), keys.commitment...)
	for i := uint64(0); ; i++ {
		n := min(chunkSize, len(plaintext))
		to = keys.aead.Seal(to, keys.nonce(i), plaintext[:n], nil)
		plaintext = plaintext[n:]
		if n < chunkSize { // the last chunk is the short one, an empty one where need be
			return to, nil
		}
	}
}

func checkSealable(header Header, size int) error {
	switch {
	case header.Revision < 1:
		return errors.New("invalid revision: must be 1 to 2^63-1")
	case header.Kind < Data || header.Kind > Rekey:
		return fmt.Errorf("unknown kind %d of envelope", header.Kind)
	case size > MaxPlaintext:
		return fmt.Errorf("%d bytes are too many: an envelope holds at most %d", size, MaxPlaintext)
	case header.Kind == Tombstone && size != 0:
		return errors.New("a tombstone is empty")
	case header.Kind == Rekey && size != digestSize:
		return errors.New("a REKEY envelope holds a SHA-256 digest")
	}
	return nil
}

// Open returns the plaintext. Its error is ErrMalformed, ErrInvalidName or ErrNotOpened, or names a missing key.
func Open(key DataKey, tenant, keyID string, envelope []byte) ([]byte, error) {
	if _, err := Parse(envelope); err != nil {
		return nil, err
	}
	context, err := contextOf(envelope[:headerSize], tenant, keyID)
	if err != nil {
		return nil, err
	}
	return openMessage(key, context, envelope[headerSize:])
}

// openMessage opens a Cobblestone-256 message. Its error is ErrNotOpened.
func openMessage(key DataKey, context, message []byte) ([]byte, error) {
	size := len(message) - saltSize - commitmentSize
	if size < tagSize || size%(chunkSize+tagSize) < tagSize {
		return nil, ErrNotOpened
	}
	keys, err := derive(key, context, message[:saltSize])
	if errors.Is(err, errNoKey) {
		return nil, err
	}
	if err != nil || !keys.madeCommitment(message[saltSize:saltSize+commitmentSize]) {
		return nil, ErrNotOpened
	}
	plaintext := make([]byte, 0, size-tagSize)
	i := uint64(0)
	for chunk := range slices.Chunk(message[saltSize+commitmentSize:], chunkSize+tagSize) {
		if plaintext, err = keys.aead.Open(plaintext, keys.nonce(i), chunk, nil); err != nil {
			return nil, ErrNotOpened
		}
		i++
	}
	return plaintext, nil
}

// CommitsTo decides from the HeadSize bytes of a head whether this key sealed the envelope for this tenant and key_id.
// It says nothing of the rest, which has to be opened. Its error is ErrMalformed or ErrInvalidName.
func CommitsTo(head []byte, key DataKey, tenant, keyID string) (bool, error) {
	if _, err := parseHead(head); err != nil {
		return false, err
	}
	context, err := contextOf(head[:headerSize], tenant, keyID)
	if err != nil {
		return false, err
	}
	keys, err := derive(key, context, head[headerSize:saltEnd])
	return err == nil && keys.madeCommitment(head[saltEnd:]), err
}

// contextOf is what the derivation binds in addition to the key and the salt.
func contextOf(header []byte, tenant, keyID string) ([]byte, error) {
	context := slices.Clone(header)
	for _, name := range []string{tenant, keyID} {
		if len(name) > math.MaxUint16 || !utf8.ValidString(name) {
			return nil, ErrInvalidName
		}
		context = binary.BigEndian.AppendUint16(context, uint16(len(name)))
		context = append(context, name...)
	}
	return context, nil
}

// derived is what one envelope's chunks are sealed with.
type derived struct {
	aead       cipher.AEAD
	baseNonce  []byte
	commitment []byte
}

func derive(key DataKey, context, salt []byte) (derived, error) {
	if key.IsZero() {
		return derived{}, errNoKey
	}
	info := slices.Concat([]byte(label), salt, context)
	material, err := hkdf.Expand(sha512.New, key.reveal()[:], string(info), aesKeySize+nonceSize+commitmentSize)
	if err != nil {
		return derived{}, err
	}
	block, err := aes.NewCipher(material[:aesKeySize])
	if err != nil {
		return derived{}, err
	}
	aead, err := cipher.NewGCM(block)
	material = material[aesKeySize:]
	return derived{aead, material[:nonceSize], material[nonceSize:]}, err
}

// nonce is that of chunk i: the base nonce XOR i, both as 96-bit integers.
func (d derived) nonce(i uint64) []byte {
	nonce := slices.Clone(d.baseNonce)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^i)
	return nonce
}

func (d derived) madeCommitment(commitment []byte) bool {
	return subtle.ConstantTimeCompare(d.commitment, commitment) == 1
}
