/** What a client can be made of, and what it says of files that it cannot use. */
import assert from "node:assert/strict";
import { mkdtemp, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { rootCertificates } from "node:tls";

import { explain } from "../explain.js";
import * as keyvault from "../index.js";
import { clientFromEnvironment, type ClientOptions, InvalidRequestError, KeyVaultClient } from "../index.js";
import { printable, quote } from "../printable.js";
import { tokenFile } from "../token.js";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "options-"));
});
after(() => rm(folder, { recursive: true }));

function refused(options: ClientOptions, message: RegExp): void {
  assert.throws(() => new KeyVaultClient(options), (error) => {
    assert.ok(error instanceof InvalidRequestError);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /S3CRET|[\x00-\x1f]/);
    return true;
  });
}

test("an address that gRPC would take for another one is refused", () => {
  for (const address of [
    "127.0.0.1:50051", "localhost:1", "[::1]:65535", "127.9.9.9:1", "dns:///localhost:1", "unix:/run/kv.sock",
    "unix:///run/kv.sock",
  ]) {
    new KeyVaultClient({ address }).close();
  }
  new KeyVaultClient({ address: "vault.example.com:50051", tls: true }).close();
  new KeyVaultClient({ address: "vault.example.com:50051", insecure: true }).close();
  refused({ address: "vault.example.com:50051" }, /^refusing plaintext to another machine \(vault\.example\.com:50051\)/);
  refused({ address: "127.0.0.1.example:1" }, /refusing plaintext/);
  for (const [address, why] of [
    ["http://localhost:1", "write host:port"], ["localhost", "write host:port"], ["127.0.0.1:", "the port must be"],
    ["127.0.0.1:99999", "the port must be"], ["127.0.0.1:0", "the port must be"], ["127.0.0.1:+1", "the port must be"],
    [":50051", "name its host"], ["a b:1", "name its host"], ["::1", "in brackets"], ["::1:1:2", "in brackets"],
    ["unix:", "name the path"], ["unix:///", "name the path"], [`unix:/${"x".repeat(107)}`, "has 108 bytes"],
    ["\x1b[2J", "write host:port"],
  ] as const) {
    refused({ address }, new RegExp(`^invalid address .*${why}`));
  }
});

test("options that contradict each other are refused", () => {
  const here = { address: "127.0.0.1:1" };
  for (const timeoutMs of [0, -1, NaN, Infinity, 86_400_001, "5" as unknown as number]) refused({ ...here, timeoutMs }, /timeoutMs/);
  refused({ ...here, remembered: -1 }, /remembered names -1/);
  refused({ ...here, tokenFile: join(folder, "t") }, /refusing to send a token to 127\.0\.0\.1:1 without TLS/);
  refused({ ...here, tls: true, tokenFile: join(folder, "t"), token: () => "t" }, /not both/);
  refused({ ...here, tls: { certificate: "a.pem" } }, /must be given together/);
  for (const name of ["ca", "certificate", "privateKey", "serverName"]) {
    refused({ ...here, tls: { [name]: "" } }, new RegExp(`^${name} is empty: give it a value, or leave it out$`));
  }
  refused({ ...here, tls: true, tokenFile: "" }, /^tokenFile is empty/);
});

test("files that hold something else are named, and not quoted", async () => {
  const wrong = join(folder, "wrong.pem");
  await writeFile(wrong, "S3CRET S3CRET\n");
  const here = { address: "127.0.0.1:1" };
  refused({ ...here, tls: { ca: join(folder, "absent.pem") } }, /absent\.pem: no such file or directory$/);
  refused({ ...here, tls: { ca: folder } }, /: is a directory$/);
  refused({ ...here, tls: { ca: wrong } }, /wrong\.pem: not a PEM certificate$/);
  refused({ ...here, tls: { certificate: wrong, privateKey: wrong } }, /not a PEM certificate and its unencrypted private key/);
  refused({ ...here, tls: true, tokenFile: wrong }, /wrong\.pem: not a bearer token/);
  const loop = join(folder, "loop.pem");
  await symlink(loop, loop);
  refused({ ...here, tls: { ca: loop } }, /loop\.pem: ELOOP/);
});

test("a token is reloaded when its changed file has settled, and an unusable one is not used", async () => {
  const path = join(folder, "token");
  const write = async (content: string, secondsAgo: number) => {
    await writeFile(path, content);
    const then = Date.now() / 1_000 - secondsAgo;
    await utimes(path, then, then);
  };
  await write("\ufefffirst\n", 60);
  const warnings: string[] = [];
  const source = tokenFile(path, (message) => warnings.push(message));
  const token = () => source({ signal: AbortSignal.abort() });
  assert.equal(token(), "first");
  await write("seco", 0);
  assert.equal(token(), "first", "it may be half a token");
  await write("second", 30);
  assert.equal(token(), "second");
  await write("S3CRET S3CRET", 20);
  assert.deepEqual([token(), token()], ["second", "second"]);
  assert.deepEqual(warnings, [
    `reload failed: ${path}: not a bearer token: expected one line, as the issuer gave it; keeping the previous token`,
  ]);
  await rm(path);
  assert.equal(token(), "second");
});

test("what happens to files and callbacks ends no call", async () => {
  const path = join(folder, "roots.pem");
  await writeFile(path, rootCertificates[0] ?? "");
  const warnings: string[] = [];
  const onWarning = (message: string) => {
    warnings.push(message);
    throw new Error("a log that is full");
  };
  const vault = new KeyVaultClient({ address: "127.0.0.1:1", tls: { ca: path }, timeoutMs: 150, onWarning });
  await writeFile(path, "S3CRET");
  await utimes(path, 1, 1);
  await assert.rejects(vault.whoAmI(), keyvault.UnavailableError);
  assert.deepEqual(warnings, [`reload failed: ${path}: not a PEM certificate; keeping the previous files`]);
  await rm(path);
  await symlink(path, path); // to itself
  await assert.rejects(vault.whoAmI(), keyvault.UnavailableError);
  vault.close();
});

test("a token is reloaded where the clock of its disk is ahead", async () => {
  const path = join(folder, "ahead");
  await writeFile(path, "first");
  const source = tokenFile(path, () => undefined);
  const token = () => source({ signal: AbortSignal.abort() });
  await writeFile(path, "second");
  await utimes(path, 9e9, 9e9);
  assert.equal(token(), "first", "it may be half a token");
  await sleep(1_050);
  assert.equal(token(), "second");
});

test("why there is no connection is a sentence with what to do", () => {
  const last = (text: string) => `No connection established. Last error: ${text}. Resolution note: `;
  for (const [details, why, final] of [
    [last("Error: connect ECONNREFUSED 127.0.0.1:1"), "connection refused. Is the server running?", false],
    [last("Failed to connect (2026-11-29T19:45:11.171Z)"), "the server closed the connection. Does it require a client", false],
    [last("Error: self-signed certificate in certificate chain"), "the server's certificate is not trusted.", true],
    [last("Error: certificate has expired"), "the server's certificate is not valid (certificate has expired)", true],
    [last("Error [ERR_TLS_CERT_ALTNAME_INVALID]: Hostname/IP does not match certificate's altnames: x"), "the server's certificate is for another host", true],
    [last("Error: 80:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:a.c:3:\n"), "the server does not speak TLS", true],
    [last("Error: 80:error:0A000412:SSL routines:ssl3_read_bytes:sslv3 alert bad certificate:a.c:3:SSL alert number 42"), "the server refused the connection.", true],
    ["Name resolution failed for target dns:///x:1", "the host name does not resolve.", false],
    ["Deadline exceeded after 0.4s,Waiting for LB pick", "no answer in time.", false],
    ["something\nelse", "something\\x0aelse", false],
  ] as const) {
    const explained = explain(details, true);
    assert.ok(explained.why.startsWith(why), explained.why);
    assert.equal(explained.final, final, details);
  }
  assert.match(explain(last("Failed to connect"), false).why, /Does it require TLS\?$/);
});

test("what others say moves no cursor and hides nothing", () => {
  assert.equal(printable("naïve 日本 \x1b[2J\r\n\u202e\u200b\u00a0\u3164\ud800\u{e0100}"),
    "naïve 日本 \\x1b[2J\\x0d\\x0a\\u202e\\u200b\\u00a0\\u3164\\ud800\\U000e0100");
  assert.equal(quote(`a"${"x".repeat(99)}`), `"a\\"${"x".repeat(58)}..."`);
});

test("a client is made by the environment, and an invalid variable is named", () => {
  const client = clientFromEnvironment({}, { KEYVAULT_TIMEOUT: "2.5" });
  assert.equal(client.timeoutMs, 2_500);
  client.close();
  const same = clientFromEnvironment({ timeoutMs: undefined }, { KEYVAULT_TIMEOUT: "2.5" });
  assert.equal(same.timeoutMs, 2_500);
  same.close();
  const away = { KEYVAULT_TLS: "1", KEYVAULT_ADDRESS: "192.0.2.1:1" };
  clientFromEnvironment({ tls: undefined }, away).close();
  clientFromEnvironment({ token: () => "t" }, { ...away, KEYVAULT_TOKEN_FILE: "absent" }).close();
  for (const name of ["KEYVAULT_TLS", "KEYVAULT_INSECURE"]) {
    clientFromEnvironment({}, { KEYVAULT_ADDRESS: "192.0.2.1:50051", [name]: "true" }).close();
  }
  for (const variable of [
    "KEYVAULT_ADDRESS=192.0.2.1:50051", "KEYVAULT_ADDRESS=127.0.0.1.example:1", "KEYVAULT_ADDRESS=127.0.0.1:99999",
    "KEYVAULT_ADDRESS=", "KEYVAULT_TIMEOUT=0", "KEYVAULT_TIMEOUT=NaN", "KEYVAULT_TIMEOUT=86401", "KEYVAULT_TIMEOUT= ",
    "KEYVAULT_CA=", "KEYVAULT_TOKEN_FILE=token", "KEYVAULT_CERTIFICATE=a.pem", "KEYVAULT_CA=absent.pem",
    "KEYVAULT_TLS=perhaps", "KEYVAULT_SERVER_NAME=db.example", "KEYVAULT_INSECURE=maybe",
  ]) {
    const [name = "", value] = variable.split("=");
    assert.throws(() => clientFromEnvironment({}, { [name]: value }), (error) => {
      assert.ok(error instanceof InvalidRequestError && error.message.includes("KEYVAULT_"), variable);
      assert.equal(keyvault.exitCodeOf(error), 2);
      return true;
    }, variable);
  }
});

test("the exit code says what a script can do", () => {
  const of = { reason: "A_REASON" };
  for (const [error, code] of [
    [new keyvault.InvalidRequestError("", of), 1], [new keyvault.InvalidRequestError(""), 2],
    [new keyvault.RecordDamagedError("", of), 1], [new keyvault.ServerFailureError("", of), 1],
    [new keyvault.MasterKeyUnusableError("", of), 1], [new keyvault.NotFoundError("", of), 3],
    [new keyvault.ConflictError("", of), 4], [new keyvault.AlreadyExistsError("", of), 4],
    [new keyvault.DeniedError("", of), 5], [new keyvault.NotAuthorizedError("", of), 5],
    [new keyvault.BusyError("", { ...of, retryAfterMs: 0 }), 6], [new keyvault.ClosedError(""), 6],
    [new keyvault.OutcomeUnknownError("", of), 7], [new keyvault.AbortedError(""), 130], [new DOMException("", "AbortError"), 130],
    [new Error(""), 1],
  ] as const) {
    assert.equal(keyvault.exitCodeOf(error), code, error.name);
  }
});
