package keyvault

import (
	"context"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
	"github.com/keyvault-grpc/keyvault/sdk/go/kve1"
)

// GenerateKey generates a data key for a key_id, or for a prefix that ends in "/". For "" the server makes a key_id.
// Save the key before you use it: it cannot be regenerated.
func (c *Client) GenerateKey(ctx context.Context, scope string) (*DataKey, error) {
	if scope != "" && !isScope(scope) {
		return nil, invalid("invalid scope %s: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-]", quote(scope))
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := call(ctx, c, pb.KeyVaultClient.GenerateKey, &pb.GenerateKeyRequest{Scope: scope}, 0)
	if err != nil {
		return nil, err
	}
	defer clear(answer.PlaintextKey)
	if scope != "" && answer.GetScope() != scope { // a wider one would let its holder change other records
		return nil, dishonest("GenerateKey", "scope "+quote(answer.GetScope())+" instead of "+quote(scope))
	}
	if scope == "" && !generatedName.MatchString(answer.GetScope()) {
		return nil, dishonest("GenerateKey", "scope "+quote(answer.GetScope())+" instead of a key_id of 32 hex digits")
	}
	return answeredKey("GenerateKey", answer.GetTenant(), answer.GetScope(), answer.GetWrappedKey(), answer.GetPlaintextKey())
}

// RewrapKey wraps the data key under the server's current master key, and returns it so. What a wrapped key holds cannot
// be checked: keep the old one until the new one has worked.
func (c *Client) RewrapKey(ctx context.Context, key *DataKey) (*DataKey, error) {
	if key == nil {
		return nil, invalid("no data key to rewrap")
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := call(ctx, c, pb.KeyVaultClient.RewrapKey, &pb.RewrapKeyRequest{WrappedKey: key.Wrapped()}, 0)
	if err != nil {
		return nil, err
	}
	rewrapped, err := NewDataKey(key.tenant, key.scope, answer.GetWrappedKey(), nil)
	if err != nil {
		return nil, dishonest("RewrapKey", "an invalid wrapped_key")
	}
	rewrapped.secret = key.secret
	return rewrapped, nil
}

// UnwrapKey returns the key with its 32 bytes. The error is an ErrDenied unless the server's settings allow it for the
// key's scope.
func (c *Client) UnwrapKey(ctx context.Context, key *DataKey) (*DataKey, error) {
	if key == nil {
		return nil, invalid("no data key to unwrap")
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := call(ctx, c, pb.KeyVaultClient.UnwrapKey, &pb.UnwrapKeyRequest{WrappedKey: key.Wrapped()}, 0)
	if err != nil {
		return nil, err
	}
	defer clear(answer.PlaintextKey)
	if answer.GetTenant() != key.tenant || answer.GetScope() != key.scope {
		return nil, dishonest("UnwrapKey", "tenant "+quote(answer.GetTenant())+" and scope "+quote(answer.GetScope())+
			" instead of "+quote(key.tenant)+" and "+quote(key.scope))
	}
	unwrapped, err := answeredKey("UnwrapKey", key.tenant, key.scope, key.wrapped(), answer.GetPlaintextKey())
	if err == nil && !key.secret.IsZero() && !key.secret.Equal(unwrapped.secret) {
		return nil, dishonest("UnwrapKey", "another plaintext_key than the key has")
	}
	return unwrapped, err
}

// answeredKey is the key in an answer, checked.
func answeredKey(method, tenant, scope string, wrapped, secret []byte) (*DataKey, error) {
	if len(secret) != kve1.KeySize {
		return nil, dishonest(method, "a plaintext_key of another size")
	}
	key, err := NewDataKey(tenant, scope, wrapped, secret)
	if err != nil {
		return nil, dishonest(method, "an invalid tenant "+quote(tenant)+" or an invalid wrapped_key")
	}
	return key, nil
}

func dishonest(method, what string) error {
	return serverFailure("the server answered %s with %s: do not use this server, and report it", method, what)
}
