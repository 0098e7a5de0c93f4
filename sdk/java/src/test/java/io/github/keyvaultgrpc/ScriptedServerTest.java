package io.github.keyvaultgrpc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.keyvaultgrpc.v1.ListResponse;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import io.grpc.Context;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

/** What a lying server cannot do, and how a call ends that its caller gave up. */
class ScriptedServerTest {
    private static final DataKey KEY = DataKey.of("acme", "prod/", new byte[] {1}, new byte[32]);
    private static final ListRevisionsResponse NONE = ListRevisionsResponse.getDefaultInstance();

    private static ListResponse page(String next, String... names) {
        ListResponse.Builder page = ListResponse.newBuilder().setNextPageToken(next);
        for (String name : names) {
            page.addNames(ListResponse.Name.newBuilder().setKeyId(name));
        }
        return page.build();
    }

    private static void assertNoListing(String said, ListResponse... pages) throws IOException {
        try (ScriptedServer server = new ScriptedServer(NONE, pages);
                KeyVault vault = KeyVault.builder(server.address()).build()) {
            var failed = assertThrows(ServerFailureException.class, () -> vault.list("a/").toList());
            assertTrue(failed.getMessage().contains(said), failed::getMessage);
        }
    }

    @Test
    void aListingThatLiesIsRefused() throws IOException {
        assertNoListing("out of order", page("", "a/2", "a/1"));
        assertNoListing("out of order", page("t", "a/2"), page("", "a/2"));
        assertNoListing("among names that begin with", page("", "b/1"));
        assertNoListing("among names that begin with \"a/\"", page("", "a/\u001b[2J"));
        assertNoListing("does not go on", page("t", "a/1"), page("t"));
        String[] tooMany = IntStream.range(1000, 2001).mapToObj(n -> "a/" + n).toArray(String[]::new);
        assertNoListing("1001 names", page("", tooMany));
    }

    @Test
    void pagesWithoutNamesGoOn() throws IOException {
        try (ScriptedServer server = new ScriptedServer(NONE, page("1"), page("2", "a/1"), page("3"), page("", "a/2"));
                KeyVault vault = KeyVault.builder(server.address()).build()) {
            assertEquals(List.of("a/1", "a/2"), vault.list("a/").map(ListedName::keyId).toList());
        }
    }

    @Test
    void aHistoryThatCannotBeIsRefused() throws IOException {
        for (long[] revisions : new long[][] {{}, {0}, {1, 2}, {2, 2}}) {
            ListRevisionsResponse.Builder said = ListRevisionsResponse.newBuilder();
            for (long one : revisions) {
                said.addRevisions(ListRevisionsResponse.Revision.newBuilder().setRevision(one).setSize(100));
            }
            try (ScriptedServer server = new ScriptedServer(said.build(), page(""));
                    KeyVault vault = KeyVault.builder(server.address()).build()) {
                assertThrows(ServerFailureException.class, () -> vault.revisions("a/b"));
            }
        }
    }

    @Test
    void anInterruptBeforeTheCallSendsNothing() throws IOException {
        try (ScriptedServer server = new ScriptedServer(NONE, page(""));
                KeyVault vault = KeyVault.builder(server.address()).build()) {
            Thread.currentThread().interrupt();
            assertThrows(CallCancelledException.class, () -> vault.update("prod/a", new byte[0], KEY, 1));
            assertTrue(Thread.interrupted());
            assertEquals(1, server.got.getCount());
        }
    }

    @Test
    void aCancelledContextEndsACallAndHidesNoOutcome() throws Exception {
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        try (ScriptedServer server = new ScriptedServer(NONE, page(""));
                KeyVault vault = KeyVault.builder(server.address()).timeout(Duration.ofMinutes(10)).build()) {
            for (Runnable call : List.<Runnable>of(
                    () -> assertThrows(CallCancelledException.class, () -> vault.read("prod/a", KEY)),
                    () -> assertInstanceOf(
                            CallCancelledException.class,
                            assertThrows(
                                            OutcomeUnknownException.class,
                                            () -> vault.update("prod/a", new byte[0], KEY, 1))
                                    .getCause()))) {
                Context.CancellableContext context = Context.current().withCancellation();
                timer.schedule(() -> context.cancel(null), 1, TimeUnit.SECONDS);
                context.run(call);
            }
        } finally {
            timer.shutdownNow();
        }
    }

    @Test
    void aCancelledFutureInterruptsItsCall() throws Exception {
        try (ScriptedServer server = new ScriptedServer(NONE, page(""));
                KeyVault vault = KeyVault.builder(server.address()).timeout(Duration.ofMinutes(10)).build()) {
            CompletableFuture<Thread> ran = new CompletableFuture<>();
            CompletableFuture<VaultRecord> read = vault.async(work -> new Thread(() -> {
                        work.run();
                        assertFalse(Thread.interrupted());
                        ran.complete(Thread.currentThread());
                    })
                    .start()).read("prod/a", KEY);
            assertTrue(server.got.await(60, TimeUnit.SECONDS));
            assertTrue(read.cancel(true));
            assertThrows(CancellationException.class, read::join);
            ran.get(60, TimeUnit.SECONDS);
        }
    }
}
