/**
 * A client of a KeyVault server, a vault that stores only what it cannot read, and lets only the holder of a key change it.
 *
 * <pre>{@code
 * try (KeyVault vault = KeyVault.builder("vault.example.com:50051").tls(Tls.withRoots(Path.of("ca.pem"))).build()) {
 *     DataKey key = vault.generateKey("prod/");
 *     key.save(Path.of("prod.key")); // before it is used: it cannot be regenerated
 *     vault.create("prod/db", "hunter2".getBytes(UTF_8), key);
 *     VaultRecord record = vault.read("prod/db", key);
 * }
 * }</pre>
 */
package io.github.keyvaultgrpc;
