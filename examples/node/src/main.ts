#!/usr/bin/env node
/** kv keeps secrets in a KeyVault server. A failure is one line on standard error. */
import { addAbortSignal } from "node:stream";

import { exitCodeOf, printable } from "@keyvault-grpc/keyvault";

import { run } from "./kv.js";

process.noDeprecation = true; // Node would remark on a server of TLS that is named by its IP address (DEP0123)
const interrupted = new AbortController(); // so that it says what is known
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => interrupted.abort());
process.stdout.on("error", () => undefined); // the write below reports it
try {
  const stdin = addAbortSignal(interrupted.signal, process.stdin);
  const out = await run(process.argv.slice(2), stdin, interrupted.signal);
  await new Promise<void>((resolve, reject) => {
    process.stdout.write(out, (error) => (error ? reject(error) : resolve()));
  });
} catch (error) {
  process.stderr.write(`kv: ${printable(error instanceof Error ? error.message : String(error))}\n`);
  process.exitCode = exitCodeOf(error);
}
process.stdin.destroy(); // it would keep the process alive
