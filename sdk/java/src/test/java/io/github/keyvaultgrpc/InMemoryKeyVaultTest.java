package io.github.keyvaultgrpc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.github.keyvaultgrpc.testing.InMemoryKeyVault;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ForkJoinPool;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The vault in memory lives the life of the real one. */
class InMemoryKeyVaultTest {
    private final InMemoryKeyVault vault = new InMemoryKeyVault();

    @Test
    void itDoesWhatTheRealOneDoes(@TempDir Path folder) {
        HonestServerTest.live(vault, folder);
    }

    @Test
    void itFailsOnRequestInTurn() {
        DataKey key = vault.generateKey("a/");
        vault.failNext(new OutcomeUnknownException("played"), new BusyException("played", Duration.ofSeconds(1)));
        assertThrows(OutcomeUnknownException.class, () -> vault.create("a/b", new byte[0], key));
        assertEquals(Duration.ofSeconds(1), assertThrows(BusyException.class, () -> vault.list("")).retryAfter());
        assertEquals(1, vault.create("a/b", new byte[0], key).revision());
    }

    @Test
    void itHasFuturesToo() {
        AsyncKeyVault async = new AsyncKeyVault(vault, ForkJoinPool.commonPool());
        DataKey key = async.generateKey("a/").join();
        var failed = assertThrows(CompletionException.class, async.read("a/b", key)::join);
        assertInstanceOf(NotFoundException.class, failed.getCause());
    }
}
