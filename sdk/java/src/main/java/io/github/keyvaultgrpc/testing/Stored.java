package io.github.keyvaultgrpc.testing;

import io.github.keyvaultgrpc.DataKey;
import io.github.keyvaultgrpc.Revision;
import io.github.keyvaultgrpc.VaultRecord;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** A stored record: its owner, its last revision, and the revisions that are kept, the newest first; none if deleted. */
record Stored(DataKey owner, long revision, Instant created, Instant updated, List<Kept> kept) {
    /** Revisions that the real server keeps by default, the current one included. */
    private static final int HISTORY = 11;

    private static final int SEALED = 88; // an envelope's own bytes, of the shortest

    /** One revision. */
    record Kept(byte[] data, Instant updated) {}

    static Stored first(DataKey owner, byte[] data, long revision) {
        Instant now = Instant.now();
        return new Stored(owner, revision, now, now, List.of(new Kept(data, now)));
    }

    boolean isDeleted() {
        return kept.isEmpty();
    }

    Stored updated(byte[] data) {
        Instant now = Instant.now();
        List<Kept> all = new ArrayList<>(kept);
        all.add(0, new Kept(data, now));
        return new Stored(owner, revision + 1, created, now, List.copyOf(all.subList(0, Math.min(HISTORY, all.size()))));
    }

    Stored deleted() {
        return new Stored(owner, revision + 1, created, Instant.now(), List.of());
    }

    Stored rotated(DataKey newOwner) {
        Instant now = Instant.now();
        return new Stored(newOwner, revision + 1, created, now, List.of(new Kept(kept.get(0).data(), now)));
    }

    Optional<VaultRecord> record(String keyId, long asked) {
        long back = revision - asked;
        if (back < 0 || back >= kept.size()) {
            return Optional.empty();
        }
        Kept found = kept.get((int) back);
        return Optional.of(new VaultRecord(keyId, found.data(), asked, created, found.updated()));
    }

    List<Revision> revisions() {
        List<Revision> all = new ArrayList<>();
        for (int i = 0; i < kept.size(); i++) {
            Kept one = kept.get(i);
            all.add(new Revision(revision - i, one.updated(), SEALED + one.data().length + 16 * (one.data().length / 16_384)));
        }
        return all;
    }
}
