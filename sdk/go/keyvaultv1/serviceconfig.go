package keyvaultv1

import _ "embed"

// ServiceConfig is for a program that calls these stubs itself, by [google.golang.org/grpc.WithDefaultServiceConfig]: gRPC
// then retries Read and GenerateKey after UNAVAILABLE, and no change of a record. Package keyvault needs none.
//
//go:embed keyvault_service_config.json
var ServiceConfig string
