package keyvault.example;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

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
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A connection to one server, for as long as one command may take: every call ends with its deadline, and is sent
 * again, with the same bytes, where that is right.
 *
 * <p>The rule of this file: once an attempt of a mutation is unknown, only success, or a refusal by a server that would
 * know the envelope, settles the mutation; anything else is an unknown outcome. A retry with the same bytes never acts
 * twice: the server knows an envelope by its digest among the last of a record.
 */
final class Vault implements AutoCloseable {
    private static final long FIRST_WAIT_MILLIS = 200;
    private static final long LONGEST_WAIT_MILLIS = 2000;
    /** What has to be left of the time for another attempt. */
    private static final long SHORTEST_ATTEMPT_MILLIS = 100;

    private static final Pattern ADDRESS = Pattern.compile("(\\[[0-9A-Fa-f:.]+]|[A-Za-z0-9._-]+):([0-9]{1,5})");
    /** This machine under names that no resolver can send elsewhere. */
    private static final Pattern LOOPBACK =
            Pattern.compile("localhost|\\[::1]|127(\\.(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}");
    private static final Pattern TOKEN = Pattern.compile("[\\x21-\\x7e]+");
    private static final Pattern DECIMAL = Pattern.compile("[0-9]{1,6}(\\.[0-9]{1,6})?");

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
                    .disableServiceConfigLookUp()
                    .keepAliveTime(10, SECONDS) // or a half-open connection would never be left
                    .keepAliveTimeout(5, SECONDS)
                    .keepAliveWithoutCalls(true);
        } catch (RuntimeException unfit) { // of a class internal to gRPC, for files that are no PEM
            throw new BadUsage("KEYVAULT_CA and KEYVAULT_CERTIFICATE must be PEM chains, KEYVAULT_PRIVATE_KEY PKCS #8");
        }
    }

    private static Deadline deadline(String seconds) throws BadUsage {
        if (!DECIMAL.matcher(seconds).matches() || Double.parseDouble(seconds) == 0) {
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
        boolean unknown = false;
        for (int attempt = 0; ; attempt++) {
            var sent = new Sent();
            Failed failed;
            try {
                CallOptions options = CallOptions.DEFAULT.withDeadline(deadline).withStreamTracerFactory(sent);
                return ClientCalls.blockingUnaryCall(channel, method, options, request);
            } catch (StatusRuntimeException error) {
                failed = Failed.of(error);
            }
            unknown |= sent.request && !failed.settlesAttempt();
            if (!failed.allowsRetry() || !pause(failed, attempt)) {
                throw revision == 0 || !unknown || failed.provesRefusalOf(revision)
                        ? failed
                        : unknown("the change was sent, then: " + failed.getMessage());
            }
            channel.resetConnectBackoff(); // or the connection would keep a slower pace than ours
        }
    }

    /**
     * Waits as long as the server says and a random time more, so that clients which failed together do not come back
     * together. Returns false at once if that would leave no time for another attempt: nothing else bounds them.
     */
    private boolean pause(Failed failed, int attempt) throws InterruptedException {
        long least = failed.retryAfterMillis();
        long left = deadline.timeRemaining(MILLISECONDS) - least;
        if (left < SHORTEST_ATTEMPT_MILLIS) {
            return false;
        }
        long most = Math.min(LONGEST_WAIT_MILLIS, FIRST_WAIT_MILLIS << Math.min(attempt, 10));
        Thread.sleep(least + ThreadLocalRandom.current().nextLong(Math.min(most, left / 2)));
        return true;
    }

    /** A mutation that may or may not have been carried out. */
    static Refused unknown(String cause) {
        return new Refused("the outcome is unknown, get the record to see: " + cause);
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
