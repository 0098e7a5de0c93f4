/**
 * A KeyVault server in memory.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import * as grpc from "@grpc/grpc-js";

import { KeyVaultClient } from "../client.js";
import type * as pb from "../generated/keyvault/v1/keyvault.js";
import { KeyVaultService } from "../generated/keyvault/v1/keyvault.js";
import type { ClientOptions } from "../options.js";
import { Refusal } from "./refusal.js";
import { type Accepted, Store, TENANT } from "./rule.js";

/** The methods of a server. */
export type Method =
  | "GenerateKey" | "Create" | "Read" | "Update" | "Delete" | "RotateKey" | "RewrapKey" | "UnwrapKey" | "BatchRead"
  | "List" | "ListRevisions" | "WhoAmI";

/**
 * A server in memory, on a port of loopback. It keeps the rule of the real one, and has no policy, no quotas and no
 * disk.
 */
export class TestServer {
  readonly #server = new grpc.Server();
  readonly #store = new Store();
  readonly #fails = new Map<string, (Refusal | undefined)[]>();
  readonly #clients: KeyVaultClient[] = [];
  #port = 0;

  private constructor() {
    const answers = answersOf(this.#store);
    const handlers = Object.entries(KeyVaultService).map(([name, { path }]) => {
      const method = path.slice(path.lastIndexOf("/") + 1);
      return [name, this.#handler(method, answers[name as keyof pb.KeyVaultService] as Answer)] as const;
    });
    this.#server.addService(KeyVaultService, Object.fromEntries(handlers));
  }

  /** Start a server. Stop it at the end of the test, or write `using server = await TestServer.start()`. */
  static async start(): Promise<TestServer> {
    const started = new TestServer();
    started.#port = await new Promise<number>((resolve, reject) => {
      started.#server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) =>
        error ? reject(error) : resolve(port));
    });
    return started;
  }

  /** host:port. */
  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Make a client of the server, which `stop` closes. */
  client(options: Partial<ClientOptions> = {}): KeyVaultClient {
    const made = new KeyVaultClient({ address: this.address, ...options });
    this.#clients.push(made);
    return made;
  }

  /** Let the next calls of a method fail with these in turn; undefined does what was asked. */
  fail(method: Method, ...refusals: readonly (Refusal | undefined)[]): void {
    this.#fails.set(method, [...(this.#fails.get(method) ?? []), ...refusals]);
  }

  /** Drop the last revisions of a record, as somebody does who writes the real server's table. */
  rollBack(keyId: string, revisions: number): void {
    this.#store.records.get(keyId)?.rollBack(revisions);
  }

  /** Stop the server, and close its clients. */
  stop(): void {
    for (const one of this.#clients) one.close();
    this.#server.forceShutdown();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #handler(method: string, answer: Answer): grpc.handleUnaryCall<unknown, object> {
    return ({ request }, reply) => {
      try {
        const refusal = this.#fails.get(method)?.shift();
        if (refusal !== undefined) throw refusal;
        reply(null, answer(request));
      } catch (error) {
        reply(error instanceof Refusal ? error : new Refusal("INTERNAL", "INTERNAL", String(error)));
      }
    };
  }
}

type Answer = (request: unknown) => object;

type Answers = {
  [name in keyof pb.KeyVaultService]: (
    request: Parameters<pb.KeyVaultService[name]["requestSerialize"]>[0],
  ) => ReturnType<pb.KeyVaultService[name]["responseDeserialize"]>;
};

function answersOf(store: Store): Answers {
  return {
    generateKey: ({ scope: asked }) => {
      const scope = asked || randomBytes(16).toString("hex");
      return { tenant: TENANT, scope, ...store.generate(scope) };
    },
    rewrapKey: ({ wrappedKey }) => ({ wrappedKey: store.wrap(store.unwrap(wrappedKey)) }),
    unwrapKey: ({ wrappedKey }) => {
      const { scope, key } = store.unwrap(wrappedKey);
      return { tenant: TENANT, scope, plaintextKey: key.export() };
    },
    create: (request) => written(store.create(request)),
    update: (request) => written(store.update(request)),
    delete: (request) => written(store.delete(request)),
    rotateKey: (request) => written(store.rotate(request)),
    read: (request) => read(store, request),
    batchRead: ({ items }) => ({ results: items.map((item) => result(store, item)) }),
    list: (request) => list(store, request),
    listRevisions: ({ keyId }) => {
      const kept = store.live(keyId).history.toReversed();
      const shown = kept.map(({ revision, at, envelope }) => ({ revision, updateTime: at, size: envelope.length }));
      return { revisions: shown };
    },
    whoAmI: () => {
      return { identity: "test", tenant: TENANT, rules: [{ methods: ["*"], names: ["*"] }], serverVersion: "test" };
    },
  };
}

function written({ record, replayed }: Accepted): pb.CreateResponse {
  return { revision: record.revision, createTime: record.createTime, updateTime: record.current?.at, replayed };
}

function read(store: Store, { keyId, revision, knownRevision, includeDeleted }: pb.ReadRequest): pb.ReadResponse {
  const record = includeDeleted ? store.records.get(keyId) ?? store.live(keyId) : store.live(keyId);
  const found = revision === 0n ? record.current : record.history.find((one) => one.revision === revision);
  if (found === undefined) {
    throw new Refusal("NOT_FOUND", "REVISION_NOT_FOUND", "not kept", { current_revision: String(record.revision) });
  }
  const notModified = knownRevision !== 0n && knownRevision === found.revision;
  return {
    tenant: TENANT,
    envelope: notModified ? Buffer.alloc(0) : found.envelope,
    revision: found.revision,
    createTime: record.createTime,
    updateTime: found.at,
    deleted: !record.isLive,
    notModified,
  };
}

function result(store: Store, item: pb.BatchReadRequest_Item): pb.BatchReadResponse_Result {
  try {
    return { record: read(store, { ...item, revision: 0n }) };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const { code, reason, details: message } = error;
    return { error: { code, reason, message, metadata: { request_id: "testing" }, retryDelay: undefined } };
  }
}

const PAGE = 100; // names; a server may send fewer than it was asked for

function list(store: Store, { prefix, deleted, pageSize, pageToken }: pb.ListRequest): pb.ListResponse {
  const found = [...store.records.values()]
    .filter(({ keyId, isLive }) => keyId.startsWith(prefix) && keyId > pageToken && isLive !== deleted)
    .sort((one, other) => (one.keyId < other.keyId ? -1 : 1));
  const page = found.slice(0, Math.min(pageSize || PAGE, PAGE));
  const names = page.map(({ keyId, createTime }) => ({ keyId, createTime }));
  return { names, nextPageToken: names.length < found.length ? names.at(-1)?.keyId ?? "" : "" };
}
