package keyvault

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// DataKey is a data key for one tenant and one scope: its 32 bytes read a record; together with their wrapped form they
// change it. Neither is printed, logged or encoded, whatever struct the key is in.
type DataKey struct {
	tenant, scope string
	wrapped       func() []byte // a function, because fmt and others read the fields of a struct
	secret        kve1.DataKey  // zero if the key was saved without it
}

// NewDataKey makes a key of its parts, and copies them. secret may be nil, for a caller that may use UnwrapKey. Its error
// is an ErrInvalidRequest.
func NewDataKey(tenant, scope string, wrapped, secret []byte) (*DataKey, error) {
	if !isTenant(tenant) || !isScope(scope) || len(wrapped) == 0 || len(wrapped) > maxWrappedKey {
		return nil, invalid("not a data key: its tenant, scope or wrapped_key is invalid")
	}
	kept := append([]byte(nil), wrapped...)
	key := &DataKey{tenant: tenant, scope: scope, wrapped: func() []byte { return kept }}
	if secret == nil {
		return key, nil
	}
	var err error
	if key.secret, err = kve1.NewDataKey(secret); err != nil {
		return nil, invalid("not a data key: its plaintext_key must be %d bytes", kve1.KeySize)
	}
	return key, nil
}

// Tenant returns the tenant that the server gave the caller.
func (k *DataKey) Tenant() string { return k.tenant }

// Scope returns the key_id, or the prefix that ends in "/", that the key may be used for.
func (k *DataKey) Scope() string { return k.scope }

// Wrapped returns a copy of the wrapped form, 1 to 8,192 opaque bytes.
func (k *DataKey) Wrapped() []byte { return append([]byte(nil), k.wrapped()...) }

// Secret returns the key that seals and opens envelopes, the zero value if the key was saved without it.
func (k *DataKey) Secret() kve1.DataKey { return k.secret }

// WithoutPlaintext returns this key with its wrapped form alone.
func (k *DataKey) WithoutPlaintext() *DataKey {
	return &DataKey{tenant: k.tenant, scope: k.scope, wrapped: k.wrapped}
}

// checkSecret fails if the key was saved without its bytes.
func (k *DataKey) checkSecret() error {
	if k.secret.IsZero() {
		return invalid("this key has no plaintext_key: unwrap it first")
	}
	return nil
}

// Format implements [fmt.Formatter]: tenant and scope, whatever the verb.
func (k DataKey) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, k.shown()) }

// LogValue implements [slog.LogValuer].
func (k DataKey) LogValue() slog.Value { return slog.StringValue(k.shown()) }

// MarshalJSON implements json.Marshaler by failing: Save and Reveal encode a key.
func (DataKey) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a data key is not encoded by accident: use Save or Reveal")
}

func (k DataKey) shown() string { return "[data key of " + k.tenant + " for " + k.scope + "]" }

// keyFile is the JSON of a key file: that of a GenerateKeyResponse, by either of protobuf's spellings.
type keyFile struct {
	Tenant             string  `json:"tenant"`
	Scope              string  `json:"scope"`
	PlaintextKey       *string `json:"plaintext_key,omitempty"`
	WrappedKey         *string `json:"wrapped_key,omitempty"`
	PlaintextCamelCase *string `json:"plaintextKey,omitempty"`
	WrappedCamelCase   *string `json:"wrappedKey,omitempty"`
}

// Reveal returns the key as JSON, its secret included, for a store of secrets of your own.
func (k *DataKey) Reveal() []byte {
	wrapped := base64.StdEncoding.EncodeToString(k.wrapped())
	file := keyFile{Tenant: k.tenant, Scope: k.scope, WrappedKey: &wrapped}
	if !k.secret.IsZero() {
		secret := base64.StdEncoding.EncodeToString(k.secret.Reveal())
		file.PlaintextKey = &secret
	}
	content, err := json.MarshalIndent(file, "", " ")
	if err != nil {
		panic(err) // strings alone
	}
	return append(content, '\n')
}

// ParseDataKey parses what Reveal returned, or the JSON of a GenerateKeyResponse. Its error, an ErrInvalidRequest, quotes
// nothing of it.
func ParseDataKey(content []byte) (*DataKey, error) {
	malformed := invalid("not a data key: expected JSON with tenant, scope, plaintext_key and wrapped_key")
	var file keyFile
	if json.Unmarshal(content, &file) != nil {
		return nil, malformed
	}
	wrapped, err := decoded(file.WrappedKey, file.WrappedCamelCase)
	if err != nil || wrapped == nil {
		return nil, malformed
	}
	secret, err := decoded(file.PlaintextKey, file.PlaintextCamelCase)
	if err != nil {
		return nil, malformed
	}
	return NewDataKey(file.Tenant, file.Scope, wrapped, secret)
}

// decoded returns the bytes of the text that is there, nil if none is.
func decoded(texts ...*string) ([]byte, error) {
	for _, text := range texts {
		if text != nil {
			content, err := base64.StdEncoding.Strict().DecodeString(*text)
			return append([]byte{}, content...), err
		}
	}
	return nil, nil
}
