/**
 * The behaviour suite: cases in testdata/behaviour, the same in every language.
 *
 * The rule of this file: a field that it does not know is refused, because a case that is half played proves nothing.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { rename, utimes, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import * as keyvault from "../index.js";
import { type Announced, Player, skip } from "./player.js";

type Bounds = number | readonly [number, number];

interface Asked {
  readonly do: string;
  readonly timeout?: number;
  readonly own_deadline?: boolean;
  readonly revision?: number;
  readonly interrupt?: number;
  readonly name?: string;
  readonly key?: "new_key";
  readonly size?: number;
  readonly expect: {
    readonly outcome: string;
    readonly error?: string;
    readonly reason?: string;
    readonly revision?: number;
    readonly data?: string;
    readonly seconds?: readonly [number, number];
  };
}

interface Case {
  readonly name: string;
  readonly client: Asked | readonly Asked[];
  readonly calls?: Readonly<Record<string, Bounds>>;
  readonly sealed?: readonly number[];
  readonly connections?: readonly [number, number];
}

const CASE_FIELDS = [
  "name", "about", "client", "calls", "sealed", "connections", // and what the player alone reads
  "server", "record", "revision", "listen", "tls", "token", "program",
];
const ASKED_FIELDS = ["do", "timeout", "own_deadline", "revision", "interrupt", "name", "key", "size", "expect"];
const EXPECTED_FIELDS = ["outcome", "error", "reason", "revision", "data", "seconds"];

const FOLDER = new URL("../../testdata/behaviour/", import.meta.url);

function cases(): Case[] {
  const files = readdirSync(FOLDER).map((name) => JSON.parse(readFileSync(new URL(name, FOLDER), "utf8")) as { cases: Case[] });
  return files.flatMap((file) => file.cases);
}

function stepsOf(one: Case): readonly Asked[] {
  return [one.client].flat();
}

function refuseUnknown(content: object, known: readonly string[]): void {
  for (const field of Object.keys(content)) assert.ok(known.includes(field), `unknown field ${field}`);
}

describe("behaviour", { skip, concurrency: 50, timeout: 300_000 }, () => {
  let player: Player;
  before(async () => {
    player = await Player.start();
  });
  after(() => player.end());
  for (const one of cases()) {
    test(one.name, async () => {
      refuseUnknown(one, CASE_FIELDS);
      const played = player.cases.get(one.name);
      assert.ok(played, "the player has another suite");
      const vault = clientOf(one, played);
      try {
        for (const asked of stepsOf(one)) await run(asked, vault, played);
      } finally {
        vault.close();
      }
      await check(one, player);
    });
  }
});

function clientOf(one: Case, { address, tls, token_file: tokenFile }: Announced): keyvault.KeyVaultClient {
  const files = tls && {
    ca: tls.ca,
    certificate: tls.certificate || undefined,
    privateKey: tls.private_key || undefined,
  };
  return new keyvault.KeyVaultClient({
    address,
    tls: files ?? false,
    tokenFile: tokenFile || undefined,
    timeoutMs: 1_000 * (stepsOf(one)[0]?.timeout ?? 60),
  });
}

/** What came out, for a comparison with what is expected. */
interface Ended {
  readonly revision?: bigint;
  readonly data?: string;
}

async function run(asked: Asked, vault: keyvault.KeyVaultClient, played: Announced): Promise<void> {
  refuseUnknown(asked, ASKED_FIELDS);
  refuseUnknown(asked.expect, EXPECTED_FIELDS);
  const { expect } = asked;
  const begin = performance.now();
  let [outcome, ended]: [string, Ended] = ["done", {}];
  let error: keyvault.KeyVaultError | undefined;
  const interrupt = new AbortController();
  if (asked.interrupt) setTimeout(() => interrupt.abort(), 1_000 * asked.interrupt);
  try {
    ended = await doing(asked, vault, played, interrupt.signal);
  } catch (failed) {
    if (!(failed instanceof keyvault.KeyVaultError)) throw failed;
    outcome = failed instanceof keyvault.OutcomeUnknownError ? "unknown" : "failed";
    error = failed;
  }
  const seconds = (performance.now() - begin) / 1_000;
  if (expect.outcome === "either") return;
  const wanted = expect.outcome === "interrupted" ? "unknown" : expect.outcome; // the change was sent
  assert.equal(outcome, wanted, `${asked.do}: ${error?.message}`);
  if (expect.error) assert.ok(error instanceof classOf(expect.error), `${asked.do}: ${error?.message}`);
  if (expect.reason) assert.equal(error?.reason, expect.reason);
  if (expect.outcome === "interrupted") assert.ok(error?.cause instanceof keyvault.AbortedError);
  if (expect.revision) assert.equal(ended.revision, BigInt(expect.revision));
  if (expect.data) assert.equal(ended.data, expect.data);
  const [low, high] = expect.seconds ?? [0, 90];
  assert.ok(low <= seconds && seconds <= high, `${asked.do}: took ${seconds.toFixed(1)} s instead of ${low} to ${high}`);
}

function classOf(name: string): typeof keyvault.KeyVaultError {
  const found = (keyvault as Record<string, unknown>)[`${name}Error`];
  assert.ok(typeof found === "function", `no error ${name}`);
  return found as typeof keyvault.KeyVaultError;
}

async function doing(
  asked: Asked, vault: keyvault.KeyVaultClient, played: Announced, signal: AbortSignal,
): Promise<Ended> {
  const newKey = keyvault.DataKey.parse(JSON.stringify(played.new_key));
  const key = asked.key === "new_key" ? newKey : keyvault.DataKey.parse(JSON.stringify(played.key));
  const keyId = asked.name ?? played.key_id;
  const data = asked.size ? Buffer.alloc(asked.size, "x") : Buffer.from("ours");
  const timeoutMs = asked.own_deadline === false ? undefined : 1_000 * (asked.timeout ?? 60);
  const options = { key, timeoutMs, signal, revision: asked.revision || undefined };
  switch (asked.do) {
    case "create":
      return vault.create(keyId, data, options);
    case "update":
      return vault.update(keyId, data, options);
    case "delete":
      return vault.delete(keyId, options);
    case "restore":
      return vault.restore(keyId, { ...options, revision: asked.revision ?? 0 });
    case "rotate":
      return vault.rotateKey(keyId, { ...options, newKey });
    case "read":
      return shown(await vault.read(keyId, options));
    case "read_if_changed": {
      const record = await vault.readIfChanged(keyId, { key, timeoutMs, signal, known: asked.revision ?? 0 });
      return record === undefined ? {} : shown(record);
    }
    case "read_many": {
      const result = (await vault.readMany([[keyId, key]], { timeoutMs, signal })).get(keyId);
      if (result?.error) throw result.error;
      return result?.record ? shown(result.record) : {};
    }
    case "generate_key":
      await vault.generateKey(keyId, { timeoutMs, signal });
      return {};
    case "rewrap_key":
      await vault.rewrapKey(key, { timeoutMs, signal });
      return {};
    case "unwrap_key":
      await vault.unwrapKey(key, { timeoutMs, signal });
      return {};
    case "renew_token":
      await renew(played.token_file);
      return {};
  }
  throw new Error(`unknown verb ${asked.do}`);
}

function shown(record: keyvault.VaultRecord): Ended {
  return { revision: record.revision, data: record.text() };
}

/** Replace the token by one that settled some time ago. */
async function renew(path: string): Promise<void> {
  const draft = `${path}.new`;
  await writeFile(draft, "renewed\n", { mode: 0o600 });
  const before = Date.now() / 1_000 - 60;
  await utimes(draft, before, before);
  await rename(draft, path);
  await sleep(1);
}

/** Compare what the server got. */
async function check(one: Case, player: Player): Promise<void> {
  const got = await player.report(one.name);
  for (const method of Object.keys({ ...got.calls, ...one.calls })) {
    if (one.calls === undefined) break;
    const wanted = one.calls[method] ?? 0;
    const [low, high] = typeof wanted === "number" ? [wanted, wanted] : wanted;
    const count = got.calls[method] ?? 0;
    assert.ok(low <= count && count <= high, `${count} calls of ${method} instead of ${low} to ${high}`);
  }
  if (one.sealed) assert.deepEqual(got.sealed, one.sealed);
  if (!one.connections) return;
  const [least, most] = one.connections;
  assert.ok(least <= got.connections && got.connections <= most, `${got.connections} connections`);
}
