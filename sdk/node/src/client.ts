/**
 * The client.
 *
 * @module
 */
import { type CacheOptions, cacheOf, type RecordCache } from "./cache.js";
import type { DataKey } from "./key.js";
import { generateKey, rewrapKey, unwrapKey } from "./keys.js";
import { type Identity, list, type ListedName, type ListOptions, type Revision, revisions, whoAmI } from "./list.js";
import { checkedRevision } from "./names.js";
import type { CallOptions, ClientOptions } from "./options.js";
import { readCurrent, readEarlier, readIfChanged } from "./read.js";
import { readMany, type ReadResult } from "./readmany.js";
import type { VaultRecord, Written } from "./record.js";
import { rotateKey } from "./rotate.js";
import { Session } from "./session.js";
import { create, remove, restore, update } from "./write.js";

/** Of a call about one record. */
export interface KeyOptions extends CallOptions {
  readonly key: DataKey;
}

/** Of a mutation. */
export interface WriteOptions extends KeyOptions {
  /**
   * Write only if the record is at this revision; a {@link ConflictError} otherwise. Left out, the last writer wins. A
   * `create` takes the last revision of a deleted or purged name, as its operator knows it.
   */
  readonly revision?: bigint | number | undefined;
}

/** Of `rotateKey`. */
export interface RotateOptions extends WriteOptions {
  /** Save it before. */
  readonly newKey: DataKey;
}

/** Of `restore`. */
export interface RestoreOptions extends KeyOptions {
  /** The earlier revision whose data is stored as the next one. */
  readonly revision: bigint | number;
}

/** Of `read`. */
export interface ReadOptions extends KeyOptions {
  /** Read this earlier revision, which `revisions` lists. */
  readonly revision?: bigint | number | undefined;
}

/** Of `readIfChanged`. */
export interface ReadIfChangedOptions extends KeyOptions {
  readonly known: bigint | number;
}

/** What a {@link KeyVaultClient} does, for programs that put a fake of their own in its place. */
export interface Vault {
  /**
   * Generate a data key for a keyId, or for a prefix that ends in "/". For "" the server makes a keyId. Save the key
   * before you use it: it cannot be regenerated.
   */
  generateKey(scope: string, options?: CallOptions): Promise<DataKey>;
  /**
   * Wrap the data key under the server's current master key. What a wrapped key holds cannot be checked: keep the old
   * one until the new one has worked.
   */
  rewrapKey(key: DataKey, options?: CallOptions): Promise<DataKey>;
  /** Return the key with its 32 bytes: a {@link DeniedError} unless the server's settings allow it for the scope. */
  unwrapKey(key: DataKey, options?: CallOptions): Promise<DataKey>;
  /**
   * Store a new record of at most 380,000 bytes: an {@link AlreadyExistsError} if there is a live one. If the record
   * was deleted, it takes the same data key again, and the revisions go on. A purged name has nothing that opens: without
   * a `revision` it is a {@link ConflictError} that is `vacant`.
   */
  create(keyId: string, plaintext: Uint8Array, options: WriteOptions): Promise<Written>;
  /** Replace the record. */
  update(keyId: string, plaintext: Uint8Array, options: WriteOptions): Promise<Written>;
  /** Delete the record; its name stays reserved for the owner of the key. */
  delete(keyId: string, options: WriteOptions): Promise<Written>;
  /**
   * Hand the record from `key` to `newKey`. If `newKey` opens the record already, an earlier attempt rotated it: the
   * result is then `replayed`.
   */
  rotateKey(keyId: string, options: RotateOptions): Promise<Written>;
  /** Store the data of an earlier revision as the next one; the last writer wins. */
  restore(keyId: string, options: RestoreOptions): Promise<Written>;
  /**
   * Read and open a record: a {@link NotFoundError} if there is none, a {@link RevisionNotFoundError} if the server
   * does not keep the revision, a {@link RecordDamagedError} also for a record of another key.
   */
  read(keyId: string, options: ReadOptions): Promise<VaultRecord>;
  /** Read the record, or return undefined without data if it is still at the known revision. */
  readIfChanged(keyId: string, options: ReadIfChangedOptions): Promise<VaultRecord | undefined>;
  /**
   * Read many records, each under its key, in few calls: a Map of names and keys in, a Map of what `read` would have
   * returned or thrown out. Together they are no snapshot.
   */
  readMany(keys: Iterable<readonly [string, DataKey]>, options?: CallOptions): Promise<Map<string, ReadResult>>;
  /**
   * Iterate over the names of the records that begin with prefix, in the order of their bytes. Each page has the
   * timeout to itself. It is no snapshot, and nothing proves that it is complete.
   */
  list(prefix?: string, options?: ListOptions): AsyncGenerator<ListedName, void, undefined>;
  /**
   * List which revisions of a record `read` and `restore` can get, newest first: the first one is current. It needs no
   * key, so nothing proves what the server says; a `read` does.
   */
  revisions(keyId: string, options?: CallOptions): Promise<Revision[]>;
  /** Return how the server sees this client, for people who debug access. */
  whoAmI(options?: CallOptions): Promise<Identity>;
  /** Close the connection, which ends calls in flight. */
  close(): void;
}

/** A client of one server. Make one for the life of a program, and close it. */
export class KeyVaultClient implements Vault {
  readonly #session: Session;

  /**
   * Make a client, which connects with its first call.
   *
   * @throws InvalidRequestError
   */
  constructor(options: ClientOptions) {
    this.#session = new Session(options);
  }

  generateKey(scope: string, options?: CallOptions): Promise<DataKey> {
    return generateKey(this.#session, scope, options);
  }

  rewrapKey(key: DataKey, options?: CallOptions): Promise<DataKey> {
    return rewrapKey(this.#session, key, options);
  }

  unwrapKey(key: DataKey, options?: CallOptions): Promise<DataKey> {
    return unwrapKey(this.#session, key, options);
  }

  async create(keyId: string, plaintext: Uint8Array, { key, revision, ...options }: WriteOptions): Promise<Written> {
    return create(this.#session, this.#session.budget(options), { keyId, key }, plaintext, revision);
  }

  async update(keyId: string, plaintext: Uint8Array, { key, revision, ...options }: WriteOptions): Promise<Written> {
    return update(this.#session, this.#session.budget(options), { keyId, key }, plaintext, revision);
  }

  async delete(keyId: string, { key, revision, ...options }: WriteOptions): Promise<Written> {
    return remove(this.#session, this.#session.budget(options), { keyId, key }, revision);
  }

  async rotateKey(keyId: string, { key, newKey, revision, ...options }: RotateOptions): Promise<Written> {
    return rotateKey(this.#session, this.#session.budget(options), { keyId, key, newKey }, revision);
  }

  async restore(keyId: string, { key, revision, ...options }: RestoreOptions): Promise<Written> {
    return restore(this.#session, this.#session.budget(options), { keyId, key }, revision);
  }

  async read(keyId: string, { key, revision, ...options }: ReadOptions): Promise<VaultRecord> {
    const budget = this.#session.budget(options);
    if (revision === undefined) return readCurrent(this.#session, budget, { keyId, key });
    return readEarlier(this.#session, budget, { keyId, key }, revision);
  }

  async readIfChanged(
    keyId: string, { key, known, ...options }: ReadIfChangedOptions,
  ): Promise<VaultRecord | undefined> {
    const revision = checkedRevision("known revision", known);
    return readIfChanged(this.#session, this.#session.budget(options), { keyId, key }, revision);
  }

  async readMany(
    keys: Iterable<readonly [string, DataKey]>, options?: CallOptions,
  ): Promise<Map<string, ReadResult>> {
    return readMany(this.#session, this.#session.budget(options), new Map(keys));
  }

  list(prefix = "", options: ListOptions = {}): AsyncGenerator<ListedName, void, undefined> {
    return list(this.#session, prefix, options);
  }

  revisions(keyId: string, options?: CallOptions): Promise<Revision[]> {
    return revisions(this.#session, keyId, options);
  }

  whoAmI(options?: CallOptions): Promise<Identity> {
    return whoAmI(this.#session, options);
  }

  /** Read these records, all of which have to be there, and keep them fresh in the background. */
  cache(keys: Iterable<readonly [string, DataKey]>, options: CacheOptions = {}): Promise<RecordCache> {
    return cacheOf(this.#session, keys, options);
  }

  /** Milliseconds of a call that names none. */
  get timeoutMs(): number {
    return this.#session.timeoutMs;
  }

  close(): void {
    this.#session.connector.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
