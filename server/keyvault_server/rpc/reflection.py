"""Server reflection, v1 and v1alpha: what grpcurl, buf curl and ghz need to call us without the .proto.

The rule of this file: every symbol of the contract is found. grpc_reflection asks Python's descriptor pool, which finds
no method by its name, and offers v1alpha alone; the two versions differ only in their package.
Source: grpc/reflection/v1/reflection.proto.
"""

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
_METHOD = "ServerReflectionInfo"


def add_reflection(services: Any, names: list[str]) -> None:
    """Register both versions at a server; `names` are the services that it lists in addition to reflection itself."""
    _define_v1()
    names = [*names, f"{_V1}.ServerReflection", f"{_ALPHA}.ServerReflection"]
    # The servicer for grpc.aio, named explicitly: the other one keeps a thread for each open stream.
    servicer = reflection.aio.ReflectionServicer(names, _Symbols())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = [
        grpc.method_handlers_generic_handler(f"{package}.ServerReflection", {_METHOD: handler})
        for package in (_V1, _ALPHA)
    ]
    services.add_generic_rpc_handlers(tuple(generic))


class _Symbols:
    """The default descriptor pool, in which methods are found too: in the file of their service."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802
        """See DescriptorPool. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            descriptor = self._pool.FindServiceByName(service)
            if method not in descriptor.methods_by_name:
                raise
            return descriptor.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _define_v1() -> None:
    """Add v1's file to the pool: v1alpha's in another package. A second time the same bytes change nothing."""
    pool = descriptor_pool.Default()
    definition = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(definition)
    definition.name, definition.package = "grpc/reflection/v1/reflection.proto", _V1
    definition.options.Clear()
    for message in definition.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{_ALPHA}.", f".{_V1}.")
    for service in definition.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{_ALPHA}.", f".{_V1}.")
            method.output_type = method.output_type.replace(f".{_ALPHA}.", f".{_V1}.")
    pool.AddSerializedFile(definition.SerializeToString())
