package keyvault.example;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.protobuf.ByteString;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Map;
import java.util.Set;
import java.util.logging.Level;
import java.util.logging.Logger;
import keyvault.example.Vault.BadUsage;
import keyvault.example.Vault.Refused;
import io.github.keyvaultgrpc.v1.CreateRequest;
import io.github.keyvaultgrpc.v1.DeleteRequest;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.RotateKeyRequest;
import io.github.keyvaultgrpc.v1.UpdateRequest;

/**
 * The command kv: puts, gets, rotates, deletes and lists records of a server that cannot read them.
 *
 * <p>The rules of this file: a failure is one line, never with a secret in it; a key is on disk before it
 * is used; an envelope is sealed for the revision after one that opened under the key, never for one that the
 * server names.
 */
public final class Kv {
    private static final int RESEALS = 10;
    private static final Set<String> OVERTAKEN = Set.of("STALE_REVISION", "RECORD_EXISTS", "RECORD_NOT_FOUND");
    /** Held here, for a logger that nobody holds forgets its level. */
    private static final Logger LIBRARIES = Logger.getLogger("io.grpc");

    private final Vault vault;
    private final String keyId;

    private Kv(Vault vault, String keyId) {
        this.vault = vault;
        this.keyId = keyId;
    }

    /** Exits with 0; with 1 on failure; with 2 for invalid arguments or settings. */
    public static void main(String[] args) {
        LIBRARIES.setLevel(Level.OFF);
        // Not System.out, which keeps a full disk to itself.
        OutputStream out = new FileOutputStream(FileDescriptor.out);
        System.exit(exitStatus(args, System.getenv(), System.in, out, System.err));
    }

    static int exitStatus(
            String[] args, Map<String, String> environment, InputStream in, OutputStream out, PrintStream err) {
        try {
            out.write(run(args, environment, in));
            return 0;
        } catch (BadUsage wrong) {
            return complain(err, wrong.getMessage(), 2);
        } catch (Refused refused) {
            return complain(err, refused.getMessage(), 1);
        } catch (IOException | InterruptedException | RuntimeException failed) {
            return complain(err, failed.getClass().getSimpleName() + ": " + failed.getMessage(), 1);
        }
    }

    private static int complain(PrintStream err, String message, int status) {
        // What is not printable could move the cursor or reorder the line.
        err.println("kv: " + message.replaceAll("[^\\p{L}\\p{M}\\p{N}\\p{P}\\p{S} ]+", " "));
        return status;
    }

    private static byte[] run(String[] args, Map<String, String> environment, InputStream in)
            throws Refused, IOException, InterruptedException {
        Arguments asked = Arguments.parse(args);
        long revision = asked.revision();
        byte[] input = asked.verb().equals("put") ? read(in) : new byte[0];
        try (Vault vault = Vault.connect(environment)) {
            Kv kv = new Kv(vault, asked.keyId());
            return switch (asked.verb()) {
                case "list" -> Past.list(vault, asked.keyId()).getBytes(UTF_8);
                case "history" -> Past.history(vault, asked.keyId()).getBytes(UTF_8);
                case "put" -> kv.report(kv.put(DataKey.loadOrGenerate(vault, asked.keyId(), asked.file("--key")), input));
                case "get" -> kv.get(DataKey.load(asked.file("--key")), revision);
                case "rotate" -> kv.report(kv.rotate(
                        DataKey.load(asked.file("--key")),
                        DataKey.loadOrGenerate(vault, asked.keyId(), asked.file("--new-key"))));
                default -> kv.report(kv.delete(DataKey.load(asked.file("--key"))));
            };
        }
    }

    private static byte[] read(InputStream in) throws Refused, IOException {
        byte[] input = in.readNBytes(Kve1.MAX_PLAINTEXT + 1);
        if (input.length > Kve1.MAX_PLAINTEXT) {
            throw new Refused("standard input is too long: a record has at most " + Kve1.MAX_PLAINTEXT + " bytes");
        }
        return input;
    }

    private byte[] report(long revision) {
        return (keyId + " is at revision " + revision + "\n").getBytes(UTF_8);
    }

    /** Returns the data at a revision, 0 for the current one. An older server ignores the revision. */
    private byte[] get(DataKey key, long revision) throws Refused, InterruptedException {
        ReadResponse stored = read(ReadRequest.newBuilder().setRevision(revision));
        if (revision != 0 && stored.getRevision() != revision) {
            throw new Refused("the server answered with revision " + stored.getRevision() + " of " + keyId + " instead of "
                    + revision + ": it is an older KeyVault, which cannot read earlier revisions");
        }
        return open(key, stored);
    }

    /** The last writer wins: creates the record, updates it if it is there, creates it again if it was deleted. */
    private long put(DataKey key, byte[] plaintext) throws Refused, InterruptedException {
        boolean create = true;
        long revision = 1;
        for (int left = RESEALS; ; left--) {
            ByteString envelope = seal(key, Kve1.Kind.DATA, revision, plaintext);
            try {
                return create ? create(key, envelope, revision) : update(key, envelope, revision);
            } catch (Failed failed) {
                if (left == 0 || !OVERTAKEN.contains(failed.reason())) {
                    throw failed;
                }
                Kve1.Parsed stored = openAbove(key, revision, failed);
                create = stored.kind() == Kve1.Kind.TOMBSTONE;
                revision = stored.revision() + 1;
            }
        }
    }

    private long create(DataKey key, ByteString envelope, long revision) throws Refused, InterruptedException {
        var request = CreateRequest.newBuilder().setKeyId(keyId).setWrappedKey(key.wrapped()).setEnvelope(envelope);
        return acknowledged(
                vault.mutate(KeyVaultGrpc.getCreateMethod(), request.build(), revision).getRevision(), revision);
    }

    private long update(DataKey key, ByteString envelope, long revision) throws Refused, InterruptedException {
        var request = UpdateRequest.newBuilder().setKeyId(keyId).setWrappedKey(key.wrapped()).setEnvelope(envelope);
        return acknowledged(
                vault.mutate(KeyVaultGrpc.getUpdateMethod(), request.build(), revision).getRevision(), revision);
    }

    /** Returns the revision of an OK, which has to be the one that was sealed. */
    private static long acknowledged(long answered, long sealed) throws Refused {
        if (answered != sealed) {
            throw Vault.unknown("the server answered OK for revision " + answered + " instead of " + sealed);
        }
        return answered;
    }

    private long delete(DataKey key) throws Refused, InterruptedException {
        ReadResponse stored = read(false);
        open(key, stored);
        long revision = stored.getRevision() + 1;
        for (int left = RESEALS; ; left--) {
            ByteString envelope = seal(key, Kve1.Kind.TOMBSTONE, revision, new byte[0]);
            var request = DeleteRequest.newBuilder().setKeyId(keyId).setWrappedKey(key.wrapped()).setEnvelope(envelope);
            try {
                var deleted = vault.mutate(KeyVaultGrpc.getDeleteMethod(), request.build(), revision);
                return acknowledged(deleted.getRevision(), revision);
            } catch (Failed failed) {
                if (left == 0 || !failed.reason().equals("STALE_REVISION")) {
                    throw failed;
                }
                Kve1.Parsed above = openAbove(key, revision, failed);
                if (above.kind() == Kve1.Kind.TOMBSTONE) {
                    throw new Refused(keyId + ": another writer deleted it");
                }
                revision = above.revision() + 1;
            }
        }
    }

    /** If the new key opens the record already, an earlier attempt did it and its answer was lost. */
    private long rotate(DataKey key, DataKey newKey) throws Refused, InterruptedException {
        if (MessageDigest.isEqual(key.plaintext(), newKey.plaintext())) {
            throw new BadUsage("--key and --new-key are the same data key");
        }
        ReadResponse stored = read(false);
        for (int left = RESEALS; ; left--) {
            if (isOwnedBy(newKey, stored)) {
                open(newKey, stored);
                return stored.getRevision();
            }
            long revision = stored.getRevision() + 1;
            ByteString envelope = seal(newKey, Kve1.Kind.DATA, revision, open(key, stored));
            var request = RotateKeyRequest.newBuilder()
                    .setKeyId(keyId)
                    .setWrappedKey(key.wrapped())
                    .setAuthorization(seal(key, Kve1.Kind.REKEY, revision, sha256(envelope)))
                    .setNewWrappedKey(newKey.wrapped())
                    .setEnvelope(envelope);
            try {
                var rotated = vault.mutate(KeyVaultGrpc.getRotateKeyMethod(), request.build(), revision);
                return acknowledged(rotated.getRevision(), revision);
            } catch (Failed failed) {
                if (left == 0 || !failed.reason().equals("STALE_REVISION")) {
                    throw failed;
                }
                stored = read(false);
                mustBeAbove(stored, revision, failed);
            }
        }
    }

    /** Opens the record, live or deleted, that took the place of what was sealed for this revision and refused. */
    private Kve1.Parsed openAbove(DataKey key, long tried, Failed failed) throws Refused, InterruptedException {
        if (failed.vacant()) {
            throw new Refused(keyId + ": the name was purged, so nothing proves its revision: " + failed.getMessage());
        }
        ReadResponse stored;
        try {
            stored = read(true);
        } catch (Failed absent) {
            if (!absent.reason().equals("RECORD_NOT_FOUND")) {
                throw absent;
            }
            throw new Refused(keyId + ": there is no record that proves this revision: " + failed.getMessage());
        }
        open(key, stored);
        mustBeAbove(stored, tried, failed);
        return parse(stored);
    }

    /** Or the next revision would be refused again, because of a number that nobody proved. */
    private void mustBeAbove(ReadResponse stored, long tried, Failed failed) throws Refused {
        if (stored.getRevision() < tried) {
            throw new Refused(keyId + ": the server has revision " + stored.getRevision() + " and refuses " + tried
                    + ": " + failed.getMessage());
        }
    }

    /**
     * What is stored, not opened yet: a DATA envelope, or a TOMBSTONE where it may be, at the revision that the server
     * reports. A command cannot notice that an earlier one was shown a newer record: a longer program remembers
     * the highest revision of each name.
     */
    private ReadResponse read(boolean deleted) throws Refused, InterruptedException {
        return read(ReadRequest.newBuilder().setIncludeDeleted(deleted));
    }

    private ReadResponse read(ReadRequest.Builder asked) throws Refused, InterruptedException {
        boolean deleted = asked.getIncludeDeleted();
        ReadResponse stored = vault.call(KeyVaultGrpc.getReadMethod(), asked.setKeyId(keyId).build());
        Kve1.Parsed parsed = parse(stored);
        boolean fits = parsed.kind() == Kve1.Kind.DATA || deleted && parsed.kind() == Kve1.Kind.TOMBSTONE;
        if (!fits || parsed.revision() != stored.getRevision()) {
            throw new Refused("the server answered with an envelope of another kind or revision than the record's");
        }
        return stored;
    }

    private static Kve1.Parsed parse(ReadResponse stored) throws Refused {
        try {
            return Kve1.parse(stored.getEnvelope().toByteArray());
        } catch (Kve1.Malformed malformed) {
            throw new Refused("the server's answer is not a KVE1 envelope");
        }
    }

    private boolean isOwnedBy(DataKey key, ReadResponse stored) throws Refused {
        parse(stored);
        byte[] head = stored.getEnvelope().substring(0, Kve1.HEAD).toByteArray();
        try {
            return Kve1.commitsTo(head, key.plaintext(), key.tenant(), keyId);
        } catch (Kve1.Malformed impossible) {
            throw new IllegalStateException(impossible); // it was parsed
        }
    }

    private byte[] open(DataKey key, ReadResponse stored) throws Refused {
        try {
            return Kve1.open(key.plaintext(), key.tenant(), keyId, stored.getEnvelope().toByteArray());
        } catch (Kve1.Malformed | Kve1.DoesNotOpen failed) {
            throw new Refused(keyId + ": " + failed.getMessage());
        }
    }

    private ByteString seal(DataKey key, Kve1.Kind kind, long revision, byte[] plaintext) {
        return ByteString.copyFrom(Kve1.seal(key.plaintext(), key.tenant(), keyId, kind, revision, plaintext));
    }

    private static byte[] sha256(ByteString envelope) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(envelope.toByteArray());
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible); // every Java has it
        }
    }
}
