package keyvault.example;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import keyvault.example.Vault.BadUsage;

/** What the command line asks for; the key_id of a list is its prefix. */
record Arguments(String verb, String keyId, Map<String, String> options) {
    private static final String USAGE = "usage: kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N],"
            + " kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]";
    private static final Map<String, Set<String>> NEEDED = Map.of(
            "put", Set.of("--key"),
            "get", Set.of("--key"),
            "delete", Set.of("--key"),
            "rotate", Set.of("--key", "--new-key"),
            "history", Set.of(),
            "list", Set.of());

    static Arguments parse(String[] args) throws BadUsage {
        String verb = args.length > 0 ? args[0] : "";
        boolean lists = verb.equals("list");
        if (!NEEDED.containsKey(verb) || args.length % 2 != 0 && !(lists && args.length == 1)) {
            throw new BadUsage(USAGE);
        }
        String keyId = args.length > 1 ? args[1] : "";
        if (!lists && (keyId.isEmpty() || keyId.endsWith("/"))) { // GenerateKey would take either for another scope
            throw new BadUsage("a KEY_ID must not be empty or end in \"/\"");
        }
        Map<String, String> options = new HashMap<>();
        for (int i = 2; i < args.length; i += 2) {
            boolean known = NEEDED.get(verb).contains(args[i]) || verb.equals("get") && args[i].equals("--revision");
            if (!known || options.put(args[i], args[i + 1]) != null) {
                throw new BadUsage(USAGE);
            }
        }
        if (!options.keySet().containsAll(NEEDED.get(verb))) {
            throw new BadUsage(USAGE);
        }
        return new Arguments(verb, keyId, options);
    }

    Path file(String option) {
        return Path.of(options.get(option));
    }

    /** The revision to get; 0 for the current one. */
    long revision() throws BadUsage {
        try {
            long revision = Long.parseLong(options.getOrDefault("--revision", "0"));
            if (revision > 0 || !options.containsKey("--revision")) {
                return revision;
            }
        } catch (NumberFormatException noNumber) {
            // said below
        }
        throw new BadUsage("--revision must be 1 to 2^63-1");
    }
}
