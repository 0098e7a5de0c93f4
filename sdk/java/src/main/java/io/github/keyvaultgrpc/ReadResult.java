package io.github.keyvaultgrpc;

import java.util.Optional;

/** A record, or why there is none. */
public final class ReadResult {
    private final VaultRecord record;
    private final KeyVaultException failure;

    private ReadResult(VaultRecord record, KeyVaultException failure) {
        this.record = record;
        this.failure = failure;
    }

    /** Returns the result of a read that found this record; null if the caller has it already. */
    public static ReadResult of(VaultRecord record) {
        return new ReadResult(record, null);
    }

    /** Returns the result of a read that failed. */
    public static ReadResult of(KeyVaultException failure) {
        return new ReadResult(null, failure);
    }

    /**
     * Returns the record.
     *
     * @throws KeyVaultException if there is none
     */
    public VaultRecord get() {
        if (failure != null) {
            throw failure;
        }
        return record;
    }

    /** Returns the record, empty if there is none. */
    public Optional<VaultRecord> record() {
        return Optional.ofNullable(record);
    }

    /** Returns why there is no record, empty if there is one. */
    public Optional<KeyVaultException> failure() {
        return Optional.ofNullable(failure);
    }

    /** Returns the record's name and revision, or the failure. */
    @Override
    public String toString() {
        return failure == null ? String.valueOf(record) : failure.toString();
    }
}
