package io.github.keyvaultgrpc;

import static io.github.keyvaultgrpc.Details.invalid;
import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.Strictness;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import io.github.keyvaultgrpc.v1.GenerateKeyResponse;
import java.io.IOException;
import java.io.StringReader;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.Base64;

/**
 * A data key for one tenant and one scope: its 32 bytes read a record; together with their wrapped form they change it.
 *
 * <p>Neither is printed or encoded by accident: {@link #toString} shows tenant and scope, the fields are {@code transient}
 * for libraries that read the fields of an object, and no method has the name of a bean's getter. {@link #reveal} and
 * {@link #save} encode a key.
 */
public final class DataKey {
    /** Bytes of a data key. */
    public static final int SIZE = 32;

    private final String tenant;
    private final String scope;
    private final transient byte[] wrapped;
    private final transient byte[] secret; // null if the key was saved without it

    private DataKey(String tenant, String scope, byte[] wrapped, byte[] secret) {
        this.tenant = tenant;
        this.scope = scope;
        this.wrapped = wrapped;
        this.secret = secret;
    }

    /**
     * Makes a key of its parts, which are copied.
     *
     * @param secret the 32 bytes, or null for a caller that may use {@link KeyVaultClient#unwrapKey}
     * @throws InvalidRequestException for parts that cannot be those of a key
     */
    public static DataKey of(String tenant, String scope, byte[] wrapped, byte[] secret) {
        boolean named = Names.isTenant(tenant) && Names.isScope(scope);
        if (!named || wrapped.length == 0 || wrapped.length > Names.MAX_WRAPPED_KEY) {
            throw invalid("not a data key: its tenant, scope or wrapped_key is invalid");
        }
        if (secret != null && secret.length != SIZE) {
            throw invalid("not a data key: its plaintext_key must be " + SIZE + " bytes");
        }
        return new DataKey(tenant, scope, wrapped.clone(), secret == null ? null : secret.clone());
    }

    /**
     * Parses what {@link #reveal} returned, or the JSON of a GenerateKeyResponse, in either of protobuf's spellings.
     *
     * @throws InvalidRequestException for anything else; it quotes nothing of it
     */
    public static DataKey parse(byte[] json) {
        try {
            JsonReader reader = new JsonReader(new StringReader(new String(json, UTF_8)));
            reader.setStrictness(Strictness.STRICT);
            JsonObject file = new Gson().getAdapter(JsonObject.class).read(reader);
            if (reader.peek() != JsonToken.END_DOCUMENT) { // two keys in one file: neither is meant
                throw new IllegalArgumentException();
            }
            byte[] wrapped = file == null ? null : bytes(file, "wrapped_key", "wrappedKey");
            if (wrapped != null) {
                return of(text(file, "tenant"), text(file, "scope"), wrapped, bytes(file, "plaintext_key", "plaintextKey"));
            }
        } catch (IOException | JsonParseException | IllegalArgumentException malformed) {
            // Without the cause, whose message may quote the key.
        }
        throw invalid("not a data key: expected JSON with tenant, scope, plaintext_key and wrapped_key");
    }

    private static String text(JsonObject file, String name) {
        JsonElement found = file.get(name);
        if (found == null || !found.isJsonPrimitive() || !found.getAsJsonPrimitive().isString()) {
            throw new IllegalArgumentException();
        }
        return found.getAsString();
    }

    /** Returns the bytes of the first name that is there, null if none is. */
    private static byte[] bytes(JsonObject file, String... names) {
        for (String name : names) {
            if (file.has(name)) {
                String text = text(file, name);
                byte[] found = Base64.getDecoder().decode(text);
                if (!Base64.getEncoder().encodeToString(found).equals(text)) { // the decoder takes missing padding
                    throw new IllegalArgumentException();
                }
                return found;
            }
        }
        return null;
    }

    /**
     * Reads a key file. On Unix it refuses one that another user owns, may read or may write, as ssh does; a group of this
     * process may read it, as Kubernetes mounts a secret with fsGroup. Access control lists are not checked.
     *
     * @throws InvalidRequestException if the file cannot be read or is unsafe; its cause is the {@link IOException}
     */
    public static DataKey load(Path path) {
        return KeyFiles.load(path);
    }

    /**
     * Loads a key file, or makes it with a fresh key of this scope. Of several programs that do it at once, all use the key
     * of the one that was first.
     */
    public static DataKey loadOrGenerate(Path path, KeyVaultClient vault, String scope) {
        try {
            return load(path);
        } catch (InvalidRequestException absent) {
            if (!(absent.getCause() instanceof NoSuchFileException)) {
                throw absent;
            }
        }
        DataKey key = vault.generateKey(scope);
        try {
            key.save(path); // before it is used: it cannot be regenerated
            return key;
        } catch (InvalidRequestException another) {
            if (another.getCause() instanceof FileAlreadyExistsException) {
                return load(path);
            }
            throw another;
        }
    }

    /**
     * Writes a new file of mode 0600 that survives a crash, also if the thread is interrupted. It never replaces a file.
     * There is never a partial file of this name, also after a crash.
     *
     * @throws InvalidRequestException if it cannot; its cause is the {@link IOException}, such as a
     *     {@link java.nio.file.FileAlreadyExistsException}
     */
    public void save(Path path) {
        KeyFiles.save(path, reveal());
    }

    /**
     * Replaces a key file by this key, as for a key that was rewrapped. The old one stays until this one is on the disk.
     *
     * @throws InvalidRequestException if it cannot; its cause is the {@link IOException}
     */
    public void replace(Path path) {
        KeyFiles.replace(path, reveal());
    }

    /** Returns the key as JSON, its secret included, for a store of secrets of your own. */
    public byte[] reveal() {
        JsonObject file = new JsonObject();
        file.addProperty("tenant", tenant);
        file.addProperty("scope", scope);
        if (secret != null) {
            file.addProperty("plaintext_key", Base64.getEncoder().encodeToString(secret));
        }
        file.addProperty("wrapped_key", Base64.getEncoder().encodeToString(wrapped));
        return (file + "\n").getBytes(UTF_8);
    }

    /** Returns the tenant that the server gave the caller. */
    public String tenant() {
        return tenant;
    }

    /** Returns the key_id, or the prefix that ends in "/", that the key may be used for. */
    public String scope() {
        return scope;
    }

    /** Returns a copy of the wrapped form, 1 to 8,192 opaque bytes. */
    public byte[] wrapped() {
        return wrapped.clone();
    }

    /** Returns whether the key has its 32 bytes; {@link KeyVaultClient#unwrapKey} gets them. */
    public boolean hasSecret() {
        return secret != null;
    }

    /**
     * Returns a copy of the 32 bytes. Overwrite it after use.
     *
     * @throws InvalidRequestException if the key was saved without them
     */
    public byte[] revealSecret() {
        checkSecret();
        return secret.clone();
    }

    /** Returns this key with its wrapped form alone. */
    public DataKey withoutSecret() {
        return new DataKey(tenant, scope, wrapped, null);
    }

    /** Returns this key in another wrapped form. */
    DataKey rewrapped(byte[] by) {
        DataKey checked = of(tenant, scope, by, null);
        return new DataKey(tenant, scope, checked.wrapped, secret);
    }

    /** Returns the key of a GenerateKey. */
    static DataKey of(GenerateKeyResponse answer) {
        byte[] secret = answer.getPlaintextKey().toByteArray();
        return of(answer.getTenant(), answer.getScope(), answer.getWrappedKey().toByteArray(), secret);
    }

    /** Returns the 32 bytes themselves, for this library alone. */
    byte[] secret() {
        checkSecret();
        return secret;
    }

    void checkSecret() {
        if (secret == null) {
            throw invalid("this key has no plaintext_key: unwrap it first");
        }
    }

    /** Returns whether both have the same 32 bytes, in constant time; false if one has none. */
    public boolean hasSecretOf(DataKey other) {
        return secret != null && other.secret != null && MessageDigest.isEqual(secret, other.secret);
    }

    /** Returns tenant and scope. */
    @Override
    public String toString() {
        return "[data key of " + tenant + " for " + scope + "]";
    }
}
