// Package keyvault is a client of a KeyVault server, a vault that stores only what it cannot read, and lets only the
// holder of a key change it.
//
//	vault, err := keyvault.New("vault.example.com:50051", keyvault.WithTLS(keyvault.TLS{CA: "ca.pem"}))
//	...
//	defer vault.Close()
//	key, err := vault.GenerateKey(ctx, "prod/")
//	err = key.Save("prod.key") // before it is used: it cannot be regenerated
//	_, err = vault.Create(ctx, "prod/db", []byte("hunter2"), key)
//	record, err := vault.Read(ctx, "prod/db", key)
//
// What this package holds, in every method:
//
//   - A call ends at the deadline of its context; without one, after the client's timeout. Until then it is retried with
//     the same bytes where that is safe. Every attempt has a share of the time, so that a connection that stopped
//     answering does not take all of it.
//   - Data is sealed and opened in this process. What a server answers is checked before it is believed: a record opens
//     under its key, at the revision that was asked for, and not below one that was proved before.
//   - A mutation whose outcome is not known is an [ErrOutcomeUnknown] and nothing else. Read the record to see.
//   - No key, token or plaintext is in an error, a log line or what fmt prints.
//
// A [Client] is safe for concurrent use. [Vault] is its interface, for a fake in your tests; package x/kvtest has a
// server in memory.
//
// This module owns package keyvaultv1, the generated stubs of keyvault.proto: a program must have them once, because
// protobuf registers messages by their names and panics at start for a second copy. Import them from here.
package keyvault

//go:generate ../../.venv/bin/buf generate ../..
