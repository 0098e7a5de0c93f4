package io.github.keyvaultgrpc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AddressesTest {
    @Test
    void anAddressThatGrpcTakesForAnotherOrRejectsIsNamed() {
        for (String host : List.of("a@b", "a#b", "a?b", "my_host", "a..b", "-x", "%zz", "a\\b", "a{b}", "256.1.1.1", "a,b", "\u00e9")) {
            String address = host + ":50051";
            InvalidRequestException failed = assertThrows(
                    InvalidRequestException.class, () -> KeyVault.builder(address).insecure().build(), address);
            assertTrue(failed.getMessage().endsWith("the host must be a name of letters, digits and hyphens, or an IP address"));
        }
        InvalidRequestException failed =
                assertThrows(InvalidRequestException.class, () -> KeyVault.builder("unix://run/kv.sock").build());
        assertEquals("invalid address unix://run/kv.sock: write unix:run/kv.sock", failed.getMessage());
    }

    @Test
    void namesAndAddressesOfHostsAreTaken() {
        for (String host : List.of("vault.example.com", "vault", "10.0.0.1", "[2001:db8::1]", "a-1.b", "LocalHost")) {
            KeyVault.builder(host + ":50051").insecure().build().close();
            KeyVault.builder("dns:///" + host + ":50051").insecure().build().close();
        }
        KeyVault.builder("unix:///run/kv.sock").build().close();
    }

    @Test
    void anAddressOfIpv6IsConnectedTo() {
        try (KeyVault vault = KeyVault.builder("[::1]:1").timeout(Duration.ofMillis(1500)).build()) {
            UnavailableException failed = assertThrows(UnavailableException.class, vault::whoAmI);
            assertTrue(failed.getMessage().startsWith("cannot connect to [::1]:1: "), failed.getMessage());
            assertTrue(failed.getCause().getMessage().contains("/[0:0:0:0:0:0:0:1]:1"), String.valueOf(failed.getCause()));
        }
    }

    @Test
    void aSocketThatIsNotThereIsNamed(@TempDir Path folder) {
        String address = "unix:" + folder.resolve("kv.sock");
        try (KeyVault vault = KeyVault.builder(address).timeout(Duration.ofMillis(1500)).build()) {
            UnavailableException failed = assertThrows(UnavailableException.class, vault::whoAmI);
            assertEquals("cannot connect to " + address + ": no such socket. Is the server running?", failed.getMessage());
        }
    }
}
