package keyvault.example;

import static java.nio.charset.StandardCharsets.UTF_8;

import io.github.keyvaultgrpc.AlreadyExistsException;
import io.github.keyvaultgrpc.DataKey;
import io.github.keyvaultgrpc.KeyVault;
import io.github.keyvaultgrpc.KeyVaultClient;
import io.github.keyvaultgrpc.KeyVaultException;
import io.github.keyvaultgrpc.Written;
import io.github.keyvaultgrpc.kve1.Kve1;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.file.Path;
import java.time.Duration;
import java.time.temporal.ChronoUnit;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The command kv keeps secrets in a KeyVault server: a small program on top of the library in sdk/java.
 *
 * <p>A secret goes through files and standard streams, never through an argument. A failure is one line on standard error.
 */
public final class Kv {
    static final String USAGE = "usage: kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N],"
            + " kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]";
    /** The options of each verb, as they may be given. */
    private static final Map<String, Set<Set<String>>> TAKES = Map.of(
            "put", Set.of(Set.of("--key")),
            "get", Set.of(Set.of("--key"), Set.of("--key", "--revision")),
            "delete", Set.of(Set.of("--key")),
            "rotate", Set.of(Set.of("--key", "--new-key")),
            "history", Set.of(Set.of()),
            "list", Set.of(Set.of()));
    /** Held here, because a logger that is not held forgets its level. */
    private static final Logger LIBRARIES = Logger.getLogger("io.grpc");

    private final Map<String, String> options = new TreeMap<>();
    private String verb = "";
    private String keyId = ""; // the prefix of a list
    private KeyVault client;
    private long end; // of all calls of the command

    private Kv() {}

    /** Returns the client, whose next call has the rest of the time. */
    private KeyVaultClient vault() {
        return client.withTimeout(Duration.ofNanos(Math.max(1, end - System.nanoTime())));
    }

    /** Runs one command; README.md has its exit codes. */
    public static void main(String[] args) {
        LIBRARIES.setLevel(Level.OFF);
        Thread main = Thread.currentThread();
        CompletableFuture<Integer> status = new CompletableFuture<>();
        // An interrupted command still says whether its outcome is known.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            if (!status.isDone()) {
                main.interrupt();
                Runtime.getRuntime().halt(status.join());
            }
        }));
        OutputStream out = new FileOutputStream(FileDescriptor.out); // not System.out, which hides a full disk
        status.complete(exitStatus(args, System.getenv(), System.in, out, System.err));
        System.exit(status.join());
    }

    static int exitStatus(String[] args, Map<String, String> variables, InputStream in, OutputStream out, PrintStream err) {
        Kv asked = new Kv();
        if (!asked.parse(args)) {
            err.println("kv: unknown verb, or not its arguments; " + USAGE);
            return 2;
        }
        try (KeyVault vault = KeyVault.fromEnvironment(variables)) {
            asked.client = vault;
            out.write(asked.run(in));
            return 0;
        } catch (KeyVaultException | IOException failed) {
            // A file's name may move the cursor or reorder the line.
            err.println("kv: " + String.valueOf(failed.getMessage()).replaceAll("[^\\p{L}\\p{M}\\p{N}\\p{P}\\p{S} ]+", " "));
            return failed instanceof KeyVaultException known ? known.exitCode() : 1;
        }
    }

    private boolean parse(String[] args) {
        int words = 0;
        for (int i = 0; i < args.length; i++) { // options may stand before and after a word
            if (args[i].startsWith("--")) {
                if (i + 1 == args.length || options.put(args[i], args[++i]) != null) {
                    return false;
                }
            } else if (words++ == 0) {
                verb = args[i];
            } else {
                keyId = args[i];
            }
        }
        boolean isName = !keyId.isEmpty() && !keyId.endsWith("/"); // a key may be for a prefix, a record is not
        return words <= 2
                && TAKES.getOrDefault(verb, Set.of()).contains(options.keySet())
                && (isName || verb.equals("list"))
                && options.getOrDefault("--revision", "1").matches("[1-9][0-9]{0,17}"); // more are more than any record has
    }

    private byte[] run(InputStream in) throws IOException {
        byte[] data = verb.equals("put") ? in.readNBytes(Kve1.MAX_PLAINTEXT + 1) : new byte[0];
        end = System.nanoTime() + client.timeout().toNanos();
        if (verb.equals("list")) {
            return lines(vault().list(keyId).map(name -> name.keyId() + "\n"));
        } else if (verb.equals("history")) {
            return lines(vault().revisions(keyId).stream().map(one -> "revision " + one.revision() + "  "
                    + one.updateTime().truncatedTo(ChronoUnit.SECONDS) + "  " + one.size() + " bytes sealed\n"));
        }
        Path file = Path.of(options.get("--key"));
        DataKey key = verb.equals("put") ? DataKey.loadOrGenerate(file, vault(), keyId) : DataKey.load(file);
        if (verb.equals("get")) {
            String revision = options.get("--revision");
            return (revision == null ? vault().read(keyId, key) : vault().read(keyId, key, Long.parseLong(revision)))
                    .plaintext();
        }
        return (keyId + " is at revision " + change(data, key).revision() + "\n").getBytes(UTF_8);
    }

    private Written change(byte[] data, DataKey key) {
        if (verb.equals("delete")) {
            return vault().delete(keyId, key);
        } else if (verb.equals("rotate")) {
            DataKey newKey = DataKey.loadOrGenerate(Path.of(options.get("--new-key")), vault(), keyId);
            return vault().rotateKey(keyId, key, newKey);
        }
        try {
            return vault().create(keyId, data, key);
        } catch (AlreadyExistsException live) {
            return vault().update(keyId, data, key);
        }
    }

    private static byte[] lines(Stream<String> lines) {
        return lines.collect(Collectors.joining()).getBytes(UTF_8);
    }
}
