/**
 * The player of the behaviour suite, a process in Python that KeyVault's repository has. KEYVAULT_PLAYER is the command
 * that starts it, if it is another one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";

/** What the player says of a case. */
export interface Announced {
  readonly case: string;
  readonly address: string;
  readonly key_id: string;
  readonly key: object;
  readonly new_key: object;
  readonly tls: { readonly ca: string; readonly certificate: string; readonly private_key: string } | null;
  readonly token_file: string;
}

/** What the server of a case got. */
export interface Report {
  readonly calls: Readonly<Record<string, number>>;
  readonly sealed: readonly number[];
  readonly connections: number;
}

const REPOSITORY = fileURLToPath(new URL("../../../..", import.meta.url));
const PYTHON = `${REPOSITORY}/.venv/bin/python`;

/** The command of the player; undefined if there is none, which CI does not take. */
function commandOf(): readonly string[] | undefined {
  const given = process.env["KEYVAULT_PLAYER"]?.split(" ").filter(Boolean) ?? [];
  if (given.length > 0) return given;
  if (existsSync(PYTHON) || process.env["CI"]) return [PYTHON, "-m", "tests.behaviour.server"];
  return undefined;
}

export const skip = commandOf() === undefined && "no player: KEYVAULT_PLAYER is not set, and this is not KeyVault's repository";

export class Player {
  readonly cases = new Map<string, Announced>();
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #input: Interface;
  #asking: Promise<unknown> = Promise.resolve();

  private constructor(command: readonly string[]) {
    const [program = "", ...words] = command;
    const cwd = process.env["KEYVAULT_PLAYER"] ? undefined : REPOSITORY;
    const started = spawn(program, words, { cwd, stdio: ["pipe", "pipe", "inherit"] });
    this.#process = started;
    this.#input = createInterface(started.stdout);
    this.#lines = this.#input[Symbol.asyncIterator]();
  }

  /** Start the player of these cases, all if there are none. */
  static async start(...names: readonly string[]): Promise<Player> {
    const player = new Player([...(commandOf() ?? []), ...names]);
    for (;;) {
      const line = await player.#read();
      if ("ready" in line) return player;
      player.cases.set((line as Announced).case, line as Announced);
    }
  }

  /** What the server of a case got so far. */
  report(name: string): Promise<Report> {
    const answered = this.#asking.then(() => {
      this.#process.stdin?.write(`${name}\n`);
      return this.#read() as Promise<Report>;
    });
    this.#asking = answered;
    return answered;
  }

  async end(): Promise<void> {
    this.#process.stdin?.end();
    if (this.#process.exitCode === null) await once(this.#process, "exit");
    this.#input.close();
  }

  async #read(): Promise<object> {
    const line = await this.#lines.next();
    if (line.done) throw new Error("the player ended");
    return JSON.parse(line.value) as object;
  }
}
