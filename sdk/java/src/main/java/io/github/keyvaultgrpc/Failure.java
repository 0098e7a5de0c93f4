package io.github.keyvaultgrpc;

import java.time.Duration;

/**
 * Why an attempt failed.
 *
 * @param settled whether the attempt changed nothing, for certain
 * @param retry whether the same bytes may succeed later
 * @param retryAfter how long the server asks to be left alone
 */
record Failure(KeyVaultException error, boolean settled, boolean retry, Duration retryAfter) {
    /** Returns the failure of an attempt that was not sent, and that another attempt does not change. */
    static Failure unsent(KeyVaultException error) {
        return new Failure(error, true, false, Duration.ZERO);
    }
}
