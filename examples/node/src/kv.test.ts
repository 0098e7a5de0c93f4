/** Bad usage is found before anything is sent; what the verbs do is shown by the tests of all languages together. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { exitCodeOf } from "@keyvault-grpc/keyvault";

import { run } from "./kv.js";

async function* nothing(): AsyncGenerator<Uint8Array> {}

test("bad usage is an error of its own", async () => {
  for (const name of Object.keys(process.env)) if (name.startsWith("KEYVAULT_")) delete process.env[name];
  for (const line of [
    "", "frob k --key f", "get", "get k", "get --key f", "get k l --key f", "get k --kez f", "get k --key f --new-key g",
    "rotate k --key f", "put prod/ --key f", "history", "history prod/", "history k --key f", "list a b", "list --key f",
    "get k --key f --revision 0", "get k --key f --revision x", "put k --key f --revision 1",
  ]) {
    await assert.rejects(run(line.split(" ").filter(Boolean), nothing(), new AbortController().signal), (error) => {
      assert.ok(error instanceof Error && error.message.includes("usage: kv put"), `${line}: ${String(error)}`);
      assert.equal(exitCodeOf(error), 2);
      return true;
    }, line);
  }
});
