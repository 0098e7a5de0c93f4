package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.dishonest;
import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Details.serverFailure;
import static io.github.keyvaultgrpc.Printable.printable;
import static io.github.keyvaultgrpc.Printable.quote;

import com.google.protobuf.ByteString;
import io.github.keyvaultgrpc.v1.GenerateKeyRequest;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ListRevisionsRequest;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import io.github.keyvaultgrpc.v1.RewrapKeyRequest;
import io.github.keyvaultgrpc.v1.RewrapKeyResponse;
import io.github.keyvaultgrpc.v1.UnwrapKeyRequest;
import io.github.keyvaultgrpc.v1.UnwrapKeyResponse;
import io.github.keyvaultgrpc.v1.WhoAmIRequest;
import io.github.keyvaultgrpc.v1.WhoAmIResponse;
import java.util.ArrayList;
import java.util.List;

/** The calls that need no record: data keys, kept revisions, and who the caller is. */
final class KeyCalls {
    private static final int MIN_ENVELOPE = 88;
    private static final int MAX_ENVELOPE = 380_456;

    private final Calls calls;

    KeyCalls(Calls calls) {
        this.calls = calls;
    }

    DataKey generateKey(String scope, TimeLimit limit) {
        if (!scope.isEmpty()) {
            Names.checkScope(scope);
        }
        GenerateKeyRequest request = GenerateKeyRequest.newBuilder().setScope(scope).build();
        GenerateKeyResponse answer = calls.call(KeyVaultGrpc.getGenerateKeyMethod(), request, limit);
        String made = answer.getScope();
        if (!scope.isEmpty() && !made.equals(scope)) { // a wider one would let its holder change other records
            throw dishonest("GenerateKey", "scope " + quote(made) + " instead of " + quote(scope));
        }
        if (scope.isEmpty() && !Names.isGenerated(made)) {
            throw dishonest("GenerateKey", "scope " + quote(made) + " instead of a key_id of 32 hex digits");
        }
        if (answer.getPlaintextKey().size() != DataKey.SIZE) {
            throw dishonest("GenerateKey", "a plaintext_key of another size");
        }
        try {
            return DataKey.of(answer);
        } catch (InvalidRequestException malformed) {
            throw dishonest("GenerateKey", "an invalid tenant " + quote(answer.getTenant()) + " or an invalid wrapped_key");
        }
    }

    DataKey rewrapKey(DataKey key, TimeLimit limit) {
        if (key == null) {
            throw invalid("no data key to rewrap");
        }
        ByteString wrapped = ByteString.copyFrom(key.wrapped());
        RewrapKeyRequest request = RewrapKeyRequest.newBuilder().setWrappedKey(wrapped).build();
        RewrapKeyResponse answer = calls.call(KeyVaultGrpc.getRewrapKeyMethod(), request, limit);
        try {
            return key.rewrapped(answer.getWrappedKey().toByteArray());
        } catch (InvalidRequestException malformed) {
            throw dishonest("RewrapKey", "an invalid wrapped_key");
        }
    }

    DataKey unwrapKey(DataKey key, TimeLimit limit) {
        if (key == null) {
            throw invalid("no data key to unwrap");
        }
        ByteString wrapped = ByteString.copyFrom(key.wrapped());
        UnwrapKeyRequest request = UnwrapKeyRequest.newBuilder().setWrappedKey(wrapped).build();
        UnwrapKeyResponse answer = calls.call(KeyVaultGrpc.getUnwrapKeyMethod(), request, limit);
        if (!answer.getTenant().equals(key.tenant()) || !answer.getScope().equals(key.scope())) {
            throw dishonest("UnwrapKey", "tenant " + quote(answer.getTenant()) + " and scope " + quote(answer.getScope())
                    + " instead of " + quote(key.tenant()) + " and " + quote(key.scope()));
        }
        if (answer.getPlaintextKey().size() != DataKey.SIZE) {
            throw dishonest("UnwrapKey", "a plaintext_key of another size");
        }
        byte[] secret = answer.getPlaintextKey().toByteArray();
        DataKey unwrapped = DataKey.of(key.tenant(), key.scope(), key.wrapped(), secret);
        if (key.hasSecret() && !key.hasSecretOf(unwrapped)) {
            throw dishonest("UnwrapKey", "another plaintext_key than the key has");
        }
        return unwrapped;
    }

    List<Revision> revisions(String keyId, TimeLimit limit) {
        Names.checkKeyId(keyId);
        ListRevisionsRequest request = ListRevisionsRequest.newBuilder().setKeyId(keyId).build();
        ListRevisionsResponse answer = calls.call(KeyVaultGrpc.getListRevisionsMethod(), request, limit);
        List<Revision> found = new ArrayList<>();
        long before = Long.MAX_VALUE;
        boolean possible = answer.getRevisionsCount() >= 1 && answer.getRevisionsCount() <= Names.MAX_REVISIONS;
        for (ListRevisionsResponse.Revision one : answer.getRevisionsList()) {
            possible &= one.getRevision() >= 1 && (found.isEmpty() || one.getRevision() < before);
            possible &= one.getSize() >= MIN_ENVELOPE && one.getSize() <= MAX_ENVELOPE;
            before = one.getRevision();
            found.add(new Revision(one.getRevision(), Envelopes.instant(one.getUpdateTime()), one.getSize()));
        }
        if (!possible) {
            throw serverFailure("the server answered ListRevisions of " + keyId + " with an impossible list: report it");
        }
        return List.copyOf(found);
    }

    Identity whoAmI(TimeLimit limit) {
        WhoAmIResponse answer = calls.call(KeyVaultGrpc.getWhoAmIMethod(), WhoAmIRequest.getDefaultInstance(), limit);
        List<Identity.Rule> rules = answer.getRulesList().stream()
                .map(rule -> new Identity.Rule(printables(rule.getMethodsList()), printables(rule.getNamesList())))
                .toList();
        return new Identity(
                printable(answer.getIdentity()), printable(answer.getTenant()), rules, printable(answer.getServerVersion()));
    }

    private static List<String> printables(List<String> texts) {
        return texts.stream().map(Printable::printable).toList();
    }
}
