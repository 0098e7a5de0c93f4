/**
 * What needs no key: names, the revisions of one, and how the server sees the caller.
 *
 * The rule of this file: a server may lie. What cannot be is refused, and what can be proves nothing before a record of
 * that name and revision has opened.
 *
 * @module
 */
import { InvalidRequestError, ServerFailureError } from "./errors.js";
import { KeyVaultService, type ListRequest, type ListResponse_Name } from "./generated/keyvault/v1/keyvault.js";
import { MAX_ENVELOPE, MIN_ENVELOPE } from "./kve1.js";
import { checkKeyId, isKeyId, isScope, MAX_PAGE, MAX_REVISIONS } from "./names.js";
import type { CallOptions } from "./options.js";
import { printable, quote } from "./printable.js";
import { timeOf } from "./record.js";
import type { Session } from "./session.js";

const MAX_EMPTY_PAGES = 100; // in a row; a server may send some at the end

/** The name of a record. */
export interface ListedName {
  readonly keyId: string;
  /** By the server's clock; informational. */
  readonly createTime: Date;
}

/** Of `list`. */
export interface ListOptions extends CallOptions {
  /** List deleted records instead of live ones. */
  readonly deleted?: boolean | undefined;
}

/** A revision of a record that can be read. */
export interface Revision {
  readonly revision: bigint;
  /** When it was written, by the server's clock; informational. */
  readonly updateTime: Date;
  /** Bytes of its envelope: those of the data, and 88 to 456 more. */
  readonly size: number;
}

/** How the server sees a client. */
export interface Identity {
  /** Such as "spiffe://example.org/billing"; "anonymous" where the server does not authenticate its callers. */
  readonly identity: string;
  /** Empty if the server's policy does not know the identity. */
  readonly tenant: string;
  /** What the policy allows, in its order. */
  readonly rules: readonly { readonly methods: readonly string[]; readonly names: readonly string[] }[];
  readonly serverVersion: string;
}

/** Yield the names page by page: they have to ascend, and the pages to end. */
export async function* list(
  session: Session, prefix: string, { deleted = false, ...options }: ListOptions,
): AsyncGenerator<ListedName, void, undefined> {
  if (prefix !== "" && !isScope(prefix)) {
    throw new InvalidRequestError(
      `invalid prefix ${quote(String(prefix))}: must be 0 to 255 characters of [A-Za-z0-9._~:@/+=-]`,
    );
  }
  const request: ListRequest = { prefix, pageSize: MAX_PAGE, pageToken: "", deleted };
  let last = "";
  for (let empty = 0; empty < MAX_EMPTY_PAGES; ) {
    const { names, nextPageToken } = await session.ask(session.budget(options), KeyVaultService.list, request);
    checkNames(prefix, last, names);
    empty = names.length > 0 ? 0 : empty + 1;
    for (const { keyId, createTime } of names) yield { keyId, createTime: timeOf(createTime) };
    if (nextPageToken === "") return;
    if (nextPageToken === request.pageToken) break;
    last = names.at(-1)?.keyId ?? last;
    request.pageToken = nextPageToken;
  }
  const sentence = `the server's list of names that begin with ${quote(prefix)} does not go on: report it`;
  throw new ServerFailureError(sentence);
}

/** Throw unless these names may follow `last` in a listing of this prefix. */
function checkNames(prefix: string, last: string, names: readonly ListResponse_Name[]): void {
  if (names.length > MAX_PAGE) {
    throw new ServerFailureError(
      `the server answered List with ${names.length} names instead of ${MAX_PAGE}: report it`,
    );
  }
  let before = last;
  for (const { keyId } of names) {
    if (!isKeyId(keyId) || !keyId.startsWith(prefix)) {
      throw new ServerFailureError(
        `the server listed ${quote(keyId)} among names that begin with ${quote(prefix)}: report it`,
      );
    }
    if (keyId <= before) { // names are ASCII: their order is that of their bytes
      throw new ServerFailureError(
        `the server listed ${quote(keyId)} after ${quote(before)}, out of order: report it`,
      );
    }
    before = keyId;
  }
}

export async function revisions(session: Session, keyId: string, options?: CallOptions): Promise<Revision[]> {
  checkKeyId(keyId);
  const answer = await session.ask(session.budget(options), KeyVaultService.listRevisions, { keyId });
  const found = answer.revisions.map((one) => ({ ...one, updateTime: timeOf(one.updateTime) }));
  const isPossible = ({ revision, size }: Revision, i: number) => {
    const descends = i === 0 || revision < (found[i - 1]?.revision ?? 0n);
    return descends && revision >= 1n && size >= MIN_ENVELOPE && size <= MAX_ENVELOPE;
  };
  if (found.length > 0 && found.length <= MAX_REVISIONS && found.every(isPossible)) return found;
  throw new ServerFailureError(`the server answered ListRevisions of ${keyId} with an impossible list: report it`);
}

export async function whoAmI(session: Session, options?: CallOptions): Promise<Identity> {
  const answer = await session.ask(session.budget(options), KeyVaultService.whoAmI, {});
  return {
    identity: printable(answer.identity),
    tenant: printable(answer.tenant),
    rules: answer.rules.map(({ methods, names }) => ({ methods: methods.map(printable), names: names.map(printable) })),
    serverVersion: printable(answer.serverVersion),
  };
}
