package io.github.keyvaultgrpc;

import java.time.Instant;

/** A record as it was read and opened. Its data is printed by nothing: {@link #toString} shows name and revision. */
public final class VaultRecord {
    private final String keyId;
    private final transient byte[] plaintext;
    private final long revision;
    private final Instant createTime;
    private final Instant updateTime;

    /** Makes a record for a fake of your own; it copies the data. */
    public VaultRecord(String keyId, byte[] plaintext, long revision, Instant createTime, Instant updateTime) {
        this.keyId = keyId;
        this.plaintext = plaintext.clone();
        this.revision = revision;
        this.createTime = createTime;
        this.updateTime = updateTime;
    }

    /** Returns the name of the record. */
    public String keyId() {
        return keyId;
    }

    /** Returns a copy of the record's data, at most 380,000 bytes. */
    public byte[] plaintext() {
        return plaintext.clone();
    }

    /** Returns the revision, which the envelope proves. */
    public long revision() {
        return revision;
    }

    /** Returns when the record was created, by the server's clock; informational. */
    public Instant createTime() {
        return createTime;
    }

    /** Returns when this revision was written, by the server's clock; informational. */
    public Instant updateTime() {
        return updateTime;
    }

    /** Returns name and revision. */
    @Override
    public String toString() {
        return "[record " + keyId + " at revision " + revision + "]";
    }
}
