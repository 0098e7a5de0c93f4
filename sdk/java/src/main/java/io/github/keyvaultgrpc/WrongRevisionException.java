package io.github.keyvaultgrpc;

/** The record is at another revision than the change assumed; nothing was written. */
public abstract class WrongRevisionException extends KeyVaultException {
    /** Stands for a number that the server does not say. */
    static final long UNSAID = -1;

    private static final long serialVersionUID = 1;

    private final long currentRevision;
    private final long rememberedSince;

    WrongRevisionException(Details details, long currentRevision, long rememberedSince) {
        super(details);
        this.currentRevision = Math.max(0, currentRevision);
        this.rememberedSince = rememberedSince;
    }

    /**
     * Returns what the server says, 0 if it does not say. Anyone between you and the records can make it up: read the
     * record before you name a revision.
     */
    public long currentRevision() {
        return currentRevision;
    }

    /** Returns whether the server would have recognized the envelope of this revision, had it accepted it. */
    boolean provesAbsence(long sealed) {
        return rememberedSince != UNSAID && rememberedSince <= sealed && sealed <= currentRevision;
    }

    @Override
    public int exitCode() {
        return 4;
    }
}
