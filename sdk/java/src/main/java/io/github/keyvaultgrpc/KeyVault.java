package io.github.keyvaultgrpc;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * A client of one server, safe for all threads. Make one for the life of a program, and close it.
 *
 * <p>Data is sealed and opened in this process. What a server answers is checked before it is believed: a record opens
 * under its key, at the revision that was asked for, and not below one that was proved before. A call ends after its
 * timeout, or at the deadline of the caller's gRPC context; until then it is retried with the same bytes where that is
 * safe. No key, token or plaintext is in an exception, a log line or a {@code toString} of this library; gRPC's logger
 * {@code io.grpc.netty} prints them at the level FINE.
 */
public final class KeyVault implements KeyVaultClient {
    private final Duration timeout;
    private final ExecutorService threads;
    private final Calls calls;
    private final SeenRevisions seen;
    private final KeyCalls keys;
    private final Reads reads;
    private final Writes writes;

    KeyVault(KeyVaultBuilder chosen) {
        this.timeout = chosen.timeout();
        TokenSource tokens = chosen.tokens();
        Connector connector = new Connector(chosen.address(), chosen.tls());
        this.threads = Executors.newCachedThreadPool(KeyVault::daemon);
        this.calls = new Calls(connector, tokens, threads);
        this.seen = new SeenRevisions(chosen.remembered());
        this.keys = new KeyCalls(calls);
        this.reads = new Reads(calls, seen);
        this.writes = new Writes(calls, seen, reads);
    }

    private KeyVault(KeyVault shared, Duration timeout) {
        this.timeout = timeout;
        this.threads = shared.threads;
        this.calls = shared.calls;
        this.seen = shared.seen;
        this.keys = shared.keys;
        this.reads = shared.reads;
        this.writes = shared.writes;
    }

    private static Thread daemon(Runnable work) {
        Thread thread = new Thread(work, "keyvault");
        thread.setDaemon(true);
        return thread;
    }

    /**
     * Begins a client of the server at host:port, dns:///host:port or unix:/path. A non-loopback address needs
     * {@link KeyVaultBuilder#tls} or {@link KeyVaultBuilder#insecure}.
     */
    public static KeyVaultBuilder builder(String address) {
        return new KeyVaultBuilder(address);
    }

    /**
     * Makes a client by the variables that the command {@code keyvault} has: KEYVAULT_ADDRESS (127.0.0.1:50051 if it is not
     * set), KEYVAULT_TIMEOUT in seconds, KEYVAULT_TLS, KEYVAULT_CA, KEYVAULT_CERTIFICATE, KEYVAULT_PRIVATE_KEY,
     * KEYVAULT_SERVER_NAME, KEYVAULT_TOKEN_FILE and KEYVAULT_INSECURE. One that is set and empty is refused.
     *
     * @throws InvalidRequestException for settings that cannot be, or files that cannot be read
     */
    public static KeyVault fromEnvironment(Map<String, String> variables) {
        return new Environment(variables).connect();
    }

    @Override
    public KeyVault withTimeout(Duration longest) {
        KeyVaultBuilder.checkTimeout(longest);
        return new KeyVault(this, longest);
    }

    /** Returns how long a call takes at most. */
    public Duration timeout() {
        return timeout;
    }

    /** Returns the same calls as futures, which run on threads of this client. */
    public AsyncKeyVault async() {
        return async(this::execute);
    }

    private void execute(Runnable call) {
        try {
            threads.execute(call);
        } catch (RejectedExecutionException closed) {
            throw new ClosedException(Details.of("this client is closed; the request was not sent").because(closed));
        }
    }

    /** Returns the same calls as futures. Each call in flight takes a thread of the executor. */
    public AsyncKeyVault async(Executor executor) {
        return new AsyncKeyVault(this, executor);
    }

    /**
     * Reads these records, each under its key, and keeps them in memory until the cache is closed.
     *
     * @throws KeyVaultException unless all can be read
     */
    public RecordCache cache(Map<String, DataKey> keysByName, RecordCache.Options options) {
        return new RecordCache(this, keysByName, options);
    }

    private TimeLimit limit() {
        return TimeLimit.after(timeout);
    }

    @Override
    public DataKey generateKey(String scope) {
        return keys.generateKey(scope, limit());
    }

    @Override
    public DataKey rewrapKey(DataKey key) {
        return keys.rewrapKey(key, limit());
    }

    @Override
    public DataKey unwrapKey(DataKey key) {
        return keys.unwrapKey(key, limit());
    }

    @Override
    public Written create(String keyId, byte[] plaintext, DataKey key) {
        return writes.create(keyId, plaintext, key, limit());
    }

    @Override
    public Written create(String keyId, byte[] plaintext, DataKey key, long revision) {
        return writes.createAt(keyId, plaintext, key, Names.after(revision, 0), limit());
    }

    @Override
    public Written update(String keyId, byte[] plaintext, DataKey key) {
        return writes.update(keyId, plaintext, key, limit());
    }

    @Override
    public Written update(String keyId, byte[] plaintext, DataKey key, long revision) {
        return writes.updateAt(keyId, plaintext, key, Names.after(revision, 1), limit());
    }

    @Override
    public Written delete(String keyId, DataKey key) {
        return writes.delete(keyId, key, limit());
    }

    @Override
    public Written delete(String keyId, DataKey key, long revision) {
        return writes.deleteAt(keyId, key, Names.after(revision, 1), limit());
    }

    @Override
    public Written rotateKey(String keyId, DataKey key, DataKey newKey) {
        return new Rotation(calls, reads, writes, keyId, key, newKey, limit()).run(0);
    }

    @Override
    public Written rotateKey(String keyId, DataKey key, DataKey newKey, long revision) {
        return new Rotation(calls, reads, writes, keyId, key, newKey, limit()).run(Names.after(revision, 1) - 1);
    }

    @Override
    public Written restore(String keyId, DataKey key, long revision) {
        return writes.restore(keyId, key, revision, limit());
    }

    @Override
    public VaultRecord read(String keyId, DataKey key) {
        return reads.read(keyId, key, limit());
    }

    @Override
    public VaultRecord read(String keyId, DataKey key, long revision) {
        return reads.readEarlier(keyId, key, revision, limit());
    }

    @Override
    public Optional<VaultRecord> readIfChanged(String keyId, DataKey key, long known) {
        return reads.readIfChanged(keyId, key, known, limit());
    }

    @Override
    public Map<String, ReadResult> readMany(Map<String, DataKey> keysByName) {
        return readMany(keysByName, Map.of());
    }

    /** Reads many records; those that are at the known revision have no record in their result. */
    Map<String, ReadResult> readMany(Map<String, DataKey> keysByName, Map<String, Long> known) {
        return new BatchReads(calls, seen, reads, keysByName, known).run(limit());
    }

    @Override
    public Stream<ListedName> list(String prefix) {
        return listed(prefix, false);
    }

    @Override
    public Stream<ListedName> listDeleted(String prefix) {
        return listed(prefix, true);
    }

    private Stream<ListedName> listed(String prefix, boolean deleted) {
        Listing names = new Listing(calls, timeout, prefix, deleted);
        int about = Spliterator.ORDERED | Spliterator.DISTINCT | Spliterator.NONNULL;
        return StreamSupport.stream(Spliterators.spliteratorUnknownSize(names, about), false);
    }

    @Override
    public List<Revision> revisions(String keyId) {
        return keys.revisions(keyId, limit());
    }

    @Override
    public Identity whoAmI() {
        return keys.whoAmI(limit());
    }

    @Override
    public void close() {
        calls.close();
        threads.shutdown();
    }
}
