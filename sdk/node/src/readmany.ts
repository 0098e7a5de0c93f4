/**
 * Many records in few calls.
 *
 * @module
 */
import type { Budget } from "./budget.js";
import { FIRST_WAIT, LONGEST_WAIT } from "./call.js";
import { KeyVaultError, ServerFailureError } from "./errors.js";
import { type BatchReadResponse_Result, KeyVaultService } from "./generated/keyvault/v1/keyvault.js";
import type { DataKey } from "./key.js";
import { MAX_BATCH } from "./names.js";
import { acceptIfChanged } from "./read.js";
import { checkedSecret, type VaultRecord } from "./record.js";
import { checkSeen } from "./seen.js";
import type { Session } from "./session.js";
import { type Failure, failureOfItem } from "./status.js";

/** A record, or why there is none. */
export type ReadResult =
  | { readonly record: VaultRecord; readonly error?: undefined }
  | { readonly record?: undefined; readonly error: KeyVaultError };

/** What one call of `readMany` has and wants. */
interface Batch {
  readonly keys: ReadonlyMap<string, DataKey>;
  /** Revisions that the caller has proved; there is no result for those that are current. */
  readonly known: ReadonlyMap<string, bigint>;
  readonly results: Map<string, ReadResult>;
  wanted: string[];
}

/** What one BatchRead left to do. */
interface Left {
  /** May succeed later. */
  readonly again: Map<string, Failure>;
  /** Had no room in the answer. */
  readonly full: string[];
}

/** Read many records. Those that are at the known revision have no result. */
export async function readMany(
  session: Session, budget: Budget, keys: ReadonlyMap<string, DataKey>, known: ReadonlyMap<string, bigint> = new Map(),
): Promise<Map<string, ReadResult>> {
  const batch: Batch = { keys, known, results: new Map(), wanted: [] };
  for (const [name, key] of keys) {
    const error = thrownBy(() => checkedSecret(key, name));
    if (error === undefined) batch.wanted.push(name);
    else batch.results.set(name, { error });
  }
  for (let bound = FIRST_WAIT; batch.wanted.length > 0; ) {
    const { again, full } = await readSome(session, budget, batch);
    batch.wanted = [...full, ...batch.wanted];
    if (again.size === 0) continue;
    const least = Math.max(...[...again.values()].map(({ retryAfterMs }) => retryAfterMs));
    if (await budget.pause(least, bound)) batch.wanted = [...again.keys(), ...batch.wanted];
    else for (const [name, { error }] of again) batch.results.set(name, { error: budget.errorOf(error) });
    bound = Math.min(2 * bound, LONGEST_WAIT);
  }
  return batch.results;
}

/** Ask once for the names that are wanted first. */
async function readSome(session: Session, budget: Budget, batch: Batch): Promise<Left> {
  const asked = batch.wanted.splice(0, MAX_BATCH).map((name) => {
    const key = batch.keys.get(name) as DataKey;
    const [seen, known] = [session.seen.get(key, name), batch.known.get(name) ?? 0n];
    return { name, key, floor: seen > known ? seen : known }; // before the call, as in fetch
  });
  const items = asked.map(({ name: keyId }) => {
    return { keyId, knownRevision: batch.known.get(keyId) ?? 0n, includeDeleted: false };
  });
  const { results } = await session.ask(budget, KeyVaultService.batchRead, { items });
  if (results.length !== asked.length) {
    throw new ServerFailureError(`the server answered ${results.length} of ${asked.length} reads`);
  }
  const left: Left = { again: new Map(), full: [] };
  for (const [i, one] of asked.entries()) take(session, batch, one, results[i] as BatchReadResponse_Result, left);
  if (left.full.length < asked.length) return left;
  throw new ServerFailureError("the server has no room for a single record in its answer");
}

interface Asked {
  readonly name: string;
  readonly key: DataKey;
  readonly floor: bigint;
}

/** Keep one result of a batch, or leave its name for later. */
function take(session: Session, batch: Batch, asked: Asked, result: BatchReadResponse_Result, left: Left): void {
  const { name, key, floor } = asked;
  if (result.error === undefined) {
    const error = thrownBy(() => {
      const answer = result.record;
      if (answer === undefined) throw new ServerFailureError(`the server answered Read of ${name} with nothing`);
      const known = batch.known.get(name) ?? 0n; // was proved, too
      checkSeen(name, answer.revision, known > floor ? known : floor);
      const record = acceptIfChanged(session, name, answer, key, known);
      if (record !== undefined) batch.results.set(name, { record });
    });
    if (error !== undefined) batch.results.set(name, { error });
    return;
  }
  const failure = failureOfItem(result.error);
  if (result.error.reason === "BATCH_FULL") left.full.push(name);
  else if (failure.retry) left.again.set(name, failure);
  else batch.results.set(name, { error: failure.error });
}

function thrownBy(check: () => void): KeyVaultError | undefined {
  try {
    check();
  } catch (error) {
    if (error instanceof KeyVaultError) return error;
    throw error;
  }
  return undefined;
}
