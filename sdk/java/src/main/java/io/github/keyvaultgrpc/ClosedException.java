package io.github.keyvaultgrpc;

/** This client is closed; nothing was sent. */
public final class ClosedException extends UnavailableException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public ClosedException(String message) {
        this(Details.of(message));
    }

    ClosedException(Details details) {
        super(details);
    }
}
