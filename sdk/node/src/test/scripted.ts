/** A server that answers from a script, true or not. */
import assert from "node:assert/strict";

import * as grpc from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo, Status } from "../generated/details.js";
import { KeyVaultService, type ReadResponse } from "../generated/keyvault/v1/keyvault.js";
import { type ClientOptions, DataKey, KeyVaultClient } from "../index.js";
import { type Kind, seal } from "../kve1.js";

/** How the server answers one call. */
export type Step = (request: unknown) => object | Promise<object>;

export const keyId = "prod/db";

/** Asks a client of a server that answers with the steps in turn, all of which have to be used. */
export async function scripted(
  steps: readonly Step[], use: (vault: KeyVaultClient, asked: unknown[]) => Promise<void>, options?: Partial<ClientOptions>,
): Promise<void> {
  const [left, asked]: [Step[], unknown[]] = [[...steps], []];
  const play = ({ request }: { request: unknown }, reply: grpc.sendUnaryData<object>) => {
    asked.push(request);
    const step = left.shift() ?? refuses(grpc.status.INTERNAL, "SCRIPT_IS_OVER");
    void Promise.resolve(request).then(step).then(
      (answer) => reply(null, answer), (error: unknown) => reply(error as grpc.ServiceError),
    );
  };
  const server = new grpc.Server();
  server.addService(KeyVaultService, Object.fromEntries(Object.keys(KeyVaultService).map((name) => [name, play])));
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => {
      return error ? reject(error) : resolve(bound);
    });
  });
  const vault = new KeyVaultClient({ address: `127.0.0.1:${port}`, ...options });
  try {
    await use(vault, asked);
    assert.equal(left.length, 0, `${left.length} steps are left`);
  } finally {
    vault.close();
    server.forceShutdown();
  }
}

export function says(answer: object): Step {
  return () => answer;
}

/** Answers as KeyVault does, with a RetryInfo of so many seconds, if any. */
export function refuses(code: grpc.status, reason: string, metadata: Record<string, string> = {}, seconds?: number): Step {
  const info = ErrorInfo.encode({ reason, domain: "keyvault", metadata }).finish();
  const detail = { typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value: Buffer.from(info) };
  const details = [detail];
  if (seconds !== undefined) {
    const wait = RetryInfo.encode({ retryDelay: { seconds: BigInt(seconds), nanos: 0 } }).finish();
    details.push({ typeUrl: "type.googleapis.com/google.rpc.RetryInfo", value: Buffer.from(wait) });
  }
  const trailers = new grpc.Metadata();
  trailers.set("grpc-status-details-bin", Buffer.from(Status.encode({ details }).finish()));
  return () => Promise.reject(Object.assign(new Error(), { code, details: "because", metadata: trailers }));
}

/** What Read answers when the key has sealed this, with the revision that the server claims. */
export function stored(
  key: DataKey, { kind = "DATA", sealed = 1n, claimed = sealed, text = "", name = keyId }: Stored,
): ReadResponse {
  assert.ok(key.secret);
  const envelope = seal({
    key: key.secret, tenant: key.tenant, keyId: name, kind, revision: sealed, plaintext: Buffer.from(text),
  });
  const times = { createTime: undefined, updateTime: undefined };
  return { tenant: key.tenant, envelope, revision: claimed, ...times, deleted: false, notModified: false };
}

interface Stored {
  readonly kind?: Kind;
  readonly sealed?: bigint;
  readonly claimed?: bigint;
  readonly text?: string;
  readonly name?: string;
}

/** A key of 32 equal bytes for all names below prod/. */
export function newKey(secret: number): DataKey {
  return new DataKey({ tenant: "acme", scope: "prod/", wrapped: Buffer.of(1, 2, 3), secret: Buffer.alloc(32, secret) });
}
