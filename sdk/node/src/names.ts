/**
 * Names, sizes and revisions of the contract (keyvault.proto), and the checks before a call is sent.
 *
 * @module
 */
import { InvalidRequestError } from "./errors.js";
import { quote } from "./printable.js";

/** Sizes in bytes, and numbers of items. */
export const MAX_WRAPPED_KEY = 8_192;
export const MAX_MESSAGE = 512 * 1024;
export const MAX_REPLY = 4 * 1024 * 1024;
export const MAX_BATCH = 100;
export const MAX_PAGE = 1_000;
/** Revisions of a record that a server lists at most: the current one and 15 earlier ones. */
export const MAX_REVISIONS = 16;
export const MAX_REVISION = 2n ** 63n - 1n;

const NAME = /^[A-Za-z0-9._~:@/+=-]{1,255}$/;
const TENANT = /^[a-z0-9][a-z0-9-]{0,62}$/;
const GENERATED = /^[0-9a-f]{32}$/;

/** Whether this is a keyId, or a prefix of keyIds that ends in "/". */
export function isScope(text: unknown): text is string {
  return typeof text === "string" && NAME.test(text);
}

export function isKeyId(text: unknown): text is string {
  return isScope(text) && !text.endsWith("/");
}

export function isTenant(text: unknown): text is string {
  return typeof text === "string" && TENANT.test(text);
}

/** Whether a server made this keyId. */
export function isGenerated(text: string): boolean {
  return GENERATED.test(text);
}

/** Whether a key of this scope may be used for this keyId. */
export function covers(scope: string, keyId: string): boolean {
  return scope === keyId || (scope.endsWith("/") && keyId.startsWith(scope) && keyId.length > scope.length);
}

export function checkKeyId(keyId: unknown): asserts keyId is string {
  if (isKeyId(keyId)) return;
  throw new InvalidRequestError(
    `invalid key_id ${quote(String(keyId))}: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and not end in "/"`,
  );
}

/** Return the revision, which has to be one that a record can be at: at least `lowest`, and below 2^63. */
export function checkedRevision(name: string, revision: bigint | number, lowest = 1n): bigint {
  const isWhole = typeof revision === "bigint" || Number.isSafeInteger(revision);
  if (isWhole && BigInt(revision) >= lowest && BigInt(revision) <= MAX_REVISION) return BigInt(revision);
  throw new InvalidRequestError(`invalid ${name} ${revision}: must be ${lowest} to 2^63-1`);
}

/** Return the revision after the one that the caller named. */
export function nextRevision(revision: bigint | number, lowest = 1n): bigint {
  const isWhole = typeof revision === "bigint" || Number.isSafeInteger(revision);
  if (isWhole && BigInt(revision) >= lowest && BigInt(revision) < MAX_REVISION) return BigInt(revision) + 1n;
  throw new InvalidRequestError(`invalid revision ${revision}: must be ${lowest} to 2^63-2`);
}

/** A revision in decimal, as a server's metadata have it; undefined for anything else, of whatever length. */
export function revisionOf(text: string | undefined): bigint | undefined {
  if (text === undefined || !/^[0-9]{1,19}$/.test(text)) return undefined;
  return BigInt(text) <= MAX_REVISION ? BigInt(text) : undefined;
}
