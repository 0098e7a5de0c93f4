/**
 * What a status means: which error it is, whether it settles its attempt, and whether the same bytes may succeed later.
 *
 * The rule of this file: only a status with an ErrorInfo of KeyVault's domain comes from KeyVault. Any other comes from
 * gRPC or a proxy, possibly after the server did what was asked: it settles nothing, and says neither when to retry nor
 * which revision is stored.
 *
 * @module
 */
import { type Metadata, type ServiceError, status as codes } from "@grpc/grpc-js";

import * as errors from "./errors.js";
import { ErrorInfo, RetryInfo, Status } from "./generated/details.js";
import type { Duration } from "./generated/google/protobuf/duration.js";
import type { BatchReadResponse_Error } from "./generated/keyvault/v1/keyvault.js";
import { revisionOf } from "./names.js";
import { printable } from "./printable.js";

const DOMAIN = "keyvault";

/** Codes of a status that is not KeyVault's after which the same bytes may succeed. */
export const PASSING: readonly codes[] = [
  codes.UNAVAILABLE, codes.CANCELLED, codes.DEADLINE_EXCEEDED, codes.UNKNOWN, codes.INTERNAL,
];

/** Reasons of KeyVault after which what was asked may have been done all the same. */
const UNSETTLED = ["BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"];

/** Why an attempt failed. */
export interface Failure {
  readonly error: errors.KeyVaultError;
  /** The attempt changed nothing, for certain. */
  readonly settled: boolean;
  /** The same bytes may succeed later. */
  readonly retry: boolean;
  /** Milliseconds. */
  readonly retryAfterMs: number;
}

/** A status, or an item's error of a BatchRead. */
interface Refusal {
  readonly code: codes;
  readonly message: string;
  /** Empty if it is not KeyVault's. */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfterMs: number;
}

/** What the error of an attempt means that was sent. */
export function failureOf(error: ServiceError): Failure {
  const said = { code: codeOf(error.code), message: error.details, ...detailsOf(error.metadata) };
  if (said.reason) return failure(said);
  return { error: foreignError(said), settled: false, retry: PASSING.includes(said.code), retryAfterMs: 0 };
}

/** What the error of one Read of a batch means. */
export function failureOfItem({ code, reason, message, metadata, retryDelay }: BatchReadResponse_Error): Failure {
  const said = { code: codeOf(code), message, reason, metadata, retryAfterMs: millisecondsOf(retryDelay) };
  return { ...failure(said), settled: true };
}

function failure(said: Refusal): Failure {
  const error = errorOf(said);
  const isBusy = error instanceof errors.BusyError;
  return {
    error,
    settled: !UNSETTLED.includes(said.reason),
    retry: error instanceof errors.UnavailableError || (isBusy && said.reason !== "STORE_FULL"),
    retryAfterMs: isBusy ? error.retryAfterMs : 0,
  };
}

function errorOf(said: Refusal): errors.KeyVaultError {
  const line = lineOf(said);
  const details = { reason: printable(said.reason), requestId: printable(said.metadata["request_id"] ?? "") };
  const currentRevision = revisionOf(said.metadata["current_revision"]) ?? 0n;
  const rememberedSince = revisionOf(said.metadata["remembered_since"]);
  const at = { ...details, currentRevision, rememberedSince };
  switch (said.reason) {
    case "RECORD_EXISTS":
      return new errors.AlreadyExistsError(line, at);
    case "STALE_REVISION":
      return new errors.ConflictError(line, { ...at, vacant: said.metadata["vacant"] === "true" });
    case "REVISION_NOT_FOUND":
      return new errors.RevisionNotFoundError(line, { ...details, currentRevision });
    case "NOT_AUTHORIZED":
      return new errors.NotAuthorizedError(line, details);
    case "BAD_PAGE_TOKEN":
      return new errors.BadPageTokenError(line, details);
  }
  if (said.code === codes.RESOURCE_EXHAUSTED) {
    return new errors.BusyError(line, { ...details, retryAfterMs: Math.max(0, said.retryAfterMs) });
  }
  return new (BY_CODE[said.code] ?? errors.ServerFailureError)(line, details);
}

type ErrorClass = new (message: string, details?: errors.ErrorDetails) => errors.KeyVaultError;

const BY_CODE: Partial<Record<codes, ErrorClass>> = {
  [codes.INVALID_ARGUMENT]: errors.InvalidRequestError,
  [codes.NOT_FOUND]: errors.NotFoundError,
  [codes.PERMISSION_DENIED]: errors.DeniedError,
  [codes.UNAUTHENTICATED]: errors.DeniedError,
  [codes.FAILED_PRECONDITION]: errors.MasterKeyUnusableError,
  [codes.UNAVAILABLE]: errors.UnavailableError,
  [codes.DEADLINE_EXCEEDED]: errors.UnavailableError,
  [codes.DATA_LOSS]: errors.RecordDamagedError,
};

/** The error of a status without KeyVault's ErrorInfo. */
function foreignError(said: Refusal): errors.KeyVaultError {
  let line = lineOf(said);
  if (said.code === codes.UNIMPLEMENTED) {
    line += " (the server does not know this call: it is an older KeyVault, or another service)";
  }
  if (said.code === codes.PERMISSION_DENIED || said.code === codes.UNAUTHENTICATED) return new errors.DeniedError(line);
  if (said.code === codes.RESOURCE_EXHAUSTED) return new errors.BusyError(line, { retryAfterMs: 0 });
  return new (PASSING.includes(said.code) ? errors.UnavailableError : errors.ServerFailureError)(line);
}

/** `STATUS REASON: message (request ID)`. */
function lineOf({ code, reason, message, metadata }: Refusal): string {
  const id = metadata["request_id"];
  const cause = reason ? ` ${printable(reason)}` : "";
  return `${codes[code]}${cause}: ${printable(message)}${id ? ` (request ${printable(id)})` : ""}`;
}

/** A number as a code; gRPC takes one that it does not know for UNKNOWN. */
function codeOf(number: number): codes {
  const name = codes[number] as keyof typeof codes | undefined;
  return name === undefined ? codes.UNKNOWN : codes[name];
}

/** What the google.rpc.Status in the trailers says for KeyVault. */
function detailsOf(trailers: Metadata): Pick<Refusal, "reason" | "metadata" | "retryAfterMs"> {
  const found = { reason: "", metadata: {} as Record<string, string>, retryAfterMs: 0 };
  const [packed] = trailers.get("grpc-status-details-bin");
  try {
    for (const { typeUrl, value } of Buffer.isBuffer(packed) ? Status.decode(packed).details : []) {
      if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        const { domain, reason, metadata } = ErrorInfo.decode(value);
        if (domain === DOMAIN) Object.assign(found, { reason, metadata });
      } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
        found.retryAfterMs = millisecondsOf(RetryInfo.decode(value).retryDelay);
      }
    }
  } catch {
    // something on the way made these bytes up: the status has to do
  }
  return found;
}

function millisecondsOf(duration: Duration | undefined): number {
  return duration ? 1_000 * Number(duration.seconds) + duration.nanos / 1e6 : 0;
}
