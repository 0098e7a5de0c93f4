package io.github.keyvaultgrpc;

/** The server shows an older revision than this client has seen: its table was restored or tampered with. */
public final class RolledBackException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    private final String keyId;
    private final long revision;
    private final long seen;

    /** Makes one; also for a fake of your own. */
    public RolledBackException(String keyId, long revision, long seen) {
        super(Details.of(keyId + " is at revision " + revision + ", but this client has seen revision " + seen
                + ": the store was rolled back"));
        this.keyId = keyId;
        this.revision = revision;
        this.seen = seen;
    }

    /** Returns the name of the record. */
    public String keyId() {
        return keyId;
    }

    /** Returns the revision that the server shows. */
    public long revision() {
        return revision;
    }

    /** Returns the highest revision that this client had proved before. */
    public long seen() {
        return seen;
    }
}
