package io.github.keyvaultgrpc;

/** The record exists, but the server does not keep this revision of it. */
public final class RevisionNotFoundException extends NotFoundException {
    private static final long serialVersionUID = 1;

    private final long currentRevision;

    /** Makes one for a fake of your own. */
    public RevisionNotFoundException(String message, long currentRevision) {
        this(Details.of(message), currentRevision);
    }

    RevisionNotFoundException(Details details, long currentRevision) {
        super(details);
        this.currentRevision = currentRevision;
    }

    /** Returns what the server says, 0 if it does not say. Nothing proves it. */
    public long currentRevision() {
        return currentRevision;
    }
}
