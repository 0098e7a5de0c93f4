/**
 * Data keys from the server, checked against what was asked for.
 *
 * @module
 */
import { createSecretKey } from "node:crypto";

import { InvalidRequestError } from "./errors.js";
import { KeyVaultService } from "./generated/keyvault/v1/keyvault.js";
import { DataKey, type DataKeyParts } from "./key.js";
import { KEY_SIZE } from "./kve1.js";
import { isGenerated, isScope } from "./names.js";
import type { CallOptions } from "./options.js";
import { quote } from "./printable.js";
import { dishonest, type Session } from "./session.js";

export async function generateKey(session: Session, scope: string, options?: CallOptions): Promise<DataKey> {
  if (scope !== "" && !isScope(scope)) {
    throw new InvalidRequestError(
      `invalid scope ${quote(String(scope))}: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-]`,
    );
  }
  const answer = await session.ask(session.budget(options), KeyVaultService.generateKey, { scope });
  if (scope !== "" && answer.scope !== scope) { // a wider one would let its holder change other records
    throw dishonest("GenerateKey", `scope ${quote(answer.scope)} instead of ${quote(scope)}`);
  }
  if (scope === "" && !isGenerated(answer.scope)) {
    throw dishonest("GenerateKey", `scope ${quote(answer.scope)} instead of a key_id of 32 hex digits`);
  }
  const { tenant, wrappedKey, plaintextKey } = answer;
  return answeredKey("GenerateKey", { tenant, scope: answer.scope, wrapped: wrappedKey }, plaintextKey);
}

export async function rewrapKey(session: Session, key: DataKey, options?: CallOptions): Promise<DataKey> {
  if (!(key instanceof DataKey)) throw new InvalidRequestError("no data key to rewrap");
  const answer = await session.ask(session.budget(options), KeyVaultService.rewrapKey, { wrappedKey: key.wrapped });
  try {
    return new DataKey({ tenant: key.tenant, scope: key.scope, wrapped: answer.wrappedKey, secret: key.secret });
  } catch {
    throw dishonest("RewrapKey", "an invalid wrapped_key");
  }
}

export async function unwrapKey(session: Session, key: DataKey, options?: CallOptions): Promise<DataKey> {
  if (!(key instanceof DataKey)) throw new InvalidRequestError("no data key to unwrap");
  const { tenant, scope, wrapped } = key;
  const answer = await session.ask(session.budget(options), KeyVaultService.unwrapKey, { wrappedKey: wrapped });
  if (answer.tenant !== tenant || answer.scope !== scope) {
    const found = `tenant ${quote(answer.tenant)} and scope ${quote(answer.scope)}`;
    throw dishonest("UnwrapKey", `${found} instead of ${quote(tenant)} and ${quote(scope)}`);
  }
  const unwrapped = answeredKey("UnwrapKey", { tenant, scope, wrapped }, answer.plaintextKey);
  if (key.secret && unwrapped.secret && !key.secret.equals(unwrapped.secret)) {
    throw dishonest("UnwrapKey", "another plaintext_key than the key has");
  }
  return unwrapped;
}

/** The key in an answer, checked. Its bytes are wiped from the answer. */
function answeredKey(method: string, parts: DataKeyParts, plaintext: Buffer): DataKey {
  if (plaintext.length !== KEY_SIZE) throw dishonest(method, "a plaintext_key of another size");
  const secret = createSecretKey(plaintext);
  plaintext.fill(0);
  try {
    return new DataKey({ ...parts, secret });
  } catch {
    throw dishonest(method, `an invalid tenant ${quote(parts.tenant)} or an invalid wrapped_key`);
  }
}
