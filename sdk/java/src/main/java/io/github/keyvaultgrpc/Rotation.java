package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;

import com.google.protobuf.ByteString;
import io.github.keyvaultgrpc.kve1.Kve1;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.RotateKeyRequest;
import io.github.keyvaultgrpc.v1.RotateKeyResponse;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** Hands a record from one data key to another. */
final class Rotation {
    private final Calls calls;
    private final Reads reads;
    private final Writes writes;
    private final String keyId;
    private final DataKey key;
    private final DataKey newKey;
    private final TimeLimit limit;

    Rotation(Calls calls, Reads reads, Writes writes, String keyId, DataKey key, DataKey newKey, TimeLimit limit) {
        this.calls = calls;
        this.reads = reads;
        this.writes = writes;
        this.keyId = keyId;
        this.key = key;
        this.newKey = newKey;
        this.limit = limit;
    }

    /** Rotates at this revision, 0 for the last writer wins. */
    Written run(long named) {
        Names.checkUsable(key, keyId);
        Names.checkUsable(newKey, keyId);
        if (key.hasSecretOf(newKey)) {
            throw invalid("the key and the new key are the same data key: generate a new one");
        }
        for (long tried = 0; ; ) {
            ReadResponse answer = reads.fetch(key, ReadRequest.newBuilder().setKeyId(keyId), limit);
            if (Envelopes.isOf(keyId, answer, newKey)) { // an earlier attempt did it
                VaultRecord done = reads.accept(keyId, answer, newKey);
                return new Written(done.revision(), done.createTime(), done.updateTime(), true);
            }
            VaultRecord record = reads.accept(keyId, answer, key);
            if (named != 0 && record.revision() != named) {
                Details why = Details.of(keyId + " is at revision " + record.revision() + ", not " + named);
                throw new ConflictException(why, record.revision(), WrongRevisionException.UNSAID, false);
            }
            if (record.revision() <= tried) {
                throw Writes.contradiction(keyId, record.revision());
            }
            try {
                return rotate(record);
            } catch (WrongRevisionException faster) {
                if (named != 0) {
                    throw faster;
                }
            }
            tried = record.revision();
        }
    }

    private Written rotate(VaultRecord record) {
        long revision = record.revision() + 1;
        byte[] envelope = Envelopes.seal(newKey, keyId, Kve1.Kind.DATA, revision, record.plaintext());
        byte[] authorization = Envelopes.seal(key, keyId, Kve1.Kind.REKEY, revision, sha256(envelope));
        RotateKeyRequest request = RotateKeyRequest.newBuilder()
                .setKeyId(keyId)
                .setWrappedKey(ByteString.copyFrom(key.wrapped()))
                .setAuthorization(ByteString.copyFrom(authorization))
                .setNewWrappedKey(ByteString.copyFrom(newKey.wrapped()))
                .setEnvelope(ByteString.copyFrom(envelope))
                .build();
        RotateKeyResponse answer = calls.change(KeyVaultGrpc.getRotateKeyMethod(), request, revision, limit);
        Written done = Writes.written(
                answer.getRevision(), answer.getCreateTime(), answer.getUpdateTime(), answer.getReplayed());
        return writes.acknowledged(keyId, newKey, revision, done);
    }

    private static byte[] sha256(byte[] content) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(content);
        } catch (NoSuchAlgorithmException impossible) { // every Java has it
            throw new IllegalStateException(impossible);
        }
    }
}
