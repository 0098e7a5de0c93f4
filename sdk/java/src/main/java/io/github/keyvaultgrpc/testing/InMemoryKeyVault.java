package io.github.keyvaultgrpc.testing;

import io.github.keyvaultgrpc.AlreadyExistsException;
import io.github.keyvaultgrpc.ConflictException;
import io.github.keyvaultgrpc.DataKey;
import io.github.keyvaultgrpc.Identity;
import io.github.keyvaultgrpc.InvalidRequestException;
import io.github.keyvaultgrpc.KeyVaultClient;
import io.github.keyvaultgrpc.KeyVaultException;
import io.github.keyvaultgrpc.ListedName;
import io.github.keyvaultgrpc.NotAuthorizedException;
import io.github.keyvaultgrpc.NotFoundException;
import io.github.keyvaultgrpc.ReadResult;
import io.github.keyvaultgrpc.RecordDamagedException;
import io.github.keyvaultgrpc.Revision;
import io.github.keyvaultgrpc.RevisionNotFoundException;
import io.github.keyvaultgrpc.RolledBackException;
import io.github.keyvaultgrpc.VaultRecord;
import io.github.keyvaultgrpc.Written;
import io.github.keyvaultgrpc.kve1.Kve1;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * A client whose server is a map in this process. It keeps the rule of the real one: only the key of a record reads and
 * changes it, and the revisions follow each other. It has no policy, no quotas, no network and no threads of its own;
 * {@link #failNext} makes it fail. It is safe for all threads.
 *
 * <pre>{@code
 * InMemoryKeyVault vault = new InMemoryKeyVault();
 * vault.failNext(new OutcomeUnknownException("played"));
 * }</pre>
 */
public final class InMemoryKeyVault implements KeyVaultClient {
    /** The tenant of every key. */
    public static final String TENANT = "test";

    private static final SecureRandom RANDOM = new SecureRandom();

    private final Map<String, Stored> records = new TreeMap<>();
    private final Deque<KeyVaultException> failures = new ArrayDeque<>();

    /** Lets the next calls fail with these exceptions, in turn. */
    public synchronized void failNext(KeyVaultException... next) {
        failures.addAll(List.of(next));
    }

    private void begin() {
        KeyVaultException next = failures.poll();
        if (next != null) {
            throw next;
        }
    }

    private static void check(String keyId, DataKey key) {
        String scope = key.scope();
        if (!keyId.matches("[A-Za-z0-9._~:@/+=-]{1,255}") || keyId.endsWith("/")) {
            throw new InvalidRequestException("invalid key_id");
        }
        if (!scope.equals(keyId) && !(scope.endsWith("/") && keyId.startsWith(scope))) {
            throw new InvalidRequestException("the key's scope " + scope + " does not cover " + keyId);
        }
        if (!key.hasSecret()) {
            throw new InvalidRequestException("this key has no plaintext_key: unwrap it first");
        }
    }

    /** Returns the live record of a name, which has to be of this key. */
    private Stored live(String keyId, DataKey key) {
        check(keyId, key);
        begin();
        Stored found = records.get(keyId);
        if (found == null || found.isDeleted()) {
            throw new NotFoundException("NOT_FOUND RECORD_NOT_FOUND: no record of " + keyId);
        }
        if (!found.owner().hasSecretOf(key)) {
            throw new RecordDamagedException(
                    keyId + " does not open under this key: the record is another key's, or damaged");
        }
        return found;
    }

    /** Returns the live record of a name that a change is for, which the server refuses to another key. */
    private Stored at(String keyId, DataKey key, long revision) {
        try {
            return checked(keyId, live(keyId, key), revision);
        } catch (RecordDamagedException another) {
            throw new NotAuthorizedException("PERMISSION_DENIED NOT_AUTHORIZED: the key is not the record's");
        }
    }

    /** Returns a record if it is at this revision; 0 for any. */
    private static Stored checked(String keyId, Stored found, long revision) {
        if (revision != 0 && found.revision() != revision) {
            throw new ConflictException(
                    "ABORTED STALE_REVISION: " + keyId + " is at revision " + found.revision(), found.revision(), false);
        }
        return found;
    }

    private static byte[] checked(byte[] plaintext) {
        if (plaintext.length > Kve1.MAX_PLAINTEXT) {
            throw new InvalidRequestException("the plaintext is " + plaintext.length + " bytes: a record holds at most "
                    + Kve1.MAX_PLAINTEXT);
        }
        return plaintext.clone();
    }

    private Written put(String keyId, Stored now) {
        records.put(keyId, now);
        return new Written(now.revision(), now.created(), now.updated(), false);
    }

    /** Returns this client: its calls take no time. */
    @Override
    public InMemoryKeyVault withTimeout(Duration timeout) {
        return this;
    }

    @Override
    public synchronized DataKey generateKey(String scope) {
        begin();
        byte[] secret = new byte[DataKey.SIZE];
        byte[] wrapped = new byte[DataKey.SIZE];
        RANDOM.nextBytes(secret);
        RANDOM.nextBytes(wrapped);
        String name = scope.isEmpty() ? HexFormat.of().formatHex(wrapped, 0, 16) : scope;
        return DataKey.of(TENANT, name, wrapped, secret);
    }

    @Override
    public synchronized DataKey rewrapKey(DataKey key) {
        begin();
        return key;
    }

    @Override
    public synchronized DataKey unwrapKey(DataKey key) {
        begin();
        if (!key.hasSecret()) {
            throw new InvalidRequestException("this vault in memory keeps no keys: give one that has its secret");
        }
        return key;
    }

    @Override
    public synchronized Written create(String keyId, byte[] plaintext, DataKey key) {
        check(keyId, key);
        Stored found = records.get(keyId);
        return create(keyId, plaintext, key, found == null ? 0 : found.revision());
    }

    @Override
    public synchronized Written create(String keyId, byte[] plaintext, DataKey key, long revision) {
        check(keyId, key);
        byte[] data = checked(plaintext);
        begin();
        Stored found = records.get(keyId);
        long last = found == null ? 0 : found.revision();
        if (found != null && !found.isDeleted()) {
            throw new AlreadyExistsException("ALREADY_EXISTS RECORD_EXISTS: a record of " + keyId + " exists", last);
        }
        if (last != revision) {
            throw new ConflictException("ABORTED STALE_REVISION: " + keyId + " is at revision " + last, last, false);
        }
        if (found != null && !found.owner().hasSecretOf(key)) {
            throw new RecordDamagedException(
                    keyId + " does not open under this key: the record is another key's, or damaged");
        }
        return put(keyId, Stored.first(key, data, last + 1));
    }

    @Override
    public Written update(String keyId, byte[] plaintext, DataKey key) {
        return update(keyId, plaintext, key, 0);
    }

    @Override
    public synchronized Written update(String keyId, byte[] plaintext, DataKey key, long revision) {
        byte[] data = checked(plaintext);
        return put(keyId, at(keyId, key, revision).updated(data));
    }

    @Override
    public Written delete(String keyId, DataKey key) {
        return delete(keyId, key, 0);
    }

    @Override
    public synchronized Written delete(String keyId, DataKey key, long revision) {
        return put(keyId, at(keyId, key, revision).deleted());
    }

    @Override
    public Written rotateKey(String keyId, DataKey key, DataKey newKey) {
        return rotateKey(keyId, key, newKey, 0);
    }

    @Override
    public synchronized Written rotateKey(String keyId, DataKey key, DataKey newKey, long revision) {
        check(keyId, newKey);
        Stored found = records.get(keyId);
        if (found != null && !found.isDeleted() && found.owner().hasSecretOf(newKey)) {
            begin();
            return new Written(found.revision(), found.created(), found.updated(), true);
        }
        Stored own = checked(keyId, live(keyId, key), revision);
        return put(keyId, own.rotated(newKey));
    }

    @Override
    public synchronized Written restore(String keyId, DataKey key, long revision) {
        byte[] earlier = read(keyId, key, revision).plaintext();
        return update(keyId, earlier, key);
    }

    @Override
    public synchronized VaultRecord read(String keyId, DataKey key) {
        Stored found = live(keyId, key);
        return found.record(keyId, found.revision()).orElseThrow();
    }

    @Override
    public synchronized VaultRecord read(String keyId, DataKey key, long revision) {
        Stored found = live(keyId, key);
        return found.record(keyId, revision).orElseThrow(() -> new RevisionNotFoundException(
                "NOT_FOUND REVISION_NOT_FOUND: no revision " + revision + " of " + keyId, found.revision()));
    }

    @Override
    public Optional<VaultRecord> readIfChanged(String keyId, DataKey key, long known) {
        VaultRecord found = read(keyId, key);
        if (found.revision() < known) {
            throw new RolledBackException(keyId, found.revision(), known);
        }
        return found.revision() == known ? Optional.empty() : Optional.of(found);
    }

    @Override
    public Map<String, ReadResult> readMany(Map<String, DataKey> keys) {
        Map<String, ReadResult> results = new TreeMap<>();
        keys.forEach((name, key) -> {
            try {
                results.put(name, ReadResult.of(read(name, key)));
            } catch (KeyVaultException failed) {
                results.put(name, ReadResult.of(failed));
            }
        });
        return results;
    }

    @Override
    public Stream<ListedName> list(String prefix) {
        return listed(prefix, false);
    }

    @Override
    public Stream<ListedName> listDeleted(String prefix) {
        return listed(prefix, true);
    }

    private synchronized Stream<ListedName> listed(String prefix, boolean deleted) {
        begin();
        return records.entrySet().stream()
                .filter(one -> one.getKey().startsWith(prefix) && one.getValue().isDeleted() == deleted)
                .map(one -> new ListedName(one.getKey(), one.getValue().created()))
                .toList()
                .stream();
    }

    @Override
    public synchronized List<Revision> revisions(String keyId) {
        begin();
        Stored found = records.get(keyId);
        if (found == null || found.isDeleted()) {
            throw new NotFoundException("NOT_FOUND RECORD_NOT_FOUND: no record of " + keyId);
        }
        return found.revisions();
    }

    @Override
    public synchronized Identity whoAmI() {
        begin();
        Identity.Rule all = new Identity.Rule(List.of("*"), List.of("*"));
        return new Identity("anonymous", TENANT, List.of(all), "test");
    }

    /** Does nothing: there is no connection. */
    @Override
    public void close() {}
}
