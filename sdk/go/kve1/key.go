package kve1

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is how many bytes a data key has.
const KeySize = 32

const hidden = "[data key]"

var errNoKey = errors.New("no data key: NewDataKey makes one")

// DataKey is the secret of 32 bytes that GenerateKey returns; make one with [NewDataKey]. The zero value is not a key: it
// seals and opens nothing.
//
// It is printed, logged or encoded by nothing, whatever struct it is in: the bytes are behind a function, because fmt,
// encoders and printers of test libraries read the unexported fields of a struct and call no methods on them.
type DataKey struct {
	reveal func() *[KeySize]byte
}

// NewDataKey copies the bytes of a data key.
func NewDataKey(secret []byte) (DataKey, error) {
	if len(secret) != KeySize {
		return DataKey{}, fmt.Errorf("a data key must be %d bytes, not %d", KeySize, len(secret))
	}
	kept := [KeySize]byte(secret)
	return DataKey{func() *[KeySize]byte { return &kept }}, nil
}

// IsZero returns whether this is the zero value.
func (k DataKey) IsZero() bool { return k.reveal == nil }

// Reveal returns a copy of the bytes, nil of the zero value. Overwrite it after use.
func (k DataKey) Reveal() []byte {
	if k.IsZero() {
		return nil
	}
	kept := *k.reveal()
	return kept[:]
}

// Equal compares two keys in constant time. The zero value equals nothing.
func (k DataKey) Equal(other DataKey) bool {
	return !k.IsZero() && !other.IsZero() && subtle.ConstantTimeCompare(k.reveal()[:], other.reveal()[:]) == 1
}

// Format implements [fmt.Formatter]: whatever the verb, it prints "[data key]".
func (DataKey) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, hidden) }

// LogValue implements [slog.LogValuer].
func (DataKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON implements [json.Marshaler] by failing: a key is encoded only by whom it reveals itself to.
func (DataKey) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a data key is not encoded: use Reveal")
}

var _ json.Marshaler = DataKey{}
