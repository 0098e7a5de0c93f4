/**
 * The rule of a KeyVault server: a mutation is accepted if and only if its envelope opens under the data key that the
 * stored record commits to, at the stored revision + 1.
 *
 * @module
 */
import { createHash, createSecretKey, type KeyObject, randomBytes } from "node:crypto";

import type { RotateKeyRequest } from "../generated/keyvault/v1/keyvault.js";
import * as kve1 from "../kve1.js";
import { StoredRecord } from "./record.js";
import { Refusal } from "./refusal.js";

/** The tenant of every caller. */
export const TENANT = "test";

/** What a wrapped key stands for. */
export interface HeldKey {
  readonly scope: string;
  readonly key: KeyObject;
}

/** What is asked of a mutation. */
export interface Asked {
  readonly keyId: string;
  readonly wrappedKey: Buffer;
  readonly envelope: Buffer;
}

/** How a mutation ended. */
export interface Accepted {
  readonly record: StoredRecord;
  readonly replayed: boolean;
}

/** The keys and records of a server. */
export class Store {
  readonly records = new Map<string, StoredRecord>();
  readonly #keys = new Map<string, HeldKey>();

  /** Make random bytes that stand for a key. */
  wrap(held: HeldKey): Buffer {
    const token = randomBytes(32);
    this.#keys.set(token.toString("hex"), held);
    return token;
  }

  /** Make a data key of this scope. */
  generate(scope: string): { readonly plaintextKey: Buffer; readonly wrappedKey: Buffer } {
    const plaintextKey = randomBytes(kve1.KEY_SIZE);
    return { plaintextKey, wrappedKey: this.wrap({ scope, key: createSecretKey(plaintextKey) }) };
  }

  unwrap(token: Buffer): HeldKey {
    const held = this.#keys.get(token.toString("hex"));
    if (held === undefined) throw new Refusal("PERMISSION_DENIED", "NOT_AUTHORIZED", "the wrapped key does not unwrap");
    return held;
  }

  /** Return the live record. */
  live(keyId: string): StoredRecord {
    const record = this.records.get(keyId);
    if (!record?.isLive) throw new Refusal("NOT_FOUND", "RECORD_NOT_FOUND", "no such record");
    return record;
  }

  create(asked: Asked): Accepted {
    return this.#mutate(asked, "DATA", (record) => {
      if (record.isLive) throw new Refusal("ALREADY_EXISTS", "RECORD_EXISTS", "the record exists", record.revisions);
    });
  }

  update(asked: Asked): Accepted {
    return this.#mutate(asked, "DATA", ({ keyId }) => this.live(keyId));
  }

  delete(asked: Asked): Accepted {
    return this.#mutate(asked, "TOMBSTONE", ({ keyId }) => this.live(keyId));
  }

  rotate({ keyId, wrappedKey, newWrappedKey, authorization, envelope }: RotateKeyRequest): Accepted {
    const record = this.live(keyId);
    if (record.recalls(envelope)) return { record, replayed: true };
    const [{ key: old }, { key: next }] = [this.unwrap(wrappedKey), this.unwrap(newWrappedKey)];
    checkNext(record, authorization, "REKEY");
    checkOwner(record, old);
    if (old.equals(next)) throw new Refusal("INVALID_ARGUMENT", "SAME_DATA_KEY", "the new key is the old one");
    if (!opened(record, old, authorization).equals(createHash("sha256").update(envelope).digest())) {
      throw new Refusal("INVALID_ARGUMENT", "ENVELOPE_NOT_UNDER_KEY", "the authorization is for another envelope");
    }
    opened(record, next, envelope);
    checkNext(record, envelope, "DATA");
    record.put(envelope, { keeps: false });
    return { record, replayed: false };
  }

  #mutate({ keyId, wrappedKey, envelope }: Asked, kind: kve1.Kind, check: (record: StoredRecord) => void): Accepted {
    const record = this.records.get(keyId) ?? new StoredRecord(keyId);
    const { key } = this.unwrap(wrappedKey);
    const replayed = record.recalls(envelope);
    if (!replayed) {
      parsed(envelope);
      check(record);
      checkNext(record, envelope, kind);
      checkOwner(record, key);
    }
    opened(record, key, envelope);
    if (replayed) return { record, replayed };
    record.put(envelope, { keeps: record.isLive && kind === "DATA" });
    this.records.set(keyId, record);
    return { record, replayed };
  }
}

function parsed(envelope: Buffer): kve1.Header {
  try {
    return kve1.parse(envelope);
  } catch {
    throw new Refusal("INVALID_ARGUMENT", "MALFORMED_ENVELOPE", "not a KVE1 envelope");
  }
}

/** Throw unless an envelope may replace what is stored, as far as can be seen without a key. */
function checkNext(record: StoredRecord, envelope: Buffer, wanted: kve1.Kind): void {
  const { kind, revision } = parsed(envelope);
  if (kind !== wanted) throw new Refusal("INVALID_ARGUMENT", "WRONG_KIND", "an envelope of another kind");
  if (revision === record.revision + 1n) return;
  throw new Refusal("ABORTED", "STALE_REVISION", `${record.keyId} is at another revision`, record.revisions);
}

/** Throw unless the stored head commits to this key. */
function checkOwner({ keyId, current }: StoredRecord, key: KeyObject): void {
  if (current === undefined) return;
  const head = current.envelope.subarray(0, kve1.HEAD_SIZE);
  if (kve1.commitsTo({ head, key, tenant: TENANT, keyId })) return;
  throw new Refusal("PERMISSION_DENIED", "NOT_AUTHORIZED", "not the record's key");
}

function opened({ keyId }: StoredRecord, key: KeyObject, envelope: Buffer): Buffer {
  try {
    return kve1.open({ key, tenant: TENANT, keyId, envelope }).plaintext;
  } catch {
    throw new Refusal("INVALID_ARGUMENT", "ENVELOPE_NOT_UNDER_KEY", "the envelope does not open");
  }
}
