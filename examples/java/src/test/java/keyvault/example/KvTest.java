package keyvault.example;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What the program refuses before it connects; tests/interop of the repository has the rest. */
class KvTest {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteArrayOutputStream err = new ByteArrayOutputStream();

    private int kv(String line, Map<String, String> environment) {
        String[] args = line.isEmpty() ? new String[0] : line.split(" ");
        return Kv.exitStatus(args, environment, InputStream.nullInputStream(), out, new PrintStream(err, true, UTF_8));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "frob k --key f", "get", "get k", "get --key f", "get k l --key f", "get k --kez f",
        "get k --key f --new-key g", "get k --key f --key g", "get k --key", "rotate k --key f", "put prod/ --key f",
        "history", "history prod/", "history k --key f", "list a b", "list --key f", "get k --key f --revision 0",
        "get k --key f --revision x", "get k --key f --revision 9223372036854775808", "put k --key f --revision 1",
        "delete k l hunter2",
    })
    void badUsageIsOneLineAndExit2(String line) {
        assertEquals(2, kv(line, Map.of()));
        assertEquals("", out.toString(UTF_8));
        assertTrue(err.toString(UTF_8).endsWith(Kv.USAGE + "\n") && !err.toString(UTF_8).contains("hunter2"));
        assertEquals(1, err.toString(UTF_8).lines().count());
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "KEYVAULT_ADDRESS=192.0.2.1:50051", "KEYVAULT_ADDRESS=127.0.0.1.example:1", "KEYVAULT_ADDRESS=127.0.0.1:99999",
        "KEYVAULT_TIMEOUT=0", "KEYVAULT_TIMEOUT=NaN", "KEYVAULT_TOKEN_FILE=token", "KEYVAULT_CERTIFICATE=a.pem",
        "KEYVAULT_CA=absent.pem", "KEYVAULT_TLS=perhaps", "KEYVAULT_CA=", "KEYVAULT_SERVER_NAME=a.example",
    })
    void anImpossibleSettingIsOneLineAndExit2(String variable) {
        String[] parts = variable.split("=", -1);
        assertEquals(2, kv("list", Map.of(parts[0], parts[1])));
        assertEquals(1, err.toString(UTF_8).lines().count());
        assertTrue(err.toString(UTF_8).contains("KEYVAULT_"), err::toString);
    }

    @Test
    void aMissingKeyFileIsNamed() {
        assertEquals(2, kv("get k --key absent.key", Map.of()));
        assertEquals("kv: absent.key: no such file or directory\n", err.toString(UTF_8));
    }
}
