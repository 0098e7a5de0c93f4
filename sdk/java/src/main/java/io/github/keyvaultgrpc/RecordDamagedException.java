package io.github.keyvaultgrpc;

/** The stored record does not open under this key: the key is another one's, or the record is damaged. */
public final class RecordDamagedException extends KeyVaultException {
    private static final long serialVersionUID = 1;

    RecordDamagedException(Details details) {
        super(details);
    }
}
