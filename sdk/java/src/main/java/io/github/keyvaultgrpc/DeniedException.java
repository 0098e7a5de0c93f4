package io.github.keyvaultgrpc;

/** The server's policy forbids the call, or the caller has no valid identity. */
public final class DeniedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public DeniedException(String message) {
        this(Details.of(message));
    }

    DeniedException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 5;
    }
}
