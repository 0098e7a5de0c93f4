/**
 * Why there is no connection, in a sentence with what to do.
 *
 * The rule of this file: grpc-js says so in a text alone; what is not recognized is shown as it is.
 *
 * @module
 */
import { printable } from "./printable.js";

/** Why a connection failed. */
export interface Explained {
  readonly why: string;
  /** Another attempt would fail as well. */
  readonly final: boolean;
}

const ENDED = /ECONNRESET|EPIPE|socket hang up|disconnected|closed|Failed to connect|Protocol error/i;

/** Explain a text of grpc-js for a call that was not sent. */
export function explain(details: string, tls: boolean): Explained {
  const text = shortened(details);
  const refused = tls ? whyTls(text) : "";
  if (refused) return { why: `${refused} (${text})`, final: true };
  if (!ENDED.test(text)) return { why: whyPassing(text), final: false };
  const asks = tls ? "Does it require a client certificate, and does it trust yours?" : "Does it require TLS?";
  return { why: `the server closed the connection. ${asks}`, final: false };
}

/** The last error in a text, without what grpc-js and OpenSSL put around it. */
function shortened(details: string): string {
  const [, last = details] = /Last error: (.*?)(?:\. Resolution note: .*)?$/s.exec(details) ?? [];
  const [, openssl] = /error:[0-9A-F]+:SSL routines:[^:]*:([^:]+)/.exec(last) ?? [];
  if (openssl !== undefined) return printable(openssl);
  return printable(last.replace(/ \([0-9T:.Z-]+\)$/, "").replace(/^(Error( \[\w+\])?: )+/, "").trim());
}

function whyPassing(text: string): string {
  if (text.includes("ECONNREFUSED")) return "connection refused. Is the server running?";
  if (text.startsWith("Name resolution failed")) return "the host name does not resolve. Is the address right?";
  if (!text.startsWith("Deadline exceeded") && text !== "no answer") return text;
  return "no answer in time. Is it a KeyVault server, and does it require TLS?";
}

/** Why TLS failed, "" if it did not. The words are those of OpenSSL and Node. */
function whyTls(text: string): string {
  if (/altnames/i.test(text)) {
    return "the server's certificate is for another host name. Is the address right, or is tls.serverName needed?";
  }
  if (/\balert\b/i.test(text)) {
    return "the server refused the connection. Does it require a client certificate, and does it trust yours?";
  }
  if (/self-signed|issuer|verify the first|not trusted/i.test(text)) {
    return "the server's certificate is not trusted. Does the CA belong to this server?";
  }
  if (/wrong version number|packet length|http request/i.test(text)) {
    return "the server does not speak TLS on this address. Is the address right?";
  }
  return /certificate|SSL routines/i.test(text) ? "the server's certificate is not valid" : "";
}
