/**
 * Calls that are bounded in time and attempted until they are answered.
 *
 * The rule of this file: an attempt sends the same bytes as the one before, which the server then does once. Once an
 * attempt of a mutation is unknown, only OK or a proof settles it: the record is at another revision, and the server
 * would have recognized this envelope. Anything else is an OutcomeUnknownError.
 *
 * @module
 */
import { Metadata, type MethodDefinition, type ServiceError, status as codes } from "@grpc/grpc-js";

import { type Budget, onEnd } from "./budget.js";
import type { Connection, Connector } from "./connection.js";
import * as errors from "./errors.js";
import { explain } from "./explain.js";
import { printable } from "./printable.js";
import { type Failure, failureOf, PASSING } from "./status.js";
import { isToken, type TokenSource } from "./token.js";

/** These bound the random wait between two attempts; the bound doubles from one to the other. Milliseconds. */
export const FIRST_WAIT = 200;
export const LONGEST_WAIT = 2_000;

/** gRPC ends an attempt at its deadline; this long after it, in milliseconds, a timer of our own does. */
const GRACE = 200;

/** How much earlier than it should, in milliseconds, a timer may end an attempt. */
const EARLY = 10;

/** What a call is sent by. */
export interface Wire {
  readonly connector: Connector;
  readonly token: TokenSource | undefined;
}

/** Call until there is an answer or the time is up. `sealed` is the revision of a mutation's envelope. */
export async function call<Request, Response>(
  wire: Wire, budget: Budget, method: MethodDefinition<Request, Response>, request: Request, sealed?: bigint,
): Promise<Response> {
  let unknown = false;
  for (let bound = FIRST_WAIT; ; bound = Math.min(2 * bound, LONGEST_WAIT)) {
    const tried = await attempt(wire, budget, method, request);
    if ("answer" in tried) {
      if (sealed !== undefined) checkAcknowledged(tried.answer, sealed);
      return tried.answer;
    }
    unknown ||= !tried.settled;
    if (tried.retry && (await budget.pause(tried.retryAfterMs, bound))) continue;
    if (sealed !== undefined && unknown && !provesAbsence(tried.error, sealed)) {
      throw outcomeUnknown(sealed, budget.errorOf(tried.error));
    }
    throw budget.errorOf(tried.error);
  }
}

/** Send the request once. */
async function attempt<Request, Response>(
  { connector, token }: Wire, budget: Budget, method: MethodDefinition<Request, Response>, request: Request,
): Promise<{ readonly answer: Response } | Failure> {
  const metadata = new Metadata();
  if (budget.isOver()) return unsent(new errors.UnavailableError("the time was up before the request was sent"));
  if (token !== undefined) {
    const bearer = await bearerOf(token, budget, connector.closed);
    if (typeof bearer !== "string") return bearer;
    metadata.set("authorization", `Bearer ${bearer}`);
  }
  let connection: Connection;
  try {
    connection = connector.acquire();
  } catch (error) {
    if (!(error instanceof errors.KeyVaultError)) throw error;
    return unsent(error);
  }
  try {
    connection.sends();
    const sent = await send(connection, method, request, { metadata, ms: budget.share(), signals: budget.signals });
    if (!sent.gaveUp) connection.answered();
    else if (connection.isSilent()) connector.leave(connection);
    if ("answer" in sent) return sent;
    return sent.left ? failureOf(sent.error) : notConnected(connector, sent.error);
  } finally {
    connector.release(connection);
  }
}

interface Sending {
  readonly metadata: Metadata;
  readonly ms: number;
  readonly signals: readonly (AbortSignal | undefined)[];
}

type Sent<Response> =
  | { readonly answer: Response; readonly gaveUp: false }
  /** `left`: there was a connection to send it on. `gaveUp`: nothing was heard until the time was up. */
  | { readonly error: ServiceError; readonly left: boolean; readonly gaveUp: boolean };

function send<Request, Response>(
  { client }: Connection, method: MethodDefinition<Request, Response>, request: Request, sending: Sending,
): Promise<Sent<Response>> {
  const { path, requestSerialize, responseDeserialize } = method;
  const { metadata, ms, signals } = sending;
  const end = performance.now() + ms;
  return new Promise((resolve) => {
    const failed = (error: ServiceError) => {
      const gaveUp = performance.now() >= end - EARLY || signals.some((signal) => signal?.aborted);
      resolve({ error, left: call.getPeer() !== client.getChannel().getTarget(), gaveUp });
    };
    const call = client.makeUnaryRequest(
      path, requestSerialize, responseDeserialize, request, metadata, { deadline: Date.now() + ms },
      (error, answer) => {
        if (ended) return;
        forget();
        if (error) failed(error);
        else resolve({ answer: answer as Response, gaveUp: false });
      },
    );
    let ended = false;
    const forget = onEnd(ms + GRACE, signals, (aborted) => {
      ended = true;
      call.cancel(); // only then does grpc-js say whether there was a connection
      const why = aborted ? ownError(codes.CANCELLED, "aborted") : ownError(codes.DEADLINE_EXCEEDED, "no answer");
      setImmediate(() => failed(why));
    });
  });
}

function ownError(code: codes, details: string): ServiceError {
  return Object.assign(new Error(details), { code, details, metadata: new Metadata() });
}

function unsent(error: errors.KeyVaultError, retry = false): Failure {
  return { error, settled: true, retry, retryAfterMs: 0 };
}

function closedError(): errors.ClosedError {
  return new errors.ClosedError("this client was closed; the request was not sent");
}

/** The failure of an attempt that had no connection to be sent on. */
function notConnected({ address, tls, closed }: Connector, { code, details }: ServiceError): Failure {
  if (closed.aborted) return unsent(closedError());
  const { why, final } = explain(details, tls !== undefined);
  const cause = new Error(printable(details));
  const error = new errors.UnavailableError(`cannot connect to ${printable(address)}: ${why}`, { cause });
  return unsent(error, !final && PASSING.includes(code));
}

/** Ask the source for the token of an attempt. */
async function bearerOf(source: TokenSource, budget: Budget, closed: AbortSignal): Promise<string | Failure> {
  let token: string | undefined;
  try {
    token = await budget.within((signal) => source({ signal }));
  } catch (cause) {
    const why = printable(cause instanceof Error ? cause.message : String(cause));
    const sentence = `cannot get a token; the request was not sent: ${why}`;
    return unsent(new errors.UnavailableError(sentence, { cause }), true);
  }
  if (closed.aborted) return unsent(closedError());
  if (token === undefined && budget.isOver()) {
    return unsent(new errors.UnavailableError("timed out while getting a token; the request was not sent"));
  }
  if (isToken(token)) return token;
  const sentence = "the token source returned an invalid bearer token: expected one line, as the issuer gave it";
  return unsent(new errors.InvalidRequestError(sentence));
}

/** Throw unless an OK is for the revision that was sealed. */
function checkAcknowledged(answer: unknown, sealed: bigint): void {
  if ((answer as { readonly revision?: bigint }).revision === sealed) return;
  throw new errors.OutcomeUnknownError(
    `the outcome of the change to revision ${sealed} is unknown (the server answered OK for another revision): ` +
      "read the record to see",
  );
}

function outcomeUnknown(sealed: bigint, cause: errors.KeyVaultError): errors.OutcomeUnknownError {
  const { reason, requestId, message } = cause;
  return new errors.OutcomeUnknownError(
    `the outcome of the change to revision ${sealed} is unknown (${message}): read the record to see`,
    { reason, requestId, cause },
  );
}

/** Whether the server would have recognized the envelope of this revision, had it accepted it. */
function provesAbsence(error: errors.KeyVaultError, sealed: bigint): boolean {
  if (!(error instanceof errors.WrongRevisionError) || error.rememberedSince === undefined) return false;
  return error.rememberedSince <= sealed && sealed <= error.currentRevision;
}
