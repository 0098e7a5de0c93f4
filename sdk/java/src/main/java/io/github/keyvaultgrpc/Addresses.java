package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;
import static java.nio.charset.StandardCharsets.UTF_8;

import java.net.URI;
import java.net.URISyntaxException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Addresses of servers: host:port, dns:///host:port or unix:/path. What gRPC would take for another address, or fail to
 * explain, is refused with what to write instead.
 */
final class Addresses {
    /** Bytes that the path of a unix socket has at most (unix(7): sun_path without its end). */
    private static final int MAX_SOCKET_PATH = 107;

    private static final Pattern HOST_AND_PORT = Pattern.compile("(\\[[0-9A-Fa-f:.]+]|[^:\\[\\]]*):([^:]*)");
    private static final Pattern PORT = Pattern.compile("[0-9]{1,5}");
    private static final Pattern IPV6 = Pattern.compile("[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*");
    /** This machine under names that no resolver can send elsewhere. */
    private static final Pattern LOOPBACK =
            Pattern.compile("localhost|\\[::1]|127(\\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}");

    private Addresses() {}

    /** Throws unless this is an address, and may be used so. */
    static void check(String address, boolean tls, boolean insecure) {
        String why;
        if (address.startsWith("http:") || address.startsWith("https:")) {
            why = "write host:port or unix:/path, and give tls for TLS";
        } else if (address.startsWith("unix:")) {
            why = whyInvalidSocket(address);
        } else {
            why = whyInvalidName(name(address));
        }
        if (!why.isEmpty()) {
            throw invalid("invalid address " + printable(address) + ": " + why);
        }
        if (!tls && !insecure && !isLoopback(address)) {
            throw invalid("refusing plaintext to another machine (" + printable(address)
                    + "): give tls, or insecure to send keys unencrypted");
        }
    }

    private static String name(String address) {
        return address.startsWith("dns:///") ? address.substring("dns:///".length()) : address;
    }

    private static String whyInvalidSocket(String address) {
        String path = address.substring("unix:".length()).replaceFirst("^//", "");
        if (path.replace("/", "").isEmpty()) {
            return "name the path of the socket, as in unix:/run/keyvault.sock";
        }
        if (address.startsWith("unix://") && !path.startsWith("/")) { // gRPC takes what follows for a host
            return "write unix:" + printable(path);
        }
        int size = path.getBytes(UTF_8).length;
        return size > MAX_SOCKET_PATH
                ? "the path has " + size + " bytes; a socket's has at most " + MAX_SOCKET_PATH
                : "";
    }

    private static String whyInvalidName(String name) {
        if (IPV6.matcher(name).matches()) {
            return "write an IPv6 address in brackets and name its port, as in [::1]:50051";
        }
        Matcher parts = HOST_AND_PORT.matcher(name);
        if (!parts.matches()) {
            return "write host:port, as in 127.0.0.1:50051";
        }
        String port = parts.group(2);
        if (parts.group(1).isEmpty() || parts.group(1).matches(".*[/ ].*")) {
            return "name its host, as in 127.0.0.1:" + printable(port).strip();
        }
        if (!PORT.matcher(port).matches() || Integer.parseInt(port) < 1 || Integer.parseInt(port) > 65_535) {
            return "the port must be 1 to 65535";
        }
        return isHost(parts.group(1), name) ? "" : "the host must be a name of letters, digits and hyphens, or an IP address";
    }

    /** Returns whether gRPC, which parses a URI, finds this host in a name: it would take {@code a@b:1} for b. */
    private static boolean isHost(String host, String name) {
        try {
            return host.equals(new URI("//" + name).getHost());
        } catch (URISyntaxException another) {
            return false;
        }
    }

    /** Returns whether only this machine reaches the address. */
    private static boolean isLoopback(String address) {
        if (address.startsWith("unix:")) {
            return true;
        }
        Matcher parts = HOST_AND_PORT.matcher(name(address));
        return parts.matches() && LOOPBACK.matcher(parts.group(1)).matches();
    }

    /** Returns the address as gRPC takes it. */
    static String target(String address) {
        // In a path of a URI, brackets are escaped.
        return address.startsWith("unix:") ? address : "dns:///" + name(address).replace("[", "%5B").replace("]", "%5D");
    }
}
