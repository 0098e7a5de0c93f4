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
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import keyvault.example.ScriptedVault.Step;
import io.github.keyvaultgrpc.v1.CreateResponse;
import io.github.keyvaultgrpc.v1.DeleteRequest;
import io.github.keyvaultgrpc.v1.DeleteResponse;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import io.github.keyvaultgrpc.v1.ListRequest;
import io.github.keyvaultgrpc.v1.ListResponse;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.RotateKeyRequest;
import io.github.keyvaultgrpc.v1.RotateKeyResponse;
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
    private static final Map<String, String> VACANT =
            Map.of("current_revision", "1", "remembered_since", "2", "vacant", "true");
    private static final Map<String, String> NO_NUMBERS =
            Map.of("current_revision", "9".repeat(5000), "remembered_since", "-1");
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
        return run(Map.of("KEYVAULT_ADDRESS", address, "KEYVAULT_TIMEOUT", "4"), SECRET, args);
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

    /** The mutations that were sent, as their names and their envelopes' revisions. */
    private static List<String> sent(ScriptedVault vault) throws Kve1.Malformed {
        List<String> sent = new ArrayList<>();
        for (Message request : vault.requests) {
            String method = request.getDescriptorForType().getName().replace("Request", "");
            var envelope = request.getDescriptorForType().findFieldByName("envelope");
            if (envelope != null) {
                byte[] bytes = ((ByteString) request.getField(envelope)).toByteArray();
                sent.add(method + " " + Kve1.parse(bytes).revision());
            }
        }
        return sent;
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
        try (var vault = new ScriptedVault(throttle(0), fail(Code.RESOURCE_EXHAUSTED, "STORE_FULL"))) {
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
                assertIsUnknown(runShortly(vault.address(), "put", KEY_ID, "--key", keyFile()));
                assertFalse(vault.requests.isEmpty());
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
        // A busy machine may need all the time to find out that the port is closed: then it is the deadline's status.
        assertTrue(ended.complaint.matches("kv: (UNAVAILABLE|DEADLINE_EXCEEDED): .*\n"), ended.complaint);
    }

    @Test
    void theAnswersThatLeaveAMutationUnknown() throws Exception {
        Step lost = fail(Code.UNKNOWN);
        Step otherRevision = request -> CreateResponse.newBuilder().setRevision(7).build();
        for (Step[] script : List.of(
                new Step[] {fail(Code.INTERNAL, "INTERNAL")},
                new Step[] {fail(Code.PERMISSION_DENIED)},
                new Step[] {fail(Code.UNAUTHENTICATED)},
                new Step[] {fail(Code.UNIMPLEMENTED)},
                new Step[] {fail(Code.RESOURCE_EXHAUSTED)},
                new Step[] {otherRevision},
                new Step[] {lost, throttle(60)},
                new Step[] {fail(Code.INTERNAL), fail(Code.PERMISSION_DENIED, "POLICY_DENIED")},
                new Step[] {lost, fail(Code.UNAUTHENTICATED, "UNAUTHENTICATED")},
                new Step[] {lost, fail(Code.NOT_FOUND, "RECORD_NOT_FOUND")},
                new Step[] {lost, fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", Map.of("current_revision", "1"))},
                new Step[] {lost, fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 17)},
                new Step[] {lost, fail(Code.ABORTED, "STALE_REVISION", 0)},
                new Step[] {lost, fail(Code.ABORTED, "STALE_REVISION", VACANT)},
                new Step[] {lost, fail(Code.ABORTED, "STALE_REVISION", NO_NUMBERS)})) {
            try (var vault = new ScriptedVault(script)) {
                assertIsUnknown(run(vault, "put", KEY_ID, "--key", keyFile()));
                assertEquals(script.length, vault.requests.size());
            }
        }
    }

    @Test
    void whatKeyVaultRefusedAtOnceIsNoUnknownOutcome() throws Exception {
        Step denied = fail(Code.PERMISSION_DENIED, "POLICY_DENIED");
        for (Step first : List.of(throttle(0), fail(Code.UNAVAILABLE, "SERVER_STOPPING"))) {
            try (var vault = new ScriptedVault(first, denied)) {
                Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
                assertTrue(ended.complaint.startsWith("kv: PERMISSION_DENIED POLICY_DENIED: "), ended.complaint);
                assertEquals(2, vault.requests.size());
            }
        }
    }

    private static void assertIsUnknown(Ended ended) {
        assertEquals(1, ended.status);
        assertTrue(ended.complaint.startsWith("kv: the outcome is unknown"), ended.complaint);
        assertEquals(1, ended.complaint.lines().count());
    }

    @Test
    void putFollowsWhatOthersDo() throws Exception {
        Step last = request -> CreateResponse.newBuilder().setRevision(10).build();
        try (var vault = new ScriptedVault(
                fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 4),
                stored(KEY, 4),
                fail(Code.ABORTED, "STALE_REVISION", 6),
                stored(KEY, 6),
                fail(Code.NOT_FOUND, "RECORD_NOT_FOUND"),
                stored(KEY, Kve1.Kind.TOMBSTONE, 8, 8),
                fail(Code.ABORTED, "STALE_REVISION", 9),
                stored(KEY, Kve1.Kind.TOMBSTONE, 9, 9),
                last)) {
            assertEquals("prod/db is at revision 10\n", run(vault, "put", KEY_ID, "--key", keyFile()).printed());
            assertEquals(List.of("Create 1", "Update 5", "Update 7", "Create 9", "Create 10"), sent(vault));
        }
    }

    @Test
    void aRevisionThatNobodyProvedIsNotSealedFor() throws Exception {
        Step lie = fail(Code.ABORTED, "STALE_REVISION", Long.MAX_VALUE);
        Step purged = fail(Code.ABORTED, "STALE_REVISION", VACANT);
        Step live = stored(KEY, 1);
        Step wrong = stored(KEY, Kve1.Kind.DATA, 1, Long.MAX_VALUE - 1);
        refuses(List.of("Create 1"), "put", lie, fail(Code.NOT_FOUND, "RECORD_NOT_FOUND"));
        refuses(List.of("Create 1", "Update 2"), "put", lie, live, lie, live);
        refuses(List.of("Create 1"), "put", lie, stored(NEW_KEY, 7));
        refuses(List.of("Create 1"), "put", purged);
        refuses(List.of("Delete 2"), "delete", live, lie, live);
        refuses(List.of("Delete 2"), "delete", live, purged);
        refuses(List.of(), "delete", wrong);
        refuses(List.of("RotateKey 2"), "rotate", live, lie, live);
        refuses(List.of(), "rotate", wrong);
    }

    private void refuses(List<String> sent, String verb, Step... script) throws Exception {
        List<String> arguments = new ArrayList<>(List.of(verb, KEY_ID, "--key", keyFile()));
        if (verb.equals("rotate")) {
            byte[] fresh = "fedcba9876543210fedcba9876543210".getBytes(UTF_8);
            arguments.addAll(List.of("--new-key", keyFile("b.key", fresh)));
        }
        try (var vault = new ScriptedVault(script)) {
            Ended ended = run(vault, arguments.toArray(String[]::new));
            assertEquals(1, ended.status);
            assertFalse(ended.complaint.contains("outcome is unknown"), ended.complaint);
            assertEquals(script.length, vault.requests.size());
            assertEquals(sent, sent(vault));
        }
    }

    @Test
    void putGivesUpWhenOthersAreAlwaysFaster() throws Exception {
        List<Step> script = new ArrayList<>(List.of(fail(Code.ABORTED, "STALE_REVISION", 1)));
        for (int revision = 1; revision < 20; revision++) {
            script.addAll(List.of(stored(KEY, revision), fail(Code.ABORTED, "STALE_REVISION", revision + 1)));
        }
        try (var vault = new ScriptedVault(script.toArray(Step[]::new))) {
            Ended ended = run(vault, "put", KEY_ID, "--key", keyFile());
            assertEquals(1, ended.status);
            assertEquals("kv: ABORTED STALE_REVISION: because of this (request 7-1)\n", ended.complaint);
            assertEquals(11, sent(vault).size());
        }
    }

    @Test
    void afterALostAnswerProofOfARefusalLetsItSealAgain() throws Exception {
        Step lost = fail(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE");
        Step updated = request -> UpdateResponse.newBuilder().setRevision(17).build();
        try (var vault = new ScriptedVault(
                lost, fail(Code.ALREADY_EXISTS, "RECORD_EXISTS", 16), stored(KEY, 16), updated)) {
            assertEquals("prod/db is at revision 17\n", run(vault, "put", KEY_ID, "--key", keyFile()).printed());
            assertEquals(List.of("Create 1", "Create 1", "Update 17"), sent(vault));
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

    private static Step page(String token, String... names) {
        var page = ListResponse.newBuilder().setNextPageToken(token);
        for (String name : names) {
            page.addNamesBuilder().setKeyId(name);
        }
        return request -> page.build();
    }

    @Test
    void listAsksForEveryPage() throws Exception {
        try (var vault = new ScriptedVault(page("1", "p/a", "p/b"), page("2"), page("", "p/c"))) {
            assertEquals("p/a\np/b\np/c\n", run(vault, "list", "p/").printed());
            var first = ListRequest.newBuilder().setPrefix("p/").setPageSize(1000);
            assertEquals(
                    List.of(
                            first.build(),
                            first.clone().setPageToken("1").build(),
                            first.clone().setPageToken("2").build()),
                    vault.requests);
        }
        try (var vault = new ScriptedVault(page(""))) {
            assertEquals(0, run(vault, "list").status);
        }
    }

    @Test
    void aPageThatCannotBeIsRefused() throws Exception {
        Step[] endless = IntStream.rangeClosed(1, 100).mapToObj(i -> page("" + i)).toArray(Step[]::new);
        for (Step[] lie : List.of(
                new Step[] {page("", "q/a")},
                new Step[] {page("", "p/\33[2J")},
                new Step[] {page("", "p/a/")},
                new Step[] {page("1", "p/a"), page("", "p/a")},
                new Step[] {page("1"), page("1")},
                endless)) {
            try (var vault = new ScriptedVault(lie)) {
                Ended ended = run(vault, "list", "p/");
                assertEquals(1, ended.status);
                String begin = "kv: the server's list of names that begin with \"p/\" ";
                assertTrue(ended.complaint.startsWith(begin), ended.complaint);
                assertFalse(ended.complaint.contains("\33"));
                assertEquals(lie.length, vault.requests.size());
            }
        }
    }

    private static Step revisions(long... numbers) {
        var listed = ListRevisionsResponse.newBuilder();
        for (long number : numbers) {
            listed.addRevisionsBuilder().setRevision(number).setSize(99).getUpdateTimeBuilder().setSeconds(1);
        }
        return request -> listed.build();
    }

    @Test
    void historyShowsALineForEachRevision() throws Exception {
        String line = "revision %d  1970-01-01T00:00:01Z  99 bytes sealed\n";
        try (var vault = new ScriptedVault(revisions(3, 2))) {
            assertEquals(line.formatted(3) + line.formatted(2), run(vault, "history", KEY_ID).printed());
        }
        for (Step lie : List.of(
                revisions(),
                revisions(0),
                revisions(2, 2),
                revisions(2, 3),
                revisions(17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1))) {
            try (var vault = new ScriptedVault(lie)) {
                String shown = run(vault, "history", KEY_ID).complaint;
                assertEquals("kv: the server answered ListRevisions of prod/db with an impossible list\n", shown);
            }
        }
    }

    @Test
    void anEarlierRevisionIsTheOneThatWasAskedFor() throws Exception {
        String[] command = {"get", KEY_ID, "--key", keyFile(), "--revision", "2"};
        try (var vault = new ScriptedVault(stored(KEY, 2))) {
            assertArrayEquals(SECRET, run(vault, command).output);
            assertEquals(2, ((ReadRequest) vault.requests.get(0)).getRevision());
        }
        try (var vault = new ScriptedVault(stored(KEY, 3))) {
            String older = "kv: the server answered with revision 3 of prod/db instead of 2: it is an older KeyVault, "
                    + "which cannot read earlier revisions\n";
            assertEquals(older, run(vault, command).complaint);
        }
        for (Step lie : List.of(stored(KEY, Kve1.Kind.DATA, 3, 2), stored(KEY, Kve1.Kind.TOMBSTONE, 2, 2))) {
            try (var vault = new ScriptedVault(lie)) {
                Ended ended = run(vault, command);
                assertEquals(1, ended.status);
                assertEquals("", ended.printed());
            }
        }
    }

    @Test
    void anOlderServerIsNamed() throws Exception {
        for (String[] args : List.of(new String[] {"list"}, new String[] {"history", KEY_ID})) {
            try (var vault = new ScriptedVault(fail(Code.UNIMPLEMENTED))) {
                String shown = run(vault, args).complaint;
                assertTrue(shown.contains("(the server does not know this call: it is an older KeyVault"), shown);
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
                new String[] {"get", KEY_ID, "--key", keyFile(), "--revision", "0"},
                new String[] {"get", KEY_ID, "--key", keyFile(), "--revision", "x"},
                new String[] {"put", KEY_ID, "--key", keyFile(), "--revision", "1"},
                new String[] {"history"},
                new String[] {"history", KEY_ID, "--key", keyFile()},
                new String[] {"list", "a", "b"},
                new String[] {"list", "--key", keyFile()},
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
