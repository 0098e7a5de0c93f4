package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.quote;

import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;

/** The variables of the command keyvault. An empty one is refused: KEYVAULT_CA=$CA is to fail where CA is not set. */
record Environment(Map<String, String> variables) {
    private static final double LONGEST_SECONDS = 86_400;

    KeyVault connect() {
        KeyVaultBuilder builder = KeyVault.builder(variables.getOrDefault("KEYVAULT_ADDRESS", "127.0.0.1:50051"));
        text("KEYVAULT_ADDRESS");
        String timeout = text("KEYVAULT_TIMEOUT");
        if (timeout != null) {
            builder.timeout(seconds(timeout));
        }
        Tls files = new Tls(
                path("KEYVAULT_CA"),
                path("KEYVAULT_CERTIFICATE"),
                path("KEYVAULT_PRIVATE_KEY"),
                text("KEYVAULT_SERVER_NAME"));
        boolean named = files.ca() != null || files.certificate() != null || files.privateKey() != null;
        if (isTrue("KEYVAULT_TLS") || named) {
            builder.tls(files);
        } else if (files.serverName() != null) {
            throw invalid("KEYVAULT_SERVER_NAME needs TLS: set KEYVAULT_TLS, KEYVAULT_CA or KEYVAULT_CERTIFICATE");
        }
        if (isTrue("KEYVAULT_INSECURE")) {
            builder.insecure();
        }
        Path token = path("KEYVAULT_TOKEN_FILE");
        if (token != null) {
            builder.tokenFile(token);
        }
        try {
            return builder.build();
        } catch (InvalidRequestException wrong) {
            String where = " (by KEYVAULT_ADDRESS, KEYVAULT_TLS, KEYVAULT_CA and the like)";
            throw invalid(wrong.getMessage() + where, wrong);
        }
    }

    /** Returns the value of a variable, null if it is not set. */
    private String text(String name) {
        String value = variables.get(name);
        if (value != null && value.isEmpty()) {
            throw invalid(name + " is empty: give it a value, or unset it");
        }
        return value;
    }

    private Path path(String name) {
        String value = text(name);
        try {
            return value == null ? null : Path.of(value);
        } catch (InvalidPathException malformed) {
            throw invalid(name + " is not a path: " + quote(value));
        }
    }

    private boolean isTrue(String name) {
        String value = text(name);
        if (value == null || value.equals("false") || value.equals("0")) {
            return false;
        }
        if (value.equals("true") || value.equals("1")) {
            return true;
        }
        throw invalid(name + " must be true or false, not " + quote(value));
    }

    private static Duration seconds(String text) {
        try {
            double seconds = Double.parseDouble(text);
            if (seconds > 0 && seconds <= LONGEST_SECONDS) { // NaN is neither
                return Duration.ofNanos(Math.max(1, (long) (seconds * 1e9)));
            }
        } catch (NumberFormatException another) {
            // Refused below.
        }
        throw invalid("KEYVAULT_TIMEOUT must be more than 0 and at most 86400 seconds, not " + quote(text));
    }
}
