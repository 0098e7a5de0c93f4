package io.github.keyvaultgrpc;

/** The server does not continue a listing: list again from the beginning. */
public final class BadPageTokenException extends InvalidRequestException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public BadPageTokenException(String message) {
        this(Details.of(message));
    }

    BadPageTokenException(Details details) {
        super(details);
    }
}
