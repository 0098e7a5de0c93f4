package io.github.keyvaultgrpc.kve1;

import static java.nio.charset.StandardCharsets.US_ASCII;
import static java.nio.charset.StandardCharsets.UTF_8;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.List;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.SecretKey;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * The KVE1 envelope as docs/envelope.md specifies it, with the JDK's cryptography alone; sections are that page's.
 *
 * <p>A data key has 32 bytes of uniform randomness; another length is the caller's mistake and an
 * {@link IllegalArgumentException}, as is whatever {@link #seal} may not seal.
 */
public final class Kve1 {
    /** The largest plaintext, in bytes. */
    public static final int MAX_PLAINTEXT = 380_000;

    /** Bytes of an envelope that show whose it is. */
    public static final int HEAD = 72;

    private static final int MAX_ENVELOPE = 380_456;
    private static final int HEADER = 16;
    private static final int COMMITMENT = 40;
    private static final int DATA_KEY = 32;
    private static final int MAX_NAME = 0xffff;
    private static final int SALT = COMMITMENT - HEADER;
    private static final int CHUNK = 16_384;
    private static final int TAG = 16;
    private static final int MAGIC_AND_VERSION = 0x4b564501;
    private static final int COBBLESTONE_256 = 1;
    private static final byte[] LABEL = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0".getBytes(US_ASCII);

    private static final SecureRandom RANDOM = new SecureRandom();

    private Kve1() {}

    /** What an envelope is for (section 2). */
    public enum Kind {
        /** A record's content, 0 to 380,000 bytes. */
        DATA(1, 0, MAX_PLAINTEXT),
        /** Replaces a deleted record; empty. */
        TOMBSTONE(2, 0, 0),
        /** The SHA-256 of a DATA envelope under another key, which it permits. */
        REKEY(3, 32, 32);

        private final int code;
        private final int least;
        private final int most;

        Kind(int code, int least, int most) {
            this.code = code;
            this.least = least;
            this.most = most;
        }

        private boolean allows(int plaintextLength) {
            return least <= plaintextLength && plaintextLength <= most;
        }

        private static Kind of(int code) throws Malformed {
            for (Kind kind : values()) {
                if (kind.code == code) {
                    return kind;
                }
            }
            throw new Malformed();
        }
    }

    /** What an envelope says in clear, which is a claim until it has opened. */
    public record Parsed(Kind kind, long revision) {}

    /** These bytes are not a KVE1 envelope, whatever the key. */
    public static final class Malformed extends Exception {
        private static final long serialVersionUID = 1;

        private Malformed() {
            super("not a KVE1 envelope");
        }
    }

    /** The envelope does not open; on purpose nothing says which of key, names, head and body is wrong. */
    public static final class DoesNotOpen extends Exception {
        private static final long serialVersionUID = 1;

        private DoesNotOpen() {
            super("the envelope does not open with this key for this tenant and key_id");
        }
    }

    /** Seals a plaintext, with a fresh salt (section 6). A retry sends the same bytes and does not seal again. */
    public static byte[] seal(
            byte[] dataKey, String tenant, String keyId, Kind kind, long revision, byte[] plaintext) {
        byte[] salt = new byte[SALT];
        RANDOM.nextBytes(salt);
        return seal(dataKey, tenant, keyId, kind, revision, plaintext, salt);
    }

    /** With a salt that is given: for test vectors alone. */
    static byte[] seal(
            byte[] dataKey, String tenant, String keyId, Kind kind, long revision, byte[] plaintext, byte[] salt) {
        if (revision < 1) {
            throw new IllegalArgumentException("invalid revision: must be 1 to 2^63-1");
        }
        if (!kind.allows(plaintext.length)) {
            throw new IllegalArgumentException(kind + " holds " + kind.least + " to " + kind.most + " bytes");
        }
        ByteBuffer envelope = ByteBuffer.allocate(HEAD + plaintext.length + TAG * (plaintext.length / CHUNK + 1));
        envelope.putInt(MAGIC_AND_VERSION).put((byte) COBBLESTONE_256).put((byte) kind.code).putShort((short) 0);
        envelope.putLong(revision);
        sealMessage(dataKey, context(envelope.array(), tenant, keyId), salt, plaintext, envelope);
        return envelope.array();
    }

    /** Adds a Cobblestone-256 message, which an envelope is from its salt on (sections 3 and 4). */
    static void sealMessage(byte[] dataKey, byte[] context, byte[] salt, byte[] plaintext, ByteBuffer out) {
        Derived derived = Derived.of(dataKey, context, salt);
        out.put(salt).put(derived.commitment);
        try {
            derived.crypt(Cipher.ENCRYPT_MODE, ByteBuffer.wrap(plaintext), CHUNK, out);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** Checks all that needs no key (section 7). */
    public static Parsed parse(byte[] envelope) throws Malformed {
        if (envelope.length < HEAD + TAG || envelope.length > MAX_ENVELOPE) {
            throw new Malformed();
        }
        Parsed parsed = parseHead(Arrays.copyOf(envelope, HEAD));
        int lastChunk = (envelope.length - HEAD) % (CHUNK + TAG);
        if (lastChunk < TAG || !parsed.kind.allows(plaintextLength(envelope.length - HEAD))) {
            throw new Malformed();
        }
        return parsed;
    }

    /** Checks the first 72 bytes alone (section 9). */
    private static Parsed parseHead(byte[] head) throws Malformed {
        if (head.length != HEAD) {
            throw new Malformed();
        }
        ByteBuffer header = ByteBuffer.wrap(head);
        boolean known = header.getInt(0) == MAGIC_AND_VERSION && header.get(4) == COBBLESTONE_256;
        Kind kind = Kind.of(header.get(5));
        boolean reserved = header.getShort(6) != 0;
        long revision = header.getLong(8); // from 2^63 on it is negative here
        if (!known || reserved || revision < 1) {
            throw new Malformed();
        }
        return new Parsed(kind, revision);
    }

    /**
     * The plaintext, once all of it has proved genuine (section 8): someone who has the key sealed just this for this
     * tenant, key_id, kind and revision. It is not proof that nothing newer exists.
     */
    public static byte[] open(byte[] dataKey, String tenant, String keyId, byte[] envelope)
            throws Malformed, DoesNotOpen {
        parse(envelope);
        byte[] message = Arrays.copyOfRange(envelope, HEADER, envelope.length);
        return openMessage(dataKey, context(envelope, tenant, keyId), message);
    }

    /** Opens a Cobblestone-256 message. */
    static byte[] openMessage(byte[] dataKey, byte[] context, byte[] message) throws DoesNotOpen {
        int body = message.length - (HEAD - HEADER);
        if (body < TAG || body % (CHUNK + TAG) < TAG) {
            throw new DoesNotOpen();
        }
        Derived derived = Derived.of(dataKey, context, Arrays.copyOf(message, SALT));
        if (!MessageDigest.isEqual(derived.commitment, Arrays.copyOfRange(message, SALT, HEAD - HEADER))) {
            throw new DoesNotOpen();
        }
        ByteBuffer chunks = ByteBuffer.wrap(message, HEAD - HEADER, body);
        ByteBuffer plaintext = ByteBuffer.allocate(plaintextLength(body));
        try {
            derived.crypt(Cipher.DECRYPT_MODE, chunks, CHUNK + TAG, plaintext);
        } catch (GeneralSecurityException anyTagWrong) {
            Arrays.fill(plaintext.array(), (byte) 0);
            throw new DoesNotOpen();
        }
        return plaintext.array();
    }

    /**
     * Whether a head of 72 bytes is of an envelope of this data key and these names (section 9). It says nothing of
     * the body.
     */
    public static boolean commitsTo(byte[] head, byte[] dataKey, String tenant, String keyId) throws Malformed {
        parseHead(head);
        Derived derived =
                Derived.of(dataKey, context(head, tenant, keyId), Arrays.copyOfRange(head, HEADER, COMMITMENT));
        return MessageDigest.isEqual(derived.commitment, Arrays.copyOfRange(head, COMMITMENT, HEAD));
    }

    private static int plaintextLength(int body) {
        return body - TAG * (body / (CHUNK + TAG) + 1);
    }

    /** What the derivation binds in addition to the data key and the salt (section 3). */
    private static byte[] context(byte[] headerAndMore, String tenant, String keyId) {
        ByteBuffer first = utf8(tenant);
        ByteBuffer second = utf8(keyId);
        ByteBuffer context = ByteBuffer.allocate(HEADER + 2 + first.remaining() + 2 + second.remaining());
        context.put(headerAndMore, 0, HEADER);
        for (ByteBuffer name : List.of(first, second)) {
            context.putShort((short) name.remaining()).put(name);
        }
        return context.array();
    }

    /** A name's bytes; getBytes would put "?" in the place of a lone surrogate, and two names would be one. */
    private static ByteBuffer utf8(String name) {
        try {
            ByteBuffer bytes = UTF_8.newEncoder().encode(CharBuffer.wrap(name));
            if (bytes.remaining() <= MAX_NAME) {
                return bytes;
            }
        } catch (CharacterCodingException loneSurrogate) {
            throw new IllegalArgumentException("a name has a lone surrogate, which has no UTF-8");
        }
        throw new IllegalArgumentException("a name has at most " + MAX_NAME + " bytes");
    }

    /** What comes of a data key, a context and a salt (section 3). */
    private record Derived(SecretKey aesKey, byte[] baseNonce, byte[] commitment) {
        static Derived of(byte[] dataKey, byte[] context, byte[] salt) {
            if (dataKey.length != DATA_KEY) {
                throw new IllegalArgumentException("a data key has " + DATA_KEY + " bytes");
            }
            try {
                Mac mac = Mac.getInstance("HmacSHA512");
                mac.init(new SecretKeySpec(dataKey, mac.getAlgorithm()));
                byte[] t1 = expand(mac, new byte[0], salt, context, 1);
                byte[] t2 = expand(mac, t1, salt, context, 2);
                byte[] commitment = ByteBuffer.allocate(32).put(t1, 44, 20).put(t2, 0, 12).array();
                return new Derived(new SecretKeySpec(t1, 0, 32, "AES"), Arrays.copyOfRange(t1, 32, 44), commitment);
            } catch (GeneralSecurityException impossible) {
                throw new IllegalStateException(impossible); // every Java has HmacSHA512
            }
        }

        /** One step of HKDF-Expand (RFC 5869). */
        private static byte[] expand(Mac mac, byte[] before, byte[] salt, byte[] context, int step) {
            mac.update(before);
            mac.update(LABEL);
            mac.update(salt);
            mac.update(context);
            return mac.doFinal(new byte[] {(byte) step});
        }

        /** Every chunk of {@code in} through AES-256-GCM (section 4); the last is the one shorter than {@code size}. */
        void crypt(int mode, ByteBuffer in, int size, ByteBuffer out) throws GeneralSecurityException {
            Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
            boolean last = false;
            for (long i = 0; !last; i++) {
                last = in.remaining() < size;
                ByteBuffer nonce = ByteBuffer.wrap(baseNonce.clone());
                nonce.putLong(4, nonce.getLong(4) ^ i); // of the 96-bit integer i the upper 32 bits are 0
                cipher.init(mode, aesKey, new GCMParameterSpec(8 * TAG, nonce.array()));
                ByteBuffer chunk = in.slice(in.position(), last ? in.remaining() : size);
                in.position(in.position() + chunk.remaining());
                cipher.doFinal(chunk, out);
            }
        }
    }
}
