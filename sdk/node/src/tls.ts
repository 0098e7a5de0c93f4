/**
 * TLS: the server is always verified, against the roots given or the system's.
 *
 * The rule of this file: changed files are used by a new connection; unusable ones are reported, and the earlier ones
 * stay in use.
 *
 * @module
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { existsSync } from "node:fs";
import * as tls from "node:tls";

import { type ChannelCredentials, credentials } from "@grpc/grpc-js";

import { InvalidRequestError } from "./errors.js";
import { contentOf, WatchedFiles } from "./files.js";
import { printable } from "./printable.js";

/** The PEM files of a TLS connection. They are reloaded when they change. */
export interface TlsOptions {
  /** Path of the roots that the server is verified against; the system's if left out. */
  readonly ca?: string | undefined;
  /** Path of the client's chain, where the server requires one. */
  readonly certificate?: string | undefined;
  /** Path of the unencrypted key of `certificate`. */
  readonly privateKey?: string | undefined;
  /** The name in the server's certificate, where the address has another one. */
  readonly serverName?: string | undefined;
}

/** Where systems keep their roots. Node brings roots of its own, which are used where none of these exists. */
const SYSTEM_ROOTS = [
  "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, Arch
  "/etc/pki/tls/certs/ca-bundle.crt", // Fedora
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Enterprise Linux
  "/etc/ssl/ca-bundle.pem", // SUSE
  "/etc/ssl/cert.pem", // macOS, BSD
];

/** The credentials of new connections, as the files are now. */
export class TlsFiles {
  readonly serverName: string | undefined;
  readonly #options: TlsOptions;
  readonly #warn: (message: string) => void;
  readonly #files: WatchedFiles;
  #usable: Pem;

  /** @throws InvalidRequestError for files that cannot be used. */
  constructor(options: TlsOptions, warn: (message: string) => void) {
    if (!options.certificate !== !options.privateKey) {
      throw new InvalidRequestError("a client certificate and its private key must be given together");
    }
    this.serverName = options.serverName;
    this.#options = options;
    this.#warn = warn;
    const { ca, certificate, privateKey } = options;
    this.#files = new WatchedFiles([ca, certificate, privateKey].flatMap((path) => path || []));
    this.#usable = read(options);
  }

  /** The credentials of a new connection. */
  get credentials(): ChannelCredentials {
    const { ca, key, cert } = this.#usable;
    return credentials.createSsl(ca, key, cert);
  }

  /** Whether there are new credentials since the last call. */
  reloaded(): boolean {
    if (!this.#files.haveChanged()) return false;
    try {
      this.#usable = read(this.#options);
      return true;
    } catch (error) {
      this.#warn(`reload failed: ${(error as Error).message}; keeping the previous files`);
      return false;
    }
  }
}

/** What the files hold; null for the roots that Node brings. */
interface Pem {
  readonly ca: Buffer | null;
  readonly key: Buffer | null;
  readonly cert: Buffer | null;
}

function read({ ca: path, certificate, privateKey }: TlsOptions): Pem {
  const ca = path ? rootsIn(path) : systemRoots();
  if (!certificate || !privateKey) return { ca, key: null, cert: null };
  const [cert, key] = [contentOf(certificate), contentOf(privateKey)];
  checkOwn(certificate, cert, privateKey, key);
  return { ca, key, cert };
}

/** Read a file of roots. Node would take a file without any, and trust no server then. */
function rootsIn(path: string): Buffer {
  const content = contentOf(path);
  try {
    new X509Certificate(content);
    tls.createSecureContext({ ca: content });
  } catch {
    throw new InvalidRequestError(`${printable(path)}: not a PEM certificate`);
  }
  return content;
}

/** Throw unless this is a certificate that is valid now, with its key. */
function checkOwn(certificate: string, chain: Buffer, privateKey: string, key: Buffer): void {
  const files = `${printable(certificate)} and ${printable(privateKey)}`;
  let own: X509Certificate;
  try {
    own = new X509Certificate(chain);
    if (!own.checkPrivateKey(createPrivateKey(key))) throw new Error("the key is another certificate's");
    tls.createSecureContext({ cert: chain, key });
  } catch (error) {
    const why = printable((error as Error).message); // it says what is wrong, not what was read
    throw new InvalidRequestError(`${files}: not a PEM certificate and its unencrypted private key: ${why}`);
  }
  if (Date.now() > Date.parse(own.validTo)) {
    throw new InvalidRequestError(
      `${printable(certificate)}: the certificate expired at ${own.validTo}: get a new one`,
    );
  }
  if (Date.now() < Date.parse(own.validFrom)) {
    throw new InvalidRequestError(
      `${printable(certificate)}: not valid before ${own.validFrom}. Is this machine's clock right?`,
    );
  }
}

/** The system's roots; null for those that Node brings. SSL_CERT_FILE names others, as for other programs. */
function systemRoots(): Buffer | null {
  const named = process.env["SSL_CERT_FILE"];
  if (named) return rootsIn(named);
  const found = SYSTEM_ROOTS.find((path) => existsSync(path));
  return found === undefined ? null : rootsIn(found);
}
