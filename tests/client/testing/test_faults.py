"""Which faults a call meets, and what an embedded server's process gets of the environment."""

import json

import pytest

from keyvault_client import Busy
from keyvault_client.testing.faults import Faults, Order, check_methods, check_times
from keyvault_client.testing.process import environment
from keyvault_client.testing.refusals import Refusal


def test_faults_play_in_the_order_in_which_they_were_added() -> None:
    faults = Faults()
    refused = Order("refuse", ("Read",), times=2, refusal=Refusal.of(Busy))
    cut = Order("cut", ("Read", "Update"), times=1, committed=True)
    slow = Order("delay", ("Read",), seconds=1)
    numbers = [faults.add(order) for order in (refused, cut, slow)]
    assert [faults.meet("Read") for _ in range(4)] == [[slow, refused], [slow, refused], [slow, cut], [slow]]
    assert faults.meet("Update") == faults.meet("") == []
    assert [faults.calls(number) for number in numbers] == [2, 1, 4]


def test_a_removed_fault_plays_no_more() -> None:
    faults = Faults()
    number = faults.add(Order("unknown", ("Read",)))
    faults.meet("Read")
    assert (faults.remove(number), faults.remove(number), faults.calls(number)) == (1, 0, 0)
    faults.add(Order("unknown", ("Read",)))
    faults.clear()
    assert faults.meet("Read") == []


def test_a_fault_comes_whole_through_json() -> None:
    order = Order("refuse", ("Read",), 3, refusal=Refusal.of(Busy("later", retry_after=2)))
    assert Order.from_json(json.loads(json.dumps(order.to_json()))) == order
    plain = Order("cut", ("Create", "Update"), committed=True)
    assert Order.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_methods_and_times_are_checked() -> None:
    assert check_methods(None, ("Read",)) == check_methods("Read", ("Create",)) == ("Read",)
    with pytest.raises(ValueError, match="unknown method 'read': must be one of GenerateKey, Create"):
        check_methods("read", ())
    with pytest.raises(ValueError, match="invalid times 0: must be 1 or more"):
        check_times(0)


def test_the_process_gets_no_settings_and_no_proxies() -> None:
    ours = {"KEYVAULT_POLICY": "p", "https_proxy": "p", "NO_PROXY": "n", "PYTHONWARNINGS": "error", "PATH": "/bin"}
    assert environment(ours, {"KEYVAULT_HISTORY": "3"}) == {"PATH": "/bin", "KEYVAULT_HISTORY": "3"}
    with pytest.raises(ValueError, match="cannot set KEYVAULT_DATA: the embedded server chooses it"):
        environment({}, {"KEYVAULT_DATA": "data"})
    with pytest.raises(ValueError, match=r"cannot set HISTORY: docs/settings.md lists them all"):
        environment({}, {"HISTORY": "3"})
