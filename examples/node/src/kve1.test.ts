/** Every test of tests/vectors/kve1.json; docs/envelope.md, section 11, says what the fields and edits mean. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  commitsTo, EnvelopeDoesNotOpen, type Kind, MalformedEnvelope, open, parse, seal, sealWithSalt,
} from "./kve1.js";

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

const file = new URL("../../../tests/vectors/kve1.json", import.meta.url);
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
  if (vector.head !== undefined) return checkHead(vector, Buffer.from(vector.head, "hex"));
  const envelope = envelopeOf(vector);
  const key = Buffer.from(vector.key, "hex");
  if (vector.phase === "parse") {
    assert.equal(vector.result, "invalid");
    assert.throws(() => parse(envelope), MalformedEnvelope);
    assert.throws(() => open(key, vector.tenant, vector.keyId, envelope), MalformedEnvelope);
    return;
  }
  const header = parse(envelope);
  assert.deepEqual(header, { kind: vector.kind, revision: BigInt(vector.revision ?? "") });
  assert.equal(commitsTo(envelope.subarray(0, 72), key, vector.tenant, vector.keyId), vector.commits);
  if (vector.result === "invalid") {
    assert.equal(vector.phase, "open");
    assert.throws(() => open(key, vector.tenant, vector.keyId, envelope), EnvelopeDoesNotOpen);
    return;
  }
  assert.equal(vector.result, "valid");
  const plaintext = plaintextOf(vector);
  assert.deepEqual(open(key, vector.tenant, vector.keyId, envelope), { ...header, plaintext });
  const salt = envelope.subarray(16, 40);
  const again = sealWithSalt(salt, key, vector.tenant, vector.keyId, header.kind, header.revision, plaintext);
  assert.ok(again.equals(envelope), "sealed with the same salt it is another envelope");
}

function checkHead(vector: Vector, head: Buffer): void {
  const commits = () => commitsTo(head, Buffer.from(vector.key, "hex"), vector.tenant, vector.keyId);
  if (vector.result === "valid") {
    assert.equal(commits(), vector.commits);
  } else {
    assert.equal(vector.phase, "parse");
    assert.throws(commits, MalformedEnvelope);
  }
}

test("a name that has no UTF-8 is refused, not replaced", () => {
  const key = Buffer.alloc(32);
  const sealed = seal(key, "acme", "k", "DATA", 1n, Buffer.of());
  for (const name of ["\ud800", "a\udfff", "\udc00\ud800", "x".repeat(65_536)]) {
    for (const [tenant, keyId] of [[name, "k"], ["acme", name]] as const) {
      assert.throws(() => seal(key, tenant, keyId, "DATA", 1n, Buffer.of()), RangeError);
      assert.throws(() => open(key, tenant, keyId, sealed), RangeError);
      assert.throws(() => commitsTo(sealed.subarray(0, 72), key, tenant, keyId), RangeError);
    }
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
