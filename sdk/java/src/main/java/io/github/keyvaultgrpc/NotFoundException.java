package io.github.keyvaultgrpc;

/** There is no such record, or it was deleted. */
public class NotFoundException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    NotFoundException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 3;
    }
}
