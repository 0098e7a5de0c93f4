package io.github.keyvaultgrpc;

/** There was no answer; nothing was written. */
public class UnavailableException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public UnavailableException(String message) {
        this(Details.of(message));
    }

    UnavailableException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 6;
    }
}
