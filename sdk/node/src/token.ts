/**
 * Bearer tokens, which go over TLS alone.
 *
 * The rule of this file: no part of a token is in an error. If a changed file is unusable, the earlier token stays.
 *
 * @module
 */
import { InvalidRequestError } from "./errors.js";
import { contentOf, WatchedFiles } from "./files.js";
import { printable } from "./printable.js";

/**
 * Returns a bearer token for the next attempt of a call; it is asked before each one, until `signal` says that the
 * attempt's time is up. What it throws must not hold a part of a token.
 */
export type TokenSource = (options: { readonly signal: AbortSignal }) => string | Promise<string>;

const MAX_TOKEN = 8_000; // characters that a server takes
const TOKEN = /^[A-Za-z0-9._~+/=-]+$/; // RFC 6750, section 2.1

export function isToken(text: unknown): text is string {
  return typeof text === "string" && text.length <= MAX_TOKEN && TOKEN.test(text);
}

/** A source of the token in a file, which is reloaded when it changes. */
export function tokenFile(path: string, warn: (message: string) => void): TokenSource {
  const file = new WatchedFiles([path]);
  let token = readToken(path);
  return () => {
    if (!file.haveChanged()) return token;
    try {
      token = readToken(path);
    } catch (error) {
      warn(`reload failed: ${(error as Error).message}; keeping the previous token`);
    }
    return token;
  };
}

function readToken(path: string): string {
  const token = contentOf(path).toString("utf8").replace(/^\ufeff/, "").trim();
  if (isToken(token)) return token;
  throw new InvalidRequestError(`${printable(path)}: not a bearer token: expected one line, as the issuer gave it`);
}
