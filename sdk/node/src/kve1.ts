/**
 * KVE1, the envelope of a KeyVault record, as docs/envelope.md describes it; the numbers below are its sections.
 *
 * The rules of this file: all cryptography is here and is node:crypto's; a revision is a bigint, because a number holds
 * no revision above 2^53 exactly; nothing is released before every chunk has opened; every way to fail after the
 * parsing is the one error.
 *
 * @module
 */
import {
  createCipheriv, createDecipheriv, createHmac, type KeyObject, randomBytes, timingSafeEqual,
} from "node:crypto";

/** What an envelope is for: a record's content, its deletion, or the authorization to hand it to another data key. */
export type Kind = "DATA" | "TOMBSTONE" | "REKEY";

/** What an envelope says in clear: a claim until the envelope has opened. */
export interface Header {
  readonly kind: Kind;
  /** 1 to 2^63-1. */
  readonly revision: bigint;
}

/** The data key, and the names that an envelope is bound to. */
export interface Binding {
  /** 32 bytes, as `crypto.createSecretKey` makes it: nothing prints a KeyObject's bytes. */
  readonly key: KeyObject;
  readonly tenant: string;
  readonly keyId: string;
}

/** What {@link seal} seals. */
export interface Sealing extends Binding, Header {
  /** At most 380,000 bytes: none for a TOMBSTONE, a SHA-256 digest for a REKEY. */
  readonly plaintext: Uint8Array;
}

/** An envelope that opened: someone who has the data key sealed all of it. */
export interface Opened extends Header {
  readonly plaintext: Buffer;
}

/** Bytes that are not a KVE1 envelope, whatever the key. */
export class MalformedEnvelopeError extends Error {
  override readonly name = "MalformedEnvelopeError";
}

/** The envelope does not open under this key, tenant and keyId, or is damaged. It does not say which. */
export class EnvelopeNotOpenedError extends Error {
  override readonly name = "EnvelopeNotOpenedError";
  constructor() {
    super("the envelope does not open under this key, tenant and keyId");
  }
}

/** Bytes of the longest plaintext. */
export const MAX_PLAINTEXT = 380_000;
/** Bytes of a data key. */
export const KEY_SIZE = 32;
/** Bytes of the head, which shows whose envelope it is. */
export const HEAD_SIZE = 72;

const MAX_REVISION = 2n ** 63n - 1n;
const PREFIX = Buffer.from("KVE\x01\x01", "latin1"); // magic, version, alg
const KINDS: readonly (Kind | undefined)[] = [undefined, "DATA", "TOMBSTONE", "REKEY"]; // by their byte
const PLAINTEXT_SIZES: Partial<Record<Kind, number>> = { TOMBSTONE: 0, REKEY: 32 };
const SALT = 16; // offsets
const COMMITMENT = 40;
const CHUNK = 16_384;
const TAG = 16;
const LABEL = Buffer.from("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0", "latin1");
const CIPHER = "aes-256-gcm";

/** Bytes of the shortest envelope. */
export const MIN_ENVELOPE = sealedSize(0);
/** Bytes of the longest envelope. */
export const MAX_ENVELOPE = sealedSize(MAX_PLAINTEXT);

/**
 * Seal a plaintext, with a fresh salt (6). A retry sends the same envelope, not the plaintext sealed again.
 *
 * @throws RangeError for what no envelope may hold.
 */
export function seal(sealing: Sealing): Buffer {
  return sealWithSalt(randomBytes(COMMITMENT - SALT), sealing);
}

/**
 * Seal with a salt of the caller's, for the vectors: one that repeats gives plaintexts away.
 *
 * @internal
 */
export function sealWithSalt(salt: Buffer, sealing: Sealing): Buffer {
  const { kind, revision, plaintext } = sealing;
  if (revision < 1n || revision > MAX_REVISION) throw new RangeError("invalid revision: must be 1 to 2^63-1");
  if (plaintext.length > MAX_PLAINTEXT) throw new RangeError(`a plaintext has at most ${MAX_PLAINTEXT} bytes`);
  if (!KINDS.includes(kind)) throw new RangeError("unknown kind of envelope");
  if (plaintext.length !== (PLAINTEXT_SIZES[kind] ?? plaintext.length)) {
    throw new RangeError(`a ${kind} has a plaintext of ${PLAINTEXT_SIZES[kind]} bytes`);
  }
  const header = Buffer.concat([PREFIX, Buffer.of(KINDS.indexOf(kind), 0, 0), u64(revision)]);
  return Buffer.concat([header, sealMessage(sealing.key, context(header, sealing), salt, bytesOf(plaintext))]);
}

/**
 * Seal a Cobblestone-256 message, which an envelope is from its salt on (3, 4).
 *
 * @internal
 */
export function sealMessage(key: KeyObject, bound: Buffer, salt: Buffer, plaintext: Buffer): Buffer {
  const derived = derive(key, bound, salt);
  const sealed = [salt, derived.commitment];
  for (let i = 0; i * CHUNK <= plaintext.length; i++) { // the last chunk is the short one, an empty one where need be
    const cipher = createCipheriv(CIPHER, derived.aesKey, nonce(derived.baseNonce, i));
    sealed.push(cipher.update(plaintext.subarray(i * CHUNK, (i + 1) * CHUNK)), cipher.final(), cipher.getAuthTag());
  }
  return Buffer.concat(sealed);
}

/**
 * Read the header of a well-formed envelope, without a key (7).
 *
 * @throws MalformedEnvelopeError
 */
export function parse(envelope: Uint8Array): Header {
  const size = envelope.length;
  if (size < MIN_ENVELOPE || size > MAX_ENVELOPE) throw new MalformedEnvelopeError("no envelope has this size");
  const header = parseHead(bytesOf(envelope).subarray(0, HEAD_SIZE));
  const exact = PLAINTEXT_SIZES[header.kind];
  if ((size - HEAD_SIZE) % (CHUNK + TAG) < TAG || (exact !== undefined && size !== sealedSize(exact))) {
    throw new MalformedEnvelopeError("its size is not one of its kind");
  }
  return header;
}

/** Read the header of an envelope of which there is no more than the head (9). */
function parseHead(head: Buffer): Header {
  if (head.length !== HEAD_SIZE) throw new MalformedEnvelopeError(`a head has ${HEAD_SIZE} bytes`);
  if (!head.subarray(0, PREFIX.length).equals(PREFIX)) throw new MalformedEnvelopeError("not a KVE1 envelope");
  const kind = KINDS[head.readUInt8(5)];
  if (kind === undefined || head.readUInt16BE(6) !== 0) throw new MalformedEnvelopeError("its header is unknown");
  const revision = head.readBigUInt64BE(8);
  if (revision < 1n || revision > MAX_REVISION) throw new MalformedEnvelopeError("its revision is out of range");
  return { kind, revision };
}

/**
 * Open an envelope (8).
 *
 * @throws MalformedEnvelopeError, EnvelopeNotOpenedError, or RangeError for a key or names that `seal` refuses.
 */
export function open({ envelope, ...binding }: Binding & { readonly envelope: Uint8Array }): Opened {
  const header = parse(envelope);
  const bytes = bytesOf(envelope);
  const bound = context(bytes.subarray(0, SALT), binding);
  return { ...header, plaintext: openMessage(binding.key, bound, bytes.subarray(SALT)) };
}

/**
 * Open a Cobblestone-256 message.
 *
 * @throws EnvelopeNotOpenedError
 * @internal
 */
export function openMessage(key: KeyObject, bound: Buffer, message: Buffer): Buffer {
  const chunks = message.subarray(HEAD_SIZE - SALT);
  if (chunks.length % (CHUNK + TAG) < TAG) throw new EnvelopeNotOpenedError();
  const derived = derive(key, bound, message.subarray(0, COMMITMENT - SALT));
  if (!timingSafeEqual(derived.commitment, message.subarray(COMMITMENT - SALT, HEAD_SIZE - SALT))) {
    throw new EnvelopeNotOpenedError();
  }
  const opened: Buffer[] = [];
  for (let i = 0, at = 0; at < chunks.length; i++, at += CHUNK + TAG) {
    const chunk = chunks.subarray(at, at + CHUNK + TAG);
    const decipher = createDecipheriv(CIPHER, derived.aesKey, nonce(derived.baseNonce, i), { authTagLength: TAG });
    decipher.setAuthTag(chunk.subarray(-TAG));
    opened.push(decipher.update(chunk.subarray(0, -TAG)));
    try {
      decipher.final();
    } catch {
      throw new EnvelopeNotOpenedError();
    }
  }
  return Buffer.concat(opened);
}

/**
 * Whether this key sealed the envelope with this head of 72 bytes, for this tenant and keyId (9). It says nothing of
 * the rest, which has to be opened.
 *
 * @throws MalformedEnvelopeError, or RangeError for a key or names that `seal` refuses.
 */
export function commitsTo({ head, ...binding }: Binding & { readonly head: Uint8Array }): boolean {
  const bytes = bytesOf(head);
  parseHead(bytes);
  const bound = context(bytes.subarray(0, SALT), binding);
  const derived = derive(binding.key, bound, bytes.subarray(SALT, COMMITMENT));
  return timingSafeEqual(derived.commitment, bytes.subarray(COMMITMENT));
}

interface Derived {
  readonly aesKey: Buffer;
  readonly baseNonce: Buffer;
  readonly commitment: Buffer;
}

/** HKDF-Expand with SHA-512 (3). */
function derive(key: KeyObject, bound: Buffer, salt: Buffer): Derived {
  if (key.symmetricKeySize !== KEY_SIZE) throw new RangeError(`a data key has ${KEY_SIZE} bytes`);
  const info = Buffer.concat([LABEL, salt, bound]);
  const t1 = createHmac("sha512", key).update(info).update(Buffer.of(1)).digest();
  const t2 = createHmac("sha512", key).update(t1).update(info).update(Buffer.of(2)).digest();
  return {
    aesKey: t1.subarray(0, 32),
    baseNonce: t1.subarray(32, 44),
    commitment: Buffer.concat([t1.subarray(44), t2.subarray(0, 12)]),
  };
}

/** What the derivation binds in addition to the data key and the salt (3). */
function context(header: Buffer, { tenant, keyId }: Binding): Buffer {
  return Buffer.concat([header, counted(tenant), counted(keyId)]);
}

/** A name with its length before it, so that no two pairs of names make one context. */
function counted(name: string): Buffer {
  // Buffer.from would put U+FFFD in the place of a lone surrogate, and two names would be one.
  if (/\p{Surrogate}/u.test(name)) throw new RangeError("a name has a lone surrogate, which has no UTF-8");
  const text = Buffer.from(name, "utf8");
  if (text.length > 0xffff) throw new RangeError("a name has at most 65,535 bytes");
  return Buffer.concat([Buffer.of(text.length >> 8, text.length & 0xff), text]);
}

/** Base nonce XOR chunk number (4); the number is far below 2^32, so that its upper 64 bits change nothing. */
function nonce(baseNonce: Buffer, chunk: number): Buffer {
  const xored = Buffer.from(baseNonce);
  xored.writeUInt32BE((xored.readUInt32BE(8) ^ chunk) >>> 0, 8);
  return xored;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

/** The same bytes as a Buffer, not copied. */
function bytesOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Bytes of the envelope of a plaintext (5). */
function sealedSize(plaintext: number): number {
  return HEAD_SIZE + plaintext + TAG * (Math.floor(plaintext / CHUNK) + 1);
}
