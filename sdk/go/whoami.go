package keyvault

import (
	"context"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// Identity is how the server sees this client.
type Identity struct {
	// Identity is such as "spiffe://example.org/billing"; "anonymous" where the server does not authenticate its callers.
	Identity string
	// Tenant is empty if the server's policy does not know the identity.
	Tenant string
	// Rules are what the policy allows, in its order.
	Rules         []Rule
	ServerVersion string
}

// Rule allows these methods on these names.
type Rule struct{ Methods, Names []string }

// WhoAmI returns how the server sees this client, for people who debug access.
func (c *Client) WhoAmI(ctx context.Context) (*Identity, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	answer, err := call(ctx, c, pb.KeyVaultClient.WhoAmI, &pb.WhoAmIRequest{}, 0)
	if err != nil {
		return nil, err
	}
	found := &Identity{
		Identity: printable(answer.GetIdentity()), Tenant: printable(answer.GetTenant()),
		ServerVersion: printable(answer.GetServerVersion()),
	}
	for _, rule := range answer.GetRules() {
		found.Rules = append(found.Rules, Rule{printableAll(rule.GetMethods()), printableAll(rule.GetNames())})
	}
	return found, nil
}

func printableAll(texts []string) []string {
	shown := make([]string, len(texts))
	for i, text := range texts {
		shown[i] = printable(text)
	}
	return shown
}
