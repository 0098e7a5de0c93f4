/** Every test of the vectors that all languages share; docs/envelope.md, section 11, says what the fields and edits mean. */
import assert from "node:assert/strict";
import { createHash, createSecretKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  type Binding, commitsTo, EnvelopeNotOpenedError, type Kind, MalformedEnvelopeError, open, parse, seal, sealWithSalt,
} from "../kve1.js";

type Edit =
  | { op: "xor"; offset: number; value: number }
  | { op: "set"; offset: number; hex: string }
  | { op: "truncate" | "pad"; length: number }
  | { op: "append"; hex: string }
  | { op: "chunks"; order: number[] };

interface Vector {
  tcId: number;
  comment: string;
  key: string;
  tenant: string;
  keyId: string;
  envelope?: string;
  head?: string;
  base?: number;
  edits?: Edit[];
  result: "valid" | "invalid";
  phase?: "parse" | "open";
  kind?: Kind;
  revision?: string;
  commits?: boolean;
  plaintext?: string;
  plaintextLength?: number;
  plaintextSha256?: string;
}

interface Vectors {
  algorithm: string;
  numberOfTests: number;
  testGroups: { tests: Vector[] }[];
}

const file = new URL("../../testdata/kve1.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")) as Vectors;
const tests = vectors.testGroups.flatMap((group) => group.tests);
const byId = new Map(tests.map((vector) => [vector.tcId, vector]));

test("every vector of kve1.json is accepted or refused as it says", () => {
  assert.equal(vectors.algorithm, "KVE1");
  const counts = { valid: 0, invalid: 0 };
  for (const vector of tests) {
    try {
      check(vector);
    } catch (cause) {
      throw new Error(`tcId ${vector.tcId}, ${vector.comment}: ${String(cause)}`, { cause });
    }
    counts[vector.result] += 1;
  }
  assert.equal(counts.valid + counts.invalid, vectors.numberOfTests);
  assert.equal(byId.size, vectors.numberOfTests);
  console.log(`kve1.json: ${counts.valid} valid, ${counts.invalid} invalid, all agree`);
});

function check(vector: Vector): void {
  if (vector.head !== undefined) {
    checkHead(vector, Buffer.from(vector.head, "hex"));
    return;
  }
  const envelope = envelopeOf(vector);
  const bound = bindingOf(vector);
  if (vector.phase === "parse") {
    assert.equal(vector.result, "invalid");
    assert.throws(() => parse(envelope), MalformedEnvelopeError);
    assert.throws(() => open({ ...bound, envelope }), MalformedEnvelopeError);
    return;
  }
  const header = parse(envelope);
  assert.deepEqual(header, { kind: vector.kind, revision: BigInt(vector.revision ?? "") });
  assert.equal(commitsTo({ ...bound, head: envelope.subarray(0, 72) }), vector.commits);
  if (vector.result === "invalid") {
    assert.equal(vector.phase, "open");
    assert.throws(() => open({ ...bound, envelope }), EnvelopeNotOpenedError);
    return;
  }
  assert.equal(vector.result, "valid");
  const plaintext = plaintextOf(vector);
  assert.deepEqual(open({ ...bound, envelope: new Uint8Array(envelope) }), { ...header, plaintext });
  const again = sealWithSalt(envelope.subarray(16, 40), { ...bound, ...header, plaintext: new Uint8Array(plaintext) });
  assert.ok(again.equals(envelope), "sealed with the same salt it is another envelope");
}

function bindingOf({ key, tenant, keyId }: Vector): Binding {
  return { key: createSecretKey(Buffer.from(key, "hex")), tenant, keyId };
}

function checkHead(vector: Vector, head: Buffer): void {
  const commits = () => commitsTo({ ...bindingOf(vector), head });
  if (vector.result === "valid") {
    assert.equal(commits(), vector.commits);
  } else {
    assert.equal(vector.phase, "parse");
    assert.throws(commits, MalformedEnvelopeError);
  }
}

test("a name that has no UTF-8 is refused, not replaced", () => {
  const key = createSecretKey(Buffer.alloc(32));
  const data = { kind: "DATA", revision: 1n, plaintext: Buffer.of() } as const;
  const envelope = seal({ key, tenant: "acme", keyId: "k", ...data });
  for (const name of ["\ud800", "a\udfff", "\udc00\ud800", "x".repeat(65_536)]) {
    for (const bound of [{ key, tenant: name, keyId: "k" }, { key, tenant: "acme", keyId: name }]) {
      assert.throws(() => seal({ ...bound, ...data }), RangeError);
      assert.throws(() => open({ ...bound, envelope }), RangeError);
      assert.throws(() => commitsTo({ ...bound, head: envelope.subarray(0, 72) }), RangeError);
    }
  }
});

test("what no envelope may hold is not sealed", () => {
  const bound = { key: createSecretKey(Buffer.alloc(32)), tenant: "acme", keyId: "k" };
  const data = { ...bound, kind: "DATA" as Kind, revision: 1n, plaintext: Buffer.of() };
  for (const wrong of [
    { revision: 0n }, { revision: 2n ** 63n }, { kind: "OTHER" as Kind }, { plaintext: Buffer.alloc(380_001) },
    { kind: "TOMBSTONE" as Kind, plaintext: Buffer.alloc(1) }, { kind: "REKEY" as Kind },
    { key: createSecretKey(Buffer.alloc(31)) },
  ]) {
    assert.throws(() => seal({ ...data, ...wrong }), RangeError);
  }
});

function plaintextOf(vector: Vector): Buffer {
  if (vector.plaintext !== undefined) return Buffer.from(vector.plaintext, "hex");
  assert.ok(vector.plaintextLength !== undefined && vector.plaintextSha256 !== undefined);
  const plaintext = Buffer.from(Uint8Array.from({ length: vector.plaintextLength }, (_, i) => i % 251));
  assert.equal(createHash("sha256").update(plaintext).digest("hex"), vector.plaintextSha256);
  return plaintext;
}

function envelopeOf(vector: Vector): Buffer {
  if (vector.envelope !== undefined) return Buffer.from(vector.envelope, "hex");
  const base = byId.get(vector.base ?? 0)?.envelope;
  assert.ok(base !== undefined && vector.edits !== undefined, "neither an envelope nor a base with edits");
  return vector.edits.reduce(edited, Buffer.from(base, "hex"));
}

function edited(envelope: Buffer, edit: Edit): Buffer {
  switch (edit.op) {
    case "xor": {
      const changed = Buffer.from(envelope);
      changed.writeUInt8(changed.readUInt8(edit.offset) ^ edit.value, edit.offset);
      return changed;
    }
    case "set": {
      const changed = Buffer.from(envelope);
      assert.equal(changed.write(edit.hex, edit.offset, "hex"), edit.hex.length / 2);
      return changed;
    }
    case "truncate":
      return envelope.subarray(0, edit.length);
    case "append":
      return Buffer.concat([envelope, Buffer.from(edit.hex, "hex")]);
    case "pad":
      return Buffer.concat([envelope], edit.length);
    case "chunks": {
      const chunk = (i: number) => envelope.subarray(72 + 16_400 * i, 72 + 16_400 * (i + 1));
      return Buffer.concat([envelope.subarray(0, 72), ...edit.order.map(chunk)]);
    }
  }
}
