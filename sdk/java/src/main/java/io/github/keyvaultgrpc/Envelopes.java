package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;

import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.github.keyvaultgrpc.kve1.Kve1;
import io.github.keyvaultgrpc.v1.ReadResponse;
import java.time.DateTimeException;
import java.time.Instant;

/** Seals what is sent, and opens what comes. */
final class Envelopes {
    private Envelopes() {}

    static byte[] seal(DataKey key, String keyId, Kve1.Kind kind, long revision, byte[] plaintext) {
        Names.checkUsable(key, keyId);
        Names.checkRevision("revision", revision);
        if (plaintext.length > Kve1.MAX_PLAINTEXT) {
            throw invalid("the plaintext is " + plaintext.length + " bytes: a record holds at most " + Kve1.MAX_PLAINTEXT);
        }
        return Kve1.seal(key.secret(), key.tenant(), keyId, kind, revision, plaintext);
    }

    /** Returns the record in an answer, opened under the key that it has to be of. */
    static VaultRecord open(String keyId, ReadResponse answer, DataKey key, Kve1.Kind kind) {
        byte[] envelope = answer.getEnvelope().toByteArray();
        Kve1.Parsed header;
        byte[] plaintext;
        try {
            header = Kve1.parse(envelope);
            plaintext = Kve1.open(key.secret(), key.tenant(), keyId, envelope);
        } catch (Kve1.Malformed | Kve1.DoesNotOpen failed) {
            throw new RecordDamagedException(Details.of(
                            keyId + " does not open under this key: the record is another key's, or damaged")
                    .because(failed));
        }
        if (header.kind() != kind || header.revision() != answer.getRevision()) {
            throw new RecordDamagedException(Details.of("the server's answer for " + keyId + " contradicts its envelope"));
        }
        Instant created = instant(answer.getCreateTime());
        return new VaultRecord(keyId, plaintext, header.revision(), created, instant(answer.getUpdateTime()));
    }

    /** Returns whether an answer's envelope is of this key, which may not open. */
    static boolean isOf(String keyId, ReadResponse answer, DataKey key) {
        ByteString envelope = answer.getEnvelope();
        try {
            Kve1.parse(envelope.toByteArray());
            byte[] head = envelope.substring(0, Kve1.HEAD).toByteArray();
            return Kve1.commitsTo(head, key.secret(), key.tenant(), keyId);
        } catch (Kve1.Malformed malformed) {
            return false;
        }
    }

    /** Returns the time of an answer; that of 1970 for one that cannot be. */
    static Instant instant(Timestamp time) {
        try {
            return Instant.ofEpochSecond(time.getSeconds(), time.getNanos());
        } catch (DateTimeException | ArithmeticException impossible) {
            return Instant.EPOCH;
        }
    }
}
