package io.github.keyvaultgrpc;

import io.grpc.Context;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.function.Supplier;

/**
 * The calls of a {@link KeyVaultClient} as futures, which complete with the result or exceptionally with the
 * {@link KeyVaultException}. Each call in flight takes a thread of the executor; on Java 21 and later an executor of virtual
 * threads makes that cheap.
 *
 * <p>Cancelling a future interrupts its call. A cancelled future says nothing of the outcome: the change may have been
 * done, so read the record to see.
 */
public final class AsyncKeyVault {
    private final KeyVaultClient vault;
    private final Executor executor;

    /** Runs the calls of this client, which may be a fake, on threads of the executor. */
    public AsyncKeyVault(KeyVaultClient vault, Executor executor) {
        this.vault = vault;
        this.executor = executor;
    }

    /** Generates a data key, as {@link KeyVaultClient#generateKey}. */
    public CompletableFuture<DataKey> generateKey(String scope) {
        return run(() -> vault.generateKey(scope));
    }

    /** Wraps a key again, as {@link KeyVaultClient#rewrapKey}. */
    public CompletableFuture<DataKey> rewrapKey(DataKey key) {
        return run(() -> vault.rewrapKey(key));
    }

    /** Unwraps a key, as {@link KeyVaultClient#unwrapKey}. */
    public CompletableFuture<DataKey> unwrapKey(DataKey key) {
        return run(() -> vault.unwrapKey(key));
    }

    /** Stores a new record, as {@link KeyVaultClient#create(String, byte[], DataKey)}. */
    public CompletableFuture<Written> create(String keyId, byte[] plaintext, DataKey key) {
        byte[] data = plaintext.clone();
        return run(() -> vault.create(keyId, data, key));
    }

    /** Stores a new record, as {@link KeyVaultClient#create(String, byte[], DataKey, long)}. */
    public CompletableFuture<Written> create(String keyId, byte[] plaintext, DataKey key, long revision) {
        byte[] data = plaintext.clone();
        return run(() -> vault.create(keyId, data, key, revision));
    }

    /** Replaces the record, as {@link KeyVaultClient#update(String, byte[], DataKey)}. */
    public CompletableFuture<Written> update(String keyId, byte[] plaintext, DataKey key) {
        byte[] data = plaintext.clone();
        return run(() -> vault.update(keyId, data, key));
    }

    /** Replaces the record at a revision, as {@link KeyVaultClient#update(String, byte[], DataKey, long)}. */
    public CompletableFuture<Written> update(String keyId, byte[] plaintext, DataKey key, long revision) {
        byte[] data = plaintext.clone();
        return run(() -> vault.update(keyId, data, key, revision));
    }

    /** Deletes the record, as {@link KeyVaultClient#delete(String, DataKey)}. */
    public CompletableFuture<Written> delete(String keyId, DataKey key) {
        return run(() -> vault.delete(keyId, key));
    }

    /** Deletes the record at a revision, as {@link KeyVaultClient#delete(String, DataKey, long)}. */
    public CompletableFuture<Written> delete(String keyId, DataKey key, long revision) {
        return run(() -> vault.delete(keyId, key, revision));
    }

    /** Hands the record to another key, as {@link KeyVaultClient#rotateKey(String, DataKey, DataKey)}. */
    public CompletableFuture<Written> rotateKey(String keyId, DataKey key, DataKey newKey) {
        return run(() -> vault.rotateKey(keyId, key, newKey));
    }

    /** Hands the record over at a revision, as {@link KeyVaultClient#rotateKey(String, DataKey, DataKey, long)}. */
    public CompletableFuture<Written> rotateKey(String keyId, DataKey key, DataKey newKey, long revision) {
        return run(() -> vault.rotateKey(keyId, key, newKey, revision));
    }

    /** Restores an earlier revision, as {@link KeyVaultClient#restore}. */
    public CompletableFuture<Written> restore(String keyId, DataKey key, long revision) {
        return run(() -> vault.restore(keyId, key, revision));
    }

    /** Reads a record, as {@link KeyVaultClient#read(String, DataKey)}. */
    public CompletableFuture<VaultRecord> read(String keyId, DataKey key) {
        return run(() -> vault.read(keyId, key));
    }

    /** Reads an earlier revision, as {@link KeyVaultClient#read(String, DataKey, long)}. */
    public CompletableFuture<VaultRecord> read(String keyId, DataKey key, long revision) {
        return run(() -> vault.read(keyId, key, revision));
    }

    /** Reads a record unless it is known, as {@link KeyVaultClient#readIfChanged}. */
    public CompletableFuture<Optional<VaultRecord>> readIfChanged(String keyId, DataKey key, long known) {
        return run(() -> vault.readIfChanged(keyId, key, known));
    }

    /** Reads many records, as {@link KeyVaultClient#readMany}. */
    public CompletableFuture<Map<String, ReadResult>> readMany(Map<String, DataKey> keys) {
        Map<String, DataKey> copied = Map.copyOf(keys);
        return run(() -> vault.readMany(copied));
    }

    /** Lists all names that begin with a prefix, as {@link KeyVaultClient#list}. */
    public CompletableFuture<List<ListedName>> list(String prefix) {
        return run(() -> vault.list(prefix).toList());
    }

    /** Lists all names of deleted records, as {@link KeyVaultClient#listDeleted}. */
    public CompletableFuture<List<ListedName>> listDeleted(String prefix) {
        return run(() -> vault.listDeleted(prefix).toList());
    }

    /** Returns which revisions can be read, as {@link KeyVaultClient#revisions}. */
    public CompletableFuture<List<Revision>> revisions(String keyId) {
        return run(() -> vault.revisions(keyId));
    }

    /** Returns how the server sees this client, as {@link KeyVaultClient#whoAmI}. */
    public CompletableFuture<Identity> whoAmI() {
        return run(vault::whoAmI);
    }

    private <T> CompletableFuture<T> run(Supplier<T> call) {
        Interrupting<T> future = new Interrupting<>();
        try {
            executor.execute(Context.current().wrap(() -> future.run(call)));
        } catch (KeyVaultException refused) {
            future.completeExceptionally(refused);
        } catch (RejectedExecutionException rejected) {
            future.completeExceptionally(new UnavailableException(
                    Details.of("the executor rejected the call; the request was not sent").because(rejected)));
        }
        return future;
    }

    /** A future whose cancelling interrupts what makes its result. */
    private static final class Interrupting<T> extends CompletableFuture<T> {
        private final Object lock = new Object();
        private Thread running;

        void run(Supplier<T> call) {
            synchronized (lock) {
                if (isDone()) {
                    return;
                }
                running = Thread.currentThread();
            }
            try {
                complete(call.get());
            } catch (Throwable failed) { // for the one who waits
                completeExceptionally(failed);
            } finally {
                synchronized (lock) {
                    running = null;
                    if (isCancelled()) {
                        Thread.interrupted(); // the interrupt was this call's alone
                    }
                }
            }
        }

        @Override
        public boolean cancel(boolean mayInterruptIfRunning) {
            boolean cancelled = super.cancel(mayInterruptIfRunning);
            synchronized (lock) {
                if (cancelled && running != null) {
                    running.interrupt();
                }
            }
            return cancelled;
        }
    }
}
