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
import { type CreateRequest, KeyVaultService, type ReadRequest } from "./generated/keyvault/v1/keyvault.js";
import { type Kind, open, parse, seal } from "./kve1.js";
import { Failure, OutcomeUnknown, Vault } from "./vault.js";

const { ABORTED, ALREADY_EXISTS, INTERNAL, NOT_FOUND, PERMISSION_DENIED } = grpc.status;
const { RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED } = grpc.status;
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
  const look = { keyId: "a", knownRevision: 0n, includeDeleted: false, revision: 0n };
  await assert.rejects(calling(1, (vault) => vault.call(read, look)), Failure);
});

test("a mutation that never left has no unknown outcome", async () => {
  server.forceShutdown();
  await assert.rejects(calling(0.3, (vault) => vault.call(create, creation())), Failure);
});

test("only OK, or a server that would know the envelope, settles what was once lost", async () => {
  const settled = { current_revision: "16", remembered_since: "1" };
  script = [lost(), refusal(ABORTED, "STALE_REVISION", settled)];
  await assert.rejects(calling(5, (vault) => vault.call(create, creation())), { constructor: Failure });
  for (const answer of [
    refusal(ABORTED, "STALE_REVISION", { current_revision: "17", remembered_since: "2" }),
    refusal(ABORTED, "STALE_REVISION", { current_revision: "1", remembered_since: "2", vacant: "true" }),
    refusal(ABORTED, "STALE_REVISION", { current_revision: "0", remembered_since: "0" }),
    refusal(ALREADY_EXISTS, "RECORD_EXISTS", { current_revision: "1" }),
    refusal(ABORTED, "STALE_REVISION", { current_revision: "9".repeat(5_000), remembered_since: "-1" }),
    refusal(NOT_FOUND, "RECORD_NOT_FOUND"),
    refusal(PERMISSION_DENIED, "POLICY_DENIED"),
    refusal(RESOURCE_EXHAUSTED, "RATE_LIMITED", {}, 60),
  ]) {
    script = [lost(), answer];
    await assert.rejects(calling(5, (vault) => vault.call(create, creation())), OutcomeUnknown);
    assert.equal(script.length, 0);
  }
});

test("which single answers leave the outcome of a mutation unknown", async () => {
  const about = { current_revision: "4" };
  for (const details of [Buffer.alloc(3, 0xff), packed("ELSEWHERE", about, "elsewhere")]) {
    script = [{ failure: { code: ABORTED, details: "played", metadata: trailer(details) } }];
    const answered = calling(5, (vault) => vault.call(create, creation()));
    await assert.rejects(answered, { message: /^the outcome is unknown.*: ABORTED: played$/ });
  }
  const codes = [PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED, RESOURCE_EXHAUSTED];
  const proxys = codes.map((code) => refusal(code));
  for (const answer of [...proxys, refusal(INTERNAL, "INTERNAL", { request_id: "r-1" }), written(7n)]) {
    script = [answer];
    await assert.rejects(calling(5, (vault) => vault.call(create, creation())), OutcomeUnknown);
    assert.equal(script.length, 0);
  }
  script = [refusal(UNAVAILABLE, "SERVER_STOPPING"), refusal(PERMISSION_DENIED, "POLICY_DENIED")];
  await assert.rejects(calling(5, (vault) => vault.call(create, creation())), { constructor: Failure });
});

test("put creates, updates what exists, and creates again what was deleted since", async () => {
  script = [
    refusal(ALREADY_EXISTS, "RECORD_EXISTS", { current_revision: "4" }),
    stored(4n),
    refusal(ABORTED, "STALE_REVISION", { current_revision: "5" }),
    stored(5n),
    refusal(NOT_FOUND, "RECORD_NOT_FOUND"),
    stored(LARGE - 1n, "TOMBSTONE"),
    written(LARGE),
  ];
  assert.deepEqual(await kv(["put", "a", "--key", keyFile], "text"), [0, `a is at revision ${LARGE}\n`, ""]);
  assert.deepEqual(sealed(), ["create 1", "update 5", "update 6", `create ${LARGE}`]);
  assert.equal(open(KEY, "acme", "a", asked[6]?.request.envelope ?? Buffer.of()).plaintext.toString(), "text");
});

test("a revision that no envelope proves is not sealed for", async () => {
  const lie = refusal(ABORTED, "STALE_REVISION", { current_revision: String(2n ** 63n - 1n), remembered_since: "1" });
  const vacant = { current_revision: "9000", remembered_since: "9001", vacant: "true" };
  const purged = refusal(ABORTED, "STALE_REVISION", vacant);
  const other = { response: { envelope: creation(7n, "b").envelope, revision: 7n } };
  const wrong = { response: { envelope: creation(1n).envelope, revision: LARGE } };
  const newKey = inFolder("new.json", JSON.stringify({
    tenant: "acme", scope: "a", plaintextKey: Buffer.alloc(32, 8).toString("base64"), wrappedKey: "d3JhcHBlZA==",
  }));
  const cases: [string, Answer[], string[]][] = [
    ["put", [lie, refusal(NOT_FOUND, "RECORD_NOT_FOUND")], ["create 1"]],
    ["put", [lie, stored(1n), lie, stored(1n)], ["create 1", "update 2"]],
    ["put", [lie, other], ["create 1"]],
    ["put", [purged], ["create 1"]],
    ["delete", [stored(1n), lie, stored(1n)], ["delete 2"]],
    ["delete", [stored(1n), purged], ["delete 2"]],
    ["delete", [wrong], []],
    ["rotate", [stored(1n), lie, stored(1n)], ["rotateKey 2"]],
    ["rotate", [wrong], []],
  ];
  for (const [verb, answers, expected] of cases) {
    [script, asked] = [[...answers], []];
    const args = [verb, "a", "--key", keyFile, ...(verb === "rotate" ? ["--new-key", newKey] : [])];
    const [code, out, err] = await kv(args, verb === "put" ? "text" : "");
    assert.deepEqual([code, out], [1, ""]);
    assert.match(err, /^kv: (?!the outcome is unknown)[^\n]+\n$/);
    assert.deepEqual([sealed(), script.length], [expected, 0], verb);
  }
});

test("put gives up when others are always faster", async () => {
  const refused = refusal(ABORTED, "STALE_REVISION", { current_revision: "5", request_id: "r-2" });
  script = [refused];
  for (let revision = 1n; script.length < 100; revision++) script.push(stored(revision), refused);
  const line = "kv: ABORTED STALE_REVISION: played (r-2)\n";
  assert.deepEqual(await kv(["put", "a", "--key", keyFile], "text"), [1, "", line]);
  assert.equal(sealed().length, 10);
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

test("list asks for every page, and refuses one that cannot be", async () => {
  script = [page("1", "p/a", "p/b"), page("2"), page("", "p/c")];
  assert.deepEqual(await kv(["list", "p/"]), [0, "p/a\np/b\np/c\n", ""]);
  assert.deepEqual(asked.map(({ request }) => request), ["", "1", "2"].map((pageToken) => {
    return { prefix: "p/", pageSize: 1_000, pageToken, deleted: false };
  }));
  const endless = Array.from({ length: 100 }, (_, i) => page(String(i + 1)));
  for (const lie of [
    [page("", "q/a")], [page("", "p/\x1b[2J")], [page("", "p/a/")], [page("1", "p/a"), page("", "p/a")],
    [page("1"), page("1")], endless,
  ]) {
    script = [...lie];
    const [code, , err] = await kv(["list", "p/"]);
    assert.deepEqual([code, script.length], [1, 0]);
    assert.match(err, /^kv: the server's list of names that begin with "p\/" [^\n\x1b]+\n$/);
  }
});

test("history shows a line for each revision, and refuses what cannot be", async () => {
  script = [revisions(3n, 2n)];
  const lines = [3, 2].map((revision) => `revision ${revision}  1970-01-01T00:00:01Z  99 bytes sealed\n`);
  assert.deepEqual(await kv(["history", "a"]), [0, lines.join(""), ""]);
  for (const numbers of [[], [0n], [2n, 2n], [2n, 3n], Array.from({ length: 17 }, (_, i) => BigInt(17 - i))]) {
    script = [revisions(...numbers)];
    const [code, out, err] = await kv(["history", "a"]);
    assert.deepEqual([code, out], [1, ""]);
    assert.match(err, /^kv: the server answered ListRevisions of a with an impossible list\n$/);
  }
});

test("an earlier revision is the one that was asked for", async () => {
  const get = ["get", "a", "--key", keyFile, "--revision", "2"];
  script = [stored(2n)];
  assert.deepEqual(await kv(get), [0, "", ""]);
  assert.equal((asked[0]?.request as unknown as ReadRequest).revision, 2n);
  script = [stored(3n)];
  assert.match((await kv(get))[2], /^kv: the server answered with revision 3 of a instead of 2: it is an older KeyVault/);
  script = [{ response: { tenant: "acme", envelope: creation(3n).envelope, revision: 2n } }];
  assert.match((await kv(get))[2], /^kv: the server's answer for a contradicts its envelope\n$/);
  script = [stored(2n, "TOMBSTONE")];
  assert.match((await kv(get))[2], /^kv: the server's answer for a contradicts its envelope\n$/);
});

test("an older server is named", async () => {
  for (const args of [["list"], ["history", "a"]]) {
    script = [refusal(UNIMPLEMENTED)];
    assert.match((await kv(args))[2], /^kv: UNIMPLEMENTED: played \(the server does not know this call: [^\n]+\n$/);
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
    [["history"], {}],
    [["history", "a", "--key", keyFile], {}],
    [["list", "a", "b"], {}],
    [["list", "--key", keyFile], {}],
    [[...get, "--revision", "0"], {}],
    [["put", "a", "--key", keyFile, "--revision", "1"], {}],
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

/** The mutations that were asked for, with the revisions that they were sealed for. */
function sealed(): string[] {
  const mutations = asked.filter(({ request }) => "envelope" in request);
  return mutations.map(({ method, request }) => `${method} ${parse(request.envelope).revision}`);
}

/** What Read answers when this is stored. */
function stored(revision: bigint, kind: Kind = "DATA"): Answer {
  const envelope = seal(KEY, "acme", "a", kind, revision, Buffer.alloc(0));
  return { response: { tenant: "acme", envelope, revision } };
}

/** A page of List. */
function page(nextPageToken: string, ...names: string[]): Answer {
  return { response: { names: names.map((keyId) => ({ keyId })), nextPageToken } };
}

/** What ListRevisions answers. */
function revisions(...numbers: bigint[]): Answer {
  return { response: { revisions: numbers.map((revision) => ({ revision, size: 99, updateTime: new Date(1_000) })) } };
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
    const retryDelay = { seconds: BigInt(Math.trunc(retryAfter)), nanos: (retryAfter % 1) * 1e9 };
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
