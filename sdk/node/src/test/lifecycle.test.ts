/** The life of a record on a real server, which the player of one case has. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import {
  AlreadyExistsError, DeniedError, InvalidRequestError, KeyVaultClient, NotFoundError, RecordDamagedError, type Vault,
} from "../index.js";
import { Player, skip } from "./player.js";

const text = (content: string) => Buffer.from(content);

describe("a real server", { skip, timeout: 120_000 }, () => {
  let player: Player;
  let vault: KeyVaultClient;
  before(async () => {
    player = await Player.start("restore");
    vault = new KeyVaultClient({ address: player.cases.get("restore")?.address ?? "" });
  });
  after(async () => {
    vault.close();
    await player.end();
  });

  test("a record lives, and its key is changed", async () => {
    const fake: Vault = vault;
    const [keyId, key] = ["life/db", await fake.generateKey("life/")];
    assert.equal((await vault.create(keyId, text("one"), { key })).revision, 1n);
    await assert.rejects(vault.create(keyId, text("one"), { key }), AlreadyExistsError);
    assert.equal((await vault.update(keyId, text("two"), { key })).revision, 2n);
    assert.equal((await vault.update(keyId, text("three"), { key, revision: 2 })).revision, 3n);
    assert.equal((await vault.restore(keyId, { key, revision: 1 })).revision, 4n);
    assert.equal((await vault.read(keyId, { key })).text(), "one");
    assert.equal((await vault.read(keyId, { key, revision: 2n })).text(), "two");
    assert.equal(await vault.readIfChanged(keyId, { key, known: 4 }), undefined);
    assert.equal((await vault.readIfChanged(keyId, { key, known: 3 }))?.text(), "one");
    assert.deepEqual((await vault.revisions(keyId)).map(({ revision }) => revision), [4n, 3n, 2n, 1n]);
    const newKey = await vault.generateKey(keyId);
    assert.equal((await vault.rotateKey(keyId, { key, newKey })).revision, 5n);
    assert.ok((await vault.rotateKey(keyId, { key, newKey })).replayed);
    await assert.rejects(vault.read(keyId, { key }), RecordDamagedError);
    const rewrapped = await vault.rewrapKey(newKey);
    await assert.rejects(vault.unwrapKey(rewrapped.withoutPlaintext()), DeniedError);
    assert.equal((await vault.delete(keyId, { key: rewrapped })).revision, 6n);
    await assert.rejects(vault.read(keyId, { key: newKey }), NotFoundError);
    const deleted: string[] = [];
    for await (const one of vault.list("life/", { deleted: true })) deleted.push(one.keyId);
    assert.deepEqual(deleted, [keyId]);
    assert.equal((await vault.create(keyId, text(""), { key: newKey })).revision, 7n);
    const who = await vault.whoAmI();
    assert.ok(who.tenant && who.identity === "anonymous" && who.serverVersion);
  });

  test("many are read in few calls", async () => {
    const key = await vault.generateKey("many/");
    const names = Array.from({ length: 120 }, (_, i) => `many/${i}`);
    await Promise.all(names.map((name) => vault.create(name, text(name), { key })));
    const results = await vault.readMany([...names, "many/absent", "few/other"].map((name) => [name, key]));
    assert.equal(results.size, 122);
    for (const [name, { record, error }] of results) {
      if (record) assert.equal(record.text(), name);
      else assert.ok(error instanceof (name === "many/absent" ? NotFoundError : InvalidRequestError), name);
    }
  });

  test("a cache follows the server, and goes on without it", async () => {
    const [keyId, key] = ["cached/db", await vault.generateKey("cached/")];
    await vault.create(keyId, text("one"), { key });
    await assert.rejects(vault.cache([[keyId, key], ["cached/absent", key]]), NotFoundError);
    const other = new KeyVaultClient({ address: player.cases.get("restore")?.address ?? "" });
    const changes: string[] = [];
    const onChange = (name: string, now: { record?: unknown }) => changes.push(`${name} ${now.record ? "changed" : "deleted"}`);
    const cache = await other.cache([[keyId, key]], { refreshMs: 20, onChange });
    await vault.update(keyId, text("two"), { key });
    while (cache.get(keyId).text() !== "two") await new Promise((resolve) => setTimeout(resolve, 5));
    await cache.close();
    await vault.delete(keyId, { key });
    await cache.refresh();
    await cache.refresh();
    assert.throws(() => cache.get(keyId), NotFoundError);
    assert.throws(() => cache.get("cached/other"), InvalidRequestError);
    assert.deepEqual(changes, [`${keyId} changed`, `${keyId} deleted`]);
    other.close();
    await assert.rejects(cache.refresh(), /this client is closed/);
  });
});
