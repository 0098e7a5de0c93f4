package io.github.keyvaultgrpc;

/** The server's policy forbids the call, or the caller has no valid identity. */
public final class DeniedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    DeniedException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 5;
    }
}
