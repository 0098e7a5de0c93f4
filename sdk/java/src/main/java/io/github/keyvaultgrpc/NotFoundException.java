package io.github.keyvaultgrpc;

/** There is no such record, or it was deleted. */
public class NotFoundException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public NotFoundException(String message) {
        this(Details.of(message));
    }

    NotFoundException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 3;
    }
}
