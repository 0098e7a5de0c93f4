/**
 * The time that a call has, and the signal that may end it before.
 *
 * @module
 */
import { defaultMaxListeners, getMaxListeners, setMaxListeners } from "node:events";

import { AbortedError, BusyError, InvalidRequestError, type KeyVaultError, UnavailableError } from "./errors.js";
import { type CallOptions, checkTimeout } from "./options.js";

/** What has to be left of a call's time for another attempt, in milliseconds. */
const LEAST_ATTEMPT = 100;
/** The least time of an attempt, unless the call has less, in milliseconds. */
const LEAST_SHARE = 2_000;

/** Bounds one call of a program, with all attempts and calls that it takes. */
export class Budget {
  readonly signal: AbortSignal | undefined;
  /** What ends an attempt or a wait: the caller's signal, and the one that says that the client was closed. */
  readonly signals: readonly (AbortSignal | undefined)[];
  readonly #end: number;

  /** @throws InvalidRequestError */
  constructor({ timeoutMs, signal }: CallOptions, byDefault: number, closed: AbortSignal) {
    const given = timeoutMs ?? byDefault;
    checkTimeout(given);
    if (signal !== undefined) checkSignal(signal);
    this.signal = signal;
    this.signals = [signal, closed];
    this.#end = performance.now() + given;
  }

  /** Milliseconds that are left. */
  left(): number {
    return Math.max(0, this.#end - performance.now());
  }

  isOver(): boolean {
    return this.left() === 0 || this.signal?.aborted === true;
  }

  /** Milliseconds for the next attempt: half of what is left, and at least two seconds. */
  share(): number {
    const left = this.left();
    return Math.min(left, Math.max(left / 2, LEAST_SHARE));
  }

  /**
   * Wait at least this long, and a random time below `bound` more, so that clients that failed together do not come
   * back together. It returns false at once if no time would be left for another attempt. A client that is closed ends
   * the wait, and refuses the next attempt.
   */
  async pause(least: number, bound: number): Promise<boolean> {
    const left = this.left() - LEAST_ATTEMPT;
    if (least >= left || this.signal?.aborted) return false;
    const wait = least + Math.random() * Math.min(bound, left - least);
    await new Promise<void>((resolve) => onEnd(wait, this.signals, () => resolve()));
    return !this.isOver();
  }

  /** Return what `start` resolves to, or undefined if the time is up or the client is closed before. */
  async within<T>(start: (signal: AbortSignal) => T | Promise<T>): Promise<T | undefined> {
    const ending = new AbortController();
    let forget: (() => void) | undefined;
    const over = new Promise<undefined>((resolve) => {
      forget = onEnd(this.left(), this.signals, () => {
        ending.abort();
        resolve(undefined);
      });
    });
    try {
      return await Promise.race([over, start(ending.signal)]);
    } finally {
      forget?.();
    }
  }

  /** The error of a call that ended so: the signal's, if that ended it. */
  errorOf(error: KeyVaultError): KeyVaultError {
    if (!this.signal?.aborted || !(error instanceof UnavailableError || error instanceof BusyError)) return error;
    return new AbortedError("the call was aborted", { cause: this.signal.reason });
  }
}

/** Throw unless this is a signal. */
function checkSignal(signal: AbortSignal): void {
  const { addEventListener, aborted } = Object(signal) as Partial<AbortSignal>;
  if (typeof addEventListener !== "function" || typeof aborted !== "boolean") {
    throw new InvalidRequestError("invalid signal: give an AbortSignal, such as the signal of an AbortController");
  }
  if (signal instanceof AbortSignal) allowListeners(signal);
}

/** Let more than ten calls at once have this signal: Node would warn of a leak. A limit of the caller's stays. */
function allowListeners(signal: AbortSignal): void {
  try {
    if (getMaxListeners(signal) === defaultMaxListeners) setMaxListeners(Infinity, signal);
  } catch {
    // Node 20 throws where the limit is 0, which is none
  }
}

/** Call `end` once, after so many milliseconds or when a signal aborts; the result takes that back. */
export function onEnd(
  ms: number, signals: readonly (AbortSignal | undefined)[], end: (aborted: boolean) => void,
): () => void {
  const forget = () => {
    clearTimeout(timer);
    for (const signal of signals) signal?.removeEventListener("abort", ended);
  };
  const ended = () => {
    forget();
    end(signals.some((signal) => signal?.aborted));
  };
  const isAborted = signals.some((signal) => signal?.aborted);
  const timer = setTimeout(ended, isAborted ? 0 : ms); // never before this returns
  for (const signal of signals) signal?.addEventListener("abort", ended, { once: true });
  return forget;
}
