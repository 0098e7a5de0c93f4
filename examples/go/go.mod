module example.com/kv

go 1.26.0

require (
	github.com/keyvault-grpc/keyvault/sdk/go v0.1.0
	google.golang.org/grpc v1.85.0
)

require (
	github.com/keyvault-grpc/keyvault/sdk/go/kve1 v0.1.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261110000943-09e21b237f2c // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

// The library of this checkout. Leave the lines out where you copy this program.
replace (
	github.com/keyvault-grpc/keyvault/sdk/go => ../../sdk/go
	github.com/keyvault-grpc/keyvault/sdk/go/kve1 => ../../sdk/go/kve1
)
