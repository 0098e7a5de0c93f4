package io.github.keyvaultgrpc;

import io.grpc.ManagedChannel;
import java.util.concurrent.TimeUnit;

/** One gRPC channel, which has a connection of its own. */
final class Connection {
    /**
     * For how long a connection may answer nothing at all before a call that gave up waiting leaves it. Pings leave it too,
     * after some 15 s; a call may not have as long.
     */
    private static final long SILENCE_NANOS = TimeUnit.SECONDS.toNanos(2);

    private final ManagedChannel channel;
    private int calls; // in flight
    private boolean waiting; // for an answer, since the time below
    private long silentSince;

    Connection(ManagedChannel channel) {
        this.channel = channel;
    }

    ManagedChannel channel() {
        return channel;
    }

    synchronized void enter() {
        calls++;
    }

    synchronized void exit() {
        calls--;
    }

    synchronized boolean isUnused() {
        return calls == 0;
    }

    /** Notes that a call was sent. */
    synchronized void sends() {
        if (!waiting) {
            waiting = true;
            silentSince = System.nanoTime();
        }
    }

    /** Notes that something was answered. */
    synchronized void answered() {
        waiting = false;
    }

    /** Returns whether nothing was answered for a while since a call was sent. */
    synchronized boolean isSilent() {
        return waiting && System.nanoTime() - silentSince >= SILENCE_NANOS;
    }
}
