/**
 * The highest proved revisions of the names that were used last: a lower one later means that the store was rolled
 * back.
 *
 * The rule of this file: only a revision that opened under the record's key, or that an OK acknowledged for what was
 * sealed, is proved. Any other number may be made up.
 *
 * @module
 */
import { RolledBackError, ServerFailureError } from "./errors.js";
import type { DataKey } from "./key.js";

export class SeenRevisions {
  readonly #limit: number;
  readonly #byName = new Map<string, bigint>(); // the last used at the end

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The highest proved revision of a name, 0n if none is remembered. */
  get({ tenant }: DataKey, keyId: string): bigint {
    return this.#byName.get(`${tenant}/${keyId}`) ?? 0n; // a tenant has no "/"
  }

  /** Remember a revision that was proved under this key, unless a higher one is remembered. */
  note(key: DataKey, keyId: string, revision: bigint): void {
    const known = this.get(key, keyId);
    const name = `${key.tenant}/${keyId}`;
    this.#byName.delete(name);
    this.#byName.set(name, known > revision ? known : revision);
    if (this.#byName.size <= this.#limit) return;
    for (const [oldest] of this.#byName) {
      this.#byName.delete(oldest);
      return;
    }
  }
}

/** Throw if the server shows a revision that cannot be, or one below what was proved before the call. */
export function checkSeen(keyId: string, revision: bigint, floor: bigint): void {
  if (revision < 1n) {
    throw new ServerFailureError(`the server answered Read of ${keyId} with the invalid revision ${revision}`);
  }
  if (revision < floor) throw new RolledBackError({ keyId, revision, seen: floor });
}
