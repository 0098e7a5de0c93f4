/**
 * Changes of records.
 *
 * The rule of this file: a revision that the caller names is sealed for as it is. Otherwise the last writer wins, and
 * the mutation is sealed for the revision after one that this client proved: it opened under the record's key, or the
 * server acknowledged it for what was sealed. What a server only says is never sealed for.
 *
 * @module
 */
import type { Budget } from "./budget.js";
import { ConflictError, WrongRevisionError } from "./errors.js";
import { type CreateResponse, KeyVaultService } from "./generated/keyvault/v1/keyvault.js";
import { nextRevision } from "./names.js";
import { deletedRevision, readCurrent, readEarlier, type Target } from "./read.js";
import { checkedSecret, sealed, timeOf, type Written } from "./record.js";
import type { Session } from "./session.js";

/** Seals for a revision, and sends. */
type Mutation = (revision: bigint) => Promise<Written>;

export async function create(
  session: Session, budget: Budget, target: Target, plaintext: Uint8Array, named?: bigint | number,
): Promise<Written> {
  const at = (revision: bigint) => createAt(session, budget, target, plaintext, revision);
  if (named !== undefined) return at(nextRevision(named, 0n));
  try {
    return await at(1n);
  } catch (error) {
    if (!(error instanceof ConflictError)) throw error;
    return at((await deletedRevision(session, budget, target, error)) + 1n);
  }
}

async function createAt(
  session: Session, budget: Budget, target: Target, plaintext: Uint8Array, revision: bigint,
): Promise<Written> {
  const { keyId, key } = target;
  const envelope = sealed({ key, keyId, kind: "DATA", revision, plaintext });
  const request = { keyId, wrappedKey: key.wrapped, envelope };
  return acknowledged(session, target, await session.mutate(budget, KeyVaultService.create, request, revision));
}

export function update(
  session: Session, budget: Budget, target: Target, plaintext: Uint8Array, named?: bigint | number,
): Promise<Written> {
  return mutate(session, budget, target, named, updating(session, budget, target, plaintext));
}

function updating(session: Session, budget: Budget, target: Target, plaintext: Uint8Array): Mutation {
  return async (revision) => {
    const { keyId, key } = target;
    const envelope = sealed({ key, keyId, kind: "DATA", revision, plaintext });
    const request = { keyId, wrappedKey: key.wrapped, envelope };
    return acknowledged(session, target, await session.mutate(budget, KeyVaultService.update, request, revision));
  };
}

export function remove(session: Session, budget: Budget, target: Target, named?: bigint | number): Promise<Written> {
  return mutate(session, budget, target, named, async (revision) => {
    const { keyId, key } = target;
    const envelope = sealed({ key, keyId, kind: "TOMBSTONE", revision, plaintext: Buffer.alloc(0) });
    const request = { keyId, wrappedKey: key.wrapped, envelope };
    return acknowledged(session, target, await session.mutate(budget, KeyVaultService.delete, request, revision));
  });
}

export async function restore(
  session: Session, budget: Budget, target: Target, revision: bigint | number,
): Promise<Written> {
  const earlier = await readEarlier(session, budget, target, revision);
  // What is remembered may be no more than the earlier revision: the current one is opened in any case.
  const current = await readCurrent(session, budget, target);
  return after(session, budget, target, current.revision, updating(session, budget, target, earlier.plaintext));
}

/** Mutate at the revision that the caller names, or after the proved one. */
async function mutate(
  session: Session, budget: Budget, target: Target, named: bigint | number | undefined, send: Mutation,
): Promise<Written> {
  checkedSecret(target.key, target.keyId);
  if (named !== undefined) return send(nextRevision(named));
  const proved = session.seen.get(target.key, target.keyId);
  return after(session, budget, target, proved || (await readCurrent(session, budget, target)).revision, send);
}

/** Mutate at this proved revision + 1, and again while other writers are faster. */
async function after(
  session: Session, budget: Budget, target: Target, proved: bigint, send: Mutation,
): Promise<Written> {
  for (let last = proved; ; ) {
    try {
      return await send(last + 1n);
    } catch (error) {
      if (!(error instanceof WrongRevisionError)) throw error;
    }
    const { revision } = await readCurrent(session, budget, target);
    if (revision <= last) throw contradiction(target.keyId, revision); // it would be refused again
    last = revision;
  }
}

/** The result of a mutation, whose revision the server has acknowledged. */
export function acknowledged(session: Session, { keyId, key }: Target, answer: CreateResponse): Written {
  const { revision, createTime, updateTime, replayed } = answer;
  session.seen.note(key, keyId, revision);
  return { revision, createTime: timeOf(createTime), updateTime: timeOf(updateTime), replayed };
}

/** The error for a server that refuses the next revision and shows no later one. */
export function contradiction(keyId: string, currentRevision: bigint): ConflictError {
  const sentence = `the server says that ${keyId} was changed, but shows revision ${currentRevision}, which is not new`;
  return new ConflictError(sentence, { currentRevision });
}
