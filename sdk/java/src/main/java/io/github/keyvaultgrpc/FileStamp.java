package io.github.keyvaultgrpc;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.Optional;

/** What shows that a file is another one than before. */
record FileStamp(FileTime modified, long size, Object identity) {
    /**
     * For how long a changed file has to be unchanged before it counts: the first half of a token is a token too, and the
     * first half of a bundle lacks roots.
     */
    private static final Duration SETTLED = Duration.ofSeconds(1);

    /** Returns the stamp of a file, empty if there is none. */
    static Optional<FileStamp> of(Path path) {
        try {
            BasicFileAttributes found = Files.readAttributes(path, BasicFileAttributes.class);
            return Optional.of(new FileStamp(found.lastModifiedTime(), found.size(), found.fileKey()));
        } catch (IOException absent) {
            return Optional.empty();
        }
    }

    boolean isSettled() {
        Duration age = Duration.between(modified.toInstant(), Instant.now());
        return age.abs().compareTo(SETTLED) >= 0; // or a file of a clock that is ahead would not be used until then
    }

    /** Returns whether there is another file than before, which has settled. */
    static boolean hasChanged(Optional<FileStamp> before, Optional<FileStamp> now) {
        return now.isPresent() && !now.equals(before) && now.get().isSettled();
    }
}
