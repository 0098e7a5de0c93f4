package io.github.keyvaultgrpc;

import java.time.Instant;

/**
 * A revision of a record that can be read.
 *
 * @param updateTime when it was written, by the server's clock; informational
 * @param size the bytes of its envelope: those of the data, and 88 to 456 more
 */
public record Revision(long revision, Instant updateTime, int size) {}
