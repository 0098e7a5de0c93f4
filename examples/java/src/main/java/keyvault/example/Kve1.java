package keyvault.example;

import static java.nio.charset.StandardCharsets.US_ASCII;
import static java.nio.charset.StandardCharsets.UTF_8;

import java.nio.ByteBuffer;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Arrays;
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

    private static final int MAX_ENVELOPE = 380_456;
    private static final int HEADER = 16;
    private static final int COMMITMENT = 40;
    private static final int HEAD = 72;
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
        envelope.putLong(revision).put(salt);
        Derived derived = Derived.of(dataKey, tenant, keyId, envelope.array());
        envelope.put(derived.commitment);
        try {
            derived.crypt(Cipher.ENCRYPT_MODE, ByteBuffer.wrap(plaintext), CHUNK, envelope);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
        return envelope.array();
    }

    /** Checks all that needs no key (section 7). */
    public static Parsed parse(byte[] envelope) throws Malformed {
        if (envelope.length < HEAD + TAG || envelope.length > MAX_ENVELOPE) {
            throw new Malformed();
        }
        ByteBuffer header = ByteBuffer.wrap(envelope);
        boolean known = header.getInt(0) == MAGIC_AND_VERSION && header.get(4) == COBBLESTONE_256;
        Kind kind = Kind.of(header.get(5));
        boolean reserved = header.getShort(6) != 0;
        long revision = header.getLong(8); // from 2^63 on it is negative here
        int lastChunk = (envelope.length - HEAD) % (CHUNK + TAG);
        if (!known || reserved || revision < 1 || lastChunk < TAG || !kind.allows(plaintextLength(envelope))) {
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
        Derived derived = Derived.of(dataKey, tenant, keyId, envelope);
        if (!derived.isCommitmentOf(envelope)) {
            throw new DoesNotOpen();
        }
        ByteBuffer chunks = ByteBuffer.wrap(envelope, HEAD, envelope.length - HEAD);
        ByteBuffer plaintext = ByteBuffer.allocate(plaintextLength(envelope));
        try {
            derived.crypt(Cipher.DECRYPT_MODE, chunks, CHUNK + TAG, plaintext);
        } catch (GeneralSecurityException anyTagWrong) {
            Arrays.fill(plaintext.array(), (byte) 0);
            throw new DoesNotOpen();
        }
        return plaintext.array();
    }

    /** Whether the first 72 bytes of a parsed envelope are this data key's and these names' (section 9). */
    public static boolean commitsTo(byte[] envelope, byte[] dataKey, String tenant, String keyId) {
        return Derived.of(dataKey, tenant, keyId, envelope).isCommitmentOf(envelope);
    }

    private static int plaintextLength(byte[] envelope) {
        int body = envelope.length - HEAD;
        return body - TAG * (body / (CHUNK + TAG) + 1);
    }

    /** What comes of a data key, a header with its salt, and the names (section 3). */
    private record Derived(SecretKey aesKey, byte[] baseNonce, byte[] commitment) {
        static Derived of(byte[] dataKey, String tenant, String keyId, byte[] headerAndSalt) {
            if (dataKey.length != DATA_KEY) {
                throw new IllegalArgumentException("a data key has " + DATA_KEY + " bytes");
            }
            byte[] names = withLengths(tenant.getBytes(UTF_8), keyId.getBytes(UTF_8));
            try {
                Mac mac = Mac.getInstance("HmacSHA512");
                mac.init(new SecretKeySpec(dataKey, mac.getAlgorithm()));
                byte[] t1 = expand(mac, new byte[0], headerAndSalt, names, 1);
                byte[] t2 = expand(mac, t1, headerAndSalt, names, 2);
                byte[] commitment = ByteBuffer.allocate(32).put(t1, 44, 20).put(t2, 0, 12).array();
                return new Derived(new SecretKeySpec(t1, 0, 32, "AES"), Arrays.copyOfRange(t1, 32, 44), commitment);
            } catch (GeneralSecurityException impossible) {
                throw new IllegalStateException(impossible); // every Java has HmacSHA512
            }
        }

        /** One step of HKDF-Expand (RFC 5869). */
        private static byte[] expand(Mac mac, byte[] before, byte[] headerAndSalt, byte[] names, int step) {
            mac.update(before);
            mac.update(LABEL);
            mac.update(headerAndSalt, HEADER, SALT);
            mac.update(headerAndSalt, 0, HEADER);
            mac.update(names);
            return mac.doFinal(new byte[] {(byte) step});
        }

        private static byte[] withLengths(byte[] tenant, byte[] keyId) {
            if (tenant.length > MAX_NAME || keyId.length > MAX_NAME) {
                throw new IllegalArgumentException("a name has at most " + MAX_NAME + " bytes");
            }
            ByteBuffer names = ByteBuffer.allocate(2 + tenant.length + 2 + keyId.length);
            names.putShort((short) tenant.length).put(tenant).putShort((short) keyId.length).put(keyId);
            return names.array();
        }

        boolean isCommitmentOf(byte[] envelope) {
            return MessageDigest.isEqual(commitment, Arrays.copyOfRange(envelope, COMMITMENT, HEAD));
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
