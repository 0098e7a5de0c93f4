package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/**
 * The behaviour suite: cases in resources/behaviour, the same in every language, against a player of them in Python. A case
 * that this class does not understand fails.
 */
class BehaviourTest {
    private static final Path CASES = Path.of("src/test/resources/behaviour");
    private static final Set<String> ASKED = Set.of(
            "do", "timeout", "own_deadline", "revision", "interrupt", "name", "key", "size", "expect");
    private static final Set<String> EXPECTED = Set.of("outcome", "error", "reason", "revision", "data", "seconds");
    private static final Map<String, Class<? extends KeyVaultException>> ERRORS = Map.ofEntries(
            Map.entry("AlreadyExists", AlreadyExistsException.class),
            Map.entry("Busy", BusyException.class),
            Map.entry("Conflict", ConflictException.class),
            Map.entry("Denied", DeniedException.class),
            Map.entry("InvalidRequest", InvalidRequestException.class),
            Map.entry("MasterKeyUnusable", MasterKeyUnusableException.class),
            Map.entry("NotAuthorized", NotAuthorizedException.class),
            Map.entry("NotFound", NotFoundException.class),
            Map.entry("OutcomeUnknown", OutcomeUnknownException.class),
            Map.entry("RecordDamaged", RecordDamagedException.class),
            Map.entry("RevisionNotFound", RevisionNotFoundException.class),
            Map.entry("RolledBack", RolledBackException.class),
            Map.entry("ServerFailure", ServerFailureException.class),
            Map.entry("Unavailable", UnavailableException.class));

    /** So many cases at a time: most of them wait, but a busy machine makes more of them late. */
    private static final int AT_A_TIME = 16;
    /** A case that is played alone at first: loading the classes takes longer than some timeouts. */
    private static final String FIRST = "life-of-a-record";

    @Test
    void theLibraryPassesEveryCase() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(AT_A_TIME);
        try (Player player = Player.start()) {
            for (JsonObject one : cases()) {
                if (one.get("name").getAsString().equals(FIRST)) {
                    run(player, one, FIRST);
                }
            }
            Map<String, Future<?>> running = new LinkedHashMap<>();
            for (JsonObject one : cases()) {
                String name = one.get("name").getAsString();
                if (!name.equals(FIRST)) {
                    running.put(name, threads.submit(() -> {
                        run(player, one, name);
                        return null;
                    }));
                }
            }
            List<Executable> checks = new ArrayList<>();
            running.forEach((name, future) -> checks.add(() -> check(name, future)));
            assertAll("behaviour", checks);
            System.out.printf("behaviour: %d cases, all pass%n", running.size() + 1);
        } finally {
            threads.shutdownNow();
        }
    }

    private static void check(String name, Future<?> future) throws InterruptedException {
        try {
            future.get();
        } catch (ExecutionException failed) {
            throw new AssertionError(name + ": " + failed.getCause(), failed.getCause());
        }
    }

    private static List<JsonObject> cases() throws IOException {
        List<JsonObject> found = new ArrayList<>();
        try (Stream<Path> files = Files.list(CASES)) {
            for (Path file : files.sorted().toList()) {
                JsonParser.parseString(Files.readString(file)).getAsJsonObject().getAsJsonArray("cases").forEach(
                        one -> found.add(one.getAsJsonObject()));
            }
        }
        return found;
    }

    private static void run(Player player, JsonObject one, String name) throws Exception {
        JsonObject played = player.announced(name);
        assertNotNull(played, "the player has another suite");
        JsonElement client = one.get("client");
        List<JsonElement> steps = client.isJsonArray() ? client.getAsJsonArray().asList() : List.of(client);
        try (KeyVault vault = vaultOf(played, steps.get(0).getAsJsonObject())) {
            for (JsonElement step : steps) {
                new Step(step.getAsJsonObject(), vault, played).run();
            }
        }
        checkReport(one, player.report(name));
    }

    private static KeyVault vaultOf(JsonObject played, JsonObject first) {
        KeyVaultBuilder builder = KeyVault.builder(played.get("address").getAsString()).timeout(timeout(first));
        if (played.get("tls").isJsonObject()) {
            JsonObject files = played.getAsJsonObject("tls");
            Tls tls = Tls.withRoots(Path.of(files.get("ca").getAsString()));
            String certificate = files.get("certificate").getAsString();
            String key = files.get("private_key").getAsString();
            builder.tls(certificate.isEmpty() ? tls : tls.withCertificate(Path.of(certificate), Path.of(key)));
        }
        String token = played.get("token_file").getAsString();
        return (token.isEmpty() ? builder : builder.tokenFile(Path.of(token))).build();
    }

    private static Duration timeout(JsonObject step) {
        double seconds = step.has("timeout") ? step.get("timeout").getAsDouble() : 60;
        return Duration.ofMillis((long) (1000 * seconds));
    }

    private static void checkReport(JsonObject one, JsonObject report) {
        JsonObject calls = report.getAsJsonObject("calls");
        if (one.has("calls")) {
            JsonObject wanted = one.getAsJsonObject("calls");
            assertTrue(wanted.keySet().containsAll(calls.keySet()), "unexpected: " + calls);
            wanted.asMap().forEach((method, bounds) ->
                    assertWithin(bounds, calls.has(method) ? calls.get(method).getAsInt() : 0, method));
        }
        if (one.has("sealed")) {
            assertEquals(one.get("sealed"), report.get("sealed"), "sealed");
        }
        if (one.has("connections")) {
            assertWithin(one.get("connections"), report.get("connections").getAsInt(), "connections");
        }
    }

    /** A number, or the least and the most. */
    private static void assertWithin(JsonElement bounds, double found, String what) {
        double low = bounds.isJsonArray() ? bounds.getAsJsonArray().get(0).getAsDouble() : bounds.getAsDouble();
        double high = bounds.isJsonArray() ? bounds.getAsJsonArray().get(1).getAsDouble() : bounds.getAsDouble();
        assertTrue(low <= found && found <= high, found + " " + what + " instead of " + bounds);
    }

    /** One thing that the client is asked to do. */
    private record Step(JsonObject asked, KeyVault vault, JsonObject played) {
        private record Done(long revision, String data) {
            static Done of(VaultRecord record) {
                return new Done(record.revision(), new String(record.plaintext(), UTF_8));
            }

            static Done of(DataKey key) {
                return new Done(0, key.scope());
            }

            static Done of(Written written) {
                return new Done(written.revision(), "");
            }
        }

        Step {
            assertTrue(ASKED.containsAll(asked.keySet()), asked::toString);
            assertTrue(EXPECTED.containsAll(asked.getAsJsonObject("expect").keySet()), asked::toString);
        }

        void run() throws Exception {
            double interrupt = asked.has("interrupt") ? asked.get("interrupt").getAsDouble() : 0;
            Thread caller = Thread.currentThread();
            Thread timer = new Thread(() -> {
                try {
                    Thread.sleep((long) (1000 * interrupt));
                    caller.interrupt();
                } catch (InterruptedException done) {
                    // in time
                }
            });
            if (interrupt > 0) {
                timer.start();
            }
            long begin = System.nanoTime();
            Done done = null;
            KeyVaultException failed = null;
            try {
                done = run(asked.get("do").getAsString());
            } catch (KeyVaultException why) {
                failed = why;
            }
            double seconds = (System.nanoTime() - begin) / 1e9;
            timer.interrupt();
            assertEquals(interrupt > 0, Thread.interrupted(), "the interrupt status");
            check(asked.getAsJsonObject("expect"), done, failed, seconds);
        }

        private void check(JsonObject expect, Done done, KeyVaultException failed, double seconds) {
            String wanted = expect.get("outcome").getAsString();
            if (wanted.equals("either")) {
                return;
            }
            String outcome =
                    failed == null ? "done" : failed instanceof OutcomeUnknownException ? "unknown" : "failed";
            assertEquals(wanted.equals("interrupted") ? "unknown" : wanted, outcome, () -> String.valueOf(failed));
            if (wanted.equals("interrupted")) {
                assertEquals(CallCancelledException.class, failed.getCause().getClass());
            }
            if (expect.has("error")) {
                Class<?> kind = ERRORS.get(expect.get("error").getAsString());
                assertTrue(kind != null && kind.isInstance(failed), () -> "no " + kind + ": " + failed);
            }
            if (expect.has("reason")) {
                assertEquals(expect.get("reason").getAsString(), failed.reason());
            }
            if (expect.has("revision")) {
                assertEquals(expect.get("revision").getAsLong(), done.revision());
            }
            if (expect.has("data")) {
                assertEquals(expect.get("data").getAsString(), done.data());
            }
            if (expect.has("seconds")) {
                assertWithin(expect.get("seconds"), seconds, "seconds");
            }
        }

        private Done run(String verb) throws Exception {
            boolean ownDeadline = !asked.has("own_deadline") || asked.get("own_deadline").getAsBoolean();
            KeyVaultClient client = ownDeadline ? vault.withTimeout(timeout(asked)) : vault;
            String name = (asked.has("name") ? asked.get("name") : played.get("key_id")).getAsString();
            DataKey newKey = DataKey.parse(played.get("new_key").toString().getBytes(UTF_8));
            DataKey key = asked.has("key") ? newKey : DataKey.parse(played.get("key").toString().getBytes(UTF_8));
            byte[] data = (asked.has("size") ? "x".repeat(asked.get("size").getAsInt()) : "ours").getBytes(UTF_8);
            boolean named = asked.has("revision");
            long revision = named ? asked.get("revision").getAsLong() : 0;
            return switch (verb) {
                case "create" -> Done.of(client.create(name, data, key));
                case "read" -> Done.of(named ? client.read(name, key, revision) : client.read(name, key));
                case "update" -> Done.of(
                        named ? client.update(name, data, key, revision) : client.update(name, data, key));
                case "delete" -> Done.of(client.delete(name, key));
                case "rotate" -> Done.of(client.rotateKey(name, key, newKey));
                case "restore" -> Done.of(client.restore(name, key, revision));
                case "read_if_changed" -> client.readIfChanged(name, key, revision).map(Done::of).orElse(new Done(0, ""));
                case "read_many" -> Done.of(client.readMany(Map.of(name, key)).get(name).get());
                case "generate_key" -> Done.of(client.generateKey(name));
                case "rewrap_key" -> Done.of(client.rewrapKey(key));
                case "unwrap_key" -> Done.of(client.unwrapKey(key));
                case "renew_token" -> renewed(Path.of(played.get("token_file").getAsString()));
                default -> throw new AssertionError("unknown verb " + verb);
            };
        }

        /** Replaces the token by one that settled some time ago. */
        private static Done renewed(Path token) throws IOException {
            Path draft = token.resolveSibling(token.getFileName() + ".new");
            Files.writeString(draft, "renewed\n");
            Files.setLastModifiedTime(draft, FileTime.from(Instant.now().minusSeconds(60)));
            Files.move(draft, token, StandardCopyOption.ATOMIC_MOVE);
            return new Done(0, "");
        }
    }
}
