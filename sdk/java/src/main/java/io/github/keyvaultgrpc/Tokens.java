package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static io.github.keyvaultgrpc.Printable.printable;
import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Metadata;
import java.io.IOException;
import java.io.InputStream;
import java.lang.System.Logger.Level;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;

/** Bearer tokens: the header of an attempt, and the token in a file. */
final class Tokens {
    /** Characters that the server takes of a token. */
    private static final int MAX_TOKEN = 8000;

    private static final Pattern TOKEN = Pattern.compile("[A-Za-z0-9._~+/=-]+"); // RFC 6750, section 2.1
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private static final System.Logger LOG = System.getLogger(Tokens.class.getPackageName());

    private Tokens() {}

    private static boolean isToken(String text) {
        return text != null && text.length() <= MAX_TOKEN && TOKEN.matcher(text).matches();
    }

    /**
     * Returns the headers of an attempt with a token of the source, which a thread of the executor asks for, so that it
     * takes no longer than this.
     */
    static Metadata headers(TokenSource source, ExecutorService threads, long nanos) throws InterruptedException {
        String token = source instanceof InFile file ? file.token(Duration.ZERO) : ask(source, threads, nanos);
        if (!isToken(token)) {
            throw invalid("the token source returned an invalid bearer token: expected one line, as the issuer gave it");
        }
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + token);
        return headers;
    }

    private static String ask(TokenSource source, ExecutorService threads, long nanos) throws InterruptedException {
        Future<String> asked;
        try {
            asked = threads.submit(() -> source.token(Duration.ofNanos(nanos)));
        } catch (RejectedExecutionException closed) {
            throw new ClosedException(Details.of("this client is closed; the request was not sent").because(closed));
        }
        try {
            return asked.get(nanos, NANOSECONDS);
        } catch (TimeoutException late) {
            throw new UnavailableException(
                    Details.of("timed out while getting a token; the request was not sent").because(late));
        } catch (ExecutionException failed) {
            Throwable why = failed.getCause();
            throw new UnavailableException(Details.of("cannot get a token; the request was not sent: "
                            + printable(String.valueOf(why.getMessage())))
                    .because(why));
        } finally {
            asked.cancel(true);
        }
    }

    /** The token in a file. If the changed file is unusable, the earlier token stays in use. */
    static final class InFile implements TokenSource {
        private final Path path;
        private Optional<FileStamp> read;
        private String current;

        InFile(Path path) {
            this.path = path;
            this.read = FileStamp.of(path); // before it is read
            this.current = readToken(path);
        }

        @Override
        public synchronized String token(Duration left) {
            Optional<FileStamp> now = FileStamp.of(path);
            if (FileStamp.hasChanged(read, now)) {
                read = now;
                try {
                    current = readToken(path);
                } catch (InvalidRequestException failed) {
                    LOG.log(Level.ERROR, "reload failed: {0}; keeping the previous token", failed.getMessage());
                }
            }
            return current;
        }

        /** Returns the token in a file. Its error holds no part of it. */
        private static String readToken(Path path) {
            String content;
            try (InputStream file = Files.newInputStream(path)) {
                content = new String(file.readNBytes(2 * MAX_TOKEN), UTF_8);
            } catch (IOException failed) {
                throw KeyFiles.fileError(path, failed);
            }
            String token = (content.startsWith("\ufeff") ? content.substring(1) : content).strip();
            if (!isToken(token)) {
                throw invalid(printable(path.toString()) + ": not a bearer token: expected one line, as the issuer gave it");
            }
            return token;
        }
    }
}
