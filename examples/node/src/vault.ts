/**
 * One KeyVault server: calls that are bounded in time, retried where that is right, and failures in full.
 *
 * The rule of this file: a request is retried as the same bytes, by whose digest the server knows it; once a
 * mutation was sent and not answered, only success or a look at the record may answer it: all else is OutcomeUnknown.
 */
import { setTimeout as sleep } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo, Status } from "./generated/details.js";
import { parse } from "./kve1.js";

const FIRST_WAIT = 100; // milliseconds
const LONGEST_WAIT = 1_000;
const RING = 16n; // envelopes of a record that the server knows when they come again
const MAX_MESSAGE = 512 * 1024;

/** A call that was not answered with OK. */
export class Failure extends Error {
  constructor(
    message: string,
    readonly about: {
      /** Of the vault's ErrorInfo; none if it was not the vault that answered. */
      reason?: string | undefined;
      /** The record's revision, if the request's was not the one after it. */
      currentRevision?: bigint | undefined;
      /** Milliseconds after which to try again. */
      retryAfter?: number | undefined;
      /** The request was sent, and whether it was carried out is not known. */
      unanswered?: boolean;
    } = {},
  ) {
    super(message);
  }
}

/** A mutation was sent, was not answered, and may or may not have been carried out. */
export class OutcomeUnknown extends Error {}

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
      "grpc.initial_reconnect_backoff_ms": FIRST_WAIT,
      "grpc.max_reconnect_backoff_ms": LONGEST_WAIT,
    });
  }

  close(): void {
    this.client.close();
  }

  /** Calls until there is an answer or the time is over. Throws Failure; OutcomeUnknown for a mutation. */
  async call<Request extends object, Response>(
    method: grpc.MethodDefinition<Request, Response>, request: Request,
  ): Promise<Response> {
    let unanswered = false;
    for (let longest = FIRST_WAIT; ; longest = Math.min(2 * longest, LONGEST_WAIT)) {
      try {
        await this.connect();
        return await this.send(method, request);
      } catch (failure) {
        if (!(failure instanceof Failure)) throw failure;
        const { about } = failure;
        unanswered ||= about.unanswered === true;
        const wait = longest * Math.random() + (about.retryAfter ?? 0);
        if ((!about.unanswered && about.retryAfter === undefined) || wait >= this.left()) {
          throw unanswered ? verdict(failure, request) : failure;
        }
        await sleep(wait);
      }
    }
  }

  /** Waits for a connection, so that a call that fails after this is known to have been sent. */
  private connect(): Promise<void> {
    const failure = new Failure(`UNAVAILABLE: cannot connect to ${this.address} in time: check the server and TLS`);
    return new Promise((resolve, reject) => {
      this.client.waitForReady(Date.now() + this.left(), (late) => (late ? reject(failure) : resolve()));
    });
  }

  private send<Request, Response>(
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

/** What to throw after a request was once not answered. */
function verdict(failure: Failure, request: object): Error {
  if (!("envelope" in request)) return failure; // it changes nothing
  const { currentRevision } = failure.about;
  const { revision } = parse(request.envelope as Buffer);
  if (currentRevision !== undefined && currentRevision - revision < RING) return failure; // else it were known
  return new OutcomeUnknown(`the outcome is unknown, get the record to see; the last answer was ${failure.message}`);
}

function failureOf(error: grpc.ServiceError): Failure {
  const { CANCELLED, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE, UNKNOWN } = grpc.status;
  const { info, currentRevision, retryAfter } = detailsOf(error.metadata);
  const named = [grpc.status[error.code], info?.reason].filter(Boolean).join(" ");
  const id = info?.metadata["request_id"];
  const broken = info === undefined && [INTERNAL, UNKNOWN].includes(error.code); // as gRPC may call a lost connection
  return new Failure(`${named}: ${error.details}${id ? ` (${id})` : ""}`, {
    reason: info?.reason,
    currentRevision,
    retryAfter: error.code === RESOURCE_EXHAUSTED ? retryAfter : undefined,
    unanswered: broken || [CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE].includes(error.code),
  });
}

/** Reads the google.rpc.Status that gRPC leaves packed in the trailers. */
function detailsOf(metadata: grpc.Metadata): { info?: ErrorInfo; currentRevision?: bigint; retryAfter?: number } {
  const found: ReturnType<typeof detailsOf> = {};
  const [packed] = metadata.get("grpc-status-details-bin");
  try {
    for (const { typeUrl, value } of Buffer.isBuffer(packed) ? Status.decode(packed).details : []) {
      if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        const info = ErrorInfo.decode(value);
        if (info.domain !== "keyvault") continue;
        found.info = info;
        const revision = info.metadata["current_revision"];
        if (revision) found.currentRevision = BigInt(revision);
      } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
        const { seconds, nanos } = RetryInfo.decode(value).retryDelay ?? { seconds: 0n, nanos: 0 };
        found.retryAfter = 1_000 * Number(seconds) + nanos / 1e6;
      }
    }
  } catch {
    // something on the way made these bytes up: the status has to do
  }
  return found;
}
