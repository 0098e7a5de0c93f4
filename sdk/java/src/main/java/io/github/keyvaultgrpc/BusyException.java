package io.github.keyvaultgrpc;

import java.time.Duration;

/** A quota, a throttled backend or a full store; nothing was written. */
public final class BusyException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    private final Duration retryAfter;

    /** Makes one for a fake of your own. */
    public BusyException(String message, Duration retryAfter) {
        this(Details.of(message), retryAfter);
    }

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
