package io.github.keyvaultgrpc;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The highest proved revisions of the names that were used last: a lower one later means that the store was rolled back.
 * Only a revision that opened under the record's key, or that an OK acknowledged for what was sealed, is proved. Any other
 * number may be made up.
 */
final class SeenRevisions {
    private record Name(String tenant, String keyId) {}

    private final Map<Name, Long> byName;

    SeenRevisions(int limit) {
        this.byName = new LinkedHashMap<>(16, 0.75f, true) {
            private static final long serialVersionUID = 1;

            @Override
            protected boolean removeEldestEntry(Map.Entry<Name, Long> eldest) {
                return size() > limit;
            }
        };
    }

    /** Returns the highest proved revision of a name, 0 if none is remembered. */
    synchronized long get(DataKey key, String keyId) {
        return byName.getOrDefault(new Name(key.tenant(), keyId), 0L);
    }

    /** Remembers a revision that was proved under this key, unless a higher one is remembered. */
    synchronized void note(DataKey key, String keyId, long revision) {
        byName.merge(new Name(key.tenant(), keyId), revision, Math::max);
    }

    /** Throws if the server shows a revision that cannot be, or one below what was proved before the call. */
    static void check(String keyId, long revision, long floor) {
        if (revision < 1) {
            throw Details.serverFailure("the server answered Read of " + keyId + " with the invalid revision " + revision);
        }
        if (revision < floor) {
            throw new RolledBackException(keyId, revision, floor);
        }
    }
}
