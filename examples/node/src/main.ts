#!/usr/bin/env node
/**
 * kv puts, gets, rotates, deletes and lists records of a KeyVault server, which learns nothing of what they hold.
 *
 * The rules of this file: what goes wrong is one line on standard error, with exit 2 if it is the caller's arguments,
 * settings or files and exit 1 otherwise; no secret is in that line, nor in an argument; a key is saved before use.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";

import { KeyVaultService, type ReadResponse } from "./generated/keyvault/v1/keyvault.js";
import { commitsTo, type Kind, MAX_PLAINTEXT, open, type Opened, parse, seal } from "./kve1.js";
import { history, list } from "./past.js";
import { BadUsage, connect, contentOf } from "./settings.js";
import { Failure, type Vault } from "./vault.js";

const USAGE =
  "usage: kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N], " +
  "kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]";
const MAX_WRAPPED_KEY = 8_192; // bytes, keyvault.proto
const TRIES = 10; // while other writers are faster

/** A data key: it reads, and together with its wrapped form it writes. */
interface DataKey {
  readonly tenant: string;
  /** The key_id, or the prefix ending in "/", that it may be used for. */
  readonly scope: string;
  readonly plaintextKey: Buffer;
  readonly wrappedKey: Buffer;
}

interface Command {
  readonly name: "put" | "get" | "rotate" | "delete" | "history" | "list";
  /** The prefix of a list. */
  readonly keyId: string;
  readonly keyFile: string;
  /** Of get, 0n for the current one. */
  readonly revision: bigint;
  /** For rotate only, else "". */
  readonly newKeyFile: string;
}

async function run(command: Command): Promise<void> {
  const { name, keyId } = command;
  const plaintext = name === "put" ? await standardInput() : Buffer.alloc(0);
  const vault = connect(process.env);
  try {
    if (name === "history") console.log((await history(vault, keyId)).join("\n"));
    else if (name === "list") for await (const listed of list(vault, keyId)) console.log(listed);
    else await runWithKey(vault, command, plaintext);
  } finally {
    vault.close();
  }
}

async function runWithKey(vault: Vault, command: Command, plaintext: Buffer): Promise<void> {
  const { name, keyId, keyFile, newKeyFile } = command;
  const key = name === "put" ? await loadOrGenerate(vault, keyId, keyFile) : load(keyFile);
  if (name === "get") return void process.stdout.write(await get(vault, keyId, key, command.revision));
  let revision: bigint;
  if (name === "put") revision = await put(vault, keyId, key, plaintext);
  else if (name === "delete") revision = await remove(vault, keyId, key);
  else revision = await rotate(vault, keyId, key, await loadOrGenerate(vault, keyId, newKeyFile));
  console.log(`${keyId} is at revision ${revision}`);
}

/** Creates the record, or updates it if it is there: the last writer wins. */
async function put(vault: Vault, keyId: string, key: DataKey, plaintext: Buffer): Promise<bigint> {
  const { create, update } = KeyVaultService;
  let write: typeof create | typeof update = create;
  let revision = 1n;
  for (let tries = 1; ; tries++) {
    const request = { keyId, wrappedKey: key.wrappedKey, envelope: sealed(key, keyId, "DATA", revision, plaintext) };
    try {
      return (await vault.call(write, request)).revision;
    } catch (failure) {
      const stored = await overtaking(vault, keyId, key, { failure, revision, tries });
      revision = stored.revision + 1n;
      write = stored.kind === "TOMBSTONE" ? create : update;
    }
  }
}

/** A command cannot notice that an earlier one was shown a newer record: a longer program remembers revisions. */
async function get(vault: Vault, keyId: string, key: DataKey, revision: bigint): Promise<Buffer> {
  const stored = await read(vault, keyId, false, revision);
  if (revision !== 0n && stored.revision !== revision) {
    throw new Error(
      `the server answered with revision ${stored.revision} of ${keyId} instead of ${revision}: ` +
        "it is an older KeyVault, which cannot read earlier revisions",
    );
  }
  return opened(stored, keyId, key).plaintext;
}

/** Hands the record to the new key, unless an earlier attempt has. */
async function rotate(vault: Vault, keyId: string, key: DataKey, newKey: DataKey): Promise<bigint> {
  if (timingSafeEqual(key.plaintextKey, newKey.plaintextKey)) throw new BadUsage("both files hold the same data key");
  let stored = await read(vault, keyId);
  for (let tries = 1; ; tries++) {
    parse(stored.envelope);
    if (commitsTo(stored.envelope.subarray(0, 72), newKey.plaintextKey, newKey.tenant, keyId)) {
      return opened(stored, keyId, newKey).revision;
    }
    const record = opened(stored, keyId, key);
    const revision = record.revision + 1n;
    const envelope = sealed(newKey, keyId, "DATA", revision, record.plaintext);
    const digest = createHash("sha256").update(envelope).digest();
    const authorization = sealed(key, keyId, "REKEY", revision, digest);
    const wrapped = { wrappedKey: key.wrappedKey, newWrappedKey: newKey.wrappedKey };
    try {
      return (await vault.call(KeyVaultService.rotateKey, { keyId, ...wrapped, authorization, envelope })).revision;
    } catch (failure) {
      if (!isOvertaken(failure, ["STALE_REVISION"]) || tries === TRIES) throw failure;
      stored = await read(vault, keyId);
      mustBeAbove(stored, { failure, revision, tries });
    }
  }
}

async function remove(vault: Vault, keyId: string, key: DataKey): Promise<bigint> {
  let stored = opened(await read(vault, keyId), keyId, key);
  for (let tries = 1; ; tries++) {
    const revision = stored.revision + 1n;
    const envelope = sealed(key, keyId, "TOMBSTONE", revision, Buffer.alloc(0));
    try {
      return (await vault.call(KeyVaultService.delete, { keyId, wrappedKey: key.wrappedKey, envelope })).revision;
    } catch (failure) {
      if (!isOvertaken(failure, ["STALE_REVISION"])) throw failure;
      stored = await overtaking(vault, keyId, key, { failure, revision, tries });
      if (stored.kind === "TOMBSTONE") throw new Error(`${keyId}: another writer deleted it`);
    }
  }
}

/** A mutation that was refused: why, for which revision it was sealed, and how many there were until then. */
interface Refused {
  readonly failure: unknown;
  readonly revision: bigint;
  readonly tries: number;
}

/**
 * Opens the record, live or deleted, that took the place of what was refused: a change is sealed for the revision
 * after one that opens under the key, never for one that the server names. Throws the failure if it has another cause.
 */
async function overtaking(vault: Vault, keyId: string, key: DataKey, refused: Refused): Promise<Opened> {
  const { failure, tries } = refused;
  if (!isOvertaken(failure, ["STALE_REVISION", "RECORD_EXISTS", "RECORD_NOT_FOUND"]) || tries === TRIES) throw failure;
  if (failure.about.vacant) {
    throw new Error(`${keyId}: the name was purged, so nothing proves its revision: ${failure.message}`);
  }
  try {
    const stored = await read(vault, keyId, true);
    mustBeAbove(stored, refused);
    return opened(stored, keyId, key, true);
  } catch (error) {
    if (!isOvertaken(error, ["RECORD_NOT_FOUND"])) throw error;
    throw new Error(`${keyId}: there is no record that proves this revision: ${failure.message}`);
  }
}

function isOvertaken(failure: unknown, reasons: string[]): failure is Failure {
  return failure instanceof Failure && reasons.includes(failure.about.reason ?? "");
}

/** Throws unless the next revision is above the one that was refused: the server contradicts itself. */
function mustBeAbove(stored: ReadResponse, { failure, revision }: Refused): void {
  if (stored.revision >= revision) return;
  const cause = failure instanceof Failure ? failure.message : String(failure);
  throw new Error(`the server has revision ${stored.revision} and refuses ${revision}: ${cause}`);
}

function read(vault: Vault, keyId: string, includeDeleted = false, revision = 0n): Promise<ReadResponse> {
  return vault.call(KeyVaultService.read, { keyId, knownRevision: 0n, includeDeleted, revision });
}

/** What Read answered, if it is under this key and what the server says it is. */
function opened(stored: ReadResponse, keyId: string, key: DataKey, deleted = false): Opened {
  const record = open(key.plaintextKey, key.tenant, keyId, stored.envelope);
  const fits = record.kind === "DATA" || (record.kind === "TOMBSTONE" && deleted);
  if (fits && record.revision === stored.revision) return record;
  throw new Error(`the server's answer for ${keyId} contradicts its envelope`);
}

function sealed(key: DataKey, keyId: string, kind: Kind, revision: bigint, plaintext: Buffer): Buffer {
  return seal(key.plaintextKey, key.tenant, keyId, kind, revision, plaintext);
}

/** The key in a file, or a fresh one for this record, saved there. */
async function loadOrGenerate(vault: Vault, keyId: string, path: string): Promise<DataKey> {
  if (existsSync(path)) return load(path);
  if (keyId === "" || keyId.endsWith("/")) throw new BadUsage("a KEY_ID must not be empty or end in /");
  const key = await vault.call(KeyVaultService.generateKey, { scope: keyId });
  mustBeFor(keyId, key);
  save(path, key);
  return key;
}

/** Throws unless the server made a key for this key_id alone: a wider one lets its holder change other records. */
function mustBeFor(keyId: string, { tenant, scope, plaintextKey, wrappedKey }: DataKey): void {
  const wrapped = wrappedKey.length > 0 && wrappedKey.length <= MAX_WRAPPED_KEY;
  if (tenant === "" || scope !== keyId || plaintextKey.length !== 32 || !wrapped) {
    throw new Error("the server answered GenerateKey with an invalid key, or one for another scope");
  }
}

/** Reads what `save` wrote, or a GenerateKeyResponse that another tool printed as JSON. */
function load(path: string): DataKey {
  const text = contentOf(path);
  try {
    const saved = JSON.parse(text) as Record<string, unknown>;
    const plaintextKey = base64(saved["plaintext_key"] ?? saved["plaintextKey"]);
    const wrappedKey = base64(saved["wrapped_key"] ?? saved["wrappedKey"]);
    const { tenant, scope } = saved;
    if (typeof tenant === "string" && typeof scope === "string" && plaintextKey.length === 32 && wrappedKey.length) {
      return { tenant, scope, plaintextKey, wrappedKey };
    }
  } catch {
    // JSON.parse quotes the file in what it throws: a secret
  }
  throw new BadUsage(`${path}: not a key file: expected JSON with tenant, scope, plaintext_key and wrapped_key`);
}

function base64(text: unknown): Buffer {
  const bytes = Buffer.from(String(text), "base64"); // skips what is not base64
  if (bytes.toString("base64") !== text) throw new Error("not base64");
  return bytes;
}

/** Writes a new file that only its owner reads and that survives a crash. */
function save(path: string, { tenant, scope, plaintextKey, wrappedKey }: DataKey): void {
  const [plaintext_key, wrapped_key] = [plaintextKey.toString("base64"), wrappedKey.toString("base64")];
  const file = openSync(path, "wx", 0o600);
  writeFileSync(file, `${JSON.stringify({ tenant, scope, plaintext_key, wrapped_key }, null, 1)}\n`);
  for (const descriptor of [file, openSync(dirname(path), "r")]) {
    fsyncSync(descriptor);
    closeSync(descriptor);
  }
}

async function standardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_PLAINTEXT) throw new BadUsage(`standard input is too long: at most ${MAX_PLAINTEXT} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function commandOf(args: string[]): Command {
  const text = { type: "string", default: "" } as const;
  const options = { key: text, "new-key": text, revision: text } as const;
  try {
    const { positionals, values } = parseArgs({ args, options, allowPositionals: true });
    const [name, given, ...more] = positionals;
    const { key: keyFile, "new-key": newKeyFile } = values;
    const keyless = name === "history" || name === "list";
    const known = keyless || name === "put" || name === "get" || name === "delete" || name === "rotate";
    const keyId = given ?? (name === "list" ? "" : undefined);
    const fits = keyless === (keyFile === "") && (name === "rotate") === (newKeyFile !== "");
    const revised = values.revision === "" || (name === "get" && /^[1-9][0-9]{0,18}$/.test(values.revision));
    if (known && keyId !== undefined && !more.length && fits && revised) {
      return { name, keyId, keyFile, newKeyFile, revision: BigInt(values.revision) };
    }
  } catch {
    // an unknown option
  }
  throw new BadUsage(USAGE);
}

function refuse(error: unknown): void {
  const sentence = error instanceof Error ? error.message : String(error);
  console.error(`kv: ${sentence.replace(/[\s\p{C}]+/gu, " ").trim()}`);
  process.exitCode = error instanceof BadUsage ? 2 : 1;
}

process.noDeprecation = true; // Node would remark on grpc-js, which names a server of TLS by its IP address (DEP0123)
process.stdout.on("error", refuse);
try {
  await run(commandOf(process.argv.slice(2)));
} catch (error) {
  refuse(error);
}
