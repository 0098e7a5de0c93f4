package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Printable.printable;

import io.grpc.Status;
import java.io.FileNotFoundException;
import java.security.cert.CertificateException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import javax.net.ssl.SSLException;

/** Why there is no connection, in a sentence that says what to do where that is known. */
final class Unreachable {
    private final List<Throwable> causes = new ArrayList<>();
    private final Status status;
    private final boolean secure;

    private Unreachable(Status status, boolean secure) {
        this.status = status;
        this.secure = secure;
        for (Throwable one = status.getCause(); one != null && causes.size() < 20; one = one.getCause()) {
            causes.add(one);
        }
    }

    /** Returns the failure of an attempt that had no connection to be sent on. */
    static Failure of(Status status, Connector connector) {
        Unreachable found = new Unreachable(status, connector.isSecure());
        Throwable refused = found.refused();
        String why = "cannot connect to " + printable(connector.address()) + ": " + found.sentence(refused);
        UnavailableException error = new UnavailableException(Details.of(why).because(status.getCause()));
        // A refusal of TLS is not retried: another attempt would be refused as well.
        return new Failure(error, true, refused == null && Refusal.PASSING.contains(status.getCode()), Duration.ZERO);
    }

    /** Returns why TLS failed in a way that another attempt does not change, null if it did not. */
    private Throwable refused() {
        for (Throwable one : causes) {
            boolean alert = one instanceof SSLException && text(one).toLowerCase(Locale.ROOT).contains("alert");
            if (alert || isUntrusted(one) || isPlaintext(one)) {
                return one;
            }
        }
        return null;
    }

    private static boolean isUntrusted(Throwable one) {
        return one instanceof CertificateException;
    }

    /** Netty's NotSslRecordException, whose package depends on how it is packed. */
    private static boolean isPlaintext(Throwable one) {
        return one.getClass().getSimpleName().equals("NotSslRecordException");
    }

    private String sentence(Throwable refused) {
        if (refused != null) {
            return whyTls() + " (" + printable(text(refused)) + ")";
        }
        String root = causes.isEmpty() ? "" : text(causes.get(causes.size() - 1));
        String all = (status.getDescription() + " " + root).toLowerCase(Locale.ROOT);
        if (causes.stream().anyMatch(FileNotFoundException.class::isInstance)) { // netty's ENOENT of a socket
            return "no such socket. Is the server running?";
        }
        if (all.contains("permission denied")) {
            return "permission denied. May this user use the socket?";
        }
        if (all.contains("connection refused")) {
            return "connection refused. Is the server running?";
        }
        if (all.contains("connection reset") || all.contains("broken pipe") || all.contains("closed")) {
            return (secure
                            ? "the server closed the connection. Does it require a client certificate, and does it trust yours?"
                            : "the server closed the connection. Does it require TLS?")
                    + " (" + printable(root.isEmpty() ? status.getDescription() : root) + ")";
        }
        if (status.getCode() == Status.Code.DEADLINE_EXCEEDED) {
            return "the server does not answer. Is it overloaded, or the network broken?";
        }
        return printable(status.getDescription() + (root.isEmpty() ? "" : ": " + root));
    }

    private String whyTls() {
        for (Throwable one : causes) {
            String text = text(one);
            if (isPlaintext(one)) {
                return "the server does not speak TLS on this address. Is the address right?";
            }
            if (text.contains("valid certification path") || text.contains("trust anchors")) {
                return "the server's certificate is not trusted. Does the CA belong to this server?";
            }
            if (isUntrusted(one) && (text.contains("No name matching") || text.contains("subject alternative"))) {
                return "the server's certificate is for another host name. Is the address right, or is a serverName needed?";
            }
        }
        return causes.stream().anyMatch(Unreachable::isUntrusted)
                ? "the server's certificate is not valid"
                : "the server refused the connection. Does it require a client certificate, and does it trust yours?";
    }

    private static String text(Throwable one) {
        return String.valueOf(one.getMessage());
    }
}
