package io.github.keyvaultgrpc;

import java.util.List;

/**
 * How the server sees this client.
 *
 * @param identity such as "spiffe://example.org/billing"; "anonymous" where the server does not authenticate its callers
 * @param tenant "" if the server's policy does not know the identity
 * @param rules what the policy allows, in its order
 * @param serverVersion the version of the server
 */
public record Identity(String identity, String tenant, List<Rule> rules, String serverVersion) {

    /** Copies the rules. */
    public Identity {
        rules = List.copyOf(rules);
    }

    /** Allows these methods on these names. */
    public record Rule(List<String> methods, List<String> names) {

        /** Copies the lists. */
        public Rule {
            methods = List.copyOf(methods);
            names = List.copyOf(names);
        }
    }
}
