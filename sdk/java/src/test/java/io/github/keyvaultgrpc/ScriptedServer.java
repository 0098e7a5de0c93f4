package io.github.keyvaultgrpc;

import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ListRequest;
import io.github.keyvaultgrpc.v1.ListResponse;
import io.github.keyvaultgrpc.v1.ListRevisionsRequest;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.UpdateRequest;
import io.github.keyvaultgrpc.v1.UpdateResponse;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.ServerBuilder;
import io.grpc.ServerCredentials;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.concurrent.CountDownLatch;

/** A server that says what it is given, in turn, and never answers an Update or a Read. */
final class ScriptedServer extends KeyVaultGrpc.KeyVaultImplBase implements AutoCloseable {
    final CountDownLatch got = new CountDownLatch(1);
    private final Deque<ListResponse> pages = new ArrayDeque<>();
    private final ListRevisionsResponse revisions;
    private final Server server;

    ScriptedServer(ListRevisionsResponse revisions, ListResponse... pages) throws IOException {
        this.revisions = revisions;
        this.pages.addAll(Arrays.asList(pages));
        this.server = onLoopback().addService(this).build().start();
    }

    /** Returns a builder of Netty, which gRPC's own factory lets listen on all addresses. */
    private static ServerBuilder<?> onLoopback() {
        try {
            Class<?> netty = Class.forName("io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder");
            return (ServerBuilder<?>) netty.getMethod("forAddress", SocketAddress.class, ServerCredentials.class)
                    .invoke(null, new InetSocketAddress("127.0.0.1", 0), InsecureServerCredentials.create());
        } catch (ReflectiveOperationException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    String address() {
        return "127.0.0.1:" + ((InetSocketAddress) server.getListenSockets().get(0)).getPort();
    }

    @Override
    public void list(ListRequest request, StreamObserver<ListResponse> answer) {
        answer.onNext(pages.size() > 1 ? pages.remove() : pages.peek());
        answer.onCompleted();
    }

    @Override
    public void listRevisions(ListRevisionsRequest request, StreamObserver<ListRevisionsResponse> answer) {
        answer.onNext(revisions);
        answer.onCompleted();
    }

    @Override
    public void read(ReadRequest request, StreamObserver<ReadResponse> answer) {
        got.countDown();
    }

    @Override
    public void update(UpdateRequest request, StreamObserver<UpdateResponse> answer) {
        got.countDown();
    }

    @Override
    public void close() {
        server.shutdownNow();
    }
}
