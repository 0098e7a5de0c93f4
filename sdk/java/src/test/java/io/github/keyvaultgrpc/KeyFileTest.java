package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.google.gson.Gson;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Data keys: who sees them, and their files. */
class KeyFileTest {
    private static final byte[] SECRET = "0123456789abcdef0123456789abcdef".getBytes(UTF_8);
    private static final DataKey KEY = DataKey.of("acme", "prod/", "wrapped".getBytes(UTF_8), SECRET);

    @TempDir
    private Path folder;

    private static List<Path> filesOf(Path folder) throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.toList();
        }
    }

    @Test
    void aKeyIsNeverPrintedOrEncodedByAccident() {
        record Holder(DataKey key, Map<String, DataKey> more) {}
        Holder holder = new Holder(KEY, Map.of("a", KEY));
        String shown = KEY + holder.toString() + new Gson().toJson(KEY) + new Gson().toJson(holder);
        for (String part : List.of("0123", "3031", "48,49", "48, 49", "MDEy", "d3Jh", "wrapped")) {
            assertTrue(!shown.contains(part), shown);
        }
        VaultRecord record = new VaultRecord("prod/a", SECRET, 1, null, null);
        assertEquals("[record prod/a at revision 1]{\"keyId\":\"prod/a\",\"revision\":1}", record + new Gson().toJson(record));
    }

    @Test
    void aSavedKeyIsTheOwnersAloneAndIsNotReplaced() throws IOException {
        Path file = folder.resolve("a.key");
        KEY.save(file);
        assertEquals("rw-------", PosixFilePermissions.toString(Files.getPosixFilePermissions(file)));
        assertTrue(KEY.hasSecretOf(DataKey.load(file)));
        var taken = assertThrows(InvalidRequestException.class, () -> KEY.save(file));
        assertInstanceOf(FileAlreadyExistsException.class, taken.getCause());
        assertEquals(file + ": file exists", taken.getMessage());
        assertEquals(List.of(file), filesOf(folder));
    }

    @Test
    void aReplacedKeyKeepsItsNameAndItsLink() throws IOException {
        Path file = folder.resolve("a.key");
        Path link = Files.createSymbolicLink(folder.resolve("link.key"), file);
        KEY.save(file);
        KEY.withoutSecret().replace(link);
        assertTrue(Files.isSymbolicLink(link));
        assertEquals(false, DataKey.load(file).hasSecret());
        assertEquals(2, filesOf(folder).size());
        for (Path no : List.of(folder.resolve("absent.key"), folder, Path.of("/"))) {
            assertThrows(InvalidRequestException.class, () -> KEY.replace(no));
        }
        assertEquals(2, filesOf(folder).size());
    }

    @Test
    void aFileThatOthersCanReadIsRefused() throws IOException {
        Path file = folder.resolve("a.key");
        KEY.save(file);
        for (String mode : List.of("rw----r--", "rw-----w-", "rw-r--r--")) {
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString(mode));
            var refused = assertThrows(InvalidRequestException.class, () -> DataKey.load(file));
            assertTrue(refused.getMessage().contains("so others can read or write it"), refused::getMessage);
        }
        Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("r--r-----")); // as Kubernetes mounts it
        DataKey.load(file);
    }

    @Test
    void aFileOfAnotherUserOrGroupIsRefused() throws IOException {
        Path file = folder.resolve("a.key");
        KEY.save(file);
        try {
            Files.setAttribute(file, "unix:uid", 12_345);
        } catch (IOException notRoot) {
            assumeTrue(false, "needs root");
        }
        var refused = assertThrows(InvalidRequestException.class, () -> DataKey.load(file));
        assertTrue(refused.getMessage().contains("belongs to another user (uid 12345)"), refused::getMessage);
        Files.setAttribute(file, "unix:uid", 0);
        Files.setAttribute(file, "unix:gid", 12_345);
        Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-r-----"));
        assertThrows(InvalidRequestException.class, () -> DataKey.load(file));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "[]", "null", "{}", "{\"tenant\":\"acme\",\"scope\":\"a\",\"wrapped_key\":\"d3JhcHBlZA\"}",
        "{\"tenant\":\"acme\",\"scope\":\"a\",\"wrapped_key\":7}",
        "{\"tenant\":\"acme\",\"scope\":\"a\",\"wrapped_key\":\"d3JhcHBlZA==\",\"plaintext_key\":\"MDEyMzQ=\"}",
        "{\"tenant\":\"ACME\",\"scope\":\"a\",\"wrapped_key\":\"d3JhcHBlZA==\"}", "MDEyMzQ=", "{\"plaintext_key\":\"MDEyMzQ=",
    })
    void whatIsNotAKeyIsRefusedAndNotQuoted(String content) {
        var refused = assertThrows(InvalidRequestException.class, () -> DataKey.parse(content.getBytes(UTF_8)));
        assertTrue(!refused.getMessage().contains("MDEy") && refused.getCause() == null, refused::getMessage);
    }

    @Test
    void bothSpellingsOfProtobufAreRead() {
        String camel = new String(KEY.reveal(), UTF_8).replace("plaintext_key", "plaintextKey").replace("wrapped_key", "wrappedKey");
        assertTrue(KEY.hasSecretOf(DataKey.parse(camel.getBytes(UTF_8))));
    }

    /** Runs itself in a process whose files may have no byte, as on a disk that is full. */
    @Test
    void aFullDiskLeavesNoPartialKey() throws Exception {
        KEY.save(folder.resolve("old.key"));
        String command = "ulimit -f 0; exec \"$@\"";
        Process full = new ProcessBuilder(
                        "sh", "-c", command, "-", Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp",
                        System.getProperty("java.class.path"), FullDisk.class.getName(), folder.toString())
                .redirectErrorStream(true)
                .start();
        String said = new String(full.getInputStream().readAllBytes(), UTF_8);
        assertEquals(0, full.waitFor(), said);
        assertEquals("File too large\nFile too large\n", said);
        assertEquals(List.of(folder.resolve("old.key")), filesOf(folder));
        assertTrue(KEY.hasSecretOf(DataKey.load(folder.resolve("old.key"))));
    }

    /** What that process does. */
    static final class FullDisk {
        private FullDisk() {}

        public static void main(String[] args) {
            for (Runnable write : List.<Runnable>of(
                    () -> KEY.save(Path.of(args[0], "new.key")), () -> KEY.replace(Path.of(args[0], "old.key")))) {
                try {
                    write.run();
                    System.out.println("written");
                } catch (InvalidRequestException failed) {
                    System.out.println(failed.getCause().getMessage());
                }
            }
        }
    }
}
