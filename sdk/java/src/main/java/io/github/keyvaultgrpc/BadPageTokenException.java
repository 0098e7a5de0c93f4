package io.github.keyvaultgrpc;

/** The server does not continue a listing: list again from the beginning. */
public final class BadPageTokenException extends InvalidRequestException {
    private static final long serialVersionUID = 1;

    BadPageTokenException(Details details) {
        super(details);
    }
}
