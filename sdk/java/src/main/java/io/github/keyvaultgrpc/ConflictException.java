package io.github.keyvaultgrpc;

/** The record is at another revision than the caller named, or was purged; nothing was written. */
public final class ConflictException extends WrongRevisionException {
    private static final long serialVersionUID = 1;

    private final boolean vacant;

    /** Makes one for a fake of your own. */
    public ConflictException(String message, long currentRevision, boolean vacant) {
        this(Details.of(message), currentRevision, UNSAID, vacant);
    }

    ConflictException(Details details, long currentRevision, long rememberedSince, boolean vacant) {
        super(details, currentRevision, rememberedSince);
        this.vacant = vacant;
    }

    /** Returns whether the name was purged, with {@link #currentRevision} as its last revision. */
    public boolean isVacant() {
        return vacant;
    }
}
