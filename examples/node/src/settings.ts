/**
 * The settings of kv, which are environment variables: its README lists them.
 *
 * The rule of this file: keys and tokens leave this machine over TLS alone.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { isIPv4 } from "node:net";

import { type CallCredentials, type ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { Vault } from "./vault.js";

/** Invalid arguments, settings or files. */
export class BadUsage extends Error {}

/** A client of the server that the environment names. Throws BadUsage. */
export function connect(env: NodeJS.ProcessEnv): Vault {
  const address = env["KEYVAULT_ADDRESS"] || "127.0.0.1:50051";
  const seconds = Number(env["KEYVAULT_TIMEOUT"] || "10");
  if (!(seconds > 0 && seconds <= 86_400)) throw new BadUsage("KEYVAULT_TIMEOUT must be seconds, at most 86400");
  const tls = tlsOf(env);
  const token = env["KEYVAULT_TOKEN_FILE"] ? bearer(env["KEYVAULT_TOKEN_FILE"]) : null;
  if (tls === null && (token !== null || !isLoopback(address))) {
    throw new BadUsage(`refusing plaintext (${address}) for a token, or to another machine: set KEYVAULT_CA`);
  }
  return new Vault(address, tls && token ? tls.compose(token) : tls, seconds);
}

/** TLS as far as the environment asks for it. */
function tlsOf(env: NodeJS.ProcessEnv): ChannelCredentials | null {
  const pem = (name: string) => (env[name] ? Buffer.from(contentOf(env[name])) : null);
  const [ca, certificate, privateKey] = [pem("KEYVAULT_CA"), pem("KEYVAULT_CERTIFICATE"), pem("KEYVAULT_PRIVATE_KEY")];
  if (!ca && !certificate && !privateKey) return null;
  if (!certificate !== !privateKey) {
    throw new BadUsage("KEYVAULT_CERTIFICATE and KEYVAULT_PRIVATE_KEY must be set together");
  }
  try {
    if (ca) new X509Certificate(ca); // roots that are none would only show as a server that is never trusted
    return credentials.createSsl(ca, privateKey, certificate);
  } catch (error) {
    throw new BadUsage(`KEYVAULT_CA, _CERTIFICATE or _PRIVATE_KEY: unusable PEM file: ${(error as Error).message}`);
  }
}

/** The token of a file, sent with every call; gRPC refuses to send it without TLS. */
function bearer(path: string): CallCredentials {
  const token = contentOf(path).trim();
  if (!/^[\x21-\x7e]+$/.test(token)) throw new BadUsage(`${path}: not a bearer token: expected one word of ASCII`);
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return credentials.createFromMetadataGenerator((_, add) => add(null, metadata));
}

/** Whether only this machine is reached there: the one place where plaintext may go. */
function isLoopback(address: string): boolean {
  if (address.startsWith("unix:")) return true;
  const host = address.slice(0, address.lastIndexOf(":"));
  return host === "localhost" || host === "[::1]" || (isIPv4(host) && host.startsWith("127."));
}

/** A file's text. Throws BadUsage. */
export function contentOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new BadUsage(`${path}: cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}
