/**
 * Files that a client has to read again when they change: certificates and tokens.
 *
 * The rule of this file: a changed file counts after it was unchanged for a second, because the first half of a token
 * is a token too, and the first half of a bundle lacks roots.
 *
 * @module
 */
import { readFileSync, type Stats, statSync } from "node:fs";

import { InvalidRequestError } from "./errors.js";
import { printable } from "./printable.js";

const SETTLED = 1_000; // milliseconds

/** Some files, as they were when they were read last. */
export class WatchedFiles {
  readonly #paths: readonly string[];
  #read: (Stats | undefined)[];
  #seen: (Stats | undefined)[];
  #seenAt = performance.now();

  constructor(paths: readonly string[]) {
    this.#paths = paths;
    this.#read = this.#seen = paths.map(statOf);
  }

  /** Whether one of the files is another one than it was, and all have settled; true once for each change. */
  haveChanged(): boolean {
    const now = this.#paths.map((path, i) => statOf(path) ?? this.#read[i]);
    if (areSame(now, this.#read) || !this.#haveSettled(now)) return false;
    this.#read = now;
    return true;
  }

  /** By the time that they were changed, or, as their disk's clock may be wrong, since we have seen them so. */
  #haveSettled(now: (Stats | undefined)[]): boolean {
    if (!areSame(now, this.#seen)) [this.#seen, this.#seenAt] = [now, performance.now()];
    if (performance.now() - this.#seenAt >= SETTLED) return true;
    return now.every((stats) => stats === undefined || Date.now() - stats.mtimeMs >= SETTLED);
  }
}

/** What a file is; undefined for one that cannot be seen: reading it says why. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

function areSame(these: (Stats | undefined)[], others: (Stats | undefined)[]): boolean {
  const kinds = ["ino", "dev", "size", "mtimeMs"] as const;
  return these.every((one, i) => kinds.every((kind) => one?.[kind] === others[i]?.[kind]));
}

/**
 * Read a file.
 *
 * @throws InvalidRequestError
 */
export function contentOf(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fileError(path, error);
  }
}

const SENTENCES: Partial<Record<string, string>> = {
  EACCES: "permission denied",
  EEXIST: "file exists",
  EISDIR: "is a directory",
  ENOENT: "no such file or directory",
  ENOSPC: "no space left on device",
  ENOTDIR: "not a directory",
  EROFS: "read-only file system",
};

/** The error for a file that could not be used; its cause has the `code`. */
export function fileError(path: string, cause: unknown): InvalidRequestError {
  const { code = "", message } = cause as NodeJS.ErrnoException;
  return new InvalidRequestError(`${printable(path)}: ${SENTENCES[code] ?? printable(message)}`, { cause });
}
