package io.github.keyvaultgrpc;

import java.time.Instant;

/**
 * The result of an accepted change. The times are by the server's clock; informational.
 *
 * @param replayed whether an earlier attempt had been accepted and its answer was lost
 */
public record Written(long revision, Instant createTime, Instant updateTime, boolean replayed) {}
