/**
 * A client of a KeyVault server, a vault that stores only what it cannot read, and lets only the holder of a key change
 * it.
 *
 * What this package holds, in every method:
 *
 * - A call ends after its `timeoutMs`. Until then it is retried with the same bytes where that is safe. Every attempt
 *   has a share of the time, so that a connection that stopped answering does not take all of it.
 * - Data is sealed and opened in this process. What a server answers is checked before it is believed: a record opens
 *   under its key, at the revision that was asked for, and not below one that was proved before.
 * - A mutation whose outcome is not known is an {@link OutcomeUnknownError} and nothing else. Read the record to see.
 * - No key, token or plaintext is in an error, a log line or what util.inspect prints.
 *
 * @module
 */
export { type CacheOptions, type RecordCache } from "./cache.js";
export {
  KeyVaultClient, type KeyOptions, type ReadIfChangedOptions, type ReadOptions, type RestoreOptions,
  type RotateOptions, type Vault, type WriteOptions,
} from "./client.js";
export { clientFromEnvironment, type Environment, exitCodeOf } from "./environment.js";
export * from "./errors.js";
export { DataKey, type DataKeyParts } from "./key.js";
export { loadDataKey, loadOrGenerateKey, replaceDataKey, saveDataKey } from "./keyfile.js";
export { MAX_PLAINTEXT } from "./kve1.js";
export type { Identity, ListedName, ListOptions, Revision } from "./list.js";
export type { CallOptions, ClientOptions } from "./options.js";
export { printable } from "./printable.js";
export type { ReadResult } from "./readmany.js";
export { VaultRecord, type Written } from "./record.js";
export type { TlsOptions } from "./tls.js";
export type { TokenSource } from "./token.js";
