package io.github.keyvaultgrpc;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The process that plays the servers of the behaviour suite, which KeyVault's repository has. KEYVAULT_PLAYER is the
 * command that starts it, if it is another one.
 */
final class Player implements AutoCloseable {
    private static final Path REPOSITORY = Path.of("../..");

    private final Process process;
    private final BufferedReader answers;
    private final Writer ask;
    private final Map<String, JsonObject> played = new HashMap<>();

    private Player(Process process) {
        this.process = process;
        this.answers = process.inputReader(UTF_8);
        this.ask = process.outputWriter(UTF_8);
    }

    /** Starts the player of these cases, all if there are none; without a player the test is skipped, and fails in CI. */
    static Player start(String... cases) throws IOException {
        String command = System.getenv().getOrDefault("KEYVAULT_PLAYER", "");
        Path python = REPOSITORY.resolve(".venv/bin/python").toAbsolutePath().normalize();
        boolean found = !command.isEmpty() || Files.exists(python);
        assumeTrue(found || System.getenv("CI") != null, "no player: KEYVAULT_PLAYER is not set");
        List<String> words = new ArrayList<>(
                command.isEmpty() ? List.of(python.toString(), "-m", "tests.behaviour.server") : List.of(command.split(" ")));
        words.addAll(List.of(cases));
        ProcessBuilder builder = new ProcessBuilder(words);
        if (command.isEmpty()) {
            builder.directory(REPOSITORY.toFile());
        }
        Player player = new Player(builder.redirectError(ProcessBuilder.Redirect.INHERIT).start());
        for (JsonObject line = player.read(); line.has("case"); line = player.read()) {
            player.played.put(line.get("case").getAsString(), line);
        }
        return player;
    }

    private JsonObject read() throws IOException {
        String line = answers.readLine();
        if (line == null) {
            throw new IOException("the player ended");
        }
        return JsonParser.parseString(line).getAsJsonObject();
    }

    /** Returns where the server of a case is, and which key the client has. */
    JsonObject announced(String name) {
        return played.get(name);
    }

    /** Returns what the server of a case got so far. */
    synchronized JsonObject report(String name) throws IOException {
        ask.write(name + "\n");
        ask.flush();
        return read();
    }

    @Override
    public void close() throws IOException {
        ask.close();
        try {
            process.waitFor();
        } catch (InterruptedException interrupt) {
            process.destroy();
            Thread.currentThread().interrupt();
        }
    }
}
