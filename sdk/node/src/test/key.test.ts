/** Data keys show nothing, and their files are safe from others and from crashes. */
import assert from "node:assert/strict";
import { createSecretKey, randomBytes } from "node:crypto";
import { chmod, chown, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { format, inspect } from "node:util";

import {
  DataKey, InvalidRequestError, loadDataKey, loadOrGenerateKey, replaceDataKey, saveDataKey, VaultRecord,
} from "../index.js";

const SECRET = Buffer.from("S3CRETS3CRETS3CRETS3CRETS3CRET!!");
const key = new DataKey({ tenant: "acme", scope: "prod/", wrapped: Buffer.from("WRAPPED"), secret: SECRET });
const record = new VaultRecord({
  keyId: "prod/db", plaintext: SECRET, revision: 3n, createTime: new Date(0), updateTime: new Date(0),
});
let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "keys-"));
});
after(() => rm(folder, { recursive: true }));

test("nothing prints a key or a record's data", () => {
  const held = { key, record, list: [key], map: new Map([["a", record]]) };
  const shown = [
    inspect(held, { depth: 9, showHidden: true, getters: false }), format("%o %O %s %j", key, record, key, record),
    String(key), key.toString() + record.toString(), JSON.stringify(record), JSON.stringify(structuredClone(key)),
    inspect(key, { customInspect: false, showHidden: true }), inspect(record, { customInspect: false, showHidden: true }),
    Object.entries(key).join(), new Error("x", { cause: key }).stack ?? "",
  ].join("\n");
  const codes = SECRET.subarray(0, 4).join(","); // as an array is printed
  const [hex, base64] = [SECRET.toString("hex"), SECRET.toString("base64")];
  for (const text of ["S3CRET", "WRAPPED", hex, base64, codes, codes.replaceAll(",", ", ")]) {
    assert.ok(!shown.includes(text), shown);
  }
  assert.match(shown, /\[data key of acme for prod\/\]/);
  assert.throws(() => JSON.stringify(held), /a data key is not encoded by accident/);
});

test("a key file is read as it was written, by either spelling", async () => {
  const path = join(folder, "a.key");
  await saveDataKey(key, path);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  const again = await loadDataKey(path);
  assert.deepEqual([again.tenant, again.scope, again.wrapped], [key.tenant, key.scope, key.wrapped]);
  assert.ok(again.secret && key.secret?.equals(again.secret));
  const camel = (await readFile(path, "utf8")).replace("plaintext_key", "plaintextKey").replace("wrapped_key", "wrappedKey");
  assert.ok(DataKey.parse(camel).secret?.equals(createSecretKey(SECRET)));
  assert.equal(DataKey.parse(key.withoutPlaintext().reveal()).secret, undefined);
});

test("a new key file replaces none, and a failed one leaves nothing", async () => {
  const path = join(folder, "kept.key");
  await writeFile(path, "kept", { mode: 0o600 });
  await assert.rejects(saveDataKey(key, path), (error) => {
    assert.ok(error instanceof InvalidRequestError && (error.cause as NodeJS.ErrnoException).code === "EEXIST");
    assert.equal(error.message, `${path}: file exists`);
    return true;
  });
  assert.equal(await readFile(path, "utf8"), "kept");
  await assert.rejects(saveDataKey(key, join(folder, "absent", "a.key")), InvalidRequestError);
  await assert.rejects(replaceDataKey(key, join(folder, "absent.key")), InvalidRequestError);
  const link = join(folder, "link.key");
  await symlink(path, link);
  await replaceDataKey(key, link);
  assert.ok((await loadDataKey(path)).secret, "the link's target is replaced");
  assert.deepEqual((await readdir(folder)).filter((name) => name.startsWith(".")), []);
});

test("a key file that others can use is refused", async () => {
  const path = join(folder, "shared.key");
  await saveDataKey(key, path);
  for (const mode of [0o644, 0o602, 0o604]) {
    await chmod(path, mode);
    await assert.rejects(loadDataKey(path), /has mode 06[04][24], so others can read or write it: .* `chmod go-rwx` it$/);
  }
  await chmod(path, 0o640); // of a group of ours, as Kubernetes mounts a secret
  await loadDataKey(path);
});

test("a key file of another user is refused", { skip: process.geteuid?.() !== 0 && "needs root" }, async () => {
  const path = join(folder, "foreign.key");
  await saveDataKey(key, path);
  await chown(path, 12_345, 0);
  await assert.rejects(loadDataKey(path), /belongs to another user \(uid 12345\), who can write it: `chown` it$/);
});

test("what is not a key is refused, and not quoted", async () => {
  const path = join(folder, "wrong.key");
  const [wrapped_key, plaintext_key] = ["d3JhcHBlZA==", SECRET.toString("base64")];
  const whole = { tenant: "acme", scope: "prod/", plaintext_key, wrapped_key };
  for (const wrong of [
    "S3CRET", "", "null", "[]", JSON.stringify({ ...whole, tenant: 1 }), JSON.stringify({ ...whole, tenant: "A" }),
    JSON.stringify({ ...whole, scope: "" }), JSON.stringify({ ...whole, wrapped_key: undefined }),
    JSON.stringify({ ...whole, wrapped_key: "" }), JSON.stringify({ ...whole, plaintext_key: "S3CRET" }),
    JSON.stringify({ ...whole, plaintext_key: `${plaintext_key}\n` }), JSON.stringify({ ...whole, plaintext_key: 5 }),
    `${JSON.stringify(whole)}${" ".repeat(70_000)}`,
  ]) {
    await writeFile(path, wrong, { mode: 0o600 });
    await assert.rejects(loadDataKey(path), (error) => {
      assert.ok(error instanceof InvalidRequestError && error.message.startsWith(`${path}: not a data key`));
      assert.ok(!inspect(error).includes("S3CRET") && !inspect(error).includes(plaintext_key));
      return true;
    }, wrong);
  }
  await assert.rejects(loadDataKey(join(folder, "absent")), /absent: no such file or directory$/);
});

test("programs that make a key file at once use the same key", async () => {
  const own = await mkdtemp(join(folder, "race-"));
  const made = (scope: string) => new DataKey({ tenant: "acme", scope, wrapped: SECRET, secret: randomBytes(32) });
  const vault = { generateKey: (scope: string) => Promise.resolve(made(scope)) };
  for (let round = 0; round < 10; round++) {
    const path = join(own, `${round}.key`);
    const keys = await Promise.all(Array.from({ length: 8 }, () => loadOrGenerateKey(vault, path, { scope: "prod/" })));
    for (const { secret } of keys) assert.ok(secret && keys[0]?.secret?.equals(secret));
  }
  assert.equal((await readdir(own)).length, 10);
  await assert.rejects(loadOrGenerateKey(vault, join(own, "0.key", "a"), { scope: "prod/" }), /not a directory/);
});
