/** The server in memory keeps the rule of the real one, and fails on request. */
import assert from "node:assert/strict";
import { test } from "node:test";

import * as keyvault from "../index.js";
import { Refusal, TENANT, TestServer } from "../testing/index.js";

const text = (content: string) => Buffer.from(content);

test("a record lives in memory", async () => {
  using server = await TestServer.start();
  const vault: keyvault.Vault = server.client();
  const [keyId, key] = ["prod/db", await vault.generateKey("prod/")];
  assert.equal((await vault.create(keyId, text("one"), { key })).revision, 1n);
  await assert.rejects(vault.create(keyId, text("one"), { key }), keyvault.AlreadyExistsError);
  await vault.update(keyId, text("two"), { key });
  await assert.rejects(vault.update(keyId, text("x"), { key, revision: 1 }), keyvault.ConflictError);
  assert.equal((await vault.restore(keyId, { key, revision: 1 })).revision, 3n);
  assert.equal((await vault.read(keyId, { key })).text(), "one");
  assert.equal((await vault.read(keyId, { key, revision: 2 })).text(), "two");
  await assert.rejects(vault.read(keyId, { key, revision: 9 }), keyvault.RevisionNotFoundError);
  assert.equal(await vault.readIfChanged(keyId, { key, known: 3 }), undefined);
  assert.deepEqual((await vault.revisions(keyId)).map(({ revision }) => revision), [3n, 2n, 1n]);
  const newKey = await vault.generateKey(keyId);
  assert.equal((await vault.rotateKey(keyId, { key, newKey })).revision, 4n);
  assert.ok((await vault.rotateKey(keyId, { key, newKey })).replayed);
  await assert.rejects(vault.update(keyId, text("x"), { key, revision: 4 }), keyvault.NotAuthorizedError);
  const rewrapped = await vault.unwrapKey((await vault.rewrapKey(newKey)).withoutPlaintext());
  assert.equal((await vault.delete(keyId, { key: rewrapped })).revision, 5n);
  await assert.rejects(vault.read(keyId, { key: newKey }), keyvault.NotFoundError);
  const deleted: string[] = [];
  for await (const one of vault.list("prod/", { deleted: true })) deleted.push(one.keyId);
  assert.deepEqual(deleted, [keyId]);
  assert.equal((await vault.create(keyId, text(""), { key: newKey })).revision, 6n);
  const results = await vault.readMany([[keyId, newKey], ["prod/absent", key]]);
  assert.equal(results.get(keyId)?.record?.revision, 6n);
  assert.ok(results.get("prod/absent")?.error instanceof keyvault.NotFoundError);
  assert.equal((await vault.whoAmI()).tenant, TENANT);
});

test("it fails on request, and forgets where a table was rolled back", async () => {
  using server = await TestServer.start();
  const vault = server.client({ timeoutMs: 5_000 });
  const key = await vault.generateKey("prod/");
  server.fail("Create", new Refusal("UNAVAILABLE", "SERVER_STOPPING"), undefined);
  server.fail("Update", new Refusal("INTERNAL", "INTERNAL"));
  await vault.create("prod/db", text("one"), { key });
  await assert.rejects(vault.update("prod/db", text("two"), { key }), keyvault.OutcomeUnknownError);
  await vault.update("prod/db", text("two"), { key });
  server.rollBack("prod/db", 1);
  await assert.rejects(vault.read("prod/db", { key }), keyvault.RolledBackError);
  await assert.rejects(server.client().read("prod/other", { key }), { reason: "RECORD_NOT_FOUND", requestId: "testing" });
});

test("a cache keeps what it has, and says which names it could not refresh", async () => {
  using server = await TestServer.start();
  const vault = server.client();
  const key = await vault.generateKey("prod/");
  const names = ["prod/a", "prod/b"];
  const keys = names.map((name) => [name, key] as const);
  await assert.rejects(vault.cache(keys), (error) => {
    assert.ok(error instanceof keyvault.NotRefreshedError);
    assert.deepEqual([...error.failures.keys()], names);
    return true;
  });
  for (const name of names) await vault.create(name, text("one"), { key });
  const cache = await vault.cache(keys);
  for (const name of names) server.rollBack(name, 1);
  const [writer, otherKey] = [server.client(), await vault.generateKey("prod/")];
  for (const name of names) {
    await writer.create(name, text("forged"), { key: otherKey });
    await writer.update(name, text("forged"), { key: otherKey });
  }
  await assert.rejects(cache.refresh(), { name: "NotRefreshedError" });
  server.fail("BatchRead", new Refusal("PERMISSION_DENIED", "POLICY_DENIED"));
  await assert.rejects(cache.refresh(), keyvault.DeniedError);
  assert.deepEqual(names.map((name) => cache.get(name).text()), ["one", "one"]);
  await cache.close();
});

test("a listing has pages", async () => {
  using server = await TestServer.start();
  const vault = server.client();
  const key = await vault.generateKey("many/");
  const names = Array.from({ length: 101 }, (_, i) => `many/${100 + i}`);
  await Promise.all(names.map((name) => vault.create(name, text(""), { key })));
  const listed: string[] = [];
  for await (const one of vault.list("many/")) listed.push(one.keyId);
  assert.deepEqual(listed, names);
});
