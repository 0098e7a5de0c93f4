package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;

import java.nio.file.Path;
import java.time.Duration;

/** The settings of a {@link KeyVault}. */
public final class KeyVaultBuilder {
    private static final Duration LONGEST_TIMEOUT = Duration.ofDays(1);

    private final String address;
    private Tls tls;
    private boolean insecure;
    private TokenSource tokens;
    private Path tokenFile;
    private Duration timeout = Duration.ofSeconds(10);
    private int remembered = 10_000;

    KeyVaultBuilder(String address) {
        this.address = address;
    }

    /** Connects by TLS. */
    public KeyVaultBuilder tls(Tls files) {
        this.tls = files;
        return this;
    }

    /** Allows plaintext to another machine: keys, and the data key of generateKey, are then for all to see. */
    public KeyVaultBuilder insecure() {
        this.insecure = true;
        return this;
    }

    /** Sends the bearer token in a file, which is reloaded when it changes. Needs TLS. */
    public KeyVaultBuilder tokenFile(Path path) {
        this.tokenFile = path;
        return this;
    }

    /** Sends the bearer token that a function returns. Needs TLS. */
    public KeyVaultBuilder tokens(TokenSource source) {
        this.tokens = source;
        return this;
    }

    /** Bounds each call: more than 0 and at most a day, 10 seconds by default. */
    public KeyVaultBuilder timeout(Duration longest) {
        this.timeout = longest;
        return this;
    }

    /**
     * Sets for how many names the highest proved revision is remembered, 10,000 by default, to notice a store that was
     * rolled back. 0 remembers none.
     */
    public KeyVaultBuilder remembered(int names) {
        this.remembered = names;
        return this;
    }

    /**
     * Makes the client, which connects with its first call.
     *
     * @throws InvalidRequestException for settings that cannot be, or files that cannot be read
     */
    public KeyVault build() {
        check();
        return new KeyVault(this);
    }

    private void check() {
        Addresses.check(address, tls != null, insecure);
        checkTimeout(timeout);
        if (remembered < 0) {
            throw invalid("invalid number of remembered names " + remembered + ": must be 0 or more");
        }
        if (tokens != null && tokenFile != null) {
            throw invalid("give tokenFile or tokens, not both");
        }
        if ((tokens != null || tokenFile != null) && tls == null) {
            throw invalid("refusing to send a token to " + printable(address) + " without TLS: give tls");
        }
    }

    static void checkTimeout(Duration timeout) {
        if (timeout.isNegative() || timeout.isZero() || timeout.compareTo(LONGEST_TIMEOUT) > 0) {
            throw invalid("invalid timeout " + timeout + ": must be more than 0 and at most " + LONGEST_TIMEOUT);
        }
    }

    String address() {
        return address;
    }

    Tls tls() {
        return tls;
    }

    Duration timeout() {
        return timeout;
    }

    int remembered() {
        return remembered;
    }

    /** Returns what gives the tokens, null for none. */
    TokenSource tokens() {
        return tokenFile != null ? new Tokens.InFile(tokenFile) : tokens;
    }
}
