"""The parts of benchmarks/ whose faults would make wrong figures without a sign of it."""

import json
import re
from http import HTTPStatus
from typing import Any

import pytest

from benchmarks.aws_stand_in import StandIn
from benchmarks.calls import SCOPE, Requests
from benchmarks.generator import Round
from benchmarks.http1 import is_whole
from benchmarks.plot import Axes, Line, plot
from benchmarks.rivals import Rival, Rounds, in_turns, ratio
from benchmarks.servers import Server
from keyvault_api.v1 import keyvault_pb2 as pb

KEY = {"pk": {"S": "acme#db"}}
ITEM = {**KEY, "head": {"B": "aGVhZA=="}, "body": {"B": "Ym9keQ=="}}
ABSENT = {"ConditionExpression": "attribute_not_exists(#pk)", "ExpressionAttributeNames": {"#pk": "pk"}}
SAME = {"ConditionExpression": "#head = :head", "ExpressionAttributeNames": {"#head": "head"}}


def ask(stand_in: StandIn, action: str, **request: Any) -> tuple[HTTPStatus, Any]:
    """What the stand-in answers."""
    status, body = stand_in.answer(action, json.dumps(request).encode())
    return status, json.loads(body)


def test_the_stand_in_keeps_items_and_shows_projections() -> None:
    stand_in = StandIn()
    assert ask(stand_in, "PutItem", Item=ITEM, **ABSENT) == (HTTPStatus.OK, {})
    assert ask(stand_in, "GetItem", Key=KEY)[1] == {"Item": ITEM}
    names = {"ProjectionExpression": "#pk, #head", "ExpressionAttributeNames": {"#pk": "pk", "#head": "head"}}
    assert ask(stand_in, "GetItem", Key=KEY, **names)[1] == {"Item": {**KEY, "head": ITEM["head"]}}
    keys = [KEY, {"pk": {"S": "acme#other"}}]
    found = ask(stand_in, "BatchGetItem", RequestItems={"keyvault": {"Keys": keys}})[1]
    assert found == {"Responses": {"keyvault": [ITEM]}, "UnprocessedKeys": {}}


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(ABSENT, id="absent"),
        pytest.param({**SAME, "ExpressionAttributeValues": {":head": {"B": "b3RoZXI="}}}, id="another head"),
    ],
)
def test_the_stand_in_refuses_a_write_whose_condition_fails(condition: dict[str, Any]) -> None:
    stand_in = StandIn()
    ask(stand_in, "PutItem", Item=ITEM)
    status, fault = ask(stand_in, "PutItem", Item=KEY, **condition)
    assert (status, fault["Item"]) == (HTTPStatus.BAD_REQUEST, ITEM)
    assert fault["__type"].endswith("#ConditionalCheckFailedException")
    same = {**SAME, "ExpressionAttributeValues": {":head": ITEM["head"]}}
    assert ask(stand_in, "PutItem", Item=ITEM, **same)[0] == HTTPStatus.OK


def test_the_stand_in_lists_names_page_by_page() -> None:
    stand_in = StandIn()
    for name, listed in (("b", "live"), ("a", "live"), ("c", "deleted"), ("other", "live")):
        shown = {"listed": {"S": f"acme#{listed}"}, "key_id": {"S": name}, "created": {"N": "1"}}
        ask(stand_in, "PutItem", Item={"pk": {"S": f"acme#{name}"}, "body": {"B": ""}, **shown})
    found: list[list[str]] = []
    start: dict[str, Any] = {}
    for _ in range(3):
        wanted = {"Limit": 1, "ExpressionAttributeValues": {":listed": {"S": "acme#live"}}, **start}
        page = ask(stand_in, "Query", **wanted)[1]
        found.append([item["key_id"]["S"] for item in page["Items"]])
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
    assert found == [["a"], ["b"], ["other"]]
    assert ask(stand_in, "Query", **wanted | start)[1] == {"Items": []}


def test_the_stand_in_unwraps_the_data_keys_that_it_made() -> None:
    stand_in = StandIn()
    made = ask(stand_in, "GenerateDataKey")[1]
    assert ask(stand_in, "Decrypt", CiphertextBlob=made["CiphertextBlob"])[1]["Plaintext"] == made["Plaintext"]
    assert ask(stand_in, "Decrypt", CiphertextBlob="b3RoZXI=")[0] == HTTPStatus.BAD_REQUEST
    assert ask(stand_in, "DeleteTable")[1]["__type"].endswith("#UnknownOperationException")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ],
)
def test_a_reply_is_whole_at_its_last_byte(reply: bytes) -> None:
    assert is_whole(reply)
    assert not any(is_whole(reply[:size]) for size in range(len(reply)))


async def test_rivals_play_in_turns_and_ratios_are_of_one_turn() -> None:
    order, seconds = "", iter([1.0, 1.0, 2.0, 1.0, 8.0, 4.0])

    def rival(title: str) -> Rival:
        async def play() -> Round:
            nonlocal order
            order += title
            return Round(seconds=1.0, cpu_seconds=next(seconds))

        return Rival(title, play)

    played = await in_turns([rival("a"), rival("b")], 2)
    assert order == "ab" + "ba" + "ab"
    assert ratio(played["a"], played["b"], lambda took: took.cpu_seconds) == (1.0 / 2.0 + 8.0 / 4.0) / 2


def test_latencies_are_medians_of_the_rounds() -> None:
    rounds = Rounds(Round(latencies=[0.001 * number, 0.100]) for number in (1, 9, 2))
    assert rounds.latency == "100 / 100"
    assert Rounds(Round(latencies=[0.001 * number]) for number in (1, 9, 2)).latency == "2.00 / 2.00"


def test_a_plot_places_points_by_their_values() -> None:
    svg = plot(Axes("x", "y"), [Line("a < b", [(0, 0), (2, 0.5), (4, 1.0)])])
    found = re.search(r'points="(\S+) (\S+) (\S+)"', svg)
    assert found
    (left, low), (middle, half), (right, high) = (map(float, point.split(",")) for point in found.groups())
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((low + high) / 2, abs=0.1)
    assert high < low
    assert "a &lt; b" in svg


async def test_requests_of_one_kind_are_not_sent_as_another() -> None:
    requests = Requests(Server(0, "nowhere"), size=1)
    requests.set_key(pb.GenerateKeyResponse(tenant="acme", wrapped_key=b"wrapped", plaintext_key=bytes(32)))
    await requests.make("Create", 2)
    assert requests.source("Delete")(0) == b""
    assert pb.CreateRequest.FromString(requests.source("Create")(0)).key_id == f"{SCOPE}new/1"
