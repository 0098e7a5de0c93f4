/**
 * What a command needs: a client by the variables of the command `keyvault`, and its exit codes.
 *
 * @module
 */
import { KeyVaultClient } from "./client.js";
import * as errors from "./errors.js";
import { type ClientOptions, DAY } from "./options.js";
import { quote } from "./printable.js";
import type { TlsOptions } from "./tls.js";

/** Variables by their names, such as process.env. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Make a client by the variables that the command `keyvault` has: KEYVAULT_ADDRESS (127.0.0.1:50051 if it is not set),
 * KEYVAULT_TIMEOUT in seconds, KEYVAULT_TLS, KEYVAULT_CA, KEYVAULT_CERTIFICATE, KEYVAULT_PRIVATE_KEY,
 * KEYVAULT_SERVER_NAME, KEYVAULT_TOKEN_FILE and KEYVAULT_INSECURE. An empty one is refused: KEYVAULT_CA=$CA is to fail
 * where CA is not set. The options count more.
 *
 * @throws InvalidRequestError
 */
export function clientFromEnvironment(
  options: Partial<ClientOptions> = {}, environment: Environment = process.env,
): KeyVaultClient {
  const chosen = optionsOf(environment);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  try {
    return new KeyVaultClient({ ...chosen, ...(options.token && { tokenFile: undefined }), ...given });
  } catch (error) {
    if (!(error instanceof errors.InvalidRequestError)) throw error;
    const sentence = `${error.message} (by KEYVAULT_ADDRESS, KEYVAULT_TLS, KEYVAULT_CA and the like)`;
    throw new errors.InvalidRequestError(sentence, { cause: error });
  }
}

function optionsOf(environment: Environment): ClientOptions {
  const text = (name: string) => textOf(environment, name);
  return {
    address: text("KEYVAULT_ADDRESS") ?? "127.0.0.1:50051",
    tls: tlsOf(environment),
    insecure: isTrue(environment, "KEYVAULT_INSECURE"),
    timeoutMs: timeoutOf(text("KEYVAULT_TIMEOUT")),
    tokenFile: text("KEYVAULT_TOKEN_FILE"),
  };
}

function textOf(environment: Environment, name: string): string | undefined {
  if (environment[name] !== "") return environment[name];
  throw new errors.InvalidRequestError(`${name} is empty: give it a value, or unset it`);
}

function isTrue(environment: Environment, name: string): boolean {
  const value = textOf(environment, name) ?? "false";
  if (/^(1|t|true)$/i.test(value)) return true;
  if (/^(0|f|false)$/i.test(value)) return false;
  throw new errors.InvalidRequestError(`${name} must be true or false, not ${quote(value)}`);
}

function timeoutOf(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const ms = /^[0-9.e+-]+$/i.test(value) ? 1_000 * Number(value) : NaN;
  if (ms > 0 && ms <= DAY) return ms;
  throw new errors.InvalidRequestError(
    `KEYVAULT_TIMEOUT must be more than 0 and at most 86400 seconds, not ${quote(value)}`,
  );
}

function tlsOf(environment: Environment): TlsOptions | undefined {
  const files = {
    ca: textOf(environment, "KEYVAULT_CA"),
    certificate: textOf(environment, "KEYVAULT_CERTIFICATE"),
    privateKey: textOf(environment, "KEYVAULT_PRIVATE_KEY"),
    serverName: textOf(environment, "KEYVAULT_SERVER_NAME"),
  };
  const { ca, certificate, privateKey, serverName } = files;
  if (isTrue(environment, "KEYVAULT_TLS") || ca || certificate || privateKey) return files;
  if (serverName === undefined) return undefined;
  throw new errors.InvalidRequestError(
    "KEYVAULT_SERVER_NAME needs TLS: set KEYVAULT_TLS, KEYVAULT_CA or KEYVAULT_CERTIFICATE",
  );
}

const INTERRUPTED = 130; // as a shell reports SIGINT

/** The classes in the order in which they count. */
const EXIT_CODES: readonly (readonly [typeof errors.KeyVaultError, number])[] = [
  [errors.OutcomeUnknownError, 7],
  [errors.AbortedError, INTERRUPTED],
  [errors.UnavailableError, 6], [errors.BusyError, 6],
  [errors.DeniedError, 5], [errors.NotAuthorizedError, 5],
  [errors.WrongRevisionError, 4],
  [errors.NotFoundError, 3],
];

/**
 * Return the code with which a command ends after this error, as `keyvault` does: 2 for bad usage, 3 not found, 4
 * conflict, 5 denied, 6 unavailable (nothing was written), 7 outcome unknown, 130 interrupted, 1 for any other. An
 * InvalidRequestError is bad usage unless the server found it.
 */
export function exitCodeOf(error: unknown): number {
  const [, code] = EXIT_CODES.find(([kind]) => error instanceof kind) ?? [];
  if (code !== undefined) return code;
  if (error instanceof Error && error.name === "AbortError") return INTERRUPTED; // of Node, such as of a stream
  return error instanceof errors.InvalidRequestError && error.reason === "" ? 2 : 1;
}
