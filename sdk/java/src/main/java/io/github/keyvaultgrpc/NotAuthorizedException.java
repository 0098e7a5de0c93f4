package io.github.keyvaultgrpc;

/** The wrapped key does not unwrap, or its data key is not the record's. */
public final class NotAuthorizedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public NotAuthorizedException(String message) {
        this(Details.of(message));
    }

    NotAuthorizedException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 5;
    }
}
