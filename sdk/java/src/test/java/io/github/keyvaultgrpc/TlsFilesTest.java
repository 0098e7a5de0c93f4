package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.US_ASCII;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.Base64;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TlsFilesTest {
    private static final String PASSWORD = "of-a-test";

    @TempDir
    private Path folder;

    private Path pem(String name, String label, byte[]... encoded) throws Exception {
        StringBuilder text = new StringBuilder();
        for (byte[] one : encoded) {
            text.append("-----BEGIN " + label + "-----\n")
                    .append(Base64.getMimeEncoder(64, "\n".getBytes(US_ASCII)).encodeToString(one))
                    .append("\n-----END " + label + "-----\n");
        }
        return Files.writeString(folder.resolve(name), text);
    }

    @Test
    void certificatesThatAreNoChainAreNamed() throws Exception {
        Path made = folder.resolve("made.p12");
        Path keytool = Path.of(System.getProperty("java.home"), "bin", "keytool");
        List<String> command = List.of(
                keytool.toString(), "-J-XX:TieredStopAtLevel=1", "-genkeypair", "-keyalg", "EC", "-alias", "a", "-dname", "CN=a",
                "-storetype", "PKCS12", "-keystore", made.toString(), "-storepass", PASSWORD);
        assertEquals(0, new ProcessBuilder(command).redirectErrorStream(true).start().waitFor());
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream file = Files.newInputStream(made)) {
            store.load(file, PASSWORD.toCharArray());
        }
        byte[] certificate = store.getCertificate("a").getEncoded();
        Path key = pem("key.pem", "PRIVATE KEY", store.getKey("a", PASSWORD.toCharArray()).getEncoded());
        TlsFiles.credentials(Tls.systemRoots().withCertificate(pem("one.pem", "CERTIFICATE", certificate), key));
        Path twice = pem("two.pem", "CERTIFICATE", certificate, certificate);
        InvalidRequestException failed = assertThrows(
                InvalidRequestException.class,
                () -> TlsFiles.credentials(Tls.systemRoots().withCertificate(twice, key)));
        assertEquals(
                twice + ": its certificates are not a chain: the client's own has to be the first one, followed by that of"
                        + " its issuer",
                failed.getMessage());
    }
}
