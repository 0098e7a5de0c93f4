package keyvault.example;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.JsonFormat;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Set;
import io.github.keyvaultgrpc.v1.GenerateKeyRequest;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;

/**
 * A data key in its two forms: the 32 bytes that read, and the wrapped form that together with them writes.
 *
 * <p>Its file is a GenerateKeyResponse in JSON, as the command keyvault and grpcurl write it too.
 */
record DataKey(String tenant, byte[] plaintext, ByteString wrapped) {

    private static final int MAX_WRAPPED_KEY = 8192; // bytes, keyvault.proto

    /** Reads a file, or makes it with a fresh key for this key_id alone. */
    static DataKey loadOrGenerate(Vault vault, String keyId, Path file)
            throws Vault.Refused, IOException, InterruptedException {
        if (!Files.exists(file)) {
            var request = GenerateKeyRequest.newBuilder().setScope(keyId).build();
            var generated = vault.call(KeyVaultGrpc.getGenerateKeyMethod(), request);
            check(generated, keyId);
            save(generated, file);
        }
        return load(file);
    }

    /** Reads a file whose fields may be spelt plaintext_key or plaintextKey. */
    static DataKey load(Path file) throws Vault.Refused, IOException {
        var key = GenerateKeyResponse.newBuilder();
        byte[] json = Files.readAllBytes(file);
        try {
            JsonFormat.parser().ignoringUnknownFields().merge(new String(json, UTF_8), key);
        } catch (InvalidProtocolBufferException noKey) { // whose message may quote the file
            throw new Vault.Refused(file + ": not a key file: expected tenant, scope, plaintext_key, wrapped_key");
        }
        if (key.getTenant().isEmpty() || key.getPlaintextKey().size() != 32 || key.getWrappedKey().isEmpty()) {
            throw new Vault.Refused(file + ": not a key file: needs tenant, 32 bytes of plaintext_key, wrapped_key");
        }
        return new DataKey(key.getTenant(), key.getPlaintextKey().toByteArray(), key.getWrappedKey());
    }

    /** Refuses an answer that is not a key for this key_id alone: a wider one lets its holder change other records. */
    private static void check(GenerateKeyResponse key, String keyId) throws Vault.Refused {
        int wrapped = key.getWrappedKey().size();
        boolean valid = key.getPlaintextKey().size() == 32 && wrapped > 0 && wrapped <= MAX_WRAPPED_KEY;
        if (!valid || key.getTenant().isEmpty() || !key.getScope().equals(keyId)) {
            throw new Vault.Refused("the server answered GenerateKey with an invalid key, or one for another scope");
        }
    }

    /** For its owner only, never over another file, and on the disk when this returns: it cannot be regenerated. */
    private static void save(GenerateKeyResponse key, Path file) throws IOException {
        String json = JsonFormat.printer().preservingProtoFieldNames().print(key) + "\n";
        var fresh = Set.of(StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        var ownerOnly = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------"));
        try (FileChannel channel = FileChannel.open(file, fresh, ownerOnly)) {
            ByteBuffer bytes = UTF_8.encode(json);
            while (bytes.hasRemaining()) {
                channel.write(bytes);
            }
            channel.force(true);
        }
        try (FileChannel directory = FileChannel.open(file.toAbsolutePath().getParent())) {
            directory.force(true); // its entry too
        }
    }

    /** Without the key. */
    @Override
    public String toString() {
        return "a data key of " + tenant;
    }
}
