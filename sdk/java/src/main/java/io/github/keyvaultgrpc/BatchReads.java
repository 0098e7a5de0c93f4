package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.serverFailure;

import io.github.keyvaultgrpc.v1.BatchReadRequest;
import io.github.keyvaultgrpc.v1.BatchReadResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** One read of many records: what it has, and which names it still wants. */
final class BatchReads {
    private static final String BATCH_FULL = "BATCH_FULL";

    private final Calls calls;
    private final SeenRevisions seen;
    private final Reads reads;
    private final Map<String, DataKey> keys;
    private final Map<String, Long> known;
    private final Map<String, ReadResult> results = new TreeMap<>();
    private final Deque<String> wanted = new ArrayDeque<>();

    /** Wants these names, with the revisions that the caller has; the result of one that is current has no record. */
    BatchReads(Calls calls, SeenRevisions seen, Reads reads, Map<String, DataKey> keys, Map<String, Long> known) {
        this.calls = calls;
        this.seen = seen;
        this.reads = reads;
        this.keys = new TreeMap<>(keys);
        this.known = known;
    }

    Map<String, ReadResult> run(TimeLimit limit) {
        keys.forEach((name, key) -> {
            try {
                Names.checkUsable(key, name);
                wanted.add(name);
            } catch (InvalidRequestException unusable) {
                results.put(name, ReadResult.of(unusable));
            }
        });
        for (long bound = Calls.FIRST_WAIT_NANOS; !wanted.isEmpty(); ) {
            List<String> full = new ArrayList<>();
            Map<String, Failure> again = readSome(full, limit);
            if (!again.isEmpty() && !pause(again, bound, limit)) { // no time is left to ask for these again
                again.forEach((name, failed) -> results.put(name, ReadResult.of(failed.error())));
                again.clear();
            }
            if (!again.isEmpty()) {
                bound = Calls.doubled(bound);
            }
            List<String> first = new ArrayList<>(full);
            first.addAll(again.keySet());
            for (int i = first.size() - 1; i >= 0; i--) {
                wanted.addFirst(first.get(i));
            }
        }
        return results;
    }

    private boolean pause(Map<String, Failure> again, long bound, TimeLimit limit) {
        Duration least = again.values().stream().map(Failure::retryAfter).max(Duration::compareTo).orElse(Duration.ZERO);
        try {
            return calls.pause(least, bound, limit);
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
            throw new CallCancelledException(Details.of("the call was cancelled").because(interrupt));
        }
    }

    /** Asks once for the names that are wanted first. Returns those that may succeed later, and adds those without room. */
    private Map<String, Failure> readSome(List<String> full, TimeLimit limit) {
        List<String> asked = new ArrayList<>();
        List<Long> floors = new ArrayList<>(); // before the call, as in Reads.fetch
        BatchReadRequest.Builder request = BatchReadRequest.newBuilder();
        while (!wanted.isEmpty() && asked.size() < Names.MAX_BATCH_ITEMS) {
            String name = wanted.removeFirst();
            asked.add(name);
            floors.add(Math.max(seen.get(keys.get(name), name), known.getOrDefault(name, 0L)));
            request.addItems(BatchReadRequest.Item.newBuilder()
                    .setKeyId(name)
                    .setKnownRevision(known.getOrDefault(name, 0L)));
        }
        BatchReadResponse answer = calls.call(KeyVaultGrpc.getBatchReadMethod(), request.build(), limit);
        if (answer.getResultsCount() != asked.size()) {
            throw serverFailure("the server answered " + answer.getResultsCount() + " of " + asked.size() + " reads");
        }
        Map<String, Failure> again = new TreeMap<>();
        for (int i = 0; i < asked.size(); i++) {
            take(asked.get(i), answer.getResults(i), floors.get(i), full, again);
        }
        if (full.size() == asked.size()) {
            throw serverFailure("the server has no room for a single record in its answer");
        }
        return again;
    }

    private void take(
            String name, BatchReadResponse.Result result, long floor, List<String> full, Map<String, Failure> again) {
        if (result.hasError()) {
            Failure failed = Refusal.of(result.getError());
            if (result.getError().getReason().equals(BATCH_FULL)) {
                full.add(name);
            } else if (failed.retry()) {
                again.put(name, failed);
            } else {
                results.put(name, ReadResult.of(failed.error()));
            }
            return;
        }
        try {
            SeenRevisions.check(name, result.getRecord().getRevision(), floor);
            long had = known.getOrDefault(name, 0L);
            results.put(
                    name,
                    ReadResult.of(reads.acceptIfChanged(name, result.getRecord(), keys.get(name), had)
                            .orElse(null)));
        } catch (KeyVaultException failed) {
            results.put(name, ReadResult.of(failed));
        }
    }
}
