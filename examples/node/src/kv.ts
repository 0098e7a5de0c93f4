/**
 * The verbs of kv, a small program on top of the library in sdk/node.
 *
 * The rule of this file: a secret goes through files and standard streams, never through an argument.
 */
import { parseArgs } from "node:util";

import {
  AlreadyExistsError, type CallOptions, clientFromEnvironment, type DataKey, InvalidRequestError, loadDataKey,
  loadOrGenerateKey, MAX_PLAINTEXT, type Vault, type Written,
} from "@keyvault-grpc/keyvault";

const USAGE =
  "kv put|delete KEY_ID --key FILE, kv get KEY_ID --key FILE [--revision N], " +
  "kv rotate KEY_ID --key FILE --new-key FILE, kv history KEY_ID, or kv list [PREFIX]";

/** The options of each verb, as they may be given. */
const TAKES: Partial<Record<string, readonly string[]>> = {
  put: ["key"], get: ["key", "key revision"], delete: ["key"], rotate: ["key new-key"], history: [""], list: [""],
};

/** What the caller asked for. */
interface Command {
  readonly verb: string;
  /** The prefix of a list. */
  readonly keyId: string;
  readonly keyFile: string;
  readonly newKeyFile: string;
  readonly revision: bigint | undefined;
}

function parse(args: string[]): Command {
  const option = { type: "string" } as const;
  try {
    const options = { key: option, "new-key": option, revision: option };
    const { positionals, values } = parseArgs({ args, options, allowPositionals: true });
    const [verb = "", keyId = "", ...more] = positionals;
    const given = Object.keys(values).sort().join(" ");
    const isName = keyId !== "" && !keyId.endsWith("/"); // a key may be for a prefix, a record is not
    const isNumber = /^[1-9][0-9]*$/.test(values.revision ?? "1");
    if (TAKES[verb]?.includes(given) && (isName || verb === "list") && isNumber && more.length === 0) {
      const revision = values.revision === undefined ? undefined : BigInt(values.revision);
      return { verb, keyId, keyFile: values.key ?? "", newKeyFile: values["new-key"] ?? "", revision };
    }
  } catch {
    // an unknown option
  }
  throw new InvalidRequestError(`unknown verb, or not its arguments; usage: ${USAGE}`);
}

/** Do what the arguments ask for; return what to print. The signal interrupts it. */
export async function run(
  args: string[], stdin: AsyncIterable<Uint8Array>, signal: AbortSignal,
): Promise<string | Uint8Array> {
  const command = parse(args);
  using vault = clientFromEnvironment();
  const data = command.verb === "put" ? await read(stdin) : new Uint8Array();
  const end = performance.now() + vault.timeoutMs; // for all calls of the command
  const options = () => ({ signal, timeoutMs: Math.max(1, end - performance.now()) });
  switch (command.verb) {
    case "list":
      return await list(vault, command.keyId, options());
    case "history":
      return await history(vault, command.keyId, options());
  }
  const { verb, keyId, keyFile, revision } = command;
  const made = () => loadOrGenerateKey(vault, keyFile, { scope: keyId, ...options() });
  const key = await (verb === "put" ? made() : loadDataKey(keyFile));
  if (verb === "get") return (await vault.read(keyId, { key, revision, ...options() })).plaintext;
  const done = await change(vault, command, { key, data, options });
  return `${keyId} is at revision ${done.revision}\n`;
}

async function read(stdin: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stdin) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_PLAINTEXT) break; // the library says the rest
  }
  return Buffer.concat(chunks);
}

async function list(vault: Vault, prefix: string, options: CallOptions): Promise<string> {
  let lines = "";
  for await (const { keyId } of vault.list(prefix, options)) lines += `${keyId}\n`;
  return lines;
}

async function history(vault: Vault, keyId: string, options: CallOptions): Promise<string> {
  const lines = (await vault.revisions(keyId, options)).map(({ revision, updateTime, size }) => {
    return `revision ${revision}  ${updateTime.toISOString().slice(0, -5)}Z  ${size} bytes sealed\n`;
  });
  return lines.join("");
}

interface Change {
  readonly key: DataKey;
  readonly data: Uint8Array;
  readonly options: () => CallOptions;
}

async function change(
  vault: Vault, { verb, keyId, newKeyFile }: Command, { key, data, options }: Change,
): Promise<Written> {
  switch (verb) {
    case "put":
      try {
        return await vault.create(keyId, data, { key, ...options() });
      } catch (error) {
        if (!(error instanceof AlreadyExistsError)) throw error;
        return vault.update(keyId, data, { key, ...options() });
      }
    case "delete":
      return vault.delete(keyId, { key, ...options() });
  }
  const newKey = await loadOrGenerateKey(vault, newKeyFile, { scope: keyId, ...options() });
  return vault.rotateKey(keyId, { key, newKey, ...options() });
}
