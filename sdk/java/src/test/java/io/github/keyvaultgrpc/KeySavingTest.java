package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class KeySavingTest {
    private static final DataKey KEY = DataKey.of("acme", "prod/", new byte[] {1}, new byte[DataKey.SIZE]);

    @TempDir
    private Path folder;

    private List<String> files() throws IOException {
        try (Stream<Path> found = Files.list(folder)) {
            return found.map(path -> path.getFileName().toString()).toList();
        }
    }

    @Test
    void anInterruptedThreadStillSavesItsKey() throws IOException {
        Path path = folder.resolve("k");
        Thread.currentThread().interrupt();
        KEY.save(path);
        assertTrue(Thread.interrupted(), "the interrupt status");
        assertArrayEquals(KEY.reveal(), DataKey.load(path).reveal());
        Thread.currentThread().interrupt();
        KEY.withoutSecret().replace(path);
        assertTrue(Thread.interrupted(), "the interrupt status");
        assertArrayEquals(KEY.withoutSecret().reveal(), DataKey.load(path).reveal());
        assertEquals(List.of("k"), files());
        assertEquals("rw-------", PosixFilePermissions.toString(Files.getPosixFilePermissions(path)));
    }

    @Test
    void interruptsDuringASaveLoseNoKey() throws Exception {
        Thread saving = Thread.currentThread();
        Thread interrupting = new Thread(() -> {
            while (!Thread.interrupted()) {
                saving.interrupt();
            }
        });
        interrupting.start();
        try {
            for (int i = 0; i < 5; i++) {
                KEY.save(folder.resolve("k" + i));
            }
        } finally {
            interrupting.interrupt();
            while (interrupting.isAlive()) {
                Thread.onSpinWait();
            }
            Thread.interrupted();
        }
        assertEquals(5, files().size());
    }

    @Test
    void ofTwoThatSaveAtOnceOneWins() throws Exception {
        Path path = folder.resolve("k");
        ExecutorService threads = Executors.newFixedThreadPool(4);
        try {
            Callable<String> save = () -> {
                try {
                    KEY.save(path);
                    return "saved";
                } catch (InvalidRequestException exists) {
                    assertInstanceOf(FileAlreadyExistsException.class, exists.getCause());
                    return "exists";
                }
            };
            int saved = 0;
            for (Future<String> one : threads.invokeAll(List.of(save, save, save, save))) {
                saved += one.get().equals("saved") ? 1 : 0;
            }
            assertEquals(1, saved);
        } finally {
            threads.shutdownNow();
        }
        assertEquals(List.of("k"), files());
    }

    @Test
    void aFileOfTheLongestNameIsReplaced() throws IOException {
        Path path = folder.resolve("n".repeat(255));
        KEY.save(path);
        KEY.replace(path);
        assertEquals(1, files().size());
    }

    @Test
    void aPathWithoutANameIsRefused() {
        for (String path : List.of("", "/")) {
            assertThrows(InvalidRequestException.class, () -> KEY.save(Path.of(path)), path);
            assertThrows(InvalidRequestException.class, () -> KEY.replace(Path.of(path)), path);
        }
    }

    @Test
    void aKeyIsOneJsonObjectAndNothingMore() {
        String key = new String(KEY.reveal(), UTF_8);
        assertArrayEquals(KEY.reveal(), DataKey.parse((key + " \r\n").getBytes(UTF_8)).reveal());
        String quotes = key.replace('"', '\'');
        String open = key.strip().substring(0, key.strip().length() - 1);
        for (String text : List.of("", "null", "[]", "{}", key + key, key + "x", quotes, open, "{\"a\":".repeat(100_000))) {
            assertThrows(InvalidRequestException.class, () -> DataKey.parse(text.getBytes(UTF_8)));
        }
    }
}
