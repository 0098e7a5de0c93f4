package keyvault.example;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.protobuf.util.Durations;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import io.github.keyvaultgrpc.v1.CreateRequest;
import io.github.keyvaultgrpc.v1.CreateResponse;
import io.github.keyvaultgrpc.v1.DeleteRequest;
import io.github.keyvaultgrpc.v1.DeleteResponse;
import io.github.keyvaultgrpc.v1.GenerateKeyRequest;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import io.github.keyvaultgrpc.v1.KeyVaultGrpc;
import io.github.keyvaultgrpc.v1.ListRequest;
import io.github.keyvaultgrpc.v1.ListResponse;
import io.github.keyvaultgrpc.v1.ListRevisionsRequest;
import io.github.keyvaultgrpc.v1.ListRevisionsResponse;
import io.github.keyvaultgrpc.v1.ReadRequest;
import io.github.keyvaultgrpc.v1.ReadResponse;
import io.github.keyvaultgrpc.v1.RotateKeyRequest;
import io.github.keyvaultgrpc.v1.RotateKeyResponse;
import io.github.keyvaultgrpc.v1.UpdateRequest;
import io.github.keyvaultgrpc.v1.UpdateResponse;

/**
 * A server on loopback that answers by a script, call by call: one that also loses answers, refuses and lies. What a
 * real server does, the tests of the whole repository try.
 */
final class ScriptedVault extends KeyVaultGrpc.KeyVaultImplBase implements AutoCloseable {
    /** How one call is answered. */
    interface Step {
        Message answer(Message request);
    }

    /** For a call that is heard and never answered. */
    static final Step SILENCE = request -> null;

    /** All requests so far. */
    final List<Message> requests = Collections.synchronizedList(new ArrayList<>());

    private final List<Step> steps;
    private final Server server;

    /** Answers with the steps in turn; the last one stays. */
    ScriptedVault(Step... steps) throws IOException {
        this.steps = List.of(steps);
        var loopback = new InetSocketAddress(InetAddress.getLoopbackAddress(), 0);
        server = NettyServerBuilder.forAddress(loopback, InsecureServerCredentials.create())
                .addService(this)
                .build()
                .start();
    }

    String address() {
        return "127.0.0.1:" + server.getPort();
    }

    @Override
    public void close() {
        server.shutdownNow();
    }

    /** As a server answers that remembers 16 envelopes of a record. */
    static Step fail(Status.Code code, String reason, long currentRevision) {
        String since = Long.toString(Math.max(1, currentRevision - 15));
        return fail(
                code, reason, Map.of("current_revision", Long.toString(currentRevision), "remembered_since", since));
    }

    static Step fail(Status.Code code, String reason) {
        return fail(code, reason, Map.of());
    }

    static Step fail(Status.Code code, String reason, Map<String, String> about) {
        return request -> {
            throw failure(code, ErrorInfo.newBuilder()
                    .setDomain("keyvault")
                    .setReason(reason)
                    .putMetadata("request_id", "7-1")
                    .putAllMetadata(about)
                    .build());
        };
    }

    /** As gRPC itself or a proxy answers. */
    static Step fail(Status.Code code) {
        return request -> {
            throw failure(code);
        };
    }

    /** As a server that is busy for this long. */
    static Step throttle(long seconds) {
        return request -> {
            throw failure(
                    Status.Code.RESOURCE_EXHAUSTED,
                    ErrorInfo.newBuilder().setDomain("keyvault").setReason("RATE_LIMITED").build(),
                    RetryInfo.newBuilder().setRetryDelay(Durations.fromMillis(1000 * seconds + 1)).build());
        };
    }

    private static StatusRuntimeException failure(Status.Code code, Message... details) {
        var status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage("because\nof this");
        for (Message detail : details) {
            status.addDetails(Any.pack(detail));
        }
        return StatusProto.toStatusRuntimeException(status.build());
    }

    private <A> void next(Message request, StreamObserver<A> observer, Class<A> type) {
        requests.add(request);
        try {
            Message answer = steps.get(Math.min(requests.size(), steps.size()) - 1).answer(request);
            if (answer != null) {
                observer.onNext(type.cast(answer));
                observer.onCompleted();
            }
        } catch (StatusRuntimeException failure) {
            observer.onError(failure);
        }
    }

    @Override
    public void generateKey(GenerateKeyRequest request, StreamObserver<GenerateKeyResponse> observer) {
        next(request, observer, GenerateKeyResponse.class);
    }

    @Override
    public void create(CreateRequest request, StreamObserver<CreateResponse> observer) {
        next(request, observer, CreateResponse.class);
    }

    @Override
    public void read(ReadRequest request, StreamObserver<ReadResponse> observer) {
        next(request, observer, ReadResponse.class);
    }

    @Override
    public void update(UpdateRequest request, StreamObserver<UpdateResponse> observer) {
        next(request, observer, UpdateResponse.class);
    }

    @Override
    public void delete(DeleteRequest request, StreamObserver<DeleteResponse> observer) {
        next(request, observer, DeleteResponse.class);
    }

    @Override
    public void list(ListRequest request, StreamObserver<ListResponse> observer) {
        next(request, observer, ListResponse.class);
    }

    @Override
    public void listRevisions(ListRevisionsRequest request, StreamObserver<ListRevisionsResponse> observer) {
        next(request, observer, ListRevisionsResponse.class);
    }

    @Override
    public void rotateKey(RotateKeyRequest request, StreamObserver<RotateKeyResponse> observer) {
        next(request, observer, RotateKeyResponse.class);
    }
}
