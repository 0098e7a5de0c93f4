package io.github.keyvaultgrpc.kve1;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.ByteArrayInputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.zip.InflaterInputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;

/**
 * The vectors that others publish of Cobblestone-256, the layer below KVE1. WYCHEPROOF names a clone of
 * github.com/C2SP/wycheproof; its doc/c2sp_chunked_encryption.md says what the fields mean.
 */
class WycheproofTest {
    private static final String FILE = "testvectors_v1/c2sp_chunked_encryption_aes_256_gcm_test.json";
    private static final int SALT = 24;

    @Test
    @EnabledIfEnvironmentVariable(named = "WYCHEPROOF", matches = ".+")
    void everyVectorAgrees() throws Exception {
        String content = Files.readString(Path.of(System.getenv("WYCHEPROOF"), FILE));
        JsonObject file = JsonParser.parseString(content).getAsJsonObject();
        List<JsonObject> tests = new ArrayList<>();
        for (JsonElement group : file.getAsJsonArray("testGroups")) {
            group.getAsJsonObject().getAsJsonArray("tests").forEach(test -> tests.add(test.getAsJsonObject()));
        }
        assertEquals(file.get("numberOfTests").getAsInt(), tests.size());
        for (JsonObject test : tests) {
            check(test, test.get("comment").getAsString());
        }
        long valid = tests.stream().filter(WycheproofTest::isValid).count();
        System.out.printf("wycheproof: %d valid, %d invalid, all agree%n", valid, tests.size() - valid);
    }

    private static void check(JsonObject test, String comment) throws Exception {
        byte[] key = bytes(test, "key");
        byte[] context = bytes(test, "ctx");
        byte[] message = new InflaterInputStream(new ByteArrayInputStream(bytes(test, "ct"))).readAllBytes();
        if (!isValid(test)) {
            Class<? extends Throwable> refused =
                    key.length == 32 ? Kve1.DoesNotOpen.class : IllegalArgumentException.class;
            assertThrows(refused, () -> Kve1.openMessage(key, context, message), comment);
            return;
        }
        byte[] plaintext = Kve1.openMessage(key, context, message);
        byte[] digest = MessageDigest.getInstance("SHA-512").digest(plaintext);
        assertArrayEquals(bytes(test, "msgSha512"), digest, comment);
        ByteBuffer sealed = ByteBuffer.allocate(message.length);
        Kve1.sealMessage(key, context, Arrays.copyOf(message, SALT), plaintext, sealed);
        assertArrayEquals(message, sealed.array(), comment);
    }

    private static boolean isValid(JsonObject test) {
        return test.get("result").getAsString().equals("valid");
    }

    private static byte[] bytes(JsonObject of, String name) {
        return HexFormat.of().parseHex(of.get(name).getAsString());
    }
}
