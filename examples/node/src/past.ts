/**
 * What needs no key: the names of records, and the revisions of one that can be read.
 *
 * The rule of this file: a server may lie. What cannot be is refused, and what can be proves nothing before a record
 * of that name and revision has opened.
 */
import { KeyVaultService } from "./generated/keyvault/v1/keyvault.js";
import type { Vault } from "./vault.js";

const KEY_ID = /^[A-Za-z0-9._~:@/+=-]{0,254}[A-Za-z0-9._~:@+=-]$/;
const PAGE_SIZE = 1_000; // the most that a server gives
const MAX_EMPTY_PAGES = 100; // in a row
const MAX_REVISIONS = 16;

/** The names that begin with the prefix, page by page, in the order of their bytes. */
export async function* list(vault: Vault, prefix: string): AsyncGenerator<string> {
  const lie = (what: string) => new Error(`the server's list of names that begin with "${prefix}" ${what}`);
  let [last, pageToken, empty] = ["", "", 0];
  for (;;) {
    const request = { prefix, pageSize: PAGE_SIZE, pageToken, deleted: false };
    const { names, nextPageToken } = await vault.call(KeyVaultService.list, request);
    for (const { keyId } of names) {
      const follows = KEY_ID.test(keyId) && keyId.startsWith(prefix) && keyId > last; // ASCII: the order of bytes
      if (!follows) throw lie(`has "${keyId}" after "${last}"`);
      yield keyId;
      last = keyId;
    }
    if (nextPageToken === "") return;
    empty = names.length > 0 ? 0 : empty + 1;
    if (nextPageToken === pageToken || empty === MAX_EMPTY_PAGES) throw lie("does not go on");
    pageToken = nextPageToken;
  }
}

/** A line for each revision of the record that can be read, newest first. */
export async function history(vault: Vault, keyId: string): Promise<string[]> {
  const { revisions } = await vault.call(KeyVaultService.listRevisions, { keyId });
  const numbers = revisions.map(({ revision }) => revision);
  const descending = numbers.every((revision, i) => revision >= 1n && (i === 0 || revision < (numbers[i - 1] ?? 0n)));
  if (!descending || numbers.length === 0 || numbers.length > MAX_REVISIONS) {
    throw new Error(`the server answered ListRevisions of ${keyId} with an impossible list`);
  }
  return revisions.map(({ revision, updateTime, size }) => {
    return `revision ${revision}  ${rfc3339(updateTime)}  ${size} bytes sealed`;
  });
}

/** A time of the server's to the second; the epoch for one that no clock shows. */
function rfc3339(time: Date | undefined): string {
  const shown = time && !Number.isNaN(time.getTime()) ? time : new Date(0);
  return `${shown.toISOString().slice(0, -5)}Z`;
}
