package io.github.keyvaultgrpc;

import java.time.Duration;

/** Returns a bearer token for the next attempt of a call; it is called before each one, by any thread. */
@FunctionalInterface
public interface TokenSource {
    /**
     * Returns a token. It is interrupted when the time is up.
     *
     * @param left how long the attempt may take
     * @throws Exception if there is none; its message must not hold a part of a token
     */
    String token(Duration left) throws Exception;
}
