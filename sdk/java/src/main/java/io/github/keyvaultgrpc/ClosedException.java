package io.github.keyvaultgrpc;

/** This client is closed; nothing was sent. */
public final class ClosedException extends UnavailableException {
    private static final long serialVersionUID = 1;

    ClosedException(Details details) {
        super(details);
    }
}
