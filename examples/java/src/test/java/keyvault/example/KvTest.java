package keyvault.example;

import static java.nio.charset.StandardCharsets.UTF_8;
import static keyvault.example.ScriptedVault.fail;
import static keyvault.example.ScriptedVault.throttle;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import io.grpc.Status.Code;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import keyvault.example.ScriptedVault.Step;
import io.github.keyvaultgrpc.v1.CreateRequest;
import io.github.keyvaultgrpc.v1.CreateResponse;
import io.github.keyvaultgrpc.v1.DeleteRequest;
import io.github.keyvaultgrpc.v1.DeleteResponse;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.RotateKeyRequest;
import io.github.keyvaultgrpc.v1.RotateKeyResponse;
import io.github.keyvaultgrpc.v1.UpdateRequest;
import io.github.keyvaultgrpc.v1.UpdateResponse;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class KvTest {
    private static final String KEY_ID = "prod/db";
    private static final byte[] SECRET = "hunter2".getBytes(UTF_8);
    private static final byte[] KEY = new byte[32];
    private static final byte[] NEW_KEY = "0123456789abcdef0123456789abcdef".getBytes(UTF_8);
    private static final Step CREATED = request -> CreateResponse.newBuilder().setRevision(1).build();

    @TempDir
    private Path directory;

    /** How the command ended. */
    private record Ended(int status, byte[] output, String complaint) {
        String printed() {
            return new String(output, UTF_8);
        }
    }

    private static Ended run(Map<String, String> environment, byte[] input, String... args) {
        var out = new ByteArrayOutputStream();
        var err = new ByteArrayOutputStream();
        var in = new ByteArrayInputStream(input);
        int status = Kv.exitStatus(args, environment, in, out, new PrintStream(err, true, UTF_8));
        return new Ended(status, out.toByteArray(), err.toString(UTF_8));
    }

    private static Ended run(ScriptedVault vault, String... args) {
        return run(Map.of("KEYVAULT_ADDRESS", vault.address(), "KEYVAULT_TIMEOUT", "20"), SECRET, args);
    }

    /** With a time that ends. */
    private static Ended runShortly(String address, String... args) {
        return run(Map.of("KEYVAULT_ADDRESS", address, "KEYVAULT_TIMEOUT", "1.5"), SECRET, args);
    }

    private String keyFile(String name, byte[] key) throws IOException {
        String json = "{\"tenant\": \"acme\", \"scope\": \"prod/\", \"plaintextKey\": \"%s\", \"wrappedKey\": \"%s\"}";
        Base64.Encoder base64 = Base64.getEncoder();
        String content = json.formatted(base64.encodeToString(key), base64.encodeToString(name.getBytes(UTF_8)));
        return Files.writeString(directory.resolve(name), content).toString();
    }

    private String keyFile() throws IOException {
        return keyFile("a.key", KEY);
    }

    private static Step stored(byte[] key, Kve1.Kind kind, long revision, long toldRevision) {
        byte[] plaintext = kind == Kve1.Kind.DATA ? SECRET : new byte[0];
        ByteString envelope = ByteString.copyFrom(Kve1.seal(key, "acme", KEY_ID, kind, revision, plaintext));
        return request -> ReadResponse.newBuilder().setEnvelope(envelope).setRevision(toldRevision).build();
    }

    private static Step stored(byte[] key, long revision) {
        return stored(key, Kve1.Kind.DATA, revision, revision);
    }

    /** A mutation as its name and its envelope's revision. */
    private static String sent(Message request) {
        try {
            if (request instanceof CreateRequest create) {
                return "Create " + Kve1.parse(create.getEnvelope().toByteArray()).revision();
            }
            return "Update " + Kve1.parse(((UpdateRequest) request).getEnvelope().toByteArray()).revision();
        } catch (Kve1.Malformed malformed) {
            throw new AssertionError(malformed);
        }
    }

    @Test
    void whatIsNotAnsweredIsSentAgainWithTheSameBytes() throws Exception {
        Step down = fail(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE");
        try (var vault = new ScriptedVault(down, fail(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"), down, CREATED)) {
            Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
            assertEquals("prod/db is at revision 1\n", ended.printed());
            assertEquals(4, vault.requests.size());
            assertEquals(1, vault.requests.stream().distinct().count());
        }
    }

    @Test
    void aThrottledCallIsSentAgainAndAFullStoreIsNotAskedAgain() throws Exception {
        try (var vault = new ScriptedVault(throttle(), fail(Code.RESOURCE_EXHAUSTED, "STORE_FULL"))) {
            Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
            assertEquals(1, ended.status);
            assertEquals("kv: RESOURCE_EXHAUSTED STORE_FULL: because of this (request 7-1)\n", ended.complaint);
            assertEquals(2, vault.requests.size());
        }
    }

    @Test
    void aChangeThatIsNeverAnsweredHasAnUnknownOutcome() throws Exception {
        for (Step noAnswer : List.of(fail(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE"), ScriptedVault.SILENCE)) {
            try (var vault = new ScriptedVault(noAnswer)) {
                Ended ended = runShortly(vault.address(), "put", KEY_ID, "--key", keyFile());
                assertEquals(1, ended.status);
                assertTrue(ended.complaint.startsWith("kv: the outcome is unknown"), ended.complaint);
                assertEquals(1, ended.complaint.lines().count());
            }
        }
    }

    @Test
    void whatWasNeverSentIsNoUnknownOutcome() throws Exception {
        int port;
        try (var freed = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            port = freed.getLocalPort();
        }
        Ended ended = runShortly("127.0.0.1:" + port, "put", KEY_ID, "--key", keyFile());
        assertEquals(1, ended.status);
        assertTrue(ended.complaint.startsWith("kv: UNAVAILABLE: "), ended.complaint);
    }

    @Test
    void putFollowsWhatOthersDo() throws Exception {
        Step last = request -> CreateResponse.newBuilder().setRevision(10).build();
        try (var vault = new ScriptedVault(
                fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 4),
                fail(Code.ABORTED, "STALE_REVISION", 6),
                fail(Code.NOT_FOUND, "RECORD_NOT_FOUND"),
                fail(Code.ABORTED, "STALE_REVISION", 9),
                last)) {
            assertEquals("prod/db is at revision 10\n", run(vault, "put", KEY_ID, "--key", keyFile()).printed());
            List<String> sent = vault.requests.stream().map(KvTest::sent).toList();
            assertEquals(List.of("Create 1", "Update 5", "Update 7", "Create 1", "Create 10"), sent);
        }
    }

    @Test
    void putGivesUpWhenOthersAreAlwaysFaster() throws Exception {
        try (var vault = new ScriptedVault(fail(Code.ABORTED, "STALE_REVISION", 3))) {
            Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
            assertEquals(1, ended.status);
            assertEquals("kv: ABORTED STALE_REVISION: because of this (request 7-1)\n", ended.complaint);
        }
    }

    @Test
    void afterALostAnswerOnlyProofOfARefusalLetsItSealAgain() throws Exception {
        Step lost = fail(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE");
        Step updated = request -> UpdateResponse.newBuilder().setRevision(17).build();
        try (var vault = new ScriptedVault(lost, fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 16), updated)) {
            assertEquals("prod/db is at revision 17\n", run(vault, "put", KEY_ID, "--key", keyFile()).printed());
        }
        for (Step noProof : List.of(
                fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 17), fail(Code.PERMISSION_DENIED, "NOT_AUTHORIZED"))) {
            try (var vault = new ScriptedVault(lost, noProof)) {
                Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
                assertTrue(ended.complaint.startsWith("kv: the outcome is unknown"), ended.complaint);
                assertEquals(2, vault.requests.size());
            }
        }
    }

    @Test
    void getBelievesTheEnvelopeAndNotTheServer() throws Exception {
        try (var vault = new ScriptedVault(stored(KEY, 3))) {
            assertArrayEquals(SECRET, run(vault, "get", KEY_ID, "--key", keyFile()).output);
        }
        for (Step lie : List.of(
                stored(KEY, Kve1.Kind.DATA, 3, 4),
                stored(KEY, Kve1.Kind.TOMBSTONE, 3, 3),
                stored(NEW_KEY, 3),
                request -> ReadResponse.newBuilder().setRevision(3).build())) {
            try (var vault = new ScriptedVault(lie)) {
                Ended ended = run(vault, "get", KEY_ID, "--key", keyFile());
                assertEquals(1, ended.status);
                assertEquals("", ended.printed());
                assertEquals(1, ended.complaint.lines().count());
            }
        }
    }

    @Test
    void deleteReadsAgainWhenSomebodyWasFaster() throws Exception {
        Step deleted = request -> DeleteResponse.newBuilder().setRevision(6).build();
        try (var vault = new ScriptedVault(
                stored(KEY, 3), fail(Code.ABORTED, "STALE_REVISION", 5), stored(KEY, 5), deleted)) {
            assertEquals("prod/db is at revision 6\n", run(vault, "delete", KEY_ID, "--key", keyFile()).printed());
            DeleteRequest request = (DeleteRequest) vault.requests.get(3);
            var tombstone = Kve1.parse(request.getEnvelope().toByteArray());
            assertEquals(new Kve1.Parsed(Kve1.Kind.TOMBSTONE, 6), tombstone);
        }
    }

    @Test
    void rotateHandsOverWhatItReadAndRepeatedIsDone() throws Exception {
        String[] command = {"rotate", KEY_ID, "--key", keyFile(), "--new-key", keyFile("b.key", NEW_KEY)};
        Step rotated = request -> RotateKeyResponse.newBuilder().setRevision(4).build();
        try (var vault = new ScriptedVault(stored(KEY, 3), rotated, stored(NEW_KEY, 4))) {
            assertEquals("prod/db is at revision 4\n", run(vault, command).printed());
            RotateKeyRequest request = (RotateKeyRequest) vault.requests.get(1);
            byte[] envelope = request.getEnvelope().toByteArray();
            byte[] authorization = request.getAuthorization().toByteArray();
            assertEquals(new Kve1.Parsed(Kve1.Kind.REKEY, 4), Kve1.parse(authorization));
            assertEquals(new Kve1.Parsed(Kve1.Kind.DATA, 4), Kve1.parse(envelope));
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(envelope);
            assertArrayEquals(digest, Kve1.open(KEY, "acme", KEY_ID, authorization));
            assertArrayEquals(SECRET, Kve1.open(NEW_KEY, "acme", KEY_ID, envelope));
            assertEquals("prod/db is at revision 4\n", run(vault, command).printed());
            assertEquals(3, vault.requests.size());
        }
    }

    @Test
    void aKeyIsSavedForItsOwnerBeforeItIsUsed() throws Exception {
        Path file = directory.resolve("new.key");
        Step generated = request -> GenerateKeyResponse.newBuilder()
                .setTenant("acme")
                .setScope(KEY_ID)
                .setPlaintextKey(ByteString.copyFrom(KEY))
                .setWrappedKey(ByteString.copyFromUtf8("wrapped"))
                .build();
        Step refusedUnlessSaved = request -> {
            assertTrue(Files.exists(file));
            return CreateResponse.newBuilder().setRevision(1).build();
        };
        try (var vault = new ScriptedVault(generated, refusedUnlessSaved)) {
            assertEquals(0, run(vault, "put", KEY_ID, "--key", file.toString()).status);
            assertEquals("rw-------", PosixFilePermissions.toString(Files.getPosixFilePermissions(file)));
            assertTrue(Files.readString(file).contains("\"plaintext_key\""));
            assertArrayEquals(KEY, DataKey.load(file).plaintext());
        }
    }

    @Test
    void aFileThatIsNoKeyIsNotQuoted() throws Exception {
        for (String content : List.of("hunter2", "{\"plaintext_key\": \"hunter2!\"}", "{\"tenant\": \"hunter2\"}")) {
            String file = Files.writeString(directory.resolve("no.key"), content).toString();
            Ended ended = run(Map.of(), SECRET, "get", KEY_ID, "--key", file);
            assertEquals(1, ended.status);
            assertFalse(ended.complaint.contains("hunter2"), ended.complaint);
        }
    }

    @Test
    void badUsageIsOneLineAndItsOwnStatus() throws Exception {
        for (String[] args : List.of(
                new String[] {},
                new String[] {"get", KEY_ID},
                new String[] {"frob", KEY_ID, "--key", keyFile()},
                new String[] {"get", "prod/", "--key", keyFile()},
                new String[] {"get", "", "--key", keyFile()},
                new String[] {"get", KEY_ID, "--new-key", keyFile()},
                new String[] {"rotate", KEY_ID, "--key", keyFile(), "--key", keyFile()},
                new String[] {"rotate", KEY_ID, "--key", keyFile(), "--new-key", keyFile()})) {
            assertIsBadUsage(run(Map.of(), SECRET, args));
        }
    }

    @Test
    void whatSettingsCannotBeIsBadUsage() throws Exception {
        String tokenFile = Files.writeString(directory.resolve("token"), "abc.def\n").toString();
        for (Map<String, String> environment : List.of(
                Map.of("KEYVAULT_TIMEOUT", "soon"),
                Map.of("KEYVAULT_TIMEOUT", "0.0"),
                Map.of("KEYVAULT_ADDRESS", "vault"),
                Map.of("KEYVAULT_ADDRESS", "vault.example:50051"),
                Map.of("KEYVAULT_ADDRESS", "127.0.0.1.example:50051"),
                Map.of("KEYVAULT_ADDRESS", "10.0.0.1:50051"),
                Map.of("KEYVAULT_TOKEN_FILE", tokenFile),
                Map.of("KEYVAULT_CERTIFICATE", keyFile(), "KEYVAULT_PRIVATE_KEY", keyFile()),
                Map.of("KEYVAULT_CERTIFICATE", keyFile(), "KEYVAULT_CA", keyFile()),
                Map.of("KEYVAULT_CA", keyFile()))) {
            assertIsBadUsage(run(environment, SECRET, "get", KEY_ID, "--key", keyFile()));
        }
    }

    private static void assertIsBadUsage(Ended ended) {
        assertEquals(2, ended.status, ended.complaint);
        assertEquals(1, ended.complaint.lines().count(), ended.complaint);
        assertTrue(ended.complaint.startsWith("kv: "), ended.complaint);
    }
}
