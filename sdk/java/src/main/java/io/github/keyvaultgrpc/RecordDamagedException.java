package io.github.keyvaultgrpc;

/** The stored record does not open under this key: the key is another one's, or the record is damaged. */
public final class RecordDamagedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    /** Makes one for a fake of your own. */
    public RecordDamagedException(String message) {
        this(Details.of(message));
    }

    RecordDamagedException(Details details) {
        super(details);
    }
}
