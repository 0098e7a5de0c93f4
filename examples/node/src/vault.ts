/**
 * One KeyVault server: calls that are bounded in time, retried where that is right, and failures in full.
 *
 * The rule of this file: a request is retried as the same bytes, by whose digest the server knows it. Once an attempt
 * of a mutation is unknown, only OK, or a refusal by a server that would know the envelope, settles the mutation: all
 * else is OutcomeUnknown.
 */
import { setTimeout as sleep } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo, Status } from "./generated/details.js";
import { parse } from "./kve1.js";

const FIRST_WAIT = 200; // milliseconds
const LONGEST_WAIT = 2_000;
const SHORTEST_ATTEMPT = 100; // is what has to be left of the time for another attempt
const MAX_MESSAGE = 512 * 1024;
const { CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, UNKNOWN } = grpc.status;

/** Of gRPC or a proxy: the same bytes may be answered later. */
const PASSING = [UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, INTERNAL];
/** Of KeyVault: what was asked may have been done all the same. */
const UNSETTLED = ["BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"];
/** Of KeyVault: nothing was done, and the server may say when to try again. */
const LIMITED = ["RATE_LIMITED", "BACKEND_THROTTLED"];
const RETRIED = [...LIMITED, "BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "SERVER_STOPPING"];

const OLDER = " (the server does not know this call: it is an older KeyVault, or another service)";

/** What the vault's ErrorInfo says; nothing if it was not the vault that answered. */
interface About {
  reason?: string;
  /** Of STALE_REVISION and RECORD_EXISTS. Nothing proves it: no envelope is sealed for the one after it. */
  currentRevision?: bigint;
  /** With it: from which revision on the server knows the envelopes of the record. */
  rememberedSince?: bigint;
  /** Of STALE_REVISION: the name was purged. */
  vacant?: boolean;
}

/** A call that was not answered with OK. */
export class Failure extends Error {
  constructor(
    message: string,
    readonly about: About = {},
    /** Whether the request was sent, and may have been carried out. */
    readonly unsettled = false,
    /** Milliseconds after which to try again; undefined if that is of no use. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** A mutation was sent, was not answered, and may or may not have been carried out. */
export class OutcomeUnknown extends Error {
  constructor(cause: string) {
    super(`the outcome is unknown, get the record to see: ${cause}`);
  }
}

/** A connection to one server, for as long as its time lasts. */
export class Vault {
  private readonly client: grpc.Client;
  private readonly deadline: number;

  /** `tls` is null for plaintext; `seconds` is the time for all calls together, from now on. */
  constructor(private readonly address: string, tls: grpc.ChannelCredentials | null, seconds: number) {
    this.deadline = performance.now() + 1_000 * seconds;
    this.client = new grpc.Client(address, tls ?? grpc.credentials.createInsecure(), {
      "grpc.max_send_message_length": MAX_MESSAGE,
      "grpc.max_receive_message_length": MAX_MESSAGE,
      "grpc.enable_retries": 0, // ours know which answer means what
      "grpc.service_config_disable_resolution": 1, // nor may DNS turn them on
      "grpc.enable_http_proxy": tls ? 1 : 0, // no proxy reads what was to stay on this machine
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1_000,
      "grpc.keepalive_time_ms": 10_000, // or a half-open connection would never be left
      "grpc.keepalive_timeout_ms": 5_000,
      "grpc.keepalive_permit_without_calls": 1,
    });
  }

  close(): void {
    this.client.close();
  }

  /** Calls until there is an answer or the time is over. Throws Failure; OutcomeUnknown for a mutation. */
  async call<Request extends object, Response extends object>(
    method: grpc.MethodDefinition<Request, Response>, request: Request,
  ): Promise<Response> {
    const sealed = "envelope" in request ? parse(request.envelope as Buffer).revision : undefined;
    let unknown = false;
    for (let bound = FIRST_WAIT; ; bound = Math.min(2 * bound, LONGEST_WAIT)) {
      try {
        await this.connect();
        const response = await this.send(method, request);
        if (sealed === undefined || ("revision" in response && response.revision === sealed)) return response;
        throw new OutcomeUnknown(`the server answered OK for another revision than ${sealed}`);
      } catch (failure) {
        if (!(failure instanceof Failure)) throw failure;
        unknown ||= failure.unsettled;
        if (failure.retryAfter !== undefined && (await this.pause(failure.retryAfter, bound))) continue;
        if (sealed === undefined || !unknown || provesRefusal(failure.about, sealed)) throw failure;
        throw new OutcomeUnknown(`the change was sent, then: ${failure.message}`);
      }
    }
  }

  /** Waits at least this long and a random time below `bound` more; false at once if too little time would be left. */
  private async pause(least: number, bound: number): Promise<boolean> {
    const left = this.left() - least;
    if (left < SHORTEST_ATTEMPT) return false;
    await sleep(least + Math.random() * Math.min(bound, left / 2));
    return true;
  }

  /** Waits for a connection, so that a call that fails after this is known to have been sent. */
  private connect(): Promise<void> {
    const failure = new Failure(`UNAVAILABLE: cannot connect to ${this.address} in time: check the server and TLS`);
    return new Promise((resolve, reject) => {
      this.client.waitForReady(Date.now() + this.left(), (late) => (late ? reject(failure) : resolve()));
    });
  }

  private send<Request extends object, Response extends object>(
    method: grpc.MethodDefinition<Request, Response>, request: Request,
  ): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    const options = { deadline: Date.now() + this.left() };
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        path, requestSerialize, responseDeserialize, request, options,
        (error, response) => (error ? reject(failureOf(error)) : resolve(response as Response)),
      );
    });
  }

  private left(): number {
    return Math.max(0, this.deadline - performance.now());
  }
}

/** Whether the server would have known an envelope of this revision, had it accepted it. */
function provesRefusal({ reason, currentRevision, rememberedSince }: About, sealed: bigint): boolean {
  if (reason !== "STALE_REVISION" && reason !== "RECORD_EXISTS") return false;
  if (currentRevision === undefined || rememberedSince === undefined) return false;
  return rememberedSince <= sealed && sealed <= currentRevision;
}

function failureOf(error: grpc.ServiceError): Failure {
  const { info, delay } = detailsOf(error.metadata);
  const { reason, metadata = {} } = info ?? {};
  const named = [grpc.status[error.code], reason].filter(Boolean).join(" ");
  const id = metadata["request_id"];
  const about: About = {};
  if (reason) about.reason = reason;
  const [current, since] = [revisionOf(metadata["current_revision"]), revisionOf(metadata["remembered_since"])];
  if (current !== undefined) about.currentRevision = current;
  if (since !== undefined) about.rememberedSince = since;
  if (metadata["vacant"] === "true") about.vacant = true;
  const retried = reason ? RETRIED.includes(reason) : PASSING.includes(error.code);
  const wait = reason && LIMITED.includes(reason) ? Math.max(0, delay) : 0;
  const older = !reason && error.code === grpc.status.UNIMPLEMENTED ? OLDER : "";
  return new Failure(
    `${named}: ${error.details}${older}${id ? ` (${id})` : ""}`,
    about,
    !reason || UNSETTLED.includes(reason),
    retried ? wait : undefined,
  );
}

function revisionOf(text: string | undefined): bigint | undefined {
  return text !== undefined && /^[0-9]{1,19}$/.test(text) ? BigInt(text) : undefined;
}

/** Reads the google.rpc.Status that gRPC leaves packed in the trailers. */
function detailsOf(metadata: grpc.Metadata): { info?: ErrorInfo; delay: number } {
  const found: ReturnType<typeof detailsOf> = { delay: 0 };
  const [packed] = metadata.get("grpc-status-details-bin");
  try {
    for (const { typeUrl, value } of Buffer.isBuffer(packed) ? Status.decode(packed).details : []) {
      if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        const info = ErrorInfo.decode(value);
        if (info.domain === "keyvault") found.info = info;
      } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
        const { seconds, nanos } = RetryInfo.decode(value).retryDelay ?? { seconds: 0n, nanos: 0 };
        found.delay = 1_000 * Number(seconds) + nanos / 1e6;
      }
    }
  } catch {
    // something on the way made these bytes up: the status has to do
  }
  return found;
}
