/**
 * Data keys: what reads and changes records.
 *
 * The rule of this file: nothing prints, logs or encodes a key by accident. Its bytes are in a KeyObject and in private
 * fields, which no printer reads.
 *
 * @module
 */
import { createSecretKey, type KeyObject } from "node:crypto";
import { inspect } from "node:util";

import { InvalidRequestError } from "./errors.js";
import { KEY_SIZE } from "./kve1.js";
import { isScope, isTenant, MAX_WRAPPED_KEY } from "./names.js";

/** The parts of a key. */
export interface DataKeyParts {
  readonly tenant: string;
  readonly scope: string;
  readonly wrapped: Uint8Array;
  readonly secret?: Uint8Array | KeyObject | undefined;
}

/**
 * A data key for one tenant and one scope: its 32 bytes read a record; together with their wrapped form they change it.
 */
export class DataKey {
  /** The tenant that the server gave the caller. */
  readonly tenant: string;
  /** The keyId, or the prefix that ends in "/", that the key may be used for. */
  readonly scope: string;
  readonly #wrapped: Buffer;
  readonly #secret: KeyObject | undefined;

  /**
   * Make a key of its parts, and copy them. `secret` may be missing, for a caller that may use `unwrapKey`.
   *
   * @throws InvalidRequestError
   */
  constructor({ tenant, scope, wrapped, secret }: DataKeyParts) {
    const size = wrapped instanceof Uint8Array ? wrapped.length : 0;
    if (!isTenant(tenant) || !isScope(scope) || size === 0 || size > MAX_WRAPPED_KEY) {
      throw new InvalidRequestError("not a data key: its tenant, scope or wrapped_key is invalid");
    }
    const made = secret instanceof Uint8Array ? createSecretKey(secret) : secret;
    if (made !== undefined && made.symmetricKeySize !== KEY_SIZE) {
      throw new InvalidRequestError(`not a data key: its plaintext_key must be ${KEY_SIZE} bytes`);
    }
    this.tenant = tenant;
    this.scope = scope;
    this.#wrapped = Buffer.from(wrapped);
    this.#secret = made;
  }

  /** A copy of the wrapped form, 1 to 8,192 opaque bytes. */
  get wrapped(): Buffer {
    return Buffer.from(this.#wrapped);
  }

  /** The key that seals and opens envelopes, undefined if this one was saved without it. */
  get secret(): KeyObject | undefined {
    return this.#secret;
  }

  /** This key with its wrapped form alone. */
  withoutPlaintext(): DataKey {
    return new DataKey({ tenant: this.tenant, scope: this.scope, wrapped: this.#wrapped });
  }

  /** The key as JSON, its secret included, for a store of secrets of your own. */
  reveal(): Buffer {
    const content = {
      tenant: this.tenant,
      scope: this.scope,
      ...(this.#secret && { plaintext_key: this.#secret.export().toString("base64") }),
      wrapped_key: this.#wrapped.toString("base64"),
    };
    return Buffer.from(`${JSON.stringify(content, null, 1)}\n`);
  }

  /**
   * Parse what `reveal` returned, or the JSON of a GenerateKeyResponse.
   *
   * @throws InvalidRequestError, which quotes nothing of it.
   */
  static parse(content: Uint8Array | string): DataKey {
    let parts: DataKeyParts;
    try {
      parts = partsOf(JSON.parse(typeof content === "string" ? content : Buffer.from(content).toString("utf8")));
    } catch { // JSON.parse quotes its input in what it throws: a secret
      throw new InvalidRequestError("not a data key: expected JSON with tenant, scope, plaintext_key and wrapped_key");
    }
    return new DataKey(parts);
  }

  toString(): string {
    return `[data key of ${this.tenant} for ${this.scope}]`;
  }

  /** Throw: a key that JSON.stringify left out of a backup would be lost. `saveDataKey` and `reveal` encode it. */
  toJSON(): never {
    throw new TypeError("a data key is not encoded by accident: use saveDataKey or reveal");
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/** The parts of a key file, by either of protobuf's spellings. */
function partsOf(file: unknown): DataKeyParts {
  const { tenant, scope, ...fields } = file as Record<string, unknown>;
  const wrapped = base64(fields["wrapped_key"] ?? fields["wrappedKey"]);
  if (typeof tenant !== "string" || typeof scope !== "string" || wrapped === undefined) throw new TypeError();
  return { tenant, scope, wrapped, secret: base64(fields["plaintext_key"] ?? fields["plaintextKey"]) };
}

function base64(text: unknown): Buffer | undefined {
  if (text === undefined || text === null) return undefined;
  if (typeof text !== "string") throw new TypeError();
  const bytes = Buffer.from(text, "base64"); // skips what is not base64
  if (bytes.toString("base64") !== text) throw new TypeError();
  return bytes;
}
