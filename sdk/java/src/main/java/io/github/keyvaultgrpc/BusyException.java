package io.github.keyvaultgrpc;

import java.time.Duration;

/** A quota, a throttled backend or a full store; nothing was written. */
public final class BusyException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    private final Duration retryAfter;

    BusyException(Details details, Duration retryAfter) {
        super(details);
        this.retryAfter = retryAfter;
    }

    /** Returns how long the server asks to be left alone; zero if it does not say. */
    public Duration retryAfter() {
        return retryAfter;
    }

    @Override
    public int exitCode() {
        return 6;
    }
}
