package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The files of TLS: renewed ones are used without a restart, and the JDK's roots where none are given. */
class RenewedFilesTest {
    private static final String KNOWN = "known-client-certificate";
    private static final String ANOTHER = "refused-client-certificate";

    private static Path path(JsonObject played, String name) {
        return Path.of(played.getAsJsonObject("tls").get(name).getAsString());
    }

    /** Writes a file that settled some time ago: none is read again before all have settled. */
    private static void replace(Path file, byte[] content) throws IOException {
        Files.write(file, content);
        Files.setLastModifiedTime(file, FileTime.from(Instant.now().minusSeconds(60)));
    }

    @Test
    void renewedFilesAreUsedByTheSameClient(@TempDir Path folder) throws IOException {
        try (Player player = Player.start(KNOWN, ANOTHER)) {
            JsonObject known = player.announced(KNOWN);
            Path ca = folder.resolve("ca.pem");
            Path certificate = folder.resolve("certificate.pem");
            Path key = folder.resolve("key.pem");
            replace(ca, Files.readAllBytes(path(player.announced(ANOTHER), "certificate"))); // trusts no server
            replace(certificate, Files.readAllBytes(path(known, "certificate")));
            replace(key, Files.readAllBytes(path(known, "private_key")));
            DataKey dataKey = DataKey.parse(known.get("key").toString().getBytes(UTF_8));
            String name = known.get("key_id").getAsString();
            String address = known.get("address").getAsString();
            Tls files = Tls.withRoots(ca).withCertificate(certificate, key);
            try (KeyVault vault = KeyVault.builder(address).tls(files).timeout(Duration.ofSeconds(60)).build()) {
                assertUntrusted(vault, name, dataKey);
                replace(ca, Files.readAllBytes(path(known, "ca")));
                assertArrayEquals("at 1".getBytes(UTF_8), vault.read(name, dataKey).plaintext());
                replace(ca, "not a certificate".getBytes(UTF_8)); // the earlier roots stay in use
                assertArrayEquals("at 1".getBytes(UTF_8), vault.read(name, dataKey).plaintext());
            }
            try (KeyVault vault = KeyVault.builder(address).tls(Tls.systemRoots()).timeout(Duration.ofSeconds(60)).build()) {
                assertUntrusted(vault, name, dataKey);
            }
            replace(key, Files.readAllBytes(path(player.announced(ANOTHER), "private_key")));
            replace(ca, Files.readAllBytes(path(known, "ca")));
            String why = assertThrows(InvalidRequestException.class, () -> KeyVault.builder(address).tls(files).build())
                    .getMessage();
            assertTrue(why.startsWith(key + ": not the unencrypted PKCS #8 private key of the certificate"), why);
        }
    }

    private static void assertUntrusted(KeyVault vault, String name, DataKey key) {
        long begin = System.nanoTime();
        String why = assertThrows(UnavailableException.class, () -> vault.read(name, key)).getMessage();
        assertTrue(why.contains("the server's certificate is not trusted. Does the CA belong to this server?"), why);
        assertTrue(System.nanoTime() - begin < Duration.ofSeconds(50).toNanos(), "it tried until the timeout");
    }
}
