/**
 * The connection for each attempt, and the replacement of one that stopped answering.
 *
 * @module
 */
import { setMaxListeners } from "node:events";

import { Client, type ChannelOptions, credentials } from "@grpc/grpc-js";

import { targetOf } from "./address.js";
import { ClosedError } from "./errors.js";
import { MAX_MESSAGE, MAX_REPLY } from "./names.js";
import type { TlsFiles } from "./tls.js";

/**
 * For how many milliseconds a connection may answer nothing at all before a call that gave up waiting leaves it. Pings
 * leave it too, after some 15 s; a call may not have as long.
 */
const SILENCE = 2_000;

/** One gRPC channel. */
export class Connection {
  readonly client: Client;
  /** Attempts in flight. */
  calls = 0;
  /** When the first call was sent that nothing has answered since; undefined if something was answered after each. */
  #silentSince: number | undefined;

  constructor(address: string, tls: TlsFiles | undefined) {
    this.client = new Client(targetOf(address), tls?.credentials ?? credentials.createInsecure(), optionsOf(tls));
  }

  sends(): void {
    this.#silentSince ??= performance.now();
  }

  answered(): void {
    this.#silentSince = undefined;
  }

  isSilent(): boolean {
    return this.#silentSince !== undefined && performance.now() - this.#silentSince >= SILENCE;
  }
}

function optionsOf(tls: TlsFiles | undefined): ChannelOptions {
  const options: ChannelOptions = {
    "grpc.max_send_message_length": MAX_MESSAGE,
    "grpc.max_receive_message_length": MAX_REPLY,
    "grpc.enable_retries": 0, // `call` knows what an answer means
    "grpc.service_config_disable_resolution": 1, // nor may DNS turn them on
    "grpc.enable_http_proxy": tls ? 1 : 0, // no proxy reads what was to stay on this machine
    "grpc.use_local_subchannel_pool": 1, // a new connection is one of its own
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.keepalive_time_ms": 10_000, // the least that the server takes
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.enable_channelz": 0,
  };
  if (tls?.serverName) {
    options["grpc.ssl_target_name_override"] = tls.serverName;
    options["grpc.default_authority"] = tls.serverName;
  }
  return options;
}

/** Gives the connection for each attempt. It connects with the first call. */
export class Connector {
  readonly address: string;
  readonly tls: TlsFiles | undefined;
  readonly #all = new Set<Connection>();
  readonly #closing = new AbortController();
  #current: Connection;

  constructor(address: string, tls: TlsFiles | undefined) {
    this.address = address;
    this.tls = tls;
    this.#current = this.#open();
    setMaxListeners(0, this.closed); // one for each attempt and each wait
  }

  /** Aborts when the client is closed. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /**
   * Return the connection for one attempt; `release` it afterwards.
   *
   * @throws ClosedError
   */
  acquire(): Connection {
    if (this.closed.aborted) throw new ClosedError("this client is closed; the request was not sent");
    if (this.tls?.reloaded()) this.leave(this.#current);
    this.#current.calls++;
    return this.#current;
  }

  release(connection: Connection): void {
    connection.calls--;
    this.#closeUnused();
  }

  /** Make a new connection for later attempts, unless that was done. What is in flight on the old one goes on. */
  leave(connection: Connection): void {
    if (this.closed.aborted || this.#current !== connection) return;
    this.#current = this.#open();
    this.#closeUnused();
  }

  /** Close the connection, which ends calls in flight, those that wait for a token or for another attempt too. */
  close(): void {
    this.#closing.abort();
    this.#closeUnused();
  }

  #open(): Connection {
    const opened = new Connection(this.address, this.tls);
    this.#all.add(opened);
    return opened;
  }

  /** Close what was left and has no calls in flight any more; all, if the client is closed. */
  #closeUnused(): void {
    for (const one of this.#all) {
      if (!this.closed.aborted && (one === this.#current || one.calls > 0)) continue;
      this.#all.delete(one);
      one.client.close();
    }
  }
}
