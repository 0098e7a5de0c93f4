module github.com/keyvault-grpc/keyvault/sdk/go

go 1.26.0

require (
	github.com/keyvault-grpc/keyvault/sdk/go/kve1 v0.1.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261110000943-09e21b237f2c
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)

// In this repository the two modules are built together; a module that requires this one does not see the line.
replace github.com/keyvault-grpc/keyvault/sdk/go/kve1 => ./kve1
