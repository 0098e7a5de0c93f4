/** Changed certificates and roots are used by the same client. */
import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { DataKey, KeyVaultClient, UnavailableError } from "../index.js";
import { type Announced, Player, skip } from "./player.js";

const KNOWN = "known-client-certificate";
const REFUSED = "refused-client-certificate";

describe("a server with TLS", { skip, timeout: 120_000 }, () => {
  let player: Player;
  let folder = "";
  const paths = { ca: "ca.pem", certificate: "client.pem", private_key: "client.key" };
  const played = (name: string) => player.cases.get(name) as Announced;
  /** Put the files of a case into the folder, as they were some time ago. */
  const take = async (name: string) => {
    for (const [file, path] of Object.entries(paths)) {
      const then = Date.now() / 1_000 - (name === KNOWN ? 30 : 60);
      await copyFile(played(name).tls?.[file as keyof typeof paths] ?? "", join(folder, path));
      await utimes(join(folder, path), then, then);
    }
  };
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "reload-"));
    player = await Player.start(KNOWN, REFUSED);
  });
  after(async () => {
    await player.end();
    await rm(folder, { recursive: true });
  });

  test("a certificate that was renewed is used, and an unusable one is not", async () => {
    await take(REFUSED);
    const warnings: string[] = [];
    const { address, key_id: keyId, key: file } = played(KNOWN);
    const vault = new KeyVaultClient({
      address,
      tls: {
        ca: join(folder, paths.ca),
        certificate: join(folder, paths.certificate),
        privateKey: join(folder, paths.private_key),
      },
      onWarning: (message) => warnings.push(message),
    });
    const key = DataKey.parse(JSON.stringify(file));
    await assert.rejects(vault.read(keyId, { key, timeoutMs: 1_000 }), UnavailableError);
    await take(KNOWN);
    assert.equal((await vault.read(keyId, { key })).text(), "at 1");
    await writeFile(join(folder, paths.ca), "not a certificate");
    await utimes(join(folder, paths.ca), 1, 1);
    assert.equal((await vault.read(keyId, { key })).text(), "at 1");
    assert.deepEqual(warnings, [
      `reload failed: ${join(folder, paths.ca)}: not a PEM certificate; keeping the previous files`,
    ]);
    vault.close();
  });

  test("the system's roots are those of SSL_CERT_FILE", async () => {
    const { address, key_id: keyId, key: file, tls } = played(KNOWN);
    process.env["SSL_CERT_FILE"] = tls?.ca;
    const own = { certificate: tls?.certificate, privateKey: tls?.private_key };
    const vault = new KeyVaultClient({ address, tls: own });
    delete process.env["SSL_CERT_FILE"];
    const other = new KeyVaultClient({ address, tls: own });
    const key = DataKey.parse(JSON.stringify(file));
    assert.equal((await vault.read(keyId, { key })).text(), "at 1");
    await assert.rejects(other.read(keyId, { key }), /the server's certificate is not trusted/);
    vault.close();
    other.close();
  });
});
