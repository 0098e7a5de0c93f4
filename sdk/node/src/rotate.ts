/**
 * The rotation of a record from one data key to another.
 *
 * @module
 */
import { createHash } from "node:crypto";

import type { Budget } from "./budget.js";
import { ConflictError, InvalidRequestError, WrongRevisionError } from "./errors.js";
import { KeyVaultService, type ReadResponse } from "./generated/keyvault/v1/keyvault.js";
import type { DataKey } from "./key.js";
import * as kve1 from "./kve1.js";
import { nextRevision } from "./names.js";
import { accept, fetch } from "./read.js";
import { checkedSecret, sealed, type VaultRecord, type Written } from "./record.js";
import type { Session } from "./session.js";
import { acknowledged, contradiction } from "./write.js";

/** A record, and the keys that it goes from and to. */
export interface Rotation {
  readonly keyId: string;
  readonly key: DataKey;
  readonly newKey: DataKey;
}

export async function rotateKey(
  session: Session, budget: Budget, rotation: Rotation, named?: bigint | number,
): Promise<Written> {
  const { keyId, key, newKey } = rotation;
  if (checkedSecret(key, keyId).equals(checkedSecret(newKey, keyId))) {
    throw new InvalidRequestError("the key and the new key are the same data key: generate a new one");
  }
  const wanted = named === undefined ? undefined : nextRevision(named) - 1n;
  for (let tried = 0n; ; ) {
    const { record, done } = await readForRotation(session, budget, rotation);
    const { revision, createTime, updateTime } = record;
    if (done) return { revision, createTime, updateTime, replayed: true };
    if (wanted !== undefined && revision !== wanted) {
      throw new ConflictError(`${keyId} is at revision ${revision}, not ${wanted}`, { currentRevision: revision });
    }
    if (revision <= tried) throw contradiction(keyId, revision);
    try {
      return await rotate(session, budget, rotation, record);
    } catch (error) {
      if (!(error instanceof WrongRevisionError) || wanted !== undefined) throw error;
    }
    tried = revision;
  }
}

/** The record, opened, and whether the new key has it already. */
async function readForRotation(
  session: Session, budget: Budget, { keyId, key, newKey }: Rotation,
): Promise<{ readonly record: VaultRecord; readonly done: boolean }> {
  const answer = await fetch(session, budget, key, { keyId });
  const done = isUnder(newKey, keyId, answer);
  return { record: accept(session, keyId, answer, done ? newKey : key), done };
}

function isUnder(key: DataKey, keyId: string, { envelope }: ReadResponse): boolean {
  try {
    kve1.parse(envelope);
  } catch {
    return false;
  }
  const head = envelope.subarray(0, kve1.HEAD_SIZE);
  return kve1.commitsTo({ head, key: checkedSecret(key, keyId), tenant: key.tenant, keyId });
}

async function rotate(
  session: Session, budget: Budget, { keyId, key, newKey }: Rotation, record: VaultRecord,
): Promise<Written> {
  const revision = record.revision + 1n;
  const envelope = sealed({ key: newKey, keyId, kind: "DATA", revision, plaintext: record.plaintext });
  const digest = createHash("sha256").update(envelope).digest();
  const authorization = sealed({ key, keyId, kind: "REKEY", revision, plaintext: digest });
  const wrapped = { wrappedKey: key.wrapped, newWrappedKey: newKey.wrapped };
  const request = { keyId, ...wrapped, authorization, envelope };
  const answer = await session.mutate(budget, KeyVaultService.rotateKey, request, revision);
  return acknowledged(session, { keyId, key: newKey }, answer);
}
