package keyvault.example;

import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ListRequest;
import io.github.keyvaultgrpc.v1.ListResponse;
import io.github.keyvaultgrpc.v1.ListRevisionsRequest;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import java.time.Instant;
import java.util.regex.Pattern;
import keyvault.example.Vault.Refused;

/**
 * What needs no key: the names of records, and the revisions of one that can be read.
 *
 * <p>The rule of this file: a server may lie. What cannot be is refused, and what can be proves nothing before a record
 * of that name and revision has opened.
 */
final class Past {
    private static final Pattern KEY_ID = Pattern.compile("[A-Za-z0-9._~:@/+=-]{0,254}[A-Za-z0-9._~:@+=-]");
    /** The most names that a server gives. */
    private static final int PAGE_SIZE = 1000;
    /** In a row. */
    private static final int MAX_EMPTY_PAGES = 100;

    private static final int MAX_REVISIONS = 16;

    private Past() {}

    /** Returns the names that begin with the prefix, a line each, in the order of their bytes. */
    static String list(Vault vault, String prefix) throws Refused, InterruptedException {
        var lines = new StringBuilder();
        String last = "";
        String token = "";
        for (int empty = 0; empty < MAX_EMPTY_PAGES; empty++) {
            var request = ListRequest.newBuilder().setPrefix(prefix).setPageSize(PAGE_SIZE).setPageToken(token);
            ListResponse page = vault.call(KeyVaultGrpc.getListMethod(), request.build());
            for (ListResponse.Name listed : page.getNamesList()) {
                String name = listed.getKeyId();
                boolean valid = KEY_ID.matcher(name).matches() && name.startsWith(prefix);
                if (!valid || name.compareTo(last) <= 0) { // ASCII, so this is the order of bytes
                    throw lie(prefix, "has \"" + name + "\" after \"" + last + "\"");
                }
                lines.append(name).append('\n');
                last = name;
                empty = -1; // this page is none of them
            }
            if (page.getNextPageToken().isEmpty()) {
                return lines.toString();
            }
            if (page.getNextPageToken().equals(token)) {
                break;
            }
            token = page.getNextPageToken();
        }
        throw lie(prefix, "does not go on");
    }

    private static Refused lie(String prefix, String what) {
        return new Refused("the server's list of names that begin with \"" + prefix + "\" " + what);
    }

    /** Returns a line for each revision of the record that can be read, newest first. */
    static String history(Vault vault, String keyId) throws Refused, InterruptedException {
        var request = ListRevisionsRequest.newBuilder().setKeyId(keyId).build();
        var revisions = vault.call(KeyVaultGrpc.getListRevisionsMethod(), request).getRevisionsList();
        var lines = new StringBuilder();
        long above = 0;
        for (ListRevisionsResponse.Revision one : revisions) {
            if (one.getRevision() < 1 || above != 0 && one.getRevision() >= above) {
                throw impossible(keyId);
            }
            above = one.getRevision();
            Instant written = Instant.ofEpochSecond(one.getUpdateTime().getSeconds());
            lines.append("revision %d  %s  %d bytes sealed\n".formatted(above, written, one.getSize()));
        }
        if (revisions.isEmpty() || revisions.size() > MAX_REVISIONS) {
            throw impossible(keyId);
        }
        return lines.toString();
    }

    private static Refused impossible(String keyId) {
        return new Refused("the server answered ListRevisions of " + keyId + " with an impossible list");
    }
}
