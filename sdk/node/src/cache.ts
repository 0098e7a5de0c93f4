/**
 * Records in memory, refreshed in the background.
 *
 * The rule of this file: while the server is away, or answers with an error other than that a record does not exist,
 * the cache goes on with what it has.
 *
 * @module
 */
import { type KeyVaultError, InvalidRequestError, NotFoundError, NotRefreshedError } from "./errors.js";
import type { DataKey } from "./key.js";
import { type CallOptions, DAY } from "./options.js";
import { quote } from "./printable.js";
import { type ReadResult, readMany } from "./readmany.js";
import type { VaultRecord } from "./record.js";
import type { Session } from "./session.js";

/** Of `cache`. */
export interface CacheOptions extends CallOptions {
  /** How long a record may be behind the server: a minute by default, at most a day; a tenth of it is random. */
  readonly refreshMs?: number | undefined;
  /**
   * Is called after each refresh that changed a record, with its new record or with the error if it was deleted. What
   * it throws is a warning, and ends no refresh.
   */
  readonly onChange?: ((keyId: string, now: ReadResult) => unknown) | undefined;
}

/**
 * Records in memory: one call for a hundred refreshes them, which sends the data of those that changed. The refreshing
 * keeps no process alive.
 */
export class RecordCache {
  readonly #session: Session;
  readonly #keys: ReadonlyMap<string, DataKey>;
  readonly #refreshMs: number;
  readonly #timeoutMs: number | undefined;
  readonly #onChange: (keyId: string, now: ReadResult) => unknown;
  readonly #closing = new AbortController();
  #results: Map<string, ReadResult>;
  #refreshing: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  /** @internal */
  constructor(
    session: Session, keys: ReadonlyMap<string, DataKey>, results: Map<string, ReadResult>, options: CacheOptions,
  ) {
    this.#session = session;
    this.#keys = keys;
    this.#results = results;
    this.#refreshMs = options.refreshMs ?? 60_000;
    this.#timeoutMs = options.timeoutMs;
    this.#onChange = options.onChange ?? (() => undefined);
    this.#schedule();
  }

  /**
   * Return a record as it was when it was last refreshed.
   *
   * @throws NotFoundError if it was deleted since; InvalidRequestError for a name that the cache does not have.
   */
  get(keyId: string): VaultRecord {
    const found = this.#results.get(keyId);
    if (found === undefined) throw new InvalidRequestError(`${quote(keyId)} is not among the names of this cache`);
    if (found.error !== undefined) throw found.error;
    return found.record;
  }

  /**
   * Refresh all records now.
   *
   * @throws the error of the one that keeps its earlier content, a NotRefreshedError of several, or the error of a call
   * that failed as a whole.
   */
  refresh(options: CallOptions = {}): Promise<void> {
    const refreshing = this.#refreshing.then(() => this.#refresh(options));
    this.#refreshing = refreshing.catch(() => undefined); // the next one waits for it, whatever came out
    return refreshing;
  }

  /** Stop the refreshing, and wait for what is in flight. */
  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#timer);
    await this.#refreshing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #refresh(options: CallOptions): Promise<void> {
    const known = new Map<string, bigint>();
    for (const [name, { record }] of this.#results) if (record) known.set(name, record.revision);
    const failed = new Map<string, KeyVaultError>();
    for (const [name, now] of await readMany(this.#session, this.#session.budget(options), this.#keys, known)) {
      if (now.error !== undefined && !(now.error instanceof NotFoundError)) failed.set(name, now.error);
      else if (now.error === undefined || this.#results.get(name)?.record) {
        this.#results.set(name, now);
        void this.#report(name, now);
      }
    }
    throwFailed(failed);
  }

  async #report(name: string, now: ReadResult): Promise<void> {
    try {
      await this.#onChange(name, now);
    } catch (error) {
      this.#session.warn(`onChange failed for ${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #schedule(): void {
    const wait = this.#refreshMs * (1 - Math.random() / 10);
    this.#timer = setTimeout(() => void this.#run(), wait).unref();
  }

  async #run(): Promise<void> {
    try {
      await this.refresh({ timeoutMs: this.#timeoutMs, signal: this.#closing.signal });
    } catch (error) {
      if (this.#closing.signal.aborted || this.#session.connector.closed.aborted) return;
      const why = error instanceof Error ? error.message : String(error);
      this.#session.warn(`refresh failed; keeping the earlier records: ${why}`);
    }
    if (!this.#closing.signal.aborted && !this.#session.connector.closed.aborted) this.#schedule();
  }
}

/** Read the records, all of which have to be there, and keep them fresh. */
export async function cacheOf(
  session: Session, entries: Iterable<readonly [string, DataKey]>, options: CacheOptions,
): Promise<RecordCache> {
  const { refreshMs = 60_000 } = options;
  if (!(refreshMs > 0 && refreshMs <= DAY)) {
    throw new InvalidRequestError(`invalid refreshMs ${refreshMs}: must be more than 0 and at most ${DAY}`);
  }
  const keys = new Map(entries);
  const results = await readMany(session, session.budget(options), keys);
  const failed = new Map<string, KeyVaultError>();
  for (const [name, { error }] of results) if (error) failed.set(name, error);
  throwFailed(failed);
  return new RecordCache(session, keys, results, options);
}

function throwFailed(failed: ReadonlyMap<string, KeyVaultError>): void {
  const [first] = failed.values();
  if (first !== undefined) throw failed.size === 1 ? first : new NotRefreshedError(failed);
}
