package io.github.keyvaultgrpc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What a client refuses before it connects, and what it shows of texts that others wrote. */
class SettingsTest {
    @ParameterizedTest
    @ValueSource(strings = {
        "127.0.0.1:1", "127.255.0.9:65535", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/run/kv.sock", "unix:///run/a",
    })
    void plaintextGoesToThisMachine(String address) {
        KeyVault.builder(address).build().close();
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "192.0.2.1:1|refusing plaintext", "127.0.0.1.example:1|refusing plaintext", "[::2]:1|refusing plaintext",
        "127.1:1|the host must be", "127.0.0.1:99999|the port must be", "127.0.0.1:0|the port must be",
        "127.0.0.1|write host:port", "::1:50051|in brackets", ":50051|name its host", "https://a.example|write host:port",
        "unix:|name the path", "a\u001b[2J:1|\\x1b", "127.0.0.1:+1|the port must be",
    })
    void anotherAddressIsRefusedWithWhatToDo(String address, String said) {
        var refused = assertThrows(InvalidRequestException.class, () -> KeyVault.builder(address).build());
        assertTrue(refused.getMessage().contains(said), refused::getMessage);
        assertEquals(2, refused.exitCode());
    }

    @Test
    void impossibleSettingsAreRefused(@TempDir Path folder) throws IOException {
        Path token = Files.writeString(folder.resolve("token"), "two words\n");
        Path pem = Files.writeString(folder.resolve("a.pem"), "-----BEGIN CERTIFICATE-----\nMDEy\n-----END CERTIFICATE-----\n");
        for (KeyVaultBuilder wrong : new KeyVaultBuilder[] {
            builder().timeout(Duration.ZERO), builder().timeout(Duration.ofDays(2)), builder().remembered(-1),
            builder().tokens(left -> "t"), builder().tls(Tls.systemRoots()).tokenFile(token),
            builder().tls(Tls.withRoots(pem)), builder().tls(Tls.withRoots(folder.resolve("absent"))),
            builder().tls(Tls.systemRoots().withCertificate(pem, null)),
        }) {
            var refused = assertThrows(InvalidRequestException.class, wrong::build);
            assertTrue(!refused.getMessage().contains("words") && !refused.getMessage().contains("MDEy"), refused::getMessage);
        }
    }

    private static KeyVaultBuilder builder() {
        return KeyVault.builder("127.0.0.1:1");
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "KEYVAULT_TIMEOUT=0", "KEYVAULT_TIMEOUT=NaN", "KEYVAULT_TIMEOUT=86401", "KEYVAULT_TLS=perhaps", "KEYVAULT_CA=",
        "KEYVAULT_SERVER_NAME=a", "KEYVAULT_TOKEN_FILE=absent", "KEYVAULT_INSECURE=", "KEYVAULT_ADDRESS=",
    })
    void anImpossibleVariableIsNamed(String variable) {
        String[] parts = variable.split("=", -1);
        var refused = assertThrows(
                InvalidRequestException.class, () -> KeyVault.fromEnvironment(Map.of(parts[0], parts[1])));
        assertTrue(refused.getMessage().contains("KEYVAULT_"), refused::getMessage);
    }

    @Test
    void theVariablesOfTheCommandMakeAClient() {
        Map<String, String> variables = Map.of(
                "KEYVAULT_ADDRESS", "192.0.2.1:1", "KEYVAULT_INSECURE", "true", "KEYVAULT_TIMEOUT", "2.5", "KEYVAULT_TLS", "0");
        try (KeyVault vault = KeyVault.fromEnvironment(variables)) {
            assertEquals(Duration.ofMillis(2500), vault.timeout());
        }
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "a\u001b[2J|a\\x1b[2J", "\u009b1A|\\u009b1A", "\u202e\u200b|\\u202e\\u200b", "\u3164|\\u3164", "ä 😀|ä 😀",
        "\udb40\udd00|\\U000e0100", "\ud800|\\ud800",
    })
    void whatATerminalObeysIsEscaped(String text, String shown) {
        assertEquals(shown, Printable.printable(text));
    }

    @Test
    void aTokenSourceThatFailsOrHangsSendsNothing() {
        AtomicInteger asked = new AtomicInteger();
        KeyVaultBuilder builder = KeyVault.builder("127.0.0.1:1").tls(Tls.systemRoots()).timeout(Duration.ofMillis(300));
        TokenSource hanging = left -> {
            asked.incrementAndGet();
            Thread.sleep(60_000);
            return "";
        };
        try (KeyVault vault = builder.tokens(hanging).build()) {
            String said = assertThrows(UnavailableException.class, vault::whoAmI).getMessage();
            assertEquals("timed out while getting a token; the request was not sent", said);
            assertEquals(1, asked.get());
        }
        TokenSource failing = left -> {
            throw new IOException("no\u001b token");
        };
        try (KeyVault vault = builder.tokens(failing).build()) {
            String said = assertThrows(UnavailableException.class, vault::whoAmI).getMessage();
            assertEquals("cannot get a token; the request was not sent: no\\x1b token", said);
        }
    }

    @Test
    void aChangedTokenIsUsedOnceItHasSettled(@TempDir Path folder) throws IOException {
        Path file = Files.writeString(folder.resolve("token"), "first\n");
        Tokens.InFile token = new Tokens.InFile(file);
        Files.writeString(file, "second\n");
        assertEquals("first", token.token(Duration.ZERO));
        Files.setLastModifiedTime(file, FileTime.from(Instant.now().minusSeconds(60)));
        assertEquals("second", token.token(Duration.ZERO));
        Files.writeString(file, "third\n");
        Files.setLastModifiedTime(file, FileTime.from(Instant.now().plusSeconds(3600)));
        assertEquals("third", token.token(Duration.ZERO), "of a clock that is ahead");
        Files.writeString(file, "not a token\n");
        Files.setLastModifiedTime(file, FileTime.from(Instant.now().minusSeconds(50)));
        assertEquals("third", token.token(Duration.ZERO));
    }
}
