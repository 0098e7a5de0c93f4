package keyvault.example;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import com.google.common.base.Throwables;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallOptions;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.ClientStreamTracer;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A connection to one server, for as long as one command may take: every call ends with its deadline, and is sent
 * again, with the same bytes, where that is right.
 *
 * <p>The rule of this file: once a mutation went out and was not answered, only success or the server's proof that it
 * was refused answers it; anything else is an unknown outcome. A retry with the same bytes never acts twice:
 * the server knows an envelope by its digest among the last 16 of a record.
 */
final class Vault implements AutoCloseable {
    private static final int RING = 16;
    private static final long FIRST_WAIT_MILLIS = 100;
    private static final long LONGEST_WAIT_MILLIS = 1000;

    private static final Pattern ADDRESS = Pattern.compile("(\\[[0-9A-Fa-f:.]+]|[A-Za-z0-9._-]+):([0-9]{1,5})");
    /** This machine under names that no resolver can send elsewhere. */
    private static final Pattern LOOPBACK =
            Pattern.compile("localhost|\\[::1]|127(\\.(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}");
    private static final Pattern TOKEN = Pattern.compile("[\\x21-\\x7e]+");
    private static final Pattern SECONDS = Pattern.compile("[0-9]{1,6}(\\.[0-9]{1,6})?");

    private final ManagedChannel channel;
    private final Deadline deadline;

    private Vault(ManagedChannel channel, Deadline deadline) {
        this.channel = channel;
        this.deadline = deadline;
    }

    /** What the user sees, in one line. */
    static class Refused extends Exception {
        private static final long serialVersionUID = 1;

        Refused(String message) {
            super(message);
        }
    }

    /** Invalid arguments or settings. */
    static final class BadUsage extends Refused {
        private static final long serialVersionUID = 1;

        BadUsage(String message) {
            super(message);
        }
    }

    /** A call that failed, and what the server's google.rpc.ErrorInfo says of it. */
    static final class Failed extends Refused {
        private static final long serialVersionUID = 1;

        private final Status.Code code;
        private final String reason;
        private final long currentRevision;
        private final long retryAfterMillis;

        private Failed(Status status, ErrorInfo info, long retryAfterMillis) {
            super(oneLine(status, info));
            code = status.getCode();
            reason = info.getReason();
            currentRevision = currentRevisionOf(info);
            this.retryAfterMillis = retryAfterMillis;
        }

        static Failed of(StatusRuntimeException failed) {
            ErrorInfo info = ErrorInfo.getDefaultInstance();
            long retryAfterMillis = -1;
            try {
                for (Any detail : StatusProto.fromThrowable(failed).getDetailsList()) {
                    if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("keyvault")) {
                        info = detail.unpack(ErrorInfo.class);
                    } else if (detail.is(RetryInfo.class)) {
                        retryAfterMillis = Durations.toMillis(detail.unpack(RetryInfo.class).getRetryDelay());
                    }
                }
            } catch (InvalidProtocolBufferException | IllegalArgumentException unreadable) {
                failed.addSuppressed(unreadable); // the status stands without its details
            }
            return new Failed(failed.getStatus(), info, retryAfterMillis);
        }

        /** Stable, as keyvault.proto lists them; empty if it was not KeyVault that answered. */
        String reason() {
            return reason;
        }

        /** With RECORD_EXISTS and STALE_REVISION: the revision that the record is at; else 0. */
        long currentRevision() {
            return currentRevision;
        }

        /** Whether it may have been done all the same, or be done if it is retried. */
        private boolean isNoAnswer() {
            return switch (code) {
                case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> true;
                case INTERNAL, UNKNOWN -> reason.isEmpty(); // a broken connection's, or a proxy's
                default -> false;
            };
        }

        /** Whether the server would have known an envelope of this revision, had it ever accepted it. */
        private boolean provesRefusalOf(long revision) {
            return currentRevision > 0 && currentRevision - revision < RING;
        }

        private static long currentRevisionOf(ErrorInfo info) {
            try {
                return Long.parseLong(info.getMetadataOrDefault("current_revision", "0"));
            } catch (NumberFormatException noRevision) {
                return 0;
            }
        }

        private static String oneLine(Status status, ErrorInfo info) {
            String reason = info.getReason().isEmpty() ? "" : " " + info.getReason();
            String message = Objects.requireNonNullElse(status.getDescription(), "no message");
            if (status.getCause() != null) {
                message += ": " + Throwables.getRootCause(status.getCause()).getMessage();
            }
            String request = info.getMetadataOrDefault("request_id", "");
            return status.getCode() + reason + ": " + message + (request.isEmpty() ? "" : " (request " + request + ")");
        }
    }

    /** Connects as the environment says; README.md lists its variables, and an empty one is as good as none. */
    static Vault connect(Map<String, String> variables) throws Refused, IOException {
        Map<String, String> environment = new HashMap<>(variables);
        environment.values().removeIf(String::isEmpty);
        Deadline deadline = deadline(environment.getOrDefault("KEYVAULT_TIMEOUT", "10"));
        String address = environment.getOrDefault("KEYVAULT_ADDRESS", "127.0.0.1:50051");
        Matcher parts = ADDRESS.matcher(address);
        if (!parts.matches()) {
            throw new BadUsage("KEYVAULT_ADDRESS must be host:port");
        }
        ChannelCredentials credentials = credentials(environment, LOOPBACK.matcher(parts.group(1)).matches());
        ManagedChannelBuilder<?> channel = channel(parts.group(1), Integer.parseInt(parts.group(2)), credentials);
        if (environment.containsKey("KEYVAULT_TOKEN_FILE")) {
            channel.intercept(token(Path.of(environment.get("KEYVAULT_TOKEN_FILE"))));
        }
        return new Vault(channel.build(), deadline);
    }

    private static ManagedChannelBuilder<?> channel(String host, int port, ChannelCredentials credentials)
            throws BadUsage {
        try {
            return Grpc.newChannelBuilderForAddress(host, port, credentials)
                    .disableRetry() // mutate() knows better which answer means what
                    .disableServiceConfigLookUp();
        } catch (RuntimeException unfit) { // of a class internal to gRPC, for files that are no PEM
            throw new BadUsage("KEYVAULT_CA and KEYVAULT_CERTIFICATE must be PEM chains, KEYVAULT_PRIVATE_KEY PKCS #8");
        }
    }

    private static Deadline deadline(String seconds) throws BadUsage {
        if (!SECONDS.matcher(seconds).matches() || Double.parseDouble(seconds) == 0) {
            throw new BadUsage("KEYVAULT_TIMEOUT must be a number of seconds");
        }
        return Deadline.after((long) (1000 * Double.parseDouble(seconds)), MILLISECONDS);
    }

    private static ChannelCredentials credentials(Map<String, String> environment, boolean loopback)
            throws BadUsage, IOException {
        String ca = environment.get("KEYVAULT_CA");
        String certificate = environment.get("KEYVAULT_CERTIFICATE");
        String privateKey = environment.get("KEYVAULT_PRIVATE_KEY");
        if ((certificate == null) != (privateKey == null)) {
            throw new BadUsage("KEYVAULT_CERTIFICATE and KEYVAULT_PRIVATE_KEY must be set together");
        }
        if (ca == null) {
            if (!loopback || certificate != null || environment.containsKey("KEYVAULT_TOKEN_FILE")) {
                throw new BadUsage("set KEYVAULT_CA: a token or another machine requires TLS");
            }
            return InsecureChannelCredentials.create();
        }
        TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder().trustManager(new File(ca));
        if (certificate != null) {
            tls.keyManager(new File(certificate), new File(privateKey));
        }
        return tls.build();
    }

    private static ClientInterceptor token(Path file) throws BadUsage, IOException {
        String token = Files.readString(file).strip();
        if (!TOKEN.matcher(token).matches()) {
            throw new BadUsage("KEYVAULT_TOKEN_FILE: not a bearer token");
        }
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
        return MetadataUtils.newAttachHeadersInterceptor(headers);
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }

    /** Calls a method that changes no record, until it is answered or the deadline is there. */
    <Q, A> A call(MethodDescriptor<Q, A> method, Q request) throws Refused, InterruptedException {
        return mutate(method, request, 0);
    }

    /** The same for a mutation, whose envelope carries this revision. */
    <Q, A> A mutate(MethodDescriptor<Q, A> method, Q request, long revision) throws Refused, InterruptedException {
        boolean unanswered = false;
        for (int attempt = 0; ; attempt++) {
            var sent = new Sent();
            Failed failed;
            try {
                CallOptions options = CallOptions.DEFAULT.withDeadline(deadline).withStreamTracerFactory(sent);
                return ClientCalls.blockingUnaryCall(channel, method, options, request);
            } catch (StatusRuntimeException error) {
                failed = Failed.of(error);
            }
            unanswered |= sent.request && failed.isNoAnswer();
            long wait = waitMillis(failed, attempt);
            if (wait < 0 || wait >= deadline.timeRemaining(MILLISECONDS)) {
                throw revision == 0 || !unanswered || failed.provesRefusalOf(revision) ? failed : unknown(failed);
            }
            Thread.sleep(wait);
            channel.resetConnectBackoff(); // or the connection would keep a slower pace than ours
        }
    }

    /** Negative if this is an answer. Random, so that clients which failed together do not come back together. */
    private static long waitMillis(Failed failed, int attempt) {
        long most = Math.min(LONGEST_WAIT_MILLIS, FIRST_WAIT_MILLIS << Math.min(attempt, 10));
        long jitter = ThreadLocalRandom.current().nextLong(most + 1);
        if (failed.code == Status.Code.RESOURCE_EXHAUSTED && failed.retryAfterMillis >= 0) {
            return failed.retryAfterMillis + jitter;
        }
        return failed.isNoAnswer() ? jitter : -1;
    }

    private static Refused unknown(Failed last) {
        return new Refused("the outcome is unknown, get the record to see: it was sent, then: " + last.getMessage());
    }

    /** Whether a call's request went out on a connection: before that nothing can have happened. */
    private static final class Sent extends ClientStreamTracer.Factory {
        private volatile boolean request;

        @Override
        public ClientStreamTracer newClientStreamTracer(ClientStreamTracer.StreamInfo info, Metadata headers) {
            return new ClientStreamTracer() {
                @Override
                public void outboundMessage(int number) {
                    request = true;
                }
            };
        }
    }
}
