package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Details.serverFailure;
import static io.github.keyvaultgrpc.Printable.quote;

import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ListRequest;
import io.github.keyvaultgrpc.v1.ListResponse;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Iterator;
import java.util.NoSuchElementException;

/** The names of a listing, page by page. A server may lie: they have to ascend, and the pages to end. */
final class Listing implements Iterator<ListedName> {
    /** Pages without a name that may follow each other; a server may send some at the end. */
    private static final int MAX_EMPTY_PAGES = 100;

    private final Calls calls;
    private final Duration timeout; // of a page
    private final ListRequest.Builder request;
    private final Deque<ListedName> names = new ArrayDeque<>();
    private String last = "";
    private boolean ended;

    Listing(Calls calls, Duration timeout, String prefix, boolean deleted) {
        if (!prefix.isEmpty() && !Names.isScope(prefix)) {
            throw invalid("invalid prefix " + quote(prefix) + ": must be 0 to 255 characters of [A-Za-z0-9._~:@/+=-]");
        }
        this.calls = calls;
        this.timeout = timeout;
        this.request = ListRequest.newBuilder().setPrefix(prefix).setDeleted(deleted).setPageSize(Names.MAX_PAGE_NAMES);
    }

    @Override
    public boolean hasNext() {
        for (int empty = 0; names.isEmpty() && !ended; empty++) {
            if (empty == MAX_EMPTY_PAGES) {
                throw endless();
            }
            readPage();
        }
        return !names.isEmpty();
    }

    @Override
    public ListedName next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        return names.remove();
    }

    private void readPage() {
        ListResponse page = calls.call(KeyVaultGrpc.getListMethod(), request.build(), TimeLimit.after(timeout));
        if (page.getNamesCount() > Names.MAX_PAGE_NAMES) {
            throw serverFailure("the server answered List with " + page.getNamesCount() + " names instead of "
                    + Names.MAX_PAGE_NAMES + ": report it");
        }
        for (ListResponse.Name one : page.getNamesList()) {
            String name = one.getKeyId();
            if (!Names.isKeyId(name) || !name.startsWith(request.getPrefix())) {
                throw serverFailure("the server listed " + quote(name) + " among names that begin with "
                        + quote(request.getPrefix()) + ": report it");
            }
            if (name.compareTo(last) <= 0) { // ASCII alone, so that its characters compare as its bytes
                throw serverFailure(
                        "the server listed " + quote(name) + " after " + quote(last) + ", out of order: report it");
            }
            last = name;
            names.add(new ListedName(name, Envelopes.instant(one.getCreateTime())));
        }
        String next = page.getNextPageToken();
        ended = next.isEmpty();
        if (!ended && next.equals(request.getPageToken())) {
            throw endless();
        }
        request.setPageToken(next);
    }

    private ServerFailureException endless() {
        return serverFailure("the server's list of names that begin with " + quote(request.getPrefix())
                + " does not go on: report it");
    }
}
