package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Calls.outcomeUnknown;

import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.github.keyvaultgrpc.kve1.Kve1;
import io.github.keyvaultgrpc.v1.CreateRequest;
import io.github.keyvaultgrpc.v1.CreateResponse;
import io.github.keyvaultgrpc.v1.DeleteRequest;
import io.github.keyvaultgrpc.v1.DeleteResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.UpdateRequest;
import io.github.keyvaultgrpc.v1.UpdateResponse;
import java.util.function.LongFunction;

/**
 * Changes records.
 *
 * <p>The rule of this file: a revision that the caller names is sealed for as it is. Otherwise the last writer wins, and
 * the change is sealed for the revision after one that this client proved: it opened under the record's key, or the server
 * acknowledged it for what was sealed. What a server only says is never sealed for.
 */
final class Writes {
    private final Calls calls;
    private final SeenRevisions seen;
    private final Reads reads;

    Writes(Calls calls, SeenRevisions seen, Reads reads) {
        this.calls = calls;
        this.seen = seen;
        this.reads = reads;
    }

    /** Creates a record, or creates it again after its tombstone, which has to open under the key. */
    Written create(String keyId, byte[] plaintext, DataKey key, TimeLimit limit) {
        try {
            return createAt(keyId, plaintext, key, 1, limit);
        } catch (ConflictException stale) {
            long deleted = reads.deletedRevision(keyId, key, stale, limit);
            return createAt(keyId, plaintext, key, deleted + 1, limit);
        }
    }

    Written createAt(String keyId, byte[] plaintext, DataKey key, long revision, TimeLimit limit) {
        byte[] envelope = Envelopes.seal(key, keyId, Kve1.Kind.DATA, revision, plaintext);
        CreateRequest request = CreateRequest.newBuilder()
                .setKeyId(keyId)
                .setWrappedKey(ByteString.copyFrom(key.wrapped()))
                .setEnvelope(ByteString.copyFrom(envelope))
                .build();
        CreateResponse answer = calls.change(KeyVaultGrpc.getCreateMethod(), request, revision, limit);
        return acknowledged(
                keyId, key, revision,
                written(answer.getRevision(), answer.getCreateTime(), answer.getUpdateTime(), answer.getReplayed()));
    }

    Written updateAt(String keyId, byte[] plaintext, DataKey key, long revision, TimeLimit limit) {
        byte[] envelope = Envelopes.seal(key, keyId, Kve1.Kind.DATA, revision, plaintext);
        UpdateRequest request = UpdateRequest.newBuilder()
                .setKeyId(keyId)
                .setWrappedKey(ByteString.copyFrom(key.wrapped()))
                .setEnvelope(ByteString.copyFrom(envelope))
                .build();
        UpdateResponse answer = calls.change(KeyVaultGrpc.getUpdateMethod(), request, revision, limit);
        return acknowledged(
                keyId, key, revision,
                written(answer.getRevision(), answer.getCreateTime(), answer.getUpdateTime(), answer.getReplayed()));
    }

    Written deleteAt(String keyId, DataKey key, long revision, TimeLimit limit) {
        byte[] envelope = Envelopes.seal(key, keyId, Kve1.Kind.TOMBSTONE, revision, new byte[0]);
        DeleteRequest request = DeleteRequest.newBuilder()
                .setKeyId(keyId)
                .setWrappedKey(ByteString.copyFrom(key.wrapped()))
                .setEnvelope(ByteString.copyFrom(envelope))
                .build();
        DeleteResponse answer = calls.change(KeyVaultGrpc.getDeleteMethod(), request, revision, limit);
        return acknowledged(
                keyId, key, revision,
                written(answer.getRevision(), answer.getCreateTime(), answer.getUpdateTime(), answer.getReplayed()));
    }

    Written update(String keyId, byte[] plaintext, DataKey key, TimeLimit limit) {
        return lastWins(keyId, key, revision -> updateAt(keyId, plaintext, key, revision, limit), limit);
    }

    Written delete(String keyId, DataKey key, TimeLimit limit) {
        return lastWins(keyId, key, revision -> deleteAt(keyId, key, revision, limit), limit);
    }

    /** Stores the data of an earlier revision as the next one; the last writer wins. */
    Written restore(String keyId, DataKey key, long revision, TimeLimit limit) {
        byte[] earlier = reads.readEarlier(keyId, key, revision, limit).plaintext();
        // What is remembered may be no more than the earlier revision: the current one is opened in any case.
        long current = reads.read(keyId, key, limit).revision();
        return after(keyId, key, current, next -> updateAt(keyId, earlier, key, next, limit), limit);
    }

    private Written lastWins(String keyId, DataKey key, LongFunction<Written> send, TimeLimit limit) {
        Names.checkUsable(key, keyId);
        long proved = seen.get(key, keyId);
        return after(keyId, key, proved != 0 ? proved : reads.read(keyId, key, limit).revision(), send, limit);
    }

    /** Changes at this proved revision + 1, and again while other writers are faster. */
    private Written after(String keyId, DataKey key, long proved, LongFunction<Written> send, TimeLimit limit) {
        for (long from = proved; ; ) {
            try {
                return send.apply(from + 1);
            } catch (WrongRevisionException faster) {
                long current = reads.read(keyId, key, limit).revision();
                if (current <= from) { // it would be refused again, because of a number that nobody proved
                    throw contradiction(keyId, current);
                }
                from = current;
            }
        }
    }

    static Written written(long revision, Timestamp created, Timestamp updated, boolean replayed) {
        return new Written(revision, Envelopes.instant(created), Envelopes.instant(updated), replayed);
    }

    /** Returns the result of a change, whose revision has to be the one that was sealed. */
    Written acknowledged(String keyId, DataKey key, long sealed, Written done) {
        if (done.revision() != sealed) {
            throw outcomeUnknown(sealed, Details.serverFailure("the server answered OK for another revision"));
        }
        seen.note(key, keyId, sealed);
        return done;
    }

    /** Returns the error for a server that refuses the next revision and shows no later one. */
    static ConflictException contradiction(String keyId, long revision) {
        Details why = Details.of("the server says that " + keyId + " was changed, but shows revision " + revision
                + ", which is not new");
        return new ConflictException(why, revision, WrongRevisionException.UNSAID, false);
    }
}
