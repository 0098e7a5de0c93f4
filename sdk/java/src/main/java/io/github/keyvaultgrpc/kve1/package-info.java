/** The envelope KVE1, with the JDK's cryptography alone. */
package io.github.keyvaultgrpc.kve1;
