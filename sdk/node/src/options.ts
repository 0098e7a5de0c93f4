/**
 * The options of a client, checked.
 *
 * @module
 */
import { checkAddress } from "./address.js";
import { InvalidRequestError } from "./errors.js";
import { printable } from "./printable.js";
import { TlsFiles, type TlsOptions } from "./tls.js";
import { tokenFile, type TokenSource } from "./token.js";

/** How a client reaches its server. */
export interface ClientOptions {
  /** host:port, dns:///host:port or unix:/path. */
  readonly address: string;
  /** Connect by TLS; `true` verifies the server against the system's roots. A non-loopback address needs it. */
  readonly tls?: TlsOptions | boolean | undefined;
  /** Allow plaintext to another machine: keys, and the data key of `generateKey`, are then for all to see. */
  readonly insecure?: boolean | undefined;
  /** Path of a bearer token, which is reloaded when it changes. Needs `tls`. */
  readonly tokenFile?: string | undefined;
  /** Returns a bearer token for each attempt of a call. Needs `tls`. */
  readonly token?: TokenSource | undefined;
  /** Milliseconds for a call that names none: more than 0 and at most a day, 10,000 by default. */
  readonly timeoutMs?: number | undefined;
  /** For how many names the highest proved revision is remembered, to notice a rollback: 10,000 by default, 0 none. */
  readonly remembered?: number | undefined;
  /** Is called with what no call reports, such as files that became unusable; `process.emitWarning` by default. */
  readonly onWarning?: ((message: string) => void) | undefined;
}

/** Of each call. */
export interface CallOptions {
  /** Milliseconds for the call, retries included: more than 0 and at most a day; the client's by default. */
  readonly timeoutMs?: number | undefined;
  /** Ends the call. A change that was sent by then is an {@link OutcomeUnknownError}. */
  readonly signal?: AbortSignal | undefined;
}

export interface Settings {
  readonly address: string;
  readonly tls: TlsFiles | undefined;
  readonly token: TokenSource | undefined;
  readonly timeoutMs: number;
  readonly remembered: number;
  readonly warn: (message: string) => void;
}

export const DAY = 86_400_000; // milliseconds; a timer of Node holds 24 days

/** @throws InvalidRequestError */
export function settingsOf(options: ClientOptions): Settings {
  refuseEmpty({ ...(typeof options.tls === "object" ? options.tls : {}), tokenFile: options.tokenFile });
  const { address, insecure = false, token, timeoutMs = 10_000, remembered = 10_000 } = options;
  const warn = guarded(options.onWarning ?? ((message) => process.emitWarning(message, "KeyVaultWarning")));
  const files = options.tls === true ? {} : options.tls || undefined;
  if (typeof address !== "string") throw new InvalidRequestError("invalid address: give host:port or unix:/path");
  checkAddress(address, { tls: files !== undefined, insecure });
  checkTimeout(timeoutMs);
  if (!Number.isInteger(remembered) || remembered < 0) {
    throw new InvalidRequestError(`invalid number of remembered names ${remembered}: must be 0 or more`);
  }
  if (token !== undefined && options.tokenFile) throw new InvalidRequestError("give tokenFile or token, not both");
  if ((token !== undefined || options.tokenFile) && files === undefined) {
    throw new InvalidRequestError(`refusing to send a token to ${printable(address)} without TLS: give tls`);
  }
  return {
    address,
    tls: files && new TlsFiles(files, warn),
    token: options.tokenFile ? tokenFile(options.tokenFile, warn) : token,
    timeoutMs,
    remembered,
    warn,
  };
}

/** A callback whose errors end no call: a call has to say whether a change was done. */
function guarded(callback: (message: string) => void): (message: string) => void {
  return (message) => {
    try {
      callback(message);
    } catch (error) {
      process.emitWarning(`onWarning failed: ${String(error)}`, "KeyVaultWarning");
    }
  };
}

/** Throw for an empty path or name: a `ca` of a variable that is not set would be the system's roots. */
function refuseEmpty(options: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === "") throw new InvalidRequestError(`${name} is empty: give it a value, or leave it out`);
  }
}

/** Throw unless a call may take this long. */
export function checkTimeout(timeoutMs: number): void {
  if (typeof timeoutMs === "number" && timeoutMs > 0 && timeoutMs <= DAY) return;
  throw new InvalidRequestError(`invalid timeoutMs ${timeoutMs}: must be more than 0 and at most ${DAY}`);
}
