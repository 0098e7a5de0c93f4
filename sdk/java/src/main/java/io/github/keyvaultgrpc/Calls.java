package io.github.keyvaultgrpc;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeoutException;

/**
 * Attempts a call until it is answered or its time is up, which is the only bound. It sends the same bytes each time, which
 * the server then does once.
 *
 * <p>The rule of this file: once an attempt of a change is unknown, only an OK or a proof settles it. The proof is that the
 * record is at another revision, and that the server would have recognized this envelope. Anything else, an interrupt
 * included, is an {@link OutcomeUnknownException}.
 */
final class Calls implements AutoCloseable {
    /** Bounds of the random wait between two attempts; the bound doubles from one to the other. */
    static final long FIRST_WAIT_NANOS = MILLISECONDS.toNanos(200);

    private static final long LONGEST_WAIT_NANOS = SECONDS.toNanos(2);
    /** What has to be left of a call's time for another attempt. */
    private static final long LEAST_ATTEMPT_NANOS = MILLISECONDS.toNanos(100);
    /** The least time of an attempt, unless the call has less. Half of what the call has left is its share. */
    private static final long LEAST_SHARE_NANOS = SECONDS.toNanos(2);

    private final Connector connector;
    private final TokenSource tokens; // null for none
    private final ExecutorService threads;
    private final Context.CancellableContext open = Context.ROOT.withCancellation();

    Calls(Connector connector, TokenSource tokens, ExecutorService threads) {
        this.connector = connector;
        this.tokens = tokens;
        this.threads = threads;
    }

    /** Makes a call that changes no record. */
    <Q, A> A call(MethodDescriptor<Q, A> method, Q request, TimeLimit limit) {
        return change(method, request, 0, limit);
    }

    /** Makes a call that changes a record; the envelope in the request was sealed for this revision, 0 if it has none. */
    <Q, A> A change(MethodDescriptor<Q, A> method, Q request, long sealed, TimeLimit limit) {
        boolean unknown = false;
        for (long bound = FIRST_WAIT_NANOS; ; bound = doubled(bound)) {
            Attempt<A> attempt = attempt(method, request, limit);
            Failure failed = attempt.failure();
            if (failed == null) {
                return attempt.answer();
            }
            unknown |= !failed.settled();
            KeyVaultException error = failed.error();
            if (failed.retry()) {
                try {
                    if (pause(failed.retryAfter(), bound, limit)) {
                        continue;
                    }
                } catch (InterruptedException interrupt) {
                    error = interrupted(interrupt);
                }
            }
            boolean proof = error instanceof WrongRevisionException found && found.provesAbsence(sealed);
            throw sealed != 0 && unknown && !proof ? outcomeUnknown(sealed, error) : error;
        }
    }

    static long doubled(long bound) {
        return Math.min(2 * bound, LONGEST_WAIT_NANOS);
    }

    /** An answer, or why there is none. */
    private record Attempt<A>(A answer, Failure failure) {}

    private <Q, A> Attempt<A> attempt(MethodDescriptor<Q, A> method, Q request, TimeLimit limit) {
        if (Thread.currentThread().isInterrupted() || isCancelled()) {
            return new Attempt<>(null, Failure.unsent(cancelled(null)));
        }
        if (limit.leftNanos() <= 0) {
            return new Attempt<>(null, Failure.unsent(new UnavailableException(
                    Details.of("the time was up before the request was sent"))));
        }
        try {
            Connection on = connector.acquire();
            try {
                Metadata headers = tokens == null ? new Metadata() : Tokens.headers(tokens, threads, share(limit));
                return attempt(on, method, headers, request, share(limit));
            } finally {
                connector.release(on);
            }
        } catch (InterruptedException interrupt) {
            return new Attempt<>(null, Failure.unsent(interrupted(interrupt)));
        } catch (ClosedException | InvalidRequestException failed) {
            return new Attempt<>(null, Failure.unsent(failed));
        } catch (UnavailableException failed) { // no token
            return new Attempt<>(null, new Failure(failed, true, true, Duration.ZERO));
        }
    }

    /** Returns whether the caller's gRPC context was cancelled, other than by its deadline. */
    private static boolean isCancelled() {
        Context callers = Context.current();
        return callers.isCancelled() && !(callers.cancellationCause() instanceof TimeoutException);
    }

    /** Returns how long an attempt may take. */
    private static long share(TimeLimit limit) {
        long left = Math.max(1, limit.leftNanos());
        return Math.min(left, Math.max(left / 2, LEAST_SHARE_NANOS));
    }

    private <Q, A> Attempt<A> attempt(
            Connection on, MethodDescriptor<Q, A> method, Metadata headers, Q request, long nanos) {
        long end = System.nanoTime() + nanos;
        on.sends();
        on.channel().resetConnectBackoff(); // or the connection would keep a slower pace than ours
        Unary<Q, A> done = Unary.send(on.channel(), method, headers, request, nanos);
        boolean gaveUp = done.wasInterrupted() || System.nanoTime() >= end;
        if (done.answer() != null || !gaveUp) {
            on.answered();
        } else if (on.isSilent()) {
            connector.leave(on);
        }
        if (done.wasInterrupted()) {
            Thread.currentThread().interrupt();
        }
        if (done.answer() != null) {
            return new Attempt<>(done.answer(), null);
        }
        if (done.wasInterrupted() || isCancelled()) {
            InterruptedException why = done.wasInterrupted() ? new InterruptedException() : null;
            return new Attempt<>(null, new Failure(cancelled(why), !done.wasSent(), false, Duration.ZERO));
        }
        if (done.wasSent()) {
            return new Attempt<>(null, Refusal.of(done.status(), done.trailers()));
        }
        if (connector.isClosed()) {
            return new Attempt<>(null, Failure.unsent(new ClosedException(
                    Details.of("this client was closed; the request was not sent"))));
        }
        return new Attempt<>(null, Unreachable.of(done.status(), connector));
    }

    /**
     * Waits at least this long, and a random time below the bound more, so that clients that failed together do not come
     * back together. Returns false at once if that would not leave the time for another attempt. If the caller's context
     * is cancelled or the client is closed, it returns early, and the next attempt fails for it.
     */
    boolean pause(Duration least, long bound, TimeLimit limit) throws InterruptedException {
        long left = limit.leftNanos() - LEAST_ATTEMPT_NANOS;
        if (least.compareTo(Duration.ofNanos(left)) >= 0) { // and so no sum of the two overflows
            return false;
        }
        long rest = Math.min(bound, left - least.toNanos());
        long wait = least.toNanos() + ThreadLocalRandom.current().nextLong(rest);
        CountDownLatch over = new CountDownLatch(1);
        Context.CancellationListener listener = cancelled -> over.countDown();
        Context callers = Context.current();
        callers.addListener(listener, Runnable::run);
        open.addListener(listener, Runnable::run);
        try {
            over.await(wait, NANOSECONDS);
        } finally {
            callers.removeListener(listener);
            open.removeListener(listener);
        }
        return true;
    }

    /** Sets the interrupt status again, and returns the error. */
    private static CallCancelledException interrupted(InterruptedException interrupt) {
        Thread.currentThread().interrupt();
        return cancelled(interrupt);
    }

    private static CallCancelledException cancelled(Throwable cause) {
        return new CallCancelledException(Details.of("the call was cancelled").because(cause));
    }

    static OutcomeUnknownException outcomeUnknown(long sealed, KeyVaultException why) {
        String message = "the outcome of the change to revision " + sealed + " is unknown (" + why.getMessage()
                + "): read the record to see";
        return new OutcomeUnknownException(new Details(message, why.reason(), why.requestId(), why));
    }

    @Override
    public void close() {
        connector.close();
        open.cancel(null);
    }
}
