/**
 * Where a server is: host:port, dns:///host:port or unix:/path.
 *
 * The rule of this file: what gRPC would take for another address, or fail to explain, is refused with what to write
 * instead; keys leave this machine over TLS alone, unless the caller insists.
 *
 * @module
 */
import { isIPv4, isIPv6 } from "node:net";

import { InvalidRequestError } from "./errors.js";
import { printable } from "./printable.js";

const MAX_SOCKET_PATH = 107; // unix(7): sun_path without its end

/** Throw unless this is an address, and may be used so. */
export function checkAddress(address: string, { tls, insecure }: { tls: boolean; insecure: boolean }): void {
  const why = whyInvalid(address);
  if (why) throw new InvalidRequestError(`invalid address ${printable(address)}: ${why}`);
  if (tls || insecure || isLoopback(address)) return;
  throw new InvalidRequestError(
    `refusing plaintext to another machine (${printable(address)}): give tls, or insecure to send keys unencrypted`,
  );
}

function whyInvalid(address: string): string {
  if (/^https?:/.test(address)) return "write host:port or unix:/path, and give tls for TLS";
  return address.startsWith("unix:") ? whyInvalidSocket(address) : whyInvalidName(address.replace(/^dns:\/\/\//, ""));
}

function whyInvalidSocket(address: string): string {
  const path = address.replace(/^unix:(\/\/)?/, "");
  if (!path.replaceAll("/", "")) return "name the path of the socket, as in unix:/run/keyvault.sock";
  const size = Buffer.byteLength(path);
  return size > MAX_SOCKET_PATH ? `the path has ${size} bytes; a socket's has at most ${MAX_SOCKET_PATH}` : "";
}

function whyInvalidName(name: string): string {
  if (isIPv6(name) || (name.split(":").length > 2 && !name.startsWith("["))) {
    return "write an IPv6 address in brackets and name its port, as in [::1]:50051";
  }
  const parts = split(name);
  if (parts === undefined) return "write host:port, as in 127.0.0.1:50051";
  const [host, port] = parts;
  if (!host || /[/ ]/.test(host)) return `name its host, as in 127.0.0.1:${printable(port).trim()}`;
  return /^[0-9]{1,5}$/.test(port) && Number(port) > 0 && Number(port) < 65_536 ? "" : "the port must be 1 to 65535";
}

/** The host, without brackets, and the port; undefined for another form. */
function split(name: string): [host: string, port: string] | undefined {
  const [, bracketed, plain, port] = /^(?:\[([^[\]]*)\]|([^[\]:]*)):([^:]*)$/.exec(name) ?? [];
  if (port === undefined) return undefined;
  return [bracketed ?? plain ?? "", port];
}

/** Whether only this machine reaches the address. */
export function isLoopback(address: string): boolean {
  if (address.startsWith("unix:")) return true;
  const [host = ""] = split(address.replace(/^dns:\/\/\//, "")) ?? [];
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/** The address as grpc-js takes it. */
export function targetOf(address: string): string {
  return /^(unix|dns):/.test(address) ? address : `dns:///${address}`;
}
