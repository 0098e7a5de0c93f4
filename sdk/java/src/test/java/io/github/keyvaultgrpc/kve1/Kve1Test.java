package io.github.keyvaultgrpc.kve1;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** The vectors of every language, a copy of which travels with the module; docs/envelope.md, section 11, describes the file. */
class Kve1Test {
    private static final Path VECTORS = Path.of("src/test/resources/kve1.json");
    private static final int HEAD = 72;
    private static final int SEALED_CHUNK = 16_400;

    @Test
    void everyVectorAgrees() throws IOException {
        JsonObject file = JsonParser.parseString(Files.readString(VECTORS)).getAsJsonObject();
        List<JsonObject> tests = new ArrayList<>();
        for (JsonElement group : file.getAsJsonArray("testGroups")) {
            group.getAsJsonObject().getAsJsonArray("tests").forEach(test -> tests.add(test.getAsJsonObject()));
        }
        Map<Integer, JsonObject> byId =
                tests.stream().collect(Collectors.toMap(test -> test.get("tcId").getAsInt(), Function.identity()));
        assertEquals(file.get("numberOfTests").getAsInt(), tests.size(), "numberOfTests");
        assertAll("kve1.json", tests.stream().map(test -> named(test, () -> check(test, byId))));
        long valid = tests.stream().filter(Kve1Test::isValid).count();
        System.out.printf("kve1.json: %d valid, %d invalid, all agree%n", valid, tests.size() - valid);
    }

    @Test
    void twoSealsOfTheSameShareNoByteOfSaltAndBothOpen() throws Exception {
        byte[] key = new byte[32];
        byte[] plaintext = "hunter2".getBytes(UTF_8);
        byte[] one = Kve1.seal(key, "acme", "prod/db", Kve1.Kind.DATA, 1, plaintext);
        byte[] other = Kve1.seal(key, "acme", "prod/db", Kve1.Kind.DATA, 1, plaintext);
        assertFalse(Arrays.equals(one, 16, 40, other, 16, 40));
        assertArrayEquals(plaintext, Kve1.open(key, "acme", "prod/db", one));
        assertArrayEquals(plaintext, Kve1.open(key, "acme", "prod/db", other));
    }

    @Test
    void aNameThatHasNoUtf8IsRefusedAndNotReplaced() {
        byte[] key = new byte[32];
        byte[] sealed = Kve1.seal(key, "acme", "k", Kve1.Kind.DATA, 1, new byte[0]);
        byte[] head = Arrays.copyOf(sealed, HEAD);
        for (String name : List.of("\ud800", "a\udfff", "\udc00\ud800", "x".repeat(65_536))) {
            for (String[] names : new String[][] {{name, "k"}, {"acme", name}}) {
                for (Executable call : List.<Executable>of(
                        () -> Kve1.seal(key, names[0], names[1], Kve1.Kind.DATA, 1, new byte[0]),
                        () -> Kve1.open(key, names[0], names[1], sealed),
                        () -> Kve1.commitsTo(head, key, names[0], names[1]))) {
                    assertThrows(IllegalArgumentException.class, call);
                }
            }
        }
    }

    @Test
    void whatNoReaderAcceptsIsNotSealed() {
        byte[] key = new byte[32];
        assertRefusesToSeal(key, Kve1.Kind.DATA, 0, 7);
        assertRefusesToSeal(key, Kve1.Kind.DATA, Long.MIN_VALUE, 7);
        assertRefusesToSeal(key, Kve1.Kind.DATA, 1, Kve1.MAX_PLAINTEXT + 1);
        assertRefusesToSeal(key, Kve1.Kind.TOMBSTONE, 1, 1);
        assertRefusesToSeal(key, Kve1.Kind.REKEY, 1, 31);
        assertRefusesToSeal(new byte[31], Kve1.Kind.DATA, 1, 7);
    }

    private static void assertRefusesToSeal(byte[] key, Kve1.Kind kind, long revision, int length) {
        assertThrows(
                IllegalArgumentException.class,
                () -> Kve1.seal(key, "acme", "prod/db", kind, revision, new byte[length]));
    }

    /** So that a vector which disagrees is named by its number. */
    private static Executable named(JsonObject test, Executable check) {
        return () -> {
            try {
                check.execute();
            } catch (Throwable disagrees) {
                throw new AssertionError(test.get("tcId") + " " + test.get("comment") + ": " + disagrees, disagrees);
            }
        };
    }

    private static void check(JsonObject test, Map<Integer, JsonObject> byId) throws Exception {
        byte[] key = bytes(test, "key");
        String tenant = test.get("tenant").getAsString();
        String keyId = test.get("keyId").getAsString();
        if (test.has("head")) {
            checkHead(test, () -> Kve1.commitsTo(bytes(test, "head"), key, tenant, keyId));
            return;
        }
        byte[] envelope = envelopeOf(test, byId);
        if (!isValid(test) && test.get("phase").getAsString().equals("parse")) {
            assertThrows(Kve1.Malformed.class, () -> Kve1.parse(envelope));
            assertThrows(Kve1.Malformed.class, () -> Kve1.open(key, tenant, keyId, envelope));
            return;
        }
        Kve1.Kind kind = Kve1.Kind.valueOf(test.get("kind").getAsString());
        long revision = Long.parseLong(test.get("revision").getAsString());
        assertEquals(new Kve1.Parsed(kind, revision), Kve1.parse(envelope));
        byte[] head = Arrays.copyOf(envelope, HEAD);
        assertEquals(test.get("commits").getAsBoolean(), Kve1.commitsTo(head, key, tenant, keyId));
        if (!isValid(test)) {
            assertThrows(Kve1.DoesNotOpen.class, () -> Kve1.open(key, tenant, keyId, envelope));
            return;
        }
        byte[] plaintext = plaintextOf(test);
        assertArrayEquals(plaintext, Kve1.open(key, tenant, keyId, envelope));
        byte[] salt = Arrays.copyOfRange(envelope, 16, 40);
        assertArrayEquals(envelope, Kve1.seal(key, tenant, keyId, kind, revision, plaintext, salt));
    }

    private static void checkHead(JsonObject test, Callable<Boolean> commits) throws Exception {
        if (isValid(test)) {
            assertEquals(test.get("commits").getAsBoolean(), commits.call());
        } else {
            assertEquals("parse", test.get("phase").getAsString());
            assertThrows(Kve1.Malformed.class, commits::call);
        }
    }

    private static boolean isValid(JsonObject test) {
        return test.get("result").getAsString().equals("valid");
    }

    private static byte[] plaintextOf(JsonObject test) throws Exception {
        if (test.has("plaintext")) {
            return bytes(test, "plaintext");
        }
        byte[] plaintext = new byte[test.get("plaintextLength").getAsInt()];
        for (int i = 0; i < plaintext.length; i++) {
            plaintext[i] = (byte) (i % 251);
        }
        assertArrayEquals(bytes(test, "plaintextSha256"), MessageDigest.getInstance("SHA-256").digest(plaintext));
        return plaintext;
    }

    private static byte[] envelopeOf(JsonObject test, Map<Integer, JsonObject> byId) {
        if (test.has("envelope")) {
            return bytes(test, "envelope");
        }
        byte[] envelope = bytes(byId.get(test.get("base").getAsInt()), "envelope");
        for (JsonElement edit : test.getAsJsonArray("edits")) {
            envelope = edited(envelope, edit.getAsJsonObject());
        }
        return envelope;
    }

    private static byte[] edited(byte[] envelope, JsonObject edit) {
        String op = edit.get("op").getAsString();
        byte[] hex = edit.has("hex") ? bytes(edit, "hex") : new byte[0];
        int offset = edit.has("offset") ? edit.get("offset").getAsInt() : envelope.length;
        switch (op) {
            case "xor" -> envelope[offset] ^= (byte) edit.get("value").getAsInt();
            case "set" -> System.arraycopy(hex, 0, envelope, offset, hex.length);
            case "truncate", "pad" -> envelope = Arrays.copyOf(envelope, edit.get("length").getAsInt());
            case "append" -> {
                envelope = Arrays.copyOf(envelope, offset + hex.length);
                System.arraycopy(hex, 0, envelope, offset, hex.length);
            }
            case "chunks" -> envelope = reordered(envelope, edit.getAsJsonArray("order"));
            default -> throw new AssertionError("no such edit: " + op);
        }
        return envelope;
    }

    private static byte[] reordered(byte[] envelope, Iterable<JsonElement> order) {
        var result = new ByteArrayOutputStream();
        result.write(envelope, 0, HEAD);
        for (JsonElement chunk : order) {
            int from = HEAD + SEALED_CHUNK * chunk.getAsInt();
            result.write(envelope, from, Math.min(SEALED_CHUNK, envelope.length - from));
        }
        return result.toByteArray();
    }

    private static byte[] bytes(JsonObject of, String name) {
        return HexFormat.of().parseHex(of.get(name).getAsString());
    }
}
