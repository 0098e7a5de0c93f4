/**
 * Reads: what a server answers is opened under the key, at the revision that was asked for, and not below one that was
 * proved before.
 *
 * @module
 */
import type { Budget } from "./budget.js";
import * as errors from "./errors.js";
import { KeyVaultService, type ReadRequest, type ReadResponse } from "./generated/keyvault/v1/keyvault.js";
import type { DataKey } from "./key.js";
import { checkedRevision } from "./names.js";
import { checkedSecret, opened, type VaultRecord } from "./record.js";
import { checkSeen } from "./seen.js";
import type { Session } from "./session.js";

/** Which record, and under which key. */
export interface Target {
  readonly keyId: string;
  readonly key: DataKey;
}

/** Read the current record. */
export async function readCurrent(session: Session, budget: Budget, { keyId, key }: Target): Promise<VaultRecord> {
  return accept(session, keyId, await fetch(session, budget, key, { keyId }), key);
}

/** Read the current record, or return undefined without data if it is still at the known revision. */
export async function readIfChanged(
  session: Session, budget: Budget, { keyId, key }: Target, known: bigint,
): Promise<VaultRecord | undefined> {
  const answer = await fetch(session, budget, key, { keyId, knownRevision: known });
  return acceptIfChanged(session, keyId, answer, key, known);
}

/**
 * Read this revision of a record. A low revision that was asked for is no rollback; a server that says of a record that
 * it never was at a proved revision, is one.
 */
export async function readEarlier(
  session: Session, budget: Budget, { keyId, key }: Target, asked: bigint | number,
): Promise<VaultRecord> {
  checkedSecret(key, keyId);
  const revision = checkedRevision("revision", asked);
  const floor = session.seen.get(key, keyId); // before the call, as in fetch
  let answer: ReadResponse;
  try {
    answer = await session.ask(budget, KeyVaultService.read, requestOf({ keyId, revision }));
  } catch (error) {
    if (error instanceof errors.RevisionNotFoundError && error.currentRevision > 0n && error.currentRevision < floor) {
      throw new errors.RolledBackError({ keyId, revision: error.currentRevision, seen: floor });
    }
    throw error;
  }
  if (answer.revision !== revision) {
    throw new errors.ServerFailureError(
      `the server answered with revision ${answer.revision} of ${keyId} instead of ${revision}: it is an older ` +
        "KeyVault, which cannot read earlier revisions",
    );
  }
  return accept(session, keyId, answer, key);
}

/** Ask for a record, which is not opened yet. Its revision is not below what was proved before. */
export async function fetch(
  session: Session, budget: Budget, key: DataKey, asked: Pick<ReadRequest, "keyId"> & Partial<ReadRequest>,
): Promise<ReadResponse> {
  checkedSecret(key, asked.keyId);
  const floor = session.seen.get(key, asked.keyId); // before the call: a write of ours may raise it while we wait
  const answer = await session.ask(budget, KeyVaultService.read, requestOf(asked));
  const known = asked.knownRevision ?? 0n; // was proved, too
  checkSeen(asked.keyId, answer.revision, known > floor ? known : floor);
  return answer;
}

function requestOf(asked: Pick<ReadRequest, "keyId"> & Partial<ReadRequest>): ReadRequest {
  return { knownRevision: 0n, includeDeleted: false, revision: 0n, ...asked };
}

/** Open the record in an answer, and remember its revision. */
export function accept(session: Session, keyId: string, answer: ReadResponse, key: DataKey): VaultRecord {
  const record = opened(keyId, answer, key, "DATA");
  session.seen.note(key, keyId, record.revision);
  return record;
}

/** `accept` for a caller that has the known revision, 0n if none: undefined if that is current. */
export function acceptIfChanged(
  session: Session, keyId: string, answer: ReadResponse, key: DataKey, known: bigint,
): VaultRecord | undefined {
  if (!answer.notModified) return accept(session, keyId, answer, key);
  if (known !== 0n && answer.revision === known) return undefined;
  throw new errors.ServerFailureError(
    `the server's answer for ${keyId} contradicts the request: not modified, but changed`,
  );
}

/** The revision of the tombstone under a name that a Create has found in use, opened under the key. */
export async function deletedRevision(
  session: Session, budget: Budget, { keyId, key }: Target, stale: errors.ConflictError,
): Promise<bigint> {
  if (stale.vacant) {
    throw new errors.ConflictError(
      `${stale.message}; the name was purged, so nothing proves its revision: check it with the operator, and ` +
        "name it (revision) to go on from there",
      stale,
    );
  }
  let answer: ReadResponse;
  try {
    answer = await fetch(session, budget, key, { keyId, includeDeleted: true });
  } catch (error) {
    throw error instanceof errors.NotFoundError ? stale : error;
  }
  if (!answer.deleted) {
    throw new errors.AlreadyExistsError(`a record of ${keyId} exists`, { currentRevision: answer.revision });
  }
  const tombstone = opened(keyId, answer, key, "TOMBSTONE");
  session.seen.note(key, keyId, tombstone.revision);
  return tombstone.revision;
}
