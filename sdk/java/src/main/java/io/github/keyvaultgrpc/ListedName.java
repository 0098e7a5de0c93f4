package io.github.keyvaultgrpc;

import java.time.Instant;

/**
 * The name of a record.
 *
 * @param createTime by the server's clock; informational
 */
public record ListedName(String keyId, Instant createTime) {}
