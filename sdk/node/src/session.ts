/**
 * What the methods of a client share: its server, its memory of revisions, and the time of a call.
 *
 * @module
 */
import type { MethodDefinition } from "@grpc/grpc-js";

import { Budget } from "./budget.js";
import { call } from "./call.js";
import { Connector } from "./connection.js";
import { ServerFailureError } from "./errors.js";
import { type CallOptions, type ClientOptions, type Settings, settingsOf } from "./options.js";
import { SeenRevisions } from "./seen.js";

export class Session {
  readonly connector: Connector;
  readonly seen: SeenRevisions;
  readonly #settings: Settings;

  constructor(options: ClientOptions) {
    this.#settings = settingsOf(options);
    this.connector = new Connector(this.#settings.address, this.#settings.tls);
    this.seen = new SeenRevisions(this.#settings.remembered);
  }

  get timeoutMs(): number {
    return this.#settings.timeoutMs;
  }

  /** The time of one call of a program. */
  budget(options: CallOptions = {}): Budget {
    return new Budget(options, this.#settings.timeoutMs, this.connector.closed);
  }

  /** Call a method that changes no record. */
  ask<Request, Response>(
    budget: Budget, method: MethodDefinition<Request, Response>, request: Request,
  ): Promise<Response> {
    return call({ connector: this.connector, token: this.#settings.token }, budget, method, request);
  }

  /** Send a mutation, whose envelope is of this revision. */
  mutate<Request, Response>(
    budget: Budget, method: MethodDefinition<Request, Response>, request: Request, revision: bigint,
  ): Promise<Response> {
    return call({ connector: this.connector, token: this.#settings.token }, budget, method, request, revision);
  }

  warn(message: string): void {
    this.#settings.warn(message);
  }
}

/** The error for a server that must not be believed. */
export function dishonest(method: string, what: string): ServerFailureError {
  return new ServerFailureError(`the server answered ${method} with ${what}: do not use this server, and report it`);
}
