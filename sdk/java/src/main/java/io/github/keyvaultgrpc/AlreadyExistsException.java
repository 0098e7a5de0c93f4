package io.github.keyvaultgrpc;

/** A create met a live record; nothing was written. */
public final class AlreadyExistsException extends WrongRevisionException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public AlreadyExistsException(String message, long currentRevision) {
        this(Details.of(message), currentRevision, UNSAID);
    }

    AlreadyExistsException(Details details, long currentRevision, long rememberedSince) {
        super(details, currentRevision, rememberedSince);
    }
}
