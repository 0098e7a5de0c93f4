package io.github.keyvaultgrpc;

/**
 * The caller gave up: its thread was interrupted, whose interrupt status is set again, or its gRPC context was cancelled.
 * Nothing was written. Where a change may have been written, it is an {@link OutcomeUnknownException} instead.
 */
public final class CallCancelledException extends UnavailableException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public CallCancelledException(String message) {
        this(Details.of(message));
    }

    CallCancelledException(Details details) {
        super(details);
    }

    @Override
    public int exitCode() {
        return 130;
    }
}
