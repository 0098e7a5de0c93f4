package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The library against a real server, which a case of the player has that scripts nothing. */
class HonestServerTest {
    private static final String CASE = "named-revision-is-current";
    private static final byte[] ONE = "one".getBytes(UTF_8);
    private static final byte[] TWO = "two".getBytes(UTF_8);
    private static Player player;
    private static KeyVault vault;

    @BeforeAll
    static void connect() throws IOException {
        player = Player.start(CASE);
        vault = KeyVault.builder(player.announced(CASE).get("address").getAsString())
                .timeout(Duration.ofSeconds(60))
                .build();
    }

    @AfterAll
    static void disconnect() throws IOException {
        if (player != null) {
            vault.close();
            player.close();
        }
    }

    @Test
    void everyCallDoesWhatItSays(@TempDir Path folder) {
        live(vault, folder);
        assertThrows(DeniedException.class, () -> vault.unwrapKey(vault.generateKey("life/")));
    }

    /** The life of a record, which the vault in memory has to live as well. */
    static void live(KeyVaultClient vault, Path folder) {
        DataKey key = DataKey.loadOrGenerate(folder.resolve("a.key"), vault, "life/");
        assertTrue(key.hasSecretOf(DataKey.loadOrGenerate(folder.resolve("a.key"), vault, "life/")));
        assertEquals(1, vault.create("life/a", ONE, key).revision());
        assertEquals(2, vault.update("life/a", TWO, key, 1).revision());
        assertEquals(2, assertThrows(ConflictException.class, () -> vault.update("life/a", ONE, key, 3)).currentRevision());
        assertEquals(Optional.empty(), vault.readIfChanged("life/a", key, 2));
        assertArrayEquals(ONE, vault.read("life/a", key, 1).plaintext());
        assertEquals(3, vault.restore("life/a", key, 1).revision());
        assertEquals(List.of(3L, 2L, 1L), vault.revisions("life/a").stream().map(Revision::revision).toList());
        DataKey rewrapped = vault.rewrapKey(key);
        assertEquals(4, vault.update("life/a", TWO, rewrapped).revision());
        DataKey newKey = vault.generateKey("life/a");
        assertFalse(vault.rotateKey("life/a", key, newKey).replayed());
        assertTrue(vault.rotateKey("life/a", key, newKey).replayed());
        assertEquals(List.of("life/a"), vault.list("life/").map(ListedName::keyId).toList());
        assertEquals(6, vault.delete("life/a", newKey, 5).revision());
        assertEquals(List.of("life/a"), vault.listDeleted("life/").map(ListedName::keyId).toList());
        assertEquals(List.of(), vault.list("life/").toList());
        Map<String, ReadResult> read = vault.readMany(Map.of("life/a", newKey, "life/absent", key, "elsewhere", key));
        assertThrows(NotFoundException.class, read.get("life/a")::get);
        assertTrue(read.get("life/absent").failure().orElseThrow() instanceof NotFoundException);
        assertThrows(InvalidRequestException.class, read.get("elsewhere")::get);
        assertEquals("anonymous", vault.whoAmI().identity());
        assertThrows(RecordDamagedException.class, () -> vault.create("life/a", ONE, key)); // the tombstone is newKey's
        assertEquals(7, vault.create("life/a", ONE, newKey).revision());
        assertThrows(AlreadyExistsException.class, () -> vault.create("life/a", ONE, newKey));
        assertThrows(NotAuthorizedException.class, () -> vault.update("life/a", ONE, vault.generateKey("life/a")));
        assertThrows(RecordDamagedException.class, () -> vault.read("life/a", vault.generateKey("life/a")));
        assertThrows(RevisionNotFoundException.class, () -> vault.read("life/a", newKey, 5));
        assertThrows(InvalidRequestException.class, () -> vault.read("elsewhere", key));
    }

    @Test
    void aThousandNamesAndMoreAreListedOnce() throws Exception {
        DataKey key = vault.generateKey("many/");
        AsyncKeyVault async = vault.async();
        for (int i = 0; i < 1010; i += 101) {
            List<CompletableFuture<Written>> some = IntStream.range(i, i + 101)
                    .mapToObj(n -> async.create("many/" + n, ONE, key))
                    .toList();
            for (CompletableFuture<Written> one : some) {
                one.get(60, TimeUnit.SECONDS);
            }
        }
        assertEquals(1010, async.list("many/").get(60, TimeUnit.SECONDS).stream().map(ListedName::keyId).distinct().count());
    }

    @Test
    void aFutureFailsWithTheExceptionOfTheCall() {
        DataKey key = vault.generateKey("async/a");
        ExecutionException failed =
                assertThrows(ExecutionException.class, () -> vault.async().read("async/a", key).get(60, TimeUnit.SECONDS));
        assertEquals(NotFoundException.class, failed.getCause().getClass());
        assertFalse(((KeyVaultException) failed.getCause()).requestId().isEmpty());
    }

    @Test
    void theCacheFollowsTheServerAndGoesOnWithoutIt() throws Exception {
        DataKey key = vault.generateKey("cache/");
        vault.create("cache/a", ONE, key);
        vault.create("cache/b", ONE, key);
        ConcurrentLinkedQueue<String> changed = new ConcurrentLinkedQueue<>();
        RecordCache.Options options = RecordCache.Options.defaults()
                .refreshedEvery(Duration.ofHours(1))
                .onChange((name, now) -> changed.add(name + " " + now.record().map(VaultRecord::revision).orElse(0L)));
        KeyVault own = KeyVault.builder(player.announced(CASE).get("address").getAsString()).build();
        try (RecordCache cache = own.cache(Map.of("cache/a", key, "cache/b", key), options)) {
            vault.update("cache/a", TWO, key);
            vault.delete("cache/b", key);
            assertArrayEquals(ONE, cache.get("cache/a").plaintext());
            cache.refresh();
            assertArrayEquals(TWO, cache.get("cache/a").plaintext());
            assertThrows(NotFoundException.class, () -> cache.get("cache/b"));
            assertEquals(List.of("cache/a 2", "cache/b 0"), List.copyOf(changed));
            own.close();
            assertThrows(ClosedException.class, cache::refresh);
            assertArrayEquals(TWO, cache.get("cache/a").plaintext());
            assertThrows(InvalidRequestException.class, () -> cache.get("cache/c"));
        }
        assertThrows(NotFoundException.class, () -> vault.cache(Map.of("cache/b", key), options));
    }
}
