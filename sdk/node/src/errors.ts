/**
 * The errors of this library: each is a {@link KeyVaultError}, none holds a secret, and what a server says in one is
 * printable.
 *
 * @module
 */

/** What the server says of a failed call. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly requestId?: string;
  readonly cause?: unknown;
}

/** Any failure of this library. `message` is one line. */
export class KeyVaultError extends Error {
  override name = "KeyVaultError";
  /** The server's google.rpc.ErrorInfo.reason, empty if this library found the error. */
  readonly reason: string;
  /** Finds the call in the server's log; empty if the server did not answer. */
  readonly requestId: string;

  constructor(message: string, { reason = "", requestId = "", cause }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
    this.requestId = requestId;
  }

  /** What a log in JSON has of it: revisions in decimal, which JSON.stringify does not write, and no cause. */
  toJSON(): Record<string, unknown> {
    const shown = Object.entries(this).map(([name, value]: [string, unknown]) => {
      return [name, typeof value === "bigint" ? String(value) : value];
    });
    return { message: this.message, ...Object.fromEntries(shown) as object };
  }
}

/** The request can never succeed as it is; usually found before anything is sent. */
export class InvalidRequestError extends KeyVaultError {
  override name = "InvalidRequestError";
}

/** The server does not continue a listing: list again from the beginning. */
export class BadPageTokenError extends InvalidRequestError {
  override name = "BadPageTokenError";
}

/** There is no such record, or it was deleted. */
export class NotFoundError extends KeyVaultError {
  override name = "NotFoundError";
}

/** The record exists, but the server does not keep this revision of it. */
export class RevisionNotFoundError extends NotFoundError {
  override name = "RevisionNotFoundError";
  /** What the server says, 0n if it does not say. Nothing proves it. */
  readonly currentRevision: bigint;

  constructor(message: string, { currentRevision, ...details }: ErrorDetails & { readonly currentRevision: bigint }) {
    super(message, details);
    this.currentRevision = currentRevision;
  }
}

/** What the server says of a record that is at another revision. */
export interface WrongRevisionDetails extends ErrorDetails {
  readonly currentRevision?: bigint;
  readonly rememberedSince?: bigint | undefined;
  readonly vacant?: boolean;
}

/** The record is at another revision than the mutation assumed; nothing was written. */
export class WrongRevisionError extends KeyVaultError {
  override name = "WrongRevisionError";
  /**
   * What the server says, 0n if it does not say. Anyone between you and the records can make it up: read the record
   * before you name a revision.
   */
  readonly currentRevision: bigint;
  /** The oldest revision whose envelope the server recognizes; undefined if it does not say. */
  readonly rememberedSince: bigint | undefined;
  /** The name was purged, with `currentRevision` as its last revision. */
  readonly vacant: boolean;

  constructor(message: string, details: WrongRevisionDetails = {}) {
    super(message, details);
    this.currentRevision = details.currentRevision ?? 0n;
    this.rememberedSince = details.rememberedSince;
    this.vacant = details.vacant ?? false;
  }
}

/** `create` met a live record; nothing was written. */
export class AlreadyExistsError extends WrongRevisionError {
  override name = "AlreadyExistsError";
}

/** The record is at another revision than the caller named, or was purged; nothing was written. */
export class ConflictError extends WrongRevisionError {
  override name = "ConflictError";
}

/** The wrapped key does not unwrap, or its data key is not the record's. */
export class NotAuthorizedError extends KeyVaultError {
  override name = "NotAuthorizedError";
}

/** The server's policy forbids the call, or the caller has no valid identity. */
export class DeniedError extends KeyVaultError {
  override name = "DeniedError";
}

/** A quota, a throttled backend or a full store; nothing was written. */
export class BusyError extends KeyVaultError {
  override name = "BusyError";
  /** Milliseconds that the server asks to be left alone, 0 if it does not say. */
  readonly retryAfterMs: number;

  constructor(message: string, { retryAfterMs, ...details }: ErrorDetails & { readonly retryAfterMs: number }) {
    super(message, details);
    this.retryAfterMs = retryAfterMs;
  }
}

/** Only the server's operator can help. */
export class MasterKeyUnusableError extends KeyVaultError {
  override name = "MasterKeyUnusableError";
}

/** No answer in time; nothing was written. */
export class UnavailableError extends KeyVaultError {
  override name = "UnavailableError";
}

/** This client was closed; nothing was written. */
export class ClosedError extends UnavailableError {
  override name = "ClosedError";
}

/** The caller's signal ended the call; nothing was written. `cause` is the signal's reason. */
export class AbortedError extends KeyVaultError {
  override name = "AbortError"; // what programs look for
  /** As Node's own errors of this kind have it. */
  readonly code = "ABORT_ERR";
}

/** A mutation was sent and may have been done: read the record to see. `cause` is why the last attempt failed. */
export class OutcomeUnknownError extends KeyVaultError {
  override name = "OutcomeUnknownError";
}

/** The stored record does not open under this key, or is not a record. */
export class RecordDamagedError extends KeyVaultError {
  override name = "RecordDamagedError";
}

/** The server shows an older revision than this client has seen: its table was restored or tampered with. */
export class RolledBackError extends KeyVaultError {
  override name = "RolledBackError";
  readonly keyId: string;
  /** What the server shows. */
  readonly revision: bigint;
  /** What this client had proved before. */
  readonly seen: bigint;

  constructor({ keyId, revision, seen }: { readonly keyId: string; readonly revision: bigint; readonly seen: bigint }) {
    super(`${keyId} is at revision ${revision}, but this client has seen revision ${seen}: the store was rolled back`);
    this.keyId = keyId;
    this.revision = revision;
    this.seen = seen;
  }
}

/** A cache could not read several of its names; that of a single one is its own error. */
export class NotRefreshedError extends KeyVaultError {
  override name = "NotRefreshedError";
  /** Why, for each name that failed. */
  readonly failures: ReadonlyMap<string, KeyVaultError>;

  constructor(failures: ReadonlyMap<string, KeyVaultError>) {
    super([...failures.values()].map(({ message }) => message).join("; "));
    this.failures = failures;
  }
}

/** A fault of the server, or the address is not a KeyVault server's. */
export class ServerFailureError extends KeyVaultError {
  override name = "ServerFailureError";
}
