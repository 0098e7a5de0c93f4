package io.github.keyvaultgrpc;

import com.sun.security.auth.module.UnixSystem;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;

/** Who else can read or write a file. */
final class FileOwners {
    private static final int REGULAR = 0100000;
    private static final int TYPE = 0170000;

    private FileOwners() {}

    /** Returns whether the files of this file system have the modes of Unix. */
    static boolean hasModes(Path path) {
        return path.getFileSystem().supportedFileAttributeViews().contains("unix");
    }

    /** Returns why a file is not safe from others, as the end of a sentence that says what to do; "" if it is. */
    static String whyShared(Path path) throws IOException {
        if (!hasModes(path)) {
            return "";
        }
        Map<String, Object> about = Files.readAttributes(path, "unix:mode,uid,gid");
        int all = (Integer) about.get("mode");
        if ((all & TYPE) != REGULAR) { // a shell makes pipes for <(...)
            return "";
        }
        UnixSystem process = new UnixSystem();
        int mode = all & 0777;
        int forbidden = isOurs((Integer) about.get("gid"), process) ? 0007 : 0077;
        if ((mode & forbidden) != 0) {
            return String.format(
                    Locale.ROOT, "has mode %04o, so others can read or write it: check that nobody did, then `chmod go-rwx` it", mode);
        }
        int owner = (Integer) about.get("uid");
        if (owner != 0 && owner != process.getUid()) {
            return "belongs to another user (uid " + owner + "), who can write it: `chown` it";
        }
        return "";
    }

    private static boolean isOurs(long group, UnixSystem process) {
        return group == process.getGid() || Arrays.stream(process.getGroups()).anyMatch(one -> one == group);
    }
}
