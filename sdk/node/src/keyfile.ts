/**
 * Key files.
 *
 * The rules of this file:
 *
 * - A key file belongs to us or to root. No other user may read or write it, except a group of ours, as Kubernetes has
 *   it for a volume with fsGroup. A file that breaks this rule is refused and never repaired: somebody may have used
 *   it.
 * - A key file is written with mode 0600 and is on the disk, with its name, before the write returns.
 * - A new file never replaces another one. A replaced file stays until the new content is on the disk.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import type { Stats } from "node:fs";
import { type FileHandle, link, open, realpath, rename, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import type { Vault } from "./client.js";
import { InvalidRequestError, KeyVaultError } from "./errors.js";
import { fileError } from "./files.js";
import { DataKey } from "./key.js";
import type { CallOptions } from "./options.js";
import { printable } from "./printable.js";

const MAX_KEY_FILE = 64 * 1024; // bytes
const isWindows = process.platform === "win32"; // where the rights of files are not checked

/**
 * Read a key file. One that another user owns, may read or may write is refused, as ssh does.
 *
 * @throws InvalidRequestError; its cause has the `code`, such as ENOENT.
 */
export async function loadDataKey(path: string): Promise<DataKey> {
  const content = await read(path);
  if (content.length > MAX_KEY_FILE) {
    throw new InvalidRequestError(`${printable(path)}: not a data key: larger than ${MAX_KEY_FILE} bytes`);
  }
  try {
    return DataKey.parse(content);
  } catch (error) {
    throw error instanceof KeyVaultError ? new InvalidRequestError(`${printable(path)}: ${error.message}`) : error;
  } finally {
    content.fill(0);
  }
}

async function read(path: string): Promise<Buffer> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "r");
    const stats = await file.stat();
    if (stats.isFile()) refuseShared(path, stats); // a shell makes pipes for <(...)
    return await firstBytes(file);
  } catch (error) {
    throw error instanceof KeyVaultError ? error : fileError(path, error);
  } finally {
    await file?.close();
  }
}

/** A file's bytes, no more than one too many. */
async function firstBytes(file: FileHandle): Promise<Buffer> {
  const content = Buffer.alloc(MAX_KEY_FILE + 1);
  let size = 0;
  for (;;) {
    const { bytesRead } = await file.read(content, size, content.length - size);
    size += bytesRead;
    if (bytesRead === 0 || size === content.length) return content.subarray(0, size);
  }
}

/** Throw unless nobody else can use an open file. Node reads no access lists: a group in one counts as the file's. */
function refuseShared(path: string, { mode, uid, gid }: Stats): void {
  if (isWindows) return;
  const isOurs = gid === process.getegid?.() || process.getgroups?.().includes(gid);
  if (mode & (isOurs ? 0o007 : 0o077)) {
    const shown = (mode & 0o777).toString(8).padStart(4, "0");
    throw new InvalidRequestError(
      `${printable(path)} has mode ${shown}, so others can read or write it: check that nobody did, then ` +
        "`chmod go-rwx` it",
    );
  }
  if (uid !== 0 && uid !== process.geteuid?.()) {
    throw new InvalidRequestError(
      `${printable(path)} belongs to another user (uid ${uid}), who can write it: \`chown\` it`,
    );
  }
}

/**
 * Load a key file, or make it with a fresh key of this scope. Of several programs that do it at once, all use the key
 * of the one that was first.
 *
 * @throws InvalidRequestError, or what `generateKey` throws.
 */
export async function loadOrGenerateKey(
  vault: Pick<Vault, "generateKey">, path: string, { scope, ...options }: { readonly scope: string } & CallOptions,
): Promise<DataKey> {
  try {
    return await loadDataKey(path);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
  const key = await vault.generateKey(scope, options);
  try {
    await saveDataKey(key, path); // before it is used: it cannot be regenerated
    return key;
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
    return loadDataKey(path);
  }
}

/** The code of a file's error, itself or the cause of one of ours. */
function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  return (error as NodeJS.ErrnoException).code ?? codeOf(error.cause);
}

/**
 * Write a new key file of mode 0600 that survives a crash. It replaces no file: the cause's `code` is then EEXIST.
 * There is never a partial file of this name, also after a crash.
 *
 * @throws InvalidRequestError
 */
export function saveDataKey(key: DataKey, path: string): Promise<void> {
  return saved(path, async () => {
    const draft = await drafted(path, key);
    try {
      await link(draft, path);
    } catch (error) {
      if (!NO_LINKS.includes(codeOf(error) ?? "")) throw error;
      await write(path, key.reveal());
    } finally {
      await unlink(draft);
    }
    return dirname(path);
  });
}

/** Codes of a file system without links. */
const NO_LINKS = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"];

/**
 * Replace a key file by this key, as for a key that was rewrapped. The old one stays until this one is on the disk.
 *
 * @throws InvalidRequestError
 */
export function replaceDataKey(key: DataKey, path: string): Promise<void> {
  return saved(path, async () => {
    const target = await realpath(path); // a symbolic link stays one
    const draft = await drafted(target, key);
    try {
      await rename(draft, target);
    } catch (error) {
      await unlink(draft);
      throw error;
    }
    return dirname(target);
  });
}

/** Run what writes a file and returns its folder, and make its name durable. */
async function saved(path: string, writing: () => Promise<string>): Promise<void> {
  try {
    const folder = await writing();
    if (!isWindows) await flushFolder(folder); // which cannot be done there
  } catch (error) {
    throw fileError(path, error);
  }
}

async function flushFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Write a key to a file of mode 0600 next to the path, durably, and return its name. */
async function drafted(path: string, key: DataKey): Promise<string> {
  const draft = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomBytes(6).toString("hex")}`);
  await write(draft, key.reveal());
  return draft;
}

/** Write a new file durably, or remove it. */
async function write(path: string, content: Buffer): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
    await file.close();
  } catch (error) {
    await file.close().catch(() => undefined);
    await unlink(path).catch(() => undefined);
    throw error;
  } finally {
    content.fill(0);
  }
}
