/**
 * The records of a server in memory.
 *
 * @module
 */
import { createHash } from "node:crypto";

import * as kve1 from "../kve1.js";

/** How many envelopes of a record the server recognizes as replayed, and how many can be read. */
const REMEMBERED = 16;

/** An envelope of a record, with the time of its write. */
export interface Kept {
  readonly envelope: Buffer;
  readonly revision: bigint;
  readonly at: Date;
}

/** The envelopes that can be read, the current one last; a tombstone alone if the record is deleted. */
export class StoredRecord {
  readonly keyId: string;
  createTime = new Date();
  #history: readonly Kept[] = [];
  #digests: readonly string[] = []; // of the last envelopes, deleted ones included

  constructor(keyId: string) {
    this.keyId = keyId;
  }

  /** The envelopes that can be read, the current one last. */
  get history(): readonly Kept[] {
    return this.#history;
  }

  get current(): Kept | undefined {
    return this.#history.at(-1);
  }

  get revision(): bigint {
    return this.current?.revision ?? 0n;
  }

  get isLive(): boolean {
    return this.current !== undefined && kve1.parse(this.current.envelope).kind === "DATA";
  }

  /** Whether an envelope was accepted before and is remembered. */
  recalls(envelope: Buffer): boolean {
    return this.#digests.includes(digestOf(envelope));
  }

  /** Store an envelope; `keeps`: the earlier ones can still be read. */
  put(envelope: Buffer, { keeps }: { readonly keeps: boolean }): void {
    const kept = { envelope: Buffer.from(envelope), revision: kve1.parse(envelope).revision, at: new Date() };
    if (!this.isLive) this.createTime = kept.at;
    this.#history = [...(keeps ? this.#history : []), kept].slice(-REMEMBERED);
    this.#digests = [...this.#digests, digestOf(envelope)].slice(-REMEMBERED);
  }

  /** Drop the last revisions. */
  rollBack(revisions: number): void {
    this.#history = this.#history.slice(0, -revisions);
  }

  /** The metadata of RECORD_EXISTS and STALE_REVISION. */
  get revisions(): Record<string, string> {
    const since = this.#digests.length > 0 ? this.revision + 1n - BigInt(this.#digests.length) : 0n;
    return { current_revision: String(this.revision), remembered_since: String(since) };
  }
}

function digestOf(envelope: Buffer): string {
  return createHash("sha256").update(envelope).digest("hex");
}
