package io.github.keyvaultgrpc;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * What {@link KeyVault} does, for programs that put a fake of their own in its place.
 *
 * <p>Every method throws {@link KeyVaultException}; its classes say what a program can do. A change whose outcome is not
 * known is an {@link OutcomeUnknownException} and nothing else: read the record to see. If the thread is interrupted, a
 * call ends at once with a {@link CallCancelledException}, or with an OutcomeUnknownException if a change was sent; the
 * interrupt status of the thread is set again.
 */
public interface KeyVaultClient extends AutoCloseable {
    /**
     * Returns this client with another timeout. Both share the connection and all else, and closing one closes both.
     *
     * @param timeout more than 0 and at most a day
     */
    KeyVaultClient withTimeout(Duration timeout);

    /**
     * Generates a data key for a key_id, or for a prefix that ends in "/". For "" the server makes a key_id. Save the key
     * before you use it: it cannot be regenerated.
     */
    DataKey generateKey(String scope);

    /**
     * Wraps the data key under the server's current master key, and returns it so. What a wrapped key holds cannot be
     * checked: keep the old one until the new one has worked.
     */
    DataKey rewrapKey(DataKey key);

    /**
     * Returns the key with its 32 bytes.
     *
     * @throws DeniedException unless the server's settings allow it for the key's scope
     */
    DataKey unwrapKey(DataKey key);

    /**
     * Stores a new record of at most 380,000 bytes.
     *
     * <p>If the record was deleted, it takes the same data key again, and the revisions go on: its tombstone has to open
     * under the key. A purged name has nothing that opens: it is a {@link ConflictException} that is vacant.
     *
     * @throws AlreadyExistsException if there is a live one
     */
    Written create(String keyId, byte[] plaintext, DataKey key);

    /**
     * Stores a new record after the last revision of a deleted or purged name, as its operator knows it; 0 for a new name.
     *
     * @throws ConflictException if that is not its last revision
     */
    Written create(String keyId, byte[] plaintext, DataKey key, long revision);

    /** Replaces the record; the last writer wins. */
    Written update(String keyId, byte[] plaintext, DataKey key);

    /**
     * Replaces the record if it is at this revision.
     *
     * @throws ConflictException if it is at another one
     */
    Written update(String keyId, byte[] plaintext, DataKey key, long revision);

    /** Deletes the record; its name stays reserved for the owner of the key. */
    Written delete(String keyId, DataKey key);

    /**
     * Deletes the record if it is at this revision.
     *
     * @throws ConflictException if it is at another one
     */
    Written delete(String keyId, DataKey key, long revision);

    /**
     * Hands the record from a key to another one, which must be saved before. If the new key opens the record already, an
     * earlier attempt rotated it: the result is then replayed.
     */
    Written rotateKey(String keyId, DataKey key, DataKey newKey);

    /**
     * Hands the record to another key if it is at this revision.
     *
     * @throws ConflictException if it is at another one
     */
    Written rotateKey(String keyId, DataKey key, DataKey newKey, long revision);

    /**
     * Stores the data of an earlier revision as the next one; the last writer wins.
     *
     * @throws RevisionNotFoundException if the server does not keep that revision
     */
    Written restore(String keyId, DataKey key, long revision);

    /**
     * Reads and opens a record.
     *
     * @throws NotFoundException if there is none
     * @throws RolledBackException if the server shows an older revision than this client has seen
     * @throws RecordDamagedException if it does not open, which is also what a record of another key is
     */
    VaultRecord read(String keyId, DataKey key);

    /**
     * Reads and opens an earlier revision, which {@link #revisions} lists.
     *
     * @throws RevisionNotFoundException if the server does not keep it
     */
    VaultRecord read(String keyId, DataKey key, long revision);

    /**
     * Reads as {@link #read} does, or returns nothing if the record is still at the known revision.
     *
     * @throws RolledBackException if the server shows an older revision than this client has seen, or than the known one
     */
    Optional<VaultRecord> readIfChanged(String keyId, DataKey key, long known);

    /**
     * Reads and opens many records, each under its key, in few calls. The map has for each name what {@link #read} would
     * have returned or thrown; together they are no snapshot.
     */
    Map<String, ReadResult> readMany(Map<String, DataKey> keys);

    /**
     * Lists the names of the records that begin with a prefix, in the order of their bytes. It asks for page after page as
     * the stream goes on, each within the timeout. It is no snapshot, and nothing proves that it is complete. The policy has
     * to allow List for the whole prefix.
     */
    Stream<ListedName> list(String prefix);

    /** Lists the names of deleted records, as {@link #list}. */
    Stream<ListedName> listDeleted(String prefix);

    /**
     * Returns which revisions of a record can be read and restored, newest first: the first one is current. It needs no key,
     * so nothing proves what the server says; a read does.
     */
    List<Revision> revisions(String keyId);

    /** Returns how the server sees this client, for people who debug access. */
    Identity whoAmI();

    /** Closes the connection, which ends calls in flight. */
    @Override
    void close();
}
