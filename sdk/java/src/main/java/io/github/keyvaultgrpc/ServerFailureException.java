package io.github.keyvaultgrpc;

/** A fault of the server, or the address is not a KeyVault server's. */
public final class ServerFailureException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public ServerFailureException(String message) {
        this(Details.of(message));
    }

    ServerFailureException(Details details) {
        super(details);
    }
}
