"""A stand-in for DynamoDB and KMS that costs next to nothing: `python -m benchmarks.aws_stand_in [--latency-ms 3]`.

One port answers both services over HTTP/1.1, each request after the same latency. It keeps items in memory, judges the
conditions that the server writes, and wraps data keys by nothing at all. It prints "ready on host:port" and serves
until SIGTERM.

The rule of this file: what the server sends is believed. No signature is checked, no limit, and no permission: the
contract tests show what AWS does, this one only takes the time that AWS takes.

Source: DynamoDB API Reference and AWS KMS API Reference, the actions named below.
"""

import argparse
import asyncio
import base64
import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import uvloop

REGION = "eu-central-1"
ARN = f"arn:aws:kms:{REGION}:111122223333:key/0b6e2c1a-5a53-4d13-8f8c-1f3a2b4c5d6e"
TABLE = "keyvault"
_KEY = [{"AttributeName": "pk", "KeyType": "HASH"}]
_KEY_TYPE = [{"AttributeName": "pk", "AttributeType": "S"}]
_INDEX_KEYS = [{"AttributeName": "listed", "KeyType": "HASH"}, {"AttributeName": "key_id", "KeyType": "RANGE"}]
_INDEX = {
    "IndexName": "names",
    "IndexStatus": "ACTIVE",
    "KeySchema": _INDEX_KEYS,
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["created"]},
}
_BLOB = b"wrapped by the stand-in:"

Json = dict[str, Any]


class Fault(Exception):
    """What a service answers in place of a result: its error code, and more."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(code)
        self.body = {"__type": f"com.amazonaws#{code}", "message": code, **more}


class StandIn:
    """The items of one table, and what each action answers."""

    def __init__(self) -> None:
        self._items: dict[str, Json] = {}
        self.actions: Mapping[str, Callable[[Json], Json]] = {
            "DescribeTable": self._describe_table,
            "DescribeTimeToLive": lambda _: {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}},
            "GetItem": self._get_item,
            "BatchGetItem": self._batch_get_item,
            "PutItem": self._put_item,
            "DeleteItem": self._delete_item,
            "Query": self._query,
            "DescribeKey": lambda _: {"KeyMetadata": {"KeyId": ARN, "KeyState": "Enabled"}},
            "GenerateDataKey": self._generate_data_key,
            "Decrypt": self._decrypt,
            "ReEncrypt": lambda request: {"CiphertextBlob": request["CiphertextBlob"], "KeyId": ARN},
        }

    def answer(self, action: str, body: bytes) -> tuple[HTTPStatus, bytes]:
        """Return the status and body of a reply to one action."""
        try:
            if action not in self.actions:
                raise Fault("UnknownOperationException")
            return HTTPStatus.OK, json.dumps(self.actions[action](json.loads(body))).encode()
        except Fault as fault:
            return HTTPStatus.BAD_REQUEST, json.dumps(fault.body).encode()

    @staticmethod
    def _describe_table(request: Json) -> Json:
        described = {"TableStatus": "ACTIVE", "KeySchema": _KEY, "AttributeDefinitions": _KEY_TYPE}
        described |= {"GlobalSecondaryIndexes": [_INDEX]}
        return {"Table": described | {"TableName": request["TableName"]}}

    def _get_item(self, request: Json) -> Json:
        item = self._find(request["Key"], request)
        return {} if item is None else {"Item": item}

    def _batch_get_item(self, request: Json) -> Json:
        found = {
            table: [item for key in wanted["Keys"] if (item := self._find(key, wanted)) is not None]
            for table, wanted in request["RequestItems"].items()
        }
        return {"Responses": found, "UnprocessedKeys": {}}

    def _find(self, key: Json, wanted: Json) -> Json | None:
        """Return the item of a key, or those of its attributes that a projection names."""
        item = self._items.get(key["pk"]["S"])
        if item is None or "ProjectionExpression" not in wanted:
            return item
        names = wanted.get("ExpressionAttributeNames", {})
        shown = {names.get(name.strip(), name.strip()) for name in wanted["ProjectionExpression"].split(",")}
        return {name: value for name, value in item.items() if name in shown}

    def _query(self, request: Json) -> Json:
        """Return a page of names; it is sorted each time, which DynamoDB's index is already."""
        values, after = request["ExpressionAttributeValues"], request.get("ExclusiveStartKey", {})
        names = {name: values.get(f":{name}", {"S": ""})["S"] for name in ("listed", "prefix")}
        found = sorted(
            (item["key_id"]["S"], item)
            for item in self._items.values()
            if item.get("listed", {}).get("S") == names["listed"] and item["key_id"]["S"].startswith(names["prefix"])
        )
        page = [item for name, item in found if name > after.get("key_id", {"S": ""})["S"]][: request["Limit"]]
        shown = ("pk", "listed", "key_id", "created")
        more = {"LastEvaluatedKey": {name: page[-1][name] for name in shown[:3]}} if page else {}
        return {"Items": [{name: item[name] for name in shown} for item in page], **more}

    def _put_item(self, request: Json) -> Json:
        pk = request["Item"]["pk"]["S"]
        stored = self._items.get(pk)
        if not _holds(request, stored):
            raise Fault("ConditionalCheckFailedException", **({"Item": stored} if stored else {}))
        self._items[pk] = request["Item"]
        return {}

    def _delete_item(self, request: Json) -> Json:
        self._items.pop(request["Key"]["pk"]["S"], None)
        return {}

    @staticmethod
    def _generate_data_key(_: Json) -> Json:
        key = os.urandom(32)
        return {"Plaintext": _text(key), "CiphertextBlob": _text(_BLOB + key), "KeyId": ARN}

    @staticmethod
    def _decrypt(request: Json) -> Json:
        blob = base64.b64decode(request["CiphertextBlob"])
        if not blob.startswith(_BLOB):
            raise Fault("InvalidCiphertextException")
        return {"Plaintext": _text(blob.removeprefix(_BLOB)), "KeyId": ARN}


def _holds(request: Json, stored: Json | None) -> bool:
    """Return whether the condition of a PutItem holds: absent, present, or with the same head."""
    condition = request.get("ConditionExpression", "")
    if condition.startswith("attribute_not_exists"):
        return stored is None
    if condition.startswith("attribute_exists"):
        return stored is not None
    return not condition or (stored is not None and stored["head"] == request["ExpressionAttributeValues"][":head"])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Http(asyncio.Protocol):
    """One connection: requests with a Content-Length, answered in order after the latency."""

    _identities = itertools.count(1)

    def __init__(self, stand_in: StandIn, latency: float) -> None:
        """`latency` is in seconds."""
        self._stand_in = stand_in
        self._latency = latency
        self._unread = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            headers = _headers(self._unread[:end])
            until = end + 4 + int(headers.get(b"content-length", b"0"))
            if len(self._unread) < until:
                return
            body, self._unread = self._unread[end + 4 : until], self._unread[until:]
            self._answer(headers.get(b"x-amz-target", b"").decode().rpartition(".")[2], body)

    def _answer(self, action: str, body: bytes) -> None:
        status, reply = self._stand_in.answer(action, body)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/x-amz-json-1.0\r\n"
            f"x-amzn-RequestId: {next(self._identities)}\r\nContent-Length: {len(reply)}\r\n\r\n"
        )
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._write, head.encode() + reply)
        else:
            self._write(head.encode() + reply)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _headers(block: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in block.split(b"\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in lines}


async def serve(latency: float) -> None:
    """Serve until SIGTERM; `latency` is in seconds."""
    loop, stand_in, stop = asyncio.get_running_loop(), StandIn(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Http(stand_in, latency), "127.0.0.1", 0)
    print("ready on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aws_stand_in", description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of every answer")
    uvloop.run(serve(parser.parse_args().latency_ms / 1e3))
