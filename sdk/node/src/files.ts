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

  constructor(paths: readonly string[]) {
    this.#paths = paths;
    this.#read = paths.map(statOf);
  }

  /** Whether one of the files is another one than it was, and all have settled; true once for each change. */
  haveChanged(): boolean {
    const now = this.#paths.map((path, i) => statOf(path) ?? this.#read[i]);
    const changed = now.some((stats, i) => stats !== undefined && !isSame(stats, this.#read[i]));
    if (!changed || now.some((stats) => stats !== undefined && Date.now() - stats.mtimeMs < SETTLED)) return false;
    this.#read = now;
    return true;
  }
}

function statOf(path: string): Stats | undefined {
  return statSync(path, { throwIfNoEntry: false });
}

function isSame(one: Stats, other: Stats | undefined): boolean {
  return one.ino === other?.ino && one.dev === other.dev && one.size === other.size && one.mtimeMs === other.mtimeMs;
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
