package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;
import static io.github.keyvaultgrpc.Printable.quote;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AccessDeniedException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Set;
import java.util.concurrent.CompletableFuture;

/** Key files: JSON of mode 0600, which is on the disk when it is saved, and is never half written. */
final class KeyFiles {
    private static final int MAX_SIZE = 64 << 10;
    private static final SecureRandom RANDOM = new SecureRandom();

    private KeyFiles() {}

    static DataKey load(Path path) {
        byte[] content;
        try (InputStream file = Files.newInputStream(path)) {
            Object opened = identity(path);
            String why = FileOwners.whyShared(path);
            if (!why.isEmpty()) {
                throw invalid(printable(path.toString()) + " " + why);
            }
            content = file.readNBytes(MAX_SIZE + 1);
            if (!opened.equals(identity(path))) {
                throw invalid(printable(path.toString()) + ": the file was replaced while it was read: try again");
            }
        } catch (IOException failed) {
            throw fileError(path, failed);
        }
        if (content.length > MAX_SIZE) {
            throw invalid(printable(path.toString()) + ": not a data key: larger than " + MAX_SIZE + " bytes");
        }
        try {
            return DataKey.parse(content);
        } catch (InvalidRequestException malformed) {
            throw invalid(printable(path.toString()) + ": " + malformed.getMessage());
        } finally {
            Arrays.fill(content, (byte) 0);
        }
    }

    /** Returns what shows that a path names the same file as before. */
    private static Object identity(Path path) throws IOException {
        Object found = Files.readAttributes(path, BasicFileAttributes.class).fileKey();
        return found == null ? "" : found;
    }

    /** Writes a new file. Its content is on the disk before it has its name, so that a crash leaves no half of it. */
    static void save(Path path, byte[] content) {
        finish(path, () -> {
            if (Files.exists(path, LinkOption.NOFOLLOW_LINKS)) {
                throw new FileAlreadyExistsException(path.toString());
            }
            Path draft = draftOf(path);
            write(draft, content);
            try {
                link(path, draft, content);
            } finally {
                Files.deleteIfExists(draft);
            }
            syncFolderOf(path);
        });
    }

    /** Gives a file another name, which unlike a rename replaces nothing. */
    private static void link(Path path, Path draft, byte[] content) throws IOException {
        try {
            Files.createLink(path, draft);
        } catch (FileAlreadyExistsException exists) {
            throw exists;
        } catch (UnsupportedOperationException | FileSystemException unable) { // a file system without links
            write(path, content);
        }
    }

    private static Path draftOf(Path target) {
        byte[] random = new byte[8];
        RANDOM.nextBytes(random);
        Path file = target.getFileName();
        String name = file == null ? "" : file.toString(); // of a root, which is a folder
        String begin = name.substring(0, Math.min(60, name.length())); // a name has 255 bytes at most
        return target.resolveSibling("." + begin + "." + HexFormat.of().formatHex(random));
    }

    static void replace(Path path, byte[] content) {
        finish(path, () -> {
            Path target = path.toRealPath(); // a symbolic link stays one
            Path draft = draftOf(target);
            write(draft, content);
            try {
                Files.move(draft, target, StandardCopyOption.ATOMIC_MOVE);
            } catch (IOException failed) {
                remove(draft, failed);
                throw failed;
            }
            syncFolderOf(target);
        });
    }

    /** Writes a new file durably, or removes it. */
    private static void write(Path path, byte[] content) throws IOException {
        Set<? extends OpenOption> fresh = Set.of(StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        FileChannel channel = FileChannel.open(path, fresh, ownerOnly(path));
        try (channel) {
            ByteBuffer rest = ByteBuffer.wrap(content);
            while (rest.hasRemaining()) {
                channel.write(rest);
            }
            channel.force(true);
        } catch (IOException failed) { // of the closing, too
            remove(path, failed);
            throw failed;
        }
    }

    private static void remove(Path path, IOException why) {
        try {
            Files.deleteIfExists(path);
        } catch (IOException failed) { // of a disk that became read-only
            why.addSuppressed(failed);
        }
    }

    /** What writes files. */
    private interface Work {
        void run() throws IOException;
    }

    /**
     * Does the work to its end, on a thread of its own: an interrupt of the caller would close a channel, and a key that was
     * generated would be lost.
     */
    private static void finish(Path path, Work work) {
        Path name = path.getFileName();
        if (name == null || name.toString().isEmpty()) {
            throw invalid("invalid path " + quote(path.toString()) + ": name a file");
        }
        CompletableFuture<IOException> ended = new CompletableFuture<>();
        Thread thread = new Thread(() -> {
            try {
                work.run();
                ended.complete(null);
            } catch (IOException failed) {
                ended.complete(failed);
            } catch (Throwable failed) { // for the one who waits
                ended.completeExceptionally(failed);
            }
        }, "keyvault-file");
        thread.start();
        IOException failed = ended.join(); // an interrupt is kept for later
        if (failed != null) {
            throw fileError(path, failed);
        }
    }

    private static FileAttribute<?>[] ownerOnly(Path path) {
        if (!FileOwners.hasModes(path)) {
            return new FileAttribute<?>[0];
        }
        return new FileAttribute<?>[] {PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------"))};
    }

    /** Makes the names in a file's folder durable; a folder cannot be flushed on Windows. */
    private static void syncFolderOf(Path path) throws IOException {
        if (FileOwners.hasModes(path)) {
            Path absolute = path.toAbsolutePath();
            try (FileChannel folder = FileChannel.open(absolute.resolveSibling(""))) {
                folder.force(true);
            }
        }
    }

    /** Returns the error for a file, in words that do not repeat its path. */
    static InvalidRequestException fileError(Path path, IOException failed) {
        String why;
        if (failed instanceof NoSuchFileException) {
            why = "no such file or directory";
        } else if (failed instanceof FileAlreadyExistsException || failed instanceof DirectoryNotEmptyException) {
            why = "file exists";
        } else if (failed instanceof AccessDeniedException) {
            why = "permission denied";
        } else if (failed instanceof FileSystemException about && about.getReason() != null) {
            why = about.getReason();
        } else {
            why = String.valueOf(failed.getMessage());
        }
        return invalid(printable(path + ": " + why), failed);
    }
}
