package io.github.keyvaultgrpc;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Context;
import io.grpc.Deadline;
import java.time.Duration;

/** When a call ends: after its timeout, or at the deadline of the caller's gRPC context. */
record TimeLimit(long endNanos) {
    static TimeLimit after(Duration timeout) {
        long left = timeout.toNanos();
        Deadline callers = Context.current().getDeadline();
        if (callers != null) {
            left = Math.min(left, callers.timeRemaining(NANOSECONDS));
        }
        return new TimeLimit(System.nanoTime() + left);
    }

    long leftNanos() {
        return endNanos - System.nanoTime();
    }
}
