package io.github.keyvaultgrpc;

/**
 * A change was sent and may have been done: read the record to see. Its cause is why the last attempt failed; if a thread
 * was interrupted, the cause is a {@link CallCancelledException}, and the interrupt status is set again.
 */
public final class OutcomeUnknownException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public OutcomeUnknownException(String message) {
        this(Details.of(message));
    }

    OutcomeUnknownException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 7;
    }
}
