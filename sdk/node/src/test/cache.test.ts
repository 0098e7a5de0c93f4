/** A cache keeps what it has, whatever a server or a callback does. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { RolledBackError } from "../index.js";
import { keyId, newKey, says, scripted, stored } from "./scripted.js";

const key = newKey(1);

test("a cache refuses a record below the one that it has", async () => {
  const batch = (sealed: bigint) => says({ results: [{ record: stored(key, { sealed }) }] });
  await scripted([batch(5n), batch(3n)], async (vault) => {
    const cache = await vault.cache([[keyId, key]]);
    await assert.rejects(cache.refresh(), RolledBackError);
    assert.equal(cache.get(keyId).revision, 5n);
    await cache.close();
  }, { remembered: 0 }); // as after 10,000 other names
});

test("a callback that fails ends no refresh", async () => {
  const names = ["prod/a", "prod/b"];
  const batch = (sealed: bigint) => says({ results: names.map((name) => ({ record: stored(key, { name, sealed }) })) });
  const warnings: string[] = [];
  await scripted([batch(1n), batch(2n), batch(3n)], async (vault) => {
    const changed = new Map<string, number>();
    const onChange = (name: string): unknown => {
      changed.set(name, (changed.get(name) ?? 0) + 1);
      if (changed.get(name) === 1) throw new Error("at once");
      return Promise.reject(new Error("later"));
    };
    const cache = await vault.cache(names.map((name) => [name, key]), { onChange });
    await cache.refresh();
    await cache.refresh();
    assert.deepEqual([...changed], [["prod/a", 2], ["prod/b", 2]]);
    assert.equal(cache.get("prod/b").revision, 3n);
    await cache.close();
  }, { onWarning: (message) => warnings.push(message) });
  const wanted = ["at once", "later"].flatMap((why) => names.map((name) => `onChange failed for ${name}: ${why}`));
  assert.deepEqual(warnings, wanted);
});

test("a refresh in the background has the time of its cache", async () => {
  const warnings: string[] = [];
  const never = () => new Promise<object>(() => undefined);
  await scripted([says({ results: [{ record: stored(key, {}) }] }), never], async (vault) => {
    const cache = await vault.cache([[keyId, key]], { refreshMs: 1, timeoutMs: 500 });
    const begin = performance.now();
    while (warnings.length === 0 && performance.now() - begin < 5_000) await sleep(5);
    await cache.close();
  }, { onWarning: (message) => warnings.push(message) });
  assert.equal(warnings.length, 1);
});

test("the cache of a closed client stops without a warning", async () => {
  const warnings: string[] = [];
  await scripted([says({ results: [{ record: stored(key, {}) }] })], async (vault) => {
    await vault.cache([[keyId, key]], { refreshMs: 5 });
    vault.close();
    await sleep(60);
  }, { onWarning: (message) => warnings.push(message) });
  assert.deepEqual(warnings, []);
});
