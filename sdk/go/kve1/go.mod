module github.com/keyvault-grpc/keyvault/sdk/go/kve1

go 1.24.0
