/**
 * The errors of a server.
 *
 * @module
 */
import { Metadata, status as codes } from "@grpc/grpc-js";

import { ErrorInfo, Status } from "../generated/details.js";

/** The name of a gRPC status, such as "UNAVAILABLE". */
export type StatusName = keyof typeof codes;

/** What a server answers instead of doing what was asked. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  /** The number of the gRPC status. */
  readonly code: number;
  /** The google.rpc.ErrorInfo.reason. */
  readonly reason: string;
  /** What the server says. */
  readonly details: string;
  /** @internal */
  readonly metadata = new Metadata();

  /** Make the error that KeyVault has for a reason, such as "POLICY_DENIED". */
  constructor(code: StatusName, reason: string, message = "because", metadata: Readonly<Record<string, string>> = {}) {
    super(`${code} ${reason}: ${message}`);
    this.code = codes[code];
    this.reason = reason;
    this.details = message;
    const about = { reason, domain: "keyvault", metadata: { request_id: "testing", ...metadata } };
    const value = bytes(ErrorInfo.encode(about).finish());
    const detail = { typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value };
    this.metadata.set("grpc-status-details-bin", bytes(Status.encode({ details: [detail] }).finish()));
  }
}

function bytes(content: Uint8Array): Buffer {
  return Buffer.from(content);
}
