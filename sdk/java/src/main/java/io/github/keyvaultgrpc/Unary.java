package io.github.keyvaultgrpc;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientStreamTracer;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.CountDownLatch;

/**
 * One request on the wire, and how it ended: its answer, or the status and whether the request went out.
 *
 * <p>It ends by itself soon after its deadline, whatever gRPC does; it waits for gRPC's own end after it was cancelled,
 * because only then it is certain that nothing goes out any more.
 */
final class Unary<Q, A> extends ClientCall.Listener<A> {
    private static final long GRACE_MILLIS = 500;
    private static final long END_MILLIS = 1000;

    private final CountDownLatch ended = new CountDownLatch(1);
    private volatile boolean sent;
    private volatile A answer;
    private volatile Status status;
    private volatile Metadata trailers = new Metadata();
    private volatile boolean interrupted;

    private Unary() {}

    /** Sends a request that has to be answered within this time, and waits for the end. */
    static <Q, A> Unary<Q, A> send(
            Channel channel, MethodDescriptor<Q, A> method, Metadata headers, Q request, long nanos) {
        Unary<Q, A> one = new Unary<>();
        CallOptions options =
                CallOptions.DEFAULT.withDeadlineAfter(nanos, NANOSECONDS).withStreamTracerFactory(one.new Tracers());
        ClientCall<Q, A> call = channel.newCall(method, options);
        call.start(one, headers);
        call.request(2);
        call.sendMessage(request);
        call.halfClose();
        one.await(call, nanos);
        return one;
    }

    private void await(ClientCall<Q, A> call, long nanos) {
        try {
            if (ended.await(nanos + MILLISECONDS.toNanos(GRACE_MILLIS), NANOSECONDS)) {
                return;
            }
        } catch (InterruptedException interrupt) {
            interrupted = true;
        }
        call.cancel("the caller gave up", null);
        boolean closed = false;
        try {
            closed = ended.await(END_MILLIS, MILLISECONDS);
        } catch (InterruptedException again) {
            interrupted = true;
        }
        if (!closed) {
            sent = true; // for all that is known
            status = Status.DEADLINE_EXCEEDED.withDescription("no answer in time");
        }
    }

    @Override
    public void onMessage(A message) {
        answer = message;
    }

    @Override
    public void onClose(Status how, Metadata with) {
        status = how;
        trailers = with;
        ended.countDown();
    }

    /** Returns the answer, null if there is none. */
    A answer() {
        return status.isOk() ? answer : null;
    }

    /** Returns how it ended; an OK without an answer is a broken one. */
    Status status() {
        return status.isOk() && answer == null ? Status.INTERNAL.withDescription("an OK without an answer") : status;
    }

    Metadata trailers() {
        return trailers;
    }

    /** Returns whether the request went out on a connection: before that nothing can have happened. */
    boolean wasSent() {
        return sent;
    }

    /** Returns whether the thread was interrupted, whose interrupt status is cleared. */
    boolean wasInterrupted() {
        return interrupted;
    }

    /** Notes the first message that goes out. */
    private final class Tracers extends ClientStreamTracer.Factory {
        @Override
        public ClientStreamTracer newClientStreamTracer(ClientStreamTracer.StreamInfo info, Metadata headers) {
            return new ClientStreamTracer() {
                @Override
                public void outboundMessage(int number) {
                    sent = true;
                }
            };
        }
    }
}
