package io.github.keyvaultgrpc;

/** The request can never succeed as it is; usually found before anything is sent. */
public class InvalidRequestException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public InvalidRequestException(String message) {
        this(Details.of(message));
    }

    InvalidRequestException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return reason().isEmpty() ? 2 : 1;
    }
}
