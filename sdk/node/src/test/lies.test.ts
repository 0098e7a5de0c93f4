/** What a server says that cannot be is refused, and what is wrong is not sent. */
import assert from "node:assert/strict";
import { getEventListeners, once, setMaxListeners } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";

import { status } from "@grpc/grpc-js";

import * as keyvault from "../index.js";
import { keyId, newKey, refuses, says, scripted, type Step, stored } from "./scripted.js";

const key = newKey(1);

async function names(vault: keyvault.Vault, prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const one of vault.list(prefix)) found.push(one.keyId);
  return found;
}

function page(nextPageToken: string, ...listed: string[]): Step {
  return says({ names: listed.map((name) => ({ keyId: name })), nextPageToken });
}

test("what is wrong is not sent", async () => {
  await scripted([], async (vault, asked) => {
    const text = Buffer.from("x");
    const calls: (() => Promise<unknown>)[] = [
      () => vault.read("dev/db", { key }),
      () => vault.read("prod/", { key }),
      () => vault.read("prod/db\n", { key }),
      () => vault.read(keyId, { key: undefined as unknown as keyvault.DataKey }),
      () => vault.read(keyId, { key: key.withoutPlaintext() }),
      () => vault.read(keyId, { key, revision: 0 }),
      () => vault.read(keyId, { key, revision: 1.5 }),
      () => vault.read(keyId, { key, revision: 2n ** 63n }),
      () => vault.read(keyId, { key, timeoutMs: 0 }),
      () => vault.read(keyId, { key, timeoutMs: NaN }),
      () => vault.readIfChanged(keyId, { key, known: 0 }),
      () => vault.create(keyId, Buffer.alloc(keyvault.MAX_PLAINTEXT + 1), { key }),
      () => vault.create(keyId, "text" as unknown as Uint8Array, { key }),
      () => vault.update(keyId, text, { key, revision: 0 }),
      () => vault.update(keyId, text, { key, revision: 2n ** 63n - 1n }),
      () => vault.delete("prod", { key }),
      () => vault.restore(keyId, { key, revision: -1 }),
      () => vault.rotateKey(keyId, { key, newKey: newKey(1) }),
      () => vault.generateKey("prod db"),
      () => vault.revisions("prod/"),
      () => names(vault, "prod\x00"),
      () => vault.cache([], { refreshMs: 0 }),
      () => vault.cache([], { refreshMs: Infinity }),
    ];
    for (const call of calls) await assert.rejects(call, keyvault.InvalidRequestError, String(call));
    assert.deepEqual(asked, []);
  });
});

test("an error is of its kind, with the reason, the request and what the server says", async () => {
  const steps = [
    refuses(status.NOT_FOUND, "REVISION_NOT_FOUND", { current_revision: "7", request_id: "r-1" }),
    refuses(status.ABORTED, "STALE_REVISION", { current_revision: "7", vacant: "true" }),
    refuses(status.PERMISSION_DENIED, "POLICY_DENIED", { request_id: "r\x1b-2" }),
  ];
  await scripted(steps, async (vault) => {
    await assert.rejects(vault.read(keyId, { key, revision: 9n }), (error) => {
      assert.ok(error instanceof keyvault.RevisionNotFoundError && error instanceof keyvault.NotFoundError);
      assert.deepEqual([error.currentRevision, error.requestId, error.reason], [7n, "r-1", "REVISION_NOT_FOUND"]);
      return true;
    });
    await assert.rejects(vault.create(keyId, Buffer.of(), { key }), (error) => {
      assert.ok(error instanceof keyvault.ConflictError && error.vacant && error.currentRevision === 7n);
      assert.match(error.message, /the name was purged/);
      return true;
    });
    await assert.rejects(vault.whoAmI(), (error) => {
      assert.ok(error instanceof keyvault.DeniedError && error.name === "DeniedError");
      assert.equal(error.message, "PERMISSION_DENIED POLICY_DENIED: because (request r\\x1b-2)");
      return true;
    });
  });
});

test("an error can be written to a log in JSON", () => {
  const json = (error: Error) => JSON.parse(JSON.stringify(error)) as unknown;
  const details = { reason: "STALE_REVISION", requestId: "r-1", cause: key };
  const conflict = new keyvault.ConflictError("because", { ...details, currentRevision: 2n ** 63n - 1n });
  assert.deepEqual(json(conflict), {
    name: "ConflictError", message: "because", reason: "STALE_REVISION", requestId: "r-1",
    currentRevision: "9223372036854775807", vacant: false,
  });
  const rolledBack = { keyId, revision: "1", seen: "2", reason: "", requestId: "", name: "RolledBackError" };
  const { message, ...shown } = json(new keyvault.RolledBackError({ keyId, revision: 1n, seen: 2n })) as Error;
  assert.deepEqual([shown, message.includes("was rolled back")], [rolledBack, true]);
});

test("a closed client sends nothing, and an aborted call neither", async () => {
  await scripted([], async (vault) => {
    const reason = new Error("the user left");
    await assert.rejects(vault.read(keyId, { key, signal: AbortSignal.abort(reason) }), (error) => {
      assert.ok(error instanceof keyvault.AbortedError);
      assert.deepEqual([error.name, error.code, error.cause], ["AbortError", "ABORT_ERR", reason]);
      return true;
    });
    vault.close();
    await assert.rejects(vault.create(keyId, Buffer.of(), { key }), keyvault.ClosedError);
  });
});

test("closing ends calls in flight, and says whether a change may have been done", async () => {
  const never = () => new Promise<object>(() => undefined);
  await scripted([never, never], async (vault, asked) => {
    const reading = assert.rejects(vault.read(keyId, { key }), keyvault.ClosedError);
    const writing = assert.rejects(vault.create(keyId, Buffer.of(), { key }), keyvault.OutcomeUnknownError);
    while (asked.length < 2) await new Promise((resolve) => setTimeout(resolve, 2));
    vault.close();
    await Promise.all([reading, writing]);
  });
});

test("closing ends a wait for another attempt and for a token", { timeout: 20_000 }, async () => {
  await scripted([refuses(status.RESOURCE_EXHAUSTED, "RATE_LIMITED", {}, 60)], async (vault, asked) => {
    const reading = assert.rejects(vault.read(keyId, { key, timeoutMs: 3_600_000 }), keyvault.ClosedError);
    while (asked.length < 1) await new Promise((resolve) => setTimeout(resolve, 2));
    setTimeout(() => vault.close(), 50);
    await reading;
  });
  const token = () => new Promise<string>(() => undefined);
  const vault = new keyvault.KeyVaultClient({ address: "127.0.0.1:1", tls: true, token });
  setTimeout(() => vault.close(), 5);
  await assert.rejects(vault.read(keyId, { key, timeoutMs: 3_600_000 }), keyvault.ClosedError);
});

test("a change that had no connection was not sent, whatever ends it", async () => {
  const silent = createServer((socket) => socket.unref()).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const { port } = silent.address() as AddressInfo;
  const vault = new keyvault.KeyVaultClient({ address: `127.0.0.1:${port}` });
  const create = (signal?: AbortSignal) => vault.create(keyId, Buffer.of(), { key, signal });
  await assert.rejects(create(AbortSignal.timeout(50)), keyvault.AbortedError);
  setTimeout(() => vault.close(), 50);
  await assert.rejects(create(), keyvault.ClosedError);
  silent.close();
});

test("a signal ends a wait for another attempt as it ends an attempt", { timeout: 20_000 }, async () => {
  await scripted([refuses(status.RESOURCE_EXHAUSTED, "RATE_LIMITED", {}, 60)], async (vault, asked) => {
    const ending = new AbortController();
    const reading = vault.read(keyId, { key, timeoutMs: 3_600_000, signal: ending.signal });
    const ended = assert.rejects(reading, keyvault.AbortedError);
    while (asked.length < 1) await new Promise((resolve) => setTimeout(resolve, 2));
    setTimeout(() => ending.abort(), 50);
    await ended;
  });
});

test("what is no signal is refused before anything is sent", async () => {
  await scripted([], async (vault) => {
    for (const wrong of [new AbortController(), null, "signal", {}]) {
      const signal = wrong as unknown as AbortSignal;
      await assert.rejects(vault.create(keyId, Buffer.of(), { key, signal }), /: invalid signal: give an/);
    }
  });
});

test("calls at once with one signal warn of nothing, and keep no listener", async () => {
  const { signal } = new AbortController();
  const warnings: string[] = [];
  const warned = ({ message }: Error) => warnings.push(message);
  process.on("warning", warned);
  await scripted(Array.from({ length: 20 }, () => says(stored(key, {}))), async (vault) => {
    await Promise.all(Array.from({ length: 20 }, () => vault.read(keyId, { key, signal })));
  });
  setMaxListeners(0, signal);
  await scripted([says(stored(key, {}))], (vault) => vault.read(keyId, { key, signal }).then(() => undefined));
  process.off("warning", warned);
  assert.deepEqual([warnings, getEventListeners(signal, "abort")], [[], []]);
});

test("list asks for every page, and for no more than is wanted", async () => {
  await scripted([page("1", "p/a", "p/b"), page("2"), page("", "p/c"), page("1", "p/a")], async (vault) => {
    assert.deepEqual(await names(vault, "p/"), ["p/a", "p/b", "p/c"]);
    for await (const one of vault.list("p/")) {
      assert.equal(one.keyId, "p/a");
      break;
    }
  });
});

test("a page that cannot be is refused", async () => {
  const endless = Array.from({ length: 100 }, (_, i) => page(String(i + 1)));
  for (const steps of [
    [page("", "q/a")], [page("", "p/\x1b[2J")], [page("", "p/a/")], [page("1", "p/a"), page("", "p/a")],
    [page("1"), page("1")], [page("", ...Array.from({ length: 1_001 }, (_, i) => `p/${i + 1_000}`))], endless,
  ]) {
    await scripted(steps, (vault) => assert.rejects(names(vault, "p/"), (error) => {
      assert.ok(error instanceof keyvault.ServerFailureError && !error.message.includes("\x1b"));
      return true;
    }));
  }
});

test("a history that cannot be is refused", async () => {
  const listed = (size: number, ...numbers: bigint[]) => says({ revisions: numbers.map((revision) => ({ revision, size })) });
  const many = Array.from({ length: 17 }, (_, i) => BigInt(17 - i));
  const lies = [
    listed(99), listed(99, 0n), listed(99, 2n, 2n), listed(99, 2n, 3n), listed(87, 1n), listed(380_457, 1n),
    listed(99, ...many),
  ];
  await scripted(lies, async (vault) => {
    for (let i = 0; i < lies.length; i++) await assert.rejects(vault.revisions(keyId), keyvault.ServerFailureError);
  });
});

test("a rollback is noticed in every read, whatever its answer", async () => {
  const [now, old] = [stored(key, { sealed: 2n }), stored(key, { sealed: 1n })];
  const gone = refuses(status.NOT_FOUND, "REVISION_NOT_FOUND", { current_revision: "1" });
  const steps = [says(now), says(old), says(old), says({ results: [{ record: old }] }), gone];
  const rolledBack = { name: "RolledBackError", revision: 1n, seen: 2n, keyId };
  await scripted(steps, async (vault) => {
    await vault.read(keyId, { key });
    await assert.rejects(vault.read(keyId, { key }), rolledBack);
    await assert.rejects(vault.readIfChanged(keyId, { key, known: 1 }), rolledBack);
    const { error } = (await vault.readMany([[keyId, key]])).get(keyId) ?? {};
    assert.ok(error instanceof keyvault.RolledBackError);
    await assert.rejects(vault.read(keyId, { key, revision: 2 }), rolledBack);
  });
  await scripted([says(now), says(old)], async (vault) => {
    await vault.read(keyId, { key });
    assert.equal((await vault.read(keyId, { key })).revision, 1n, "nothing is remembered");
  }, { remembered: 0 });
});

test("what had no room in a batch is asked for again", async () => {
  const record = (name: string) => ({ record: stored(key, { name }) });
  const refused = (reason: string) => ({ error: { code: status.RESOURCE_EXHAUSTED, reason } });
  const full = refused("BATCH_FULL");
  const keys = new Map(["prod/a", "prod/b", "prod/c"].map((name) => [name, key]));
  const [first, second] = [record("prod/a"), record("prod/b")];
  const steps = [
    says({ results: [first, full, refused("RATE_LIMITED")] }), (request: unknown) => {
      const asked = (request as { items: { keyId: string }[] }).items.map((item) => item.keyId);
      return { results: asked.map((name) => (name === "prod/b" ? second : record(name))) };
    },
  ];
  await scripted(steps, async (vault) => {
    const results = await vault.readMany(keys);
    assert.deepEqual([...results.values()].map(({ error }) => error), [undefined, undefined, undefined]);
    assert.equal(results.size, 3);
  });
  for (const results of [[full, full, full], [full, full]]) {
    await scripted([says({ results })], (vault) => assert.rejects(vault.readMany(keys), keyvault.ServerFailureError));
  }
});
