/**
 * Records, sealed and opened in this process.
 *
 * @module
 */
import { inspect } from "node:util";

import { InvalidRequestError, KeyVaultError, RecordDamagedError } from "./errors.js";
import type { ReadResponse } from "./generated/keyvault/v1/keyvault.js";
import { DataKey } from "./key.js";
import * as kve1 from "./kve1.js";
import { checkedRevision, checkKeyId, covers } from "./names.js";

/** A record as it was read and opened. */
export class VaultRecord {
  readonly keyId: string;
  readonly revision: bigint;
  /** By the server's clock; informational. */
  readonly createTime: Date;
  /** By the server's clock; informational. */
  readonly updateTime: Date;
  readonly #plaintext: Uint8Array;

  /** Make one, as for a fake of your own. */
  constructor(parts: Pick<VaultRecord, "keyId" | "plaintext" | "revision" | "createTime" | "updateTime">) {
    this.keyId = parts.keyId;
    this.revision = parts.revision;
    this.createTime = parts.createTime;
    this.updateTime = parts.updateTime;
    this.#plaintext = parts.plaintext;
  }

  /** The record's data. Nothing prints or encodes it as a part of the record. */
  get plaintext(): Uint8Array {
    return this.#plaintext;
  }

  /** The record's data as text. */
  text(): string {
    return Buffer.from(this.#plaintext).toString("utf8");
  }

  toString(): string {
    return `[record ${this.keyId} at revision ${this.revision}]`;
  }

  /** The record without its data. */
  toJSON(): Record<string, unknown> {
    const { keyId, revision, createTime, updateTime } = this;
    return { keyId, revision: String(revision), createTime, updateTime };
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/** The result of an accepted mutation. */
export interface Written {
  readonly revision: bigint;
  /** By the server's clock; informational. */
  readonly createTime: Date;
  /** By the server's clock; informational. */
  readonly updateTime: Date;
  /** An earlier attempt had been accepted, and its answer was lost. */
  readonly replayed: boolean;
}

/** A time of the server's; the epoch for one that no clock shows. */
export function timeOf(time: Date | undefined): Date {
  return time && !Number.isNaN(time.getTime()) ? time : new Date(0);
}

/** Return the bytes of a key that may be used for this name. */
export function checkedSecret(key: DataKey, keyId: string): NonNullable<DataKey["secret"]> {
  checkKeyId(keyId);
  if (!(key instanceof DataKey)) throw new InvalidRequestError(`no data key for ${keyId}`);
  if (!covers(key.scope, keyId)) {
    throw new InvalidRequestError(
      `the key's scope ${key.scope} does not cover ${keyId}: use a key for this name or for a prefix of it`,
    );
  }
  if (key.secret === undefined) throw new InvalidRequestError("this key has no plaintext_key: unwrap it first");
  return key.secret;
}

/** What is sealed, under which key. */
export interface Sealable {
  readonly key: DataKey;
  readonly keyId: string;
  readonly kind: kve1.Kind;
  readonly revision: bigint;
  readonly plaintext: Uint8Array;
}

/** @throws InvalidRequestError */
export function sealed({ key, keyId, kind, revision, plaintext }: Sealable): Buffer {
  const secret = checkedSecret(key, keyId);
  checkedRevision("revision", revision);
  if (!(plaintext instanceof Uint8Array)) throw new InvalidRequestError("the plaintext must be a Uint8Array");
  if (plaintext.length > kve1.MAX_PLAINTEXT) {
    throw new InvalidRequestError(
      `the plaintext is ${plaintext.length} bytes: a record holds at most ${kve1.MAX_PLAINTEXT}`,
    );
  }
  return kve1.seal({ key: secret, tenant: key.tenant, keyId, kind, revision, plaintext });
}

/** The record in an answer, opened under the key that it has to be of. @throws RecordDamagedError */
export function opened(keyId: string, answer: ReadResponse, key: DataKey, kind: kve1.Kind): VaultRecord {
  const secret = checkedSecret(key, keyId);
  let found: kve1.Opened;
  try {
    found = kve1.open({ key: secret, tenant: key.tenant, keyId, envelope: answer.envelope });
  } catch (cause) {
    if (cause instanceof KeyVaultError) throw cause;
    const sentence = `${keyId} does not open under this key: the record is another key's, or damaged`;
    throw new RecordDamagedError(sentence, { cause });
  }
  if (found.kind !== kind || found.revision !== answer.revision) {
    throw new RecordDamagedError(`the server's answer for ${keyId} contradicts its envelope`);
  }
  const plaintext = new Uint8Array(found.plaintext); // memory of its own: a small Buffer shares that of others
  found.plaintext.fill(0);
  const [createTime, updateTime] = [timeOf(answer.createTime), timeOf(answer.updateTime)];
  return new VaultRecord({ keyId, plaintext, revision: found.revision, createTime, updateTime });
}
