package io.github.keyvaultgrpc;

/** The wrapped key does not unwrap, or its data key is not the record's. */
public final class NotAuthorizedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    NotAuthorizedException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 5;
    }
}
