package io.github.keyvaultgrpc;

/** The server cannot use its master key: only its operator can help. */
public final class MasterKeyUnusableException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public MasterKeyUnusableException(String message) {
        this(Details.of(message));
    }

    MasterKeyUnusableException(Details details) {
        super(details);
    }
}
