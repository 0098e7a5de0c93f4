package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.quote;

import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BiConsumer;

/**
 * Records in memory, refreshed in the background: by one BatchRead for a hundred, which sends the data of those that
 * changed. While the server is away, or answers with an error other than that a record does not exist, it goes on with
 * what it has. It is safe for all threads.
 */
public final class RecordCache implements AutoCloseable {
    private static final System.Logger LOG = System.getLogger(RecordCache.class.getPackageName());

    /**
     * How a cache is refreshed.
     *
     * @param interval for how long a record may be behind the server; a tenth of it is random
     * @param onChange is called after each refresh that changed a record, once for each: with its new record, or with the
     *     failure if it was deleted. It is called by one thread, which waits for it.
     */
    public record Options(Duration interval, BiConsumer<String, ReadResult> onChange) {

        /** Refreshes every minute, and reports no change. */
        public static Options defaults() {
            return new Options(Duration.ofMinutes(1), (name, now) -> {});
        }

        /** Returns these options with another interval. */
        public Options refreshedEvery(Duration every) {
            return new Options(every, onChange);
        }

        /** Returns these options with another listener. */
        public Options onChange(BiConsumer<String, ReadResult> listener) {
            return new Options(interval, listener);
        }
    }

    private static final Duration SHORTEST = Duration.ofMillis(1);
    private static final Duration LONGEST = Duration.ofDays(365);

    private final KeyVault vault;
    private final Map<String, DataKey> keys;
    private final Options options;
    private final ReentrantLock refreshing = new ReentrantLock();
    private final Map<String, ReadResult> results = new HashMap<>(); // guarded by itself
    private final Thread thread;

    RecordCache(KeyVault vault, Map<String, DataKey> keys, Options options) {
        Duration interval = options.interval();
        if (interval.compareTo(SHORTEST) < 0 || interval.compareTo(LONGEST) > 0) {
            throw invalid("invalid interval " + interval + ": must be a millisecond to 365 days");
        }
        Objects.requireNonNull(options.onChange(), "onChange");
        this.vault = vault;
        this.keys = Map.copyOf(keys);
        this.options = options;
        Map<String, ReadResult> first = vault.readMany(this.keys);
        throwFirstFailure(first);
        results.putAll(first);
        this.thread = new Thread(this::run, "keyvault-cache");
        thread.setDaemon(true);
        thread.start();
    }

    /**
     * Returns a record as it was when it was last refreshed.
     *
     * @throws NotFoundException if it was deleted since
     * @throws InvalidRequestException if it is not a name of this cache
     */
    public VaultRecord get(String keyId) {
        ReadResult found;
        synchronized (results) {
            found = results.get(keyId);
        }
        if (found == null) {
            throw invalid(quote(keyId) + " is not among the names of this cache");
        }
        return found.get();
    }

    /**
     * Refreshes all records now.
     *
     * @throws KeyVaultException why a record keeps its earlier content; those of others are suppressed exceptions of it
     */
    public void refresh() {
        try {
            refreshing.lockInterruptibly();
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
            throw new CallCancelledException(Details.of("the call was cancelled").because(interrupt));
        }
        try {
            Map<String, Long> known = new HashMap<>();
            synchronized (results) {
                results.forEach((name, had) -> had.record().ifPresent(record -> known.put(name, record.revision())));
            }
            Map<String, ReadResult> found = vault.readMany(keys, known);
            Map<String, ReadResult> kept = new HashMap<>();
            found.forEach((name, now) -> {
                if (take(name, now)) {
                    options.onChange().accept(name, now);
                } else if (!isGone(now)) { // which is known already
                    kept.put(name, now);
                }
            });
            throwFirstFailure(kept);
        } finally {
            refreshing.unlock();
        }
    }

    /** Keeps what a refresh found, and returns whether it is a change. */
    private boolean take(String name, ReadResult now) {
        if (now.record().isEmpty() && !isGone(now)) { // unchanged, or an error that says nothing of the record
            return false;
        }
        synchronized (results) {
            if (isGone(now) && isGone(results.get(name))) {
                return false;
            }
            results.put(name, now);
        }
        return true;
    }

    private static boolean isGone(ReadResult result) {
        return result.failure().orElse(null) instanceof NotFoundException;
    }

    private static void throwFirstFailure(Map<String, ReadResult> found) {
        KeyVaultException first = null;
        for (ReadResult one : found.values()) {
            KeyVaultException failure = one.failure().orElse(null);
            if (first == null) {
                first = failure;
            } else if (failure != null) {
                first.addSuppressed(failure);
            }
        }
        if (first != null) {
            throw first;
        }
    }

    private void run() {
        long interval = options.interval().toMillis();
        try {
            while (true) {
                Thread.sleep(interval - ThreadLocalRandom.current().nextLong(Math.max(1, interval / 10)));
                try {
                    refresh();
                } catch (ClosedException closed) {
                    return;
                } catch (RuntimeException failed) {
                    if (Thread.interrupted()) { // by close
                        return;
                    }
                    LOG.log(Level.WARNING, "refresh failed; keeping the earlier records: {0}", failed.getMessage());
                }
            }
        } catch (InterruptedException closing) {
            // It was closed.
        }
    }

    /** Returns whether the records are refreshed in the background. */
    boolean isRefreshed() {
        return thread.isAlive();
    }

    /** Stops the refreshing, as closing the client does. */
    @Override
    public void close() {
        thread.interrupt();
    }
}
