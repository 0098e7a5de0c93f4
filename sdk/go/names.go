package keyvault

import (
	"regexp"
	"strconv"
	"strings"
)

// Sizes of the contract (keyvault.proto), in bytes unless they say otherwise.
const (
	maxName       = 255
	maxWrappedKey = 8192
	maxMessage    = 512 << 10
	maxReply      = 4 << 20
	maxBatchItems = 100
	maxPageNames  = 1000
	// maxRevisions is how many revisions of a record a server lists at most: the current one and 15 earlier ones.
	maxRevisions = 16
	// maxRevision is the highest revision.
	maxRevision = 1<<63 - 1
)

var (
	names         = regexp.MustCompile(`^[A-Za-z0-9._~:@/+=-]{1,255}$`)
	tenants       = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	generatedName = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// isScope returns whether this is a key_id, or a prefix of key_ids that ends in "/".
func isScope(text string) bool { return names.MatchString(text) }

func isKeyID(text string) bool { return isScope(text) && !strings.HasSuffix(text, "/") }

func isTenant(text string) bool { return tenants.MatchString(text) }

// covers returns whether a key of this scope may be used for this key_id.
func covers(scope, keyID string) bool {
	return scope == keyID || strings.HasSuffix(scope, "/") && strings.HasPrefix(keyID, scope) && len(keyID) > len(scope)
}

func checkKeyID(keyID string) error {
	if !isKeyID(keyID) {
		return invalid(`invalid key_id %s: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and not end in "/"`, quote(keyID))
	}
	return nil
}

// checkScope fails unless the key may be used for this name.
func checkScope(key *DataKey, keyID string) error {
	if err := checkKeyID(keyID); err != nil {
		return err
	}
	if key == nil {
		return invalid("no data key for %s", keyID)
	}
	if !covers(key.scope, keyID) {
		return invalid("the key's scope %s does not cover %s: use a key for this name or for a prefix of it", key.scope, keyID)
	}
	return nil
}

// checkRevision fails unless a record can be at this revision.
func checkRevision(name string, revision int64) error {
	if revision < 1 {
		return invalid("invalid %s %d: must be 1 to 2^63-1", name, revision)
	}
	return nil
}

// quote returns a name as an error message shows it: quoted, printable, and at most 60 bytes of it.
func quote(name string) string {
	if len(name) > 60 {
		name = name[:60] + "..."
	}
	return strconv.QuoteToASCII(name)
}
