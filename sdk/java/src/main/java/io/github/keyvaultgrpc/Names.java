package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.quote;

import java.util.regex.Pattern;

/** Names and limits of the contract (keyvault.proto), which are checked before anything is sent. */
final class Names {
    /** Bytes of the longest wrapped key. */
    static final int MAX_WRAPPED_KEY = 8192;

    static final int MAX_BATCH_ITEMS = 100;
    static final int MAX_PAGE_NAMES = 1000;

    /** Revisions that a server lists at most: the current one and 15 earlier ones. */
    static final int MAX_REVISIONS = 16;

    private static final Pattern NAME = Pattern.compile("[A-Za-z0-9._~:@/+=-]{1,255}");
    private static final Pattern TENANT = Pattern.compile("[a-z0-9][a-z0-9-]{0,62}");
    private static final Pattern GENERATED = Pattern.compile("[0-9a-f]{32}");

    private Names() {}

    /** Returns whether this is a key_id, or a prefix of key_ids that ends in "/". */
    static boolean isScope(String text) {
        return NAME.matcher(text).matches();
    }

    static boolean isKeyId(String text) {
        return isScope(text) && !text.endsWith("/");
    }

    static boolean isTenant(String text) {
        return TENANT.matcher(text).matches();
    }

    /** Returns whether a server makes such names. */
    static boolean isGenerated(String text) {
        return GENERATED.matcher(text).matches();
    }

    static void checkScope(String scope) {
        if (!isScope(scope)) {
            throw invalid("invalid scope " + quote(scope) + ": must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-]");
        }
    }

    static void checkKeyId(String keyId) {
        if (!isKeyId(keyId)) {
            throw invalid("invalid key_id " + quote(keyId)
                    + ": must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and not end in \"/\"");
        }
    }

    /** Throws unless the key may be used for this name, and seals and opens envelopes. */
    static void checkUsable(DataKey key, String keyId) {
        checkKeyId(keyId);
        if (key == null) {
            throw invalid("no data key for " + keyId);
        }
        String scope = key.scope();
        if (!scope.equals(keyId) && !(scope.endsWith("/") && keyId.startsWith(scope))) {
            throw invalid("the key's scope " + scope + " does not cover " + keyId
                    + ": use a key for this name or for a prefix of it");
        }
        key.checkSecret();
    }

    /** Throws unless a record can be at this revision. */
    static void checkRevision(String name, long revision) {
        if (revision < 1) {
            throw invalid("invalid " + name + " " + revision + ": must be 1 to 2^63-1");
        }
    }

    /** Returns the revision after the one that a caller named. */
    static long after(long revision, long lowest) {
        if (revision < lowest || revision == Long.MAX_VALUE) {
            throw invalid("invalid revision " + revision + ": must be " + lowest + " to 2^63-2");
        }
        return revision + 1;
    }
}
