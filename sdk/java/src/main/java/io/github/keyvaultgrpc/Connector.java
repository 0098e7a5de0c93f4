package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.lang.System.Logger.Level;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** Gives the connection for each attempt, and replaces one that stopped answering, or whose files of TLS have changed. */
final class Connector implements AutoCloseable {
    /** What gRPC and the server take at least. */
    private static final long PING_SECONDS = 10;

    private static final long PING_TIMEOUT_SECONDS = 5;
    private static final int MAX_REPLY = 4 << 20;
    private static final System.Logger LOG = System.getLogger(Connector.class.getPackageName());

    private final String address;
    private final Tls tls; // null for plaintext
    private final List<Connection> all = new ArrayList<>();
    private List<Optional<FileStamp>> read;
    private ChannelCredentials credentials;
    private Connection current;
    private boolean closed;

    /** Reads the files of TLS, and connects with the first call. */
    Connector(String address, Tls tls) {
        this.address = address;
        this.tls = tls;
        this.read = tls == null ? List.of() : tls.stamps(); // before they are read
        this.credentials = tls == null ? InsecureChannelCredentials.create() : TlsFiles.credentials(tls);
        try {
            this.current = open();
        } catch (IllegalArgumentException malformed) {
            throw invalid("invalid address " + printable(address) + ": " + printable(malformed.getMessage()), malformed);
        }
    }

    String address() {
        return address;
    }

    boolean isSecure() {
        return tls != null;
    }

    private Connection open() {
        ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(Addresses.target(address), credentials)
                .disableRetry() // Calls retries itself: it knows what an answer means
                .disableServiceConfigLookUp()
                .keepAliveTime(PING_SECONDS, TimeUnit.SECONDS)
                .keepAliveTimeout(PING_TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .keepAliveWithoutCalls(true)
                .maxInboundMessageSize(MAX_REPLY);
        if (tls == null) {
            builder.proxyDetector(target -> null); // a proxy of the environment would see local plaintext
        } else if (tls.serverName() != null) {
            builder.overrideAuthority(tls.serverName());
        }
        ManagedChannel channel = builder.build();
        Connection opened = new Connection(channel);
        all.add(opened);
        return opened;
    }

    /** Returns the connection for one attempt; release it afterwards. */
    synchronized Connection acquire() {
        if (closed) {
            throw new ClosedException(Details.of("this client is closed; the request was not sent"));
        }
        reloadChangedFiles();
        current.enter();
        return current;
    }

    private void reloadChangedFiles() {
        if (tls == null) {
            return;
        }
        List<Optional<FileStamp>> now = tls.stamps();
        if (now.equals(read) || !now.stream().allMatch(one -> one.map(FileStamp::isSettled).orElse(true))) {
            return;
        }
        read = now;
        try {
            credentials = TlsFiles.credentials(tls);
            current = open();
        } catch (InvalidRequestException failed) {
            LOG.log(Level.ERROR, "reload failed: {0}; keeping the previous files", failed.getMessage());
        }
    }

    void release(Connection one) {
        synchronized (this) {
            one.exit();
        }
        closeUnused();
    }

    /** Makes a new connection for later attempts, unless that was done. What is in flight on the old one goes on. */
    synchronized void leave(Connection one) {
        if (!closed && current == one) {
            current = open();
        }
    }

    /** Closes what was left and has no calls in flight any more; all, if the client is closed. */
    private void closeUnused() {
        List<Connection> unused = new ArrayList<>();
        synchronized (this) {
            for (Connection one : all) {
                if (closed || one != current && one.isUnused()) {
                    unused.add(one);
                }
            }
            all.removeAll(unused);
        }
        for (Connection one : unused) {
            one.channel().shutdownNow();
        }
    }

    @Override
    public void close() {
        synchronized (this) {
            closed = true;
        }
        closeUnused();
    }

    synchronized boolean isClosed() {
        return closed;
    }
}
