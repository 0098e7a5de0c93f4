/**
 * KVE1, the envelope of a KeyVault record, as docs/envelope.md describes it; the numbers below are its sections.
 *
 * The rules of this file: all cryptography is here and is node:crypto's; a revision is a bigint, for it may exceed
 * what a number holds exactly; nothing is released before every chunk opened; from deriving on there is one error.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** What an envelope is for: a record's content, its deletion, or the authorization to hand it to another data key. */
export type Kind = "DATA" | "TOMBSTONE" | "REKEY";

/** What an envelope says in clear. */
export interface Header {
  readonly kind: Kind;
  /** 1 to 2^63-1. */
  readonly revision: bigint;
}

/** An envelope that opened: all of it is proven to come from someone who has the data key. */
export interface Opened extends Header {
  readonly plaintext: Buffer;
}

/** Bytes that no writer of KVE1 makes, whatever the key. */
export class MalformedEnvelope extends Error {}

/** The data key, the names, the header or the body is another one's; which of them is not said. */
export class EnvelopeDoesNotOpen extends Error {}

/** Bytes in the longest plaintext. */
export const MAX_PLAINTEXT = 380_000;

const MAX_REVISION = 2n ** 63n - 1n;
const DATA_KEY_SIZE = 32;
const PREFIX = Buffer.from("KVE\x01\x01", "latin1"); // magic, version, alg
const KINDS: readonly (Kind | undefined)[] = [undefined, "DATA", "TOMBSTONE", "REKEY"]; // by their byte
const PLAINTEXT_SIZES: Partial<Record<Kind, number>> = { TOMBSTONE: 0, REKEY: 32 };
const SALT = 16; // offsets
const COMMITMENT = 40;
const BODY = 72;
const CHUNK = 16_384;
const TAG = 16;
const LABEL = Buffer.from("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0", "latin1");
const CIPHER = "aes-256-gcm";

/**
 * Seals a plaintext of at most 380,000 bytes under a 32-byte data key, with a fresh salt (6).
 *
 * A retry sends the same envelope, not the plaintext sealed again. Throws RangeError for what no envelope may hold.
 */
export function seal(
  dataKey: Buffer, tenant: string, keyId: string, kind: Kind, revision: bigint, plaintext: Buffer,
): Buffer {
  return sealWithSalt(randomBytes(COMMITMENT - SALT), dataKey, tenant, keyId, kind, revision, plaintext);
}

/** `seal` for the test vectors; a salt of the caller's choice, used twice, can give both plaintexts away. */
export function sealWithSalt(
  salt: Buffer, dataKey: Buffer, tenant: string, keyId: string, kind: Kind, revision: bigint, plaintext: Buffer,
): Buffer {
  if (revision < 1n || revision > MAX_REVISION) throw new RangeError("invalid revision: must be 1 to 2^63-1");
  if (plaintext.length > MAX_PLAINTEXT) throw new RangeError(`a plaintext has at most ${MAX_PLAINTEXT} bytes`);
  if (plaintext.length !== (PLAINTEXT_SIZES[kind] ?? plaintext.length)) {
    throw new RangeError(`a ${kind} has a plaintext of ${PLAINTEXT_SIZES[kind]} bytes`);
  }
  const header = Buffer.concat([PREFIX, Buffer.of(KINDS.indexOf(kind), 0, 0), u64(revision)]);
  return Buffer.concat([header, sealMessage(dataKey, context(header, tenant, keyId), salt, plaintext)]);
}

/** Seals a Cobblestone-256 message, which an envelope is from its salt on (3, 4). */
export function sealMessage(dataKey: Buffer, bound: Buffer, salt: Buffer, plaintext: Buffer): Buffer {
  const derived = derive(dataKey, bound, salt);
  const sealed = [salt, derived.commitment];
  for (let i = 0; i * CHUNK <= plaintext.length; i++) {
    const cipher = createCipheriv(CIPHER, derived.aesKey, nonce(derived.baseNonce, i));
    sealed.push(cipher.update(plaintext.subarray(i * CHUNK, (i + 1) * CHUNK)), cipher.final(), cipher.getAuthTag());
  }
  return Buffer.concat(sealed);
}

/** Reads the header without a key (7): a claim, until the envelope has opened. Throws MalformedEnvelope. */
export function parse(envelope: Buffer): Header {
  const size = envelope.length;
  if (size < BODY + TAG || size > sealedSize(MAX_PLAINTEXT)) throw new MalformedEnvelope("no envelope has this size");
  const header = parseHead(envelope.subarray(0, BODY));
  const exact = PLAINTEXT_SIZES[header.kind];
  if ((size - BODY) % (CHUNK + TAG) < TAG || (exact !== undefined && size !== sealedSize(exact))) {
    throw new MalformedEnvelope("its size is not one of its kind");
  }
  return header;
}

/** Reads the header of the first 72 bytes alone (9). Throws MalformedEnvelope. */
function parseHead(head: Buffer): Header {
  if (head.length !== BODY) throw new MalformedEnvelope(`a head has ${BODY} bytes`);
  if (!head.subarray(0, PREFIX.length).equals(PREFIX)) throw new MalformedEnvelope("not a KVE1 envelope");
  const kind = KINDS[head.readUInt8(5)];
  if (kind === undefined || head.readUInt16BE(6) !== 0) throw new MalformedEnvelope("its header is unknown");
  const revision = head.readBigUInt64BE(8);
  if (revision < 1n || revision > MAX_REVISION) throw new MalformedEnvelope("its revision is out of range");
  return { kind, revision };
}

/**
 * Opens an envelope (8). Throws MalformedEnvelope; RangeError for a data key or names that `seal` refuses; and for
 * everything else EnvelopeDoesNotOpen.
 */
export function open(dataKey: Buffer, tenant: string, keyId: string, envelope: Buffer): Opened {
  const header = parse(envelope);
  const bound = context(envelope.subarray(0, SALT), tenant, keyId);
  return { ...header, plaintext: openMessage(dataKey, bound, envelope.subarray(SALT)) };
}

/** Opens a Cobblestone-256 message. Throws EnvelopeDoesNotOpen. */
export function openMessage(dataKey: Buffer, bound: Buffer, message: Buffer): Buffer {
  const chunks = message.subarray(BODY - SALT);
  if (chunks.length % (CHUNK + TAG) < TAG) throw doesNotOpen();
  const derived = derive(dataKey, bound, message.subarray(0, COMMITMENT - SALT));
  if (!timingSafeEqual(derived.commitment, message.subarray(COMMITMENT - SALT, BODY - SALT))) throw doesNotOpen();
  const opened: Buffer[] = [];
  for (let i = 0, at = 0; at < chunks.length; i++, at += CHUNK + TAG) {
    const chunk = chunks.subarray(at, at + CHUNK + TAG);
    const decipher = createDecipheriv(CIPHER, derived.aesKey, nonce(derived.baseNonce, i), { authTagLength: TAG });
    decipher.setAuthTag(chunk.subarray(-TAG));
    opened.push(decipher.update(chunk.subarray(0, -TAG)));
    try {
      decipher.final();
    } catch {
      throw doesNotOpen();
    }
  }
  return Buffer.concat(opened);
}

/**
 * Whether a head of 72 bytes is of an envelope of this data key and these names (9); says nothing of the body. Throws
 * MalformedEnvelope; RangeError as `open`.
 */
export function commitsTo(head: Buffer, dataKey: Buffer, tenant: string, keyId: string): boolean {
  parseHead(head);
  const derived = derive(dataKey, context(head.subarray(0, SALT), tenant, keyId), head.subarray(SALT, COMMITMENT));
  return timingSafeEqual(derived.commitment, head.subarray(COMMITMENT));
}

interface Derived {
  readonly aesKey: Buffer;
  readonly baseNonce: Buffer;
  readonly commitment: Buffer;
}

/** HKDF-Expand with SHA-512 (3). */
function derive(dataKey: Buffer, bound: Buffer, salt: Buffer): Derived {
  if (dataKey.length !== DATA_KEY_SIZE) throw new RangeError(`a data key has ${DATA_KEY_SIZE} bytes`);
  const info = Buffer.concat([LABEL, salt, bound]);
  const t1 = createHmac("sha512", dataKey).update(info).update(Buffer.of(1)).digest();
  const t2 = createHmac("sha512", dataKey).update(t1).update(info).update(Buffer.of(2)).digest();
  return {
    aesKey: t1.subarray(0, 32),
    baseNonce: t1.subarray(32, 44),
    commitment: Buffer.concat([t1.subarray(44), t2.subarray(0, 12)]),
  };
}

/** What the derivation binds in addition to the data key and the salt (3). Throws RangeError. */
function context(header: Buffer, tenant: string, keyId: string): Buffer {
  return Buffer.concat([header, counted(tenant), counted(keyId)]);
}

/** A name with its length before it, so that no two pairs of names make one context. Throws RangeError. */
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

/** Bytes of the envelope of a plaintext (5). */
function sealedSize(plaintext: number): number {
  return BODY + plaintext + TAG * (Math.floor(plaintext / CHUNK) + 1);
}

function doesNotOpen(): EnvelopeDoesNotOpen {
  return new EnvelopeDoesNotOpen("the envelope does not open under this key and name");
}
