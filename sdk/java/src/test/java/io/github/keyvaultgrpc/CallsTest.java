package io.github.keyvaultgrpc;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.keyvaultgrpc.kve1.Kve1;
import io.github.keyvaultgrpc.v1.BatchReadRequest;
import io.github.keyvaultgrpc.v1.BatchReadResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.WhoAmIRequest;
import io.github.keyvaultgrpc.v1.WhoAmIResponse;
import io.grpc.Context;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** A client against a server that asks to be left alone for half a minute, or shows the record that the test says. */
class CallsTest {
    private static final DataKey KEY = DataKey.of("acme", "prod/", new byte[] {1}, new byte[DataKey.SIZE]);

    private final Semaphore asked = new Semaphore(0);
    private final ScheduledExecutorService threads = Executors.newScheduledThreadPool(2);
    private volatile long revision = 1;
    private volatile boolean hangs;
    private Server server;
    private KeyVault vault;

    @BeforeEach
    void start() throws IOException {
        InetSocketAddress free = new InetSocketAddress("127.0.0.1", 0);
        server = NettyServerBuilder.forAddress(free, InsecureServerCredentials.create()).addService(new Busy()).build().start();
        vault = KeyVault.builder("127.0.0.1:" + server.getPort()).timeout(Duration.ofMinutes(1)).remembered(0).build();
    }

    @AfterEach
    void stop() {
        vault.close();
        threads.shutdownNow();
        server.shutdownNow();
    }

    private final class Busy extends KeyVaultGrpc.KeyVaultImplBase {
        @Override
        public void whoAmI(WhoAmIRequest request, StreamObserver<WhoAmIResponse> answer) {
            asked.release();
            if (hangs) {
                return;
            }
            ErrorInfo limited = ErrorInfo.newBuilder().setDomain("keyvault").setReason("RATE_LIMITED").build();
            com.google.protobuf.Duration delay = com.google.protobuf.Duration.newBuilder().setSeconds(30).build();
            answer.onError(StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                    .setCode(com.google.rpc.Code.RESOURCE_EXHAUSTED_VALUE)
                    .addDetails(Any.pack(limited))
                    .addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(delay).build()))
                    .build()));
        }

        private ReadResponse record(String name) {
            byte[] envelope = Kve1.seal(KEY.secret(), "acme", name, Kve1.Kind.DATA, revision, new byte[0]);
            return ReadResponse.newBuilder().setRevision(revision).setEnvelope(ByteString.copyFrom(envelope)).build();
        }

        @Override
        public void read(ReadRequest request, StreamObserver<ReadResponse> answer) {
            answer.onNext(record(request.getKeyId()));
            answer.onCompleted();
        }

        @Override
        public void batchRead(BatchReadRequest request, StreamObserver<BatchReadResponse> answer) {
            BatchReadResponse.Builder all = BatchReadResponse.newBuilder();
            request.getItemsList().forEach(item -> all.addResults(
                    BatchReadResponse.Result.newBuilder().setRecord(record(item.getKeyId()))));
            answer.onNext(all.build());
            answer.onCompleted();
        }
    }

    private CompletableFuture<Identity> waiting(Context within) throws InterruptedException {
        CompletableFuture<Identity> call = CompletableFuture.supplyAsync(() -> {
            try {
                return within.call(vault::whoAmI);
            } catch (RuntimeException failed) {
                throw failed;
            } catch (Exception impossible) {
                throw new IllegalStateException(impossible);
            }
        }, threads);
        assertTrue(asked.tryAcquire(20_000, MILLISECONDS));
        Thread.sleep(100); // the answer is on its way, and the wait begins
        return call;
    }

    private static void assertFails(Class<? extends KeyVaultException> kind, CompletableFuture<?> call) {
        call.orTimeout(15_000, MILLISECONDS);
        assertInstanceOf(kind, assertThrows(CompletionException.class, call::join).getCause());
    }

    @Test
    void aCancelledContextEndsAWait() throws InterruptedException {
        Context.CancellableContext within = Context.current().withCancellation();
        CompletableFuture<Identity> call = waiting(within);
        within.cancel(null);
        assertFails(CallCancelledException.class, call);
    }

    @Test
    void closingEndsAWait() throws InterruptedException {
        CompletableFuture<Identity> call = waiting(Context.current());
        vault.close();
        assertFails(ClosedException.class, call);
    }

    @Test
    void theDeadlineOfAContextIsNoCancellation() throws Exception {
        hangs = true;
        Context within = Context.current().withDeadlineAfter(MILLISECONDS.toNanos(300), NANOSECONDS, threads);
        UnavailableException failed =
                assertThrows(UnavailableException.class, () -> within.call(vault::whoAmI));
        assertEquals(UnavailableException.class, failed.getClass(), failed.getMessage());
    }

    @Test
    void aFutureFailsWhereItsCallIsNotTaken() {
        assertFails(UnavailableException.class, vault.async(call -> {
            throw new RejectedExecutionException("full");
        }).whoAmI());
        AsyncKeyVault async = vault.async();
        vault.close();
        assertFails(ClosedException.class, async.whoAmI());
    }

    @Test
    void whatIsBelowTheKnownRevisionIsRolledBack() {
        revision = 2;
        assertThrows(RolledBackException.class, () -> vault.readIfChanged("prod/db", KEY, 3));
        assertEquals(2, vault.readIfChanged("prod/db", KEY, 1).orElseThrow().revision());
    }

    @Test
    void aCacheKeepsWhatItHasOfAStoreThatWasRolledBack() {
        revision = 5;
        try (RecordCache cache = vault.cache(Map.of("prod/db", KEY), RecordCache.Options.defaults())) {
            revision = 4;
            assertThrows(RolledBackException.class, cache::refresh);
            assertEquals(5, cache.get("prod/db").revision());
        }
    }

    @Test
    void aCacheEndsWithItsClient() throws InterruptedException {
        RecordCache.Options often = RecordCache.Options.defaults().refreshedEvery(Duration.ofMillis(20));
        RecordCache cache = vault.cache(Map.of("prod/db", KEY), often);
        vault.close();
        for (int i = 0; cache.isRefreshed() && i < 500; i++) {
            Thread.sleep(20);
        }
        assertFalse(cache.isRefreshed());
    }

    @Test
    void aRefreshThatWaitsForAnotherOneEndsByAnInterrupt() {
        try (RecordCache cache = vault.cache(Map.of("prod/db", KEY), RecordCache.Options.defaults())) {
            Thread.currentThread().interrupt();
            assertThrows(CallCancelledException.class, cache::refresh);
            assertTrue(Thread.interrupted());
        }
    }

    @Test
    void anIntervalThatCannotBeIsRefused() {
        for (Duration one : new Duration[] {Duration.ZERO, Duration.ofSeconds(Long.MAX_VALUE), Duration.ofSeconds(Long.MIN_VALUE)}) {
            RecordCache.Options options = RecordCache.Options.defaults().refreshedEvery(one);
            assertThrows(InvalidRequestException.class, () -> vault.cache(Map.of("prod/db", KEY), options));
        }
        RecordCache.Options silent = RecordCache.Options.defaults().onChange(null);
        assertThrows(NullPointerException.class, () -> vault.cache(Map.of("prod/db", KEY), silent));
    }
}
