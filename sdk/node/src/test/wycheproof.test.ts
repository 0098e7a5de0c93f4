/**
 * The vectors that others publish of Cobblestone-256, the layer below KVE1. WYCHEPROOF names a clone of
 * github.com/C2SP/wycheproof; its doc/c2sp_chunked_encryption.md says what the fields mean.
 */
import assert from "node:assert/strict";
import { createHash, createSecretKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inflateSync } from "node:zlib";

import { EnvelopeNotOpenedError, openMessage, sealMessage } from "../kve1.js";

interface Vector {
  comment: string;
  key: string;
  ctx: string;
  ct: string;
  msgSha512: string;
  result: "valid" | "invalid";
}

const clone = process.env["WYCHEPROOF"] ?? "";

test("every vector of Wycheproof agrees", { skip: clone === "" }, () => {
  const path = join(clone, "testvectors_v1", "c2sp_chunked_encryption_aes_256_gcm_test.json");
  const file = JSON.parse(readFileSync(path, "utf8")) as { numberOfTests: number; testGroups: { tests: Vector[] }[] };
  const counts = { valid: 0, invalid: 0 };
  for (const vector of file.testGroups.flatMap((group) => group.tests)) {
    check(vector);
    counts[vector.result] += 1;
  }
  assert.equal(counts.valid + counts.invalid, file.numberOfTests);
  console.log(`wycheproof: ${counts.valid} valid, ${counts.invalid} invalid, all agree`);
});

function check(vector: Vector): void {
  const [key, context] = [createSecretKey(Buffer.from(vector.key, "hex")), Buffer.from(vector.ctx, "hex")];
  const message = inflateSync(Buffer.from(vector.ct, "hex"));
  if (vector.result === "invalid") {
    const refused = key.symmetricKeySize === 32 ? EnvelopeNotOpenedError : RangeError;
    assert.throws(() => openMessage(key, context, message), refused, vector.comment);
    return;
  }
  const plaintext = openMessage(key, context, message);
  assert.equal(createHash("sha512").update(plaintext).digest("hex"), vector.msgSha512, vector.comment);
  const sealed = sealMessage(key, context, message.subarray(0, 24), plaintext);
  assert.ok(sealed.equals(message), `${vector.comment}: sealed with the same salt it is another message`);
}
