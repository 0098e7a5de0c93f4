/** What a real server does not do on demand, played by one that answers from a script; and refusals without one. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo, Status } from "./generated/details.js";
import { type CreateRequest, KeyVaultService } from "./generated/keyvault/v1/keyvault.js";
import { open, parse, seal } from "./kve1.js";
import { Failure, OutcomeUnknown, Vault } from "./vault.js";

const { ABORTED, ALREADY_EXISTS, INTERNAL, NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE } = grpc.status;
const { create, read } = KeyVaultService;
const KEY = Buffer.alloc(32, 7);
const LARGE = 2n ** 63n - 2n; // no number holds it exactly

interface Answer {
  readonly failure?: Partial<grpc.StatusObject>;
  readonly response?: object;
}

let script: Answer[];
let asked: { method: string; request: CreateRequest }[];
let server: grpc.Server;
let address: string;

beforeEach(async () => {
  [script, asked] = [[], []];
  const play = (method: string) => ({ request }: { request: CreateRequest }, reply: grpc.sendUnaryData<object>) => {
    asked.push({ method, request });
    const { failure, response } = script.shift() ?? refusal(INTERNAL, "SCRIPT_IS_OVER");
    reply(failure ?? null, response);
  };
  server = new grpc.Server();
  const methods = Object.keys(KeyVaultService).map((name) => [name, play(name)]);
  server.addService(KeyVaultService, Object.fromEntries(methods));
  address = await new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
      return error ? reject(error) : resolve(`127.0.0.1:${port}`);
    });
  });
});
afterEach(() => server.forceShutdown());

const folder = mkdtempSync(join(tmpdir(), "kv-"));
const keyFile = inFolder("key.json", JSON.stringify({
  tenant: "acme", scope: "a", plaintextKey: KEY.toString("base64"), wrappedKey: "d3JhcHBlZA==",
}));
after(() => rmSync(folder, { recursive: true }));

test("the same bytes are retried until they are answered, and a large revision is exact", async () => {
  script = [lost(), refusal(INTERNAL), refusal(grpc.status.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"), written(LARGE)];
  const request = creation(LARGE);
  assert.equal((await calling(5, (vault) => vault.call(create, request))).revision, LARGE);
  assert.deepEqual(asked.map((call) => call.request), Array(4).fill(request));
});

test("a server that is busy is asked again no sooner than it says", async () => {
  script = [refusal(RESOURCE_EXHAUSTED, "RATE_LIMITED", {}, 0.2), written(1n)];
  const begin = performance.now();
  await calling(5, (vault) => vault.call(create, creation()));
  assert.ok(performance.now() - begin > 190);
});

test("a refusal is not retried", async () => {
  script = [refusal(RESOURCE_EXHAUSTED, "STORE_FULL", { request_id: "r-1" })];
  const message = "RESOURCE_EXHAUSTED STORE_FULL: played (r-1)";
  await assert.rejects(calling(5, (vault) => vault.call(create, creation())), { constructor: Failure, message });
  assert.equal(asked.length, 1);
});

test("a mutation that is never answered has an unknown outcome, a look has none", async () => {
  script = Array(100).fill(lost());
  await assert.rejects(calling(1, (vault) => vault.call(create, creation())), OutcomeUnknown);
  const look = { keyId: "a", knownRevision: 0n, includeDeleted: false };
  await assert.rejects(calling(1, (vault) => vault.call(read, look)), Failure);
});

test("a mutation that never left has no unknown outcome", async () => {
  server.forceShutdown();
  await assert.rejects(calling(0.3, (vault) => vault.call(create, creation())), Failure);
});

test("a refusal after a lost answer is believed while the record would know the envelope", async () => {
  script = [lost(), refusal(ABORTED, "STALE_REVISION", { current_revision: "16" })];
  await assert.rejects(calling(5, (vault) => vault.call(create, creation())), { constructor: Failure });
  script = [lost(), refusal(ABORTED, "STALE_REVISION", { current_revision: "17" })];
  await assert.rejects(calling(5, (vault) => vault.call(create, creation())), OutcomeUnknown);
});

test("details that are none, or another service's, leave the status", async () => {
  const about = { reason: undefined, currentRevision: undefined, retryAfter: undefined, unanswered: false };
  for (const details of [Buffer.alloc(3, 0xff), packed("ELSEWHERE", { current_revision: "9" }, "elsewhere")]) {
    script = [{ failure: { code: ABORTED, details: "played", metadata: trailer(details) } }];
    const answered = calling(5, (vault) => vault.call(create, creation()));
    await assert.rejects(answered, { message: "ABORTED: played", about });
  }
});

test("put creates, updates what exists, and creates again what was deleted since", async () => {
  script = [
    refusal(ALREADY_EXISTS, "RECORD_EXISTS", { current_revision: "4" }),
    refusal(ABORTED, "STALE_REVISION", { current_revision: "5" }),
    refusal(NOT_FOUND, "RECORD_NOT_FOUND"),
    refusal(ABORTED, "STALE_REVISION", { current_revision: String(LARGE - 1n) }),
    written(LARGE),
  ];
  assert.deepEqual(await kv(["put", "a", "--key", keyFile], "text"), [0, `a is at revision ${LARGE}\n`, ""]);
  assert.deepEqual(
    asked.map(({ method, request }) => `${method} ${parse(request.envelope).revision}`),
    ["create 1", "update 5", "update 6", "create 6", `create ${LARGE}`],
  );
  assert.equal(open(KEY, "acme", "a", asked[4]?.request.envelope ?? Buffer.of()).plaintext.toString(), "text");
});

test("put gives up when others are always faster", async () => {
  script = Array(100).fill(refusal(ABORTED, "STALE_REVISION", { current_revision: "5", request_id: "r-2" }));
  const line = "kv: ABORTED STALE_REVISION: played (r-2)\n";
  assert.deepEqual(await kv(["put", "a", "--key", keyFile], "text"), [1, "", line]);
  assert.equal(asked.length, 10);
});

test("put saves a fresh key before it uses it", async () => {
  const path = join(folder, "fresh.json");
  const fresh = { tenant: "acme", scope: "a", plaintextKey: KEY, wrappedKey: Buffer.from("wrapped") };
  script = [{ response: fresh }, lost()];
  const [code, out, err] = await kv(["put", "a", "--key", path], "text", { KEYVAULT_TIMEOUT: "2" });
  assert.deepEqual([code, out, asked[0]?.method], [1, "", "generateKey"]);
  assert.match(err, /^kv: the outcome is unknown[^\n]+\n$/);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const saved = { tenant: "acme", scope: "a", plaintext_key: KEY.toString("base64"), wrapped_key: "d3JhcHBlZA==" };
  assert.deepEqual(JSON.parse(readFileSync(path, "utf8")), saved);
});

test("get refuses another revision than the server says, another kind and another name", async () => {
  const tombstone = seal(KEY, "acme", "a", "TOMBSTONE", 2n, Buffer.alloc(0));
  for (const envelope of [creation(1n).envelope, tombstone, creation(2n, "b").envelope]) {
    script = [{ response: { tenant: "acme", envelope, revision: 2n } }];
    const [code, out, err] = await kv(["get", "a", "--key", keyFile]);
    assert.deepEqual([code, out], [1, ""]);
    assert.match(err, /^kv: the (server's answer|envelope does not open)[^\n]+\n$/);
  }
});

test("what the caller has to fix is one line, exit 2, and never a secret", async () => {
  const broken = inFolder("broken.json", "S3CRET");
  const words = inFolder("words", "S3CRET S3CRET");
  const get = ["get", "a", "--key", keyFile];
  const cases: [string[], Record<string, string>][] = [
    [[], {}],
    [["get", "a"], {}],
    [["rotate", "a", "--key", keyFile], {}],
    [["rotate", "a", "--key", keyFile, "--new-key", keyFile], {}],
    [["get", "a", "--key", join(folder, "absent")], {}],
    [["get", "a", "--key", broken], {}],
    [["put", "a/", "--key", join(folder, "absent")], {}],
    [get, { KEYVAULT_TIMEOUT: "soon" }],
    [get, { KEYVAULT_ADDRESS: "192.0.2.1:50051" }],
    [get, { KEYVAULT_TOKEN_FILE: broken }],
    [get, { KEYVAULT_CA: broken }],
    [get, { KEYVAULT_CERTIFICATE: broken }],
    [get, { KEYVAULT_TOKEN_FILE: words }],
  ];
  for (const [args, env] of cases) {
    const [code, out, err] = await kv(args, "", env);
    assert.deepEqual([code, out], [2, ""], `${args.join(" ")}: ${err}`);
    assert.match(err, /^kv: [^\n]+\n$/);
    assert.doesNotMatch(err, /S3CRET/);
  }
  assert.equal(asked.length, 0);
});

function creation(revision = 1n, keyId = "a"): CreateRequest {
  const envelope = seal(KEY, "acme", keyId, "DATA", revision, Buffer.from("text"));
  return { keyId, wrappedKey: Buffer.from("wrapped"), envelope };
}

async function calling<Result>(seconds: number, use: (vault: Vault) => Promise<Result>): Promise<Result> {
  const vault = new Vault(address, null, seconds);
  return use(vault).finally(() => vault.close());
}

/** Runs the command: exit code, standard output, standard error. */
function kv(args: string[], input = "", env: Record<string, string> = {}): Promise<[number | null, string, string]> {
  const main = fileURLToPath(new URL("main.js", import.meta.url));
  const child = spawn(process.execPath, [main, ...args], { env: { KEYVAULT_ADDRESS: address, ...env } });
  const [out, err]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on("data", (data: Buffer) => out.push(data));
  child.stderr.on("data", (data: Buffer) => err.push(data));
  child.stdin.on("error", () => undefined).end(input); // a command that refuses its arguments does not read
  return new Promise((resolve) => {
    child.on("close", (code) => resolve([code, Buffer.concat(out).toString(), Buffer.concat(err).toString()]));
  });
}

function written(revision: bigint): Answer {
  return { response: { revision, replayed: false } };
}

function lost(): Answer {
  return { failure: { code: UNAVAILABLE, details: "played" } };
}

function refusal(code: grpc.status, reason = "", metadata: Record<string, string> = {}, retryAfter?: number): Answer {
  if (!reason) return { failure: { code, details: "played" } };
  return { failure: { code, details: "played", metadata: trailer(packed(reason, metadata, "keyvault", retryAfter)) } };
}

function packed(reason: string, metadata: Record<string, string>, domain: string, retryAfter?: number): Buffer {
  const any = (name: string, value: Uint8Array) => {
    return { typeUrl: `type.googleapis.com/google.rpc.${name}`, value: Buffer.from(value) };
  };
  const details = [any("ErrorInfo", ErrorInfo.encode({ reason, domain, metadata }).finish())];
  if (retryAfter !== undefined) {
    const retryDelay = { seconds: 0n, nanos: retryAfter * 1e9 };
    details.push(any("RetryInfo", RetryInfo.encode({ retryDelay }).finish()));
  }
  return Buffer.from(Status.encode({ details }).finish());
}

function trailer(details: Buffer): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set("grpc-status-details-bin", details);
  return metadata;
}

function inFolder(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}
