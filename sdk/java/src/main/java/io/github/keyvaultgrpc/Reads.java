package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.serverFailure;

import io.github.keyvaultgrpc.kve1.Kve1;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import java.util.Optional;

/** Reads records, and believes nothing that does not open. */
final class Reads {
    private final Calls calls;
    private final SeenRevisions seen;

    Reads(Calls calls, SeenRevisions seen) {
        this.calls = calls;
        this.seen = seen;
    }

    /** Returns the current record, opened. */
    VaultRecord read(String keyId, DataKey key, TimeLimit limit) {
        return accept(keyId, fetch(key, ReadRequest.newBuilder().setKeyId(keyId), limit), key);
    }

    /** Returns the current record unless it is at the known revision. */
    Optional<VaultRecord> readIfChanged(String keyId, DataKey key, long known, TimeLimit limit) {
        Names.checkRevision("known revision", known);
        ReadResponse answer = fetch(key, ReadRequest.newBuilder().setKeyId(keyId).setKnownRevision(known), limit);
        return acceptIfChanged(keyId, answer, key, known);
    }

    /**
     * Returns this revision of the record, opened. A low revision that was asked for is no rollback; a server that says of a
     * record that it never was at a proved revision, is one.
     */
    VaultRecord readEarlier(String keyId, DataKey key, long revision, TimeLimit limit) {
        Names.checkUsable(key, keyId);
        Names.checkRevision("revision", revision);
        long floor = seen.get(key, keyId); // before the call, as in fetch
        ReadResponse answer;
        try {
            ReadRequest request =
                    ReadRequest.newBuilder().setKeyId(keyId).setRevision(revision).build();
            answer = calls.call(KeyVaultGrpc.getReadMethod(), request, limit);
        } catch (RevisionNotFoundException absent) {
            if (absent.currentRevision() > 0 && absent.currentRevision() < floor) {
                throw new RolledBackException(keyId, absent.currentRevision(), floor);
            }
            throw absent;
        }
        if (answer.getRevision() != revision) {
            throw serverFailure("the server answered with revision " + answer.getRevision() + " of " + keyId + " instead of "
                    + revision + ": it is an older KeyVault, which cannot read earlier revisions");
        }
        return accept(keyId, answer, key);
    }

    /** Asks for a record, which is not opened yet. Its revision is not below what was proved before. */
    ReadResponse fetch(DataKey key, ReadRequest.Builder asked, TimeLimit limit) {
        ReadRequest request = asked.build();
        Names.checkUsable(key, request.getKeyId());
        // Before the call: a write of ours may raise it while we wait. What the caller knows was proved, too.
        long floor = Math.max(seen.get(key, request.getKeyId()), request.getKnownRevision());
        ReadResponse answer = calls.call(KeyVaultGrpc.getReadMethod(), request, limit);
        SeenRevisions.check(request.getKeyId(), answer.getRevision(), floor);
        return answer;
    }

    /** Opens the record in an answer, and remembers its revision. */
    VaultRecord accept(String keyId, ReadResponse answer, DataKey key) {
        VaultRecord record = Envelopes.open(keyId, answer, key, Kve1.Kind.DATA);
        seen.note(key, keyId, record.revision());
        return record;
    }

    /** As accept, for a caller that has the known revision, 0 if none: it returns nothing if that is current. */
    Optional<VaultRecord> acceptIfChanged(String keyId, ReadResponse answer, DataKey key, long known) {
        if (!answer.getNotModified()) {
            return Optional.of(accept(keyId, answer, key));
        }
        if (known == 0 || answer.getRevision() != known) {
            throw serverFailure(
                    "the server's answer for " + keyId + " contradicts the request: not modified, but changed");
        }
        return Optional.empty();
    }

    /** Returns the revision of the tombstone under a name that a create has found in use, opened under the key. */
    long deletedRevision(String keyId, DataKey key, ConflictException stale, TimeLimit limit) {
        if (stale.isVacant()) {
            String why = stale.getMessage() + "; the name was purged, so nothing proves its revision: check it with the"
                    + " operator, and name it to go on from there";
            Details said = new Details(why, stale.reason(), stale.requestId(), stale);
            throw new ConflictException(said, stale.currentRevision(), WrongRevisionException.UNSAID, true);
        }
        ReadResponse answer;
        try {
            answer = fetch(key, ReadRequest.newBuilder().setKeyId(keyId).setIncludeDeleted(true), limit);
        } catch (NotFoundException gone) {
            throw stale;
        }
        if (!answer.getDeleted()) {
            Details exists = Details.of("a record of " + keyId + " exists");
            throw new AlreadyExistsException(exists, answer.getRevision(), WrongRevisionException.UNSAID);
        }
        long revision = Envelopes.open(keyId, answer, key, Kve1.Kind.TOMBSTONE).revision();
        seen.note(key, keyId, revision);
        return revision;
    }
}
