package io.github.keyvaultgrpc;

/** The server cannot use its master key: only its operator can help. */
public final class MasterKeyUnusableException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    MasterKeyUnusableException(Details details) {
        super(details);
    }
}
