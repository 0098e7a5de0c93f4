package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;
import static java.nio.charset.StandardCharsets.ISO_8859_1;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.KeyStoreException;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManagerFactory;

/** Reads the files of TLS and checks them, so that a wrong one is named before a connection fails for it. */
final class TlsFiles {
    private static final Pattern CERTIFICATE = Pattern.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----");
    private static final Pattern PRIVATE_KEY = Pattern.compile("-----BEGIN PRIVATE KEY-----([^-]+)-----END PRIVATE KEY-----");
    /** Algorithms of private keys, and how each signs. */
    private static final Map<String, String> SIGNATURES =
            Map.of("RSA", "SHA256withRSA", "EC", "SHA256withECDSA", "Ed25519", "Ed25519");
    private static final char[] NO_PASSWORD = {};

    private TlsFiles() {}

    /** Returns what gRPC connects with. Throws an InvalidRequestException that names the file. */
    static ChannelCredentials credentials(Tls files) {
        if ((files.certificate() == null) != (files.privateKey() == null)) {
            throw invalid("a client certificate and its private key must be given together");
        }
        TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
        try {
            if (files.ca() != null) {
                tls.trustManager(trusting(files.ca()).getTrustManagers());
            }
            if (files.certificate() != null) {
                tls.keyManager(showing(files.certificate(), files.privateKey()).getKeyManagers());
            }
        } catch (GeneralSecurityException | IOException impossible) { // of stores in memory
            throw new IllegalStateException(impossible);
        }
        return tls.build();
    }

    private static TrustManagerFactory trusting(Path ca) throws GeneralSecurityException, IOException {
        KeyStore roots = emptyStore();
        for (X509Certificate root : certificates(ca)) {
            roots.setCertificateEntry("root-" + roots.size(), root);
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(roots);
        return factory;
    }

    private static KeyManagerFactory showing(Path chainFile, Path keyFile) throws GeneralSecurityException, IOException {
        List<X509Certificate> chain = certificates(chainFile);
        X509Certificate own = chain.get(0);
        Date now = new Date();
        if (now.after(own.getNotAfter())) {
            throw invalid(printable(chainFile.toString()) + ": the certificate expired at " + own.getNotAfter().toInstant()
                    + ": get a new one");
        }
        if (now.before(own.getNotBefore())) {
            throw invalid(printable(chainFile.toString()) + ": not valid before " + own.getNotBefore().toInstant()
                    + ". Is this machine's clock right?");
        }
        KeyStore identity = emptyStore();
        PrivateKey key = privateKey(keyFile, own);
        try {
            identity.setKeyEntry("client", key, NO_PASSWORD, chain.toArray(new Certificate[0]));
        } catch (KeyStoreException disorder) {
            throw invalid(printable(chainFile.toString()) + ": its certificates are not a chain: the client's own has to be"
                    + " the first one, followed by that of its issuer", disorder);
        }
        KeyManagerFactory factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        factory.init(identity, NO_PASSWORD);
        return factory;
    }

    private static KeyStore emptyStore() throws GeneralSecurityException, IOException {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        return store;
    }

    private static List<X509Certificate> certificates(Path path) {
        CertificateFactory factory;
        try {
            factory = CertificateFactory.getInstance("X.509");
            List<X509Certificate> found = CERTIFICATE.matcher(read(path)).results()
                    .map(match -> certificate(factory, match.group(), path))
                    .toList();
            if (!found.isEmpty()) {
                return found;
            }
        } catch (GeneralSecurityException impossible) { // every Java has X.509
            throw new IllegalStateException(impossible);
        }
        throw invalid(printable(path.toString()) + ": not a PEM certificate");
    }

    private static X509Certificate certificate(CertificateFactory factory, String pem, Path path) {
        try {
            return (X509Certificate) factory.generateCertificate(new ByteArrayInputStream(pem.getBytes(ISO_8859_1)));
        } catch (GeneralSecurityException malformed) {
            throw invalid(printable(path.toString()) + ": not a PEM certificate", malformed);
        }
    }

    /** Returns the private key of a certificate. Its error quotes nothing of the file. */
    private static PrivateKey privateKey(Path path, X509Certificate own) {
        Matcher pem = PRIVATE_KEY.matcher(read(path));
        if (pem.find()) {
            byte[] encoded;
            try {
                encoded = Base64.getMimeDecoder().decode(pem.group(1));
            } catch (IllegalArgumentException malformed) {
                encoded = new byte[0];
            }
            try {
                for (Map.Entry<String, String> algorithm : SIGNATURES.entrySet()) {
                    PrivateKey key = privateKey(algorithm.getKey(), encoded);
                    if (key != null && isKeyOf(own, key, algorithm.getValue())) {
                        return key;
                    }
                }
            } finally {
                Arrays.fill(encoded, (byte) 0);
            }
        }
        throw invalid(printable(path.toString()) + ": not the unencrypted PKCS #8 private key of the certificate:"
                + " `openssl pkcs8 -topk8 -nocrypt` converts other formats");
    }

    private static PrivateKey privateKey(String algorithm, byte[] encoded) {
        try {
            return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(encoded));
        } catch (GeneralSecurityException another) {
            return null;
        }
    }

    private static boolean isKeyOf(X509Certificate own, PrivateKey key, String algorithm) {
        try {
            Signature signature = Signature.getInstance(algorithm);
            signature.initSign(key);
            byte[] signed = signature.sign();
            signature.initVerify(own.getPublicKey());
            return signature.verify(signed);
        } catch (GeneralSecurityException another) {
            return false;
        }
    }

    private static String read(Path path) {
        try {
            return new String(Files.readAllBytes(path), ISO_8859_1);
        } catch (IOException failed) {
            throw KeyFiles.fileError(path, failed);
        }
    }
}
