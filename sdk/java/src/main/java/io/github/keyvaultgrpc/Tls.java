package io.github.keyvaultgrpc;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * The PEM files of a TLS connection. The server is always verified. Changed files are used by a new connection from the
 * next call on; if they are unusable, the earlier ones stay in use.
 *
 * @param ca the roots that the server is verified against, or null for those of the JDK
 * @param certificate the client's chain where the server requires one, or null
 * @param privateKey the key of the certificate, PKCS #8 without a password, or null
 * @param serverName the name in the server's certificate where the address has another one, or null
 */
public record Tls(Path ca, Path certificate, Path privateKey, String serverName) {

    /** Verifies the server against the roots of the JDK. */
    public static Tls systemRoots() {
        return new Tls(null, null, null, null);
    }

    /** Verifies the server against the roots in this file. */
    public static Tls withRoots(Path ca) {
        return new Tls(ca, null, null, null);
    }

    /** Returns these files, and those of the client's own certificate. */
    public Tls withCertificate(Path chain, Path key) {
        return new Tls(ca, chain, key, serverName);
    }

    /** Returns these files, for a server whose certificate has this name. */
    public Tls withServerName(String name) {
        return new Tls(ca, certificate, privateKey, name);
    }

    /** Returns the stamps of the files. */
    List<Optional<FileStamp>> stamps() {
        return Stream.of(Optional.ofNullable(ca), Optional.ofNullable(certificate), Optional.ofNullable(privateKey))
                .map(path -> path.flatMap(FileStamp::of))
                .toList();
    }
}
