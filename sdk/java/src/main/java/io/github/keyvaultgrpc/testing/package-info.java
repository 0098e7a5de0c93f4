/** A KeyVault in memory, for the tests of programs that use {@link io.github.keyvaultgrpc.KeyVaultClient}. */
package io.github.keyvaultgrpc.testing;
