"""Faults that are played instead of, or on top of, the real server's answers.

The rule of this file: faults play in the order in which they were added. A call waits for every delay that is for its
method, and then meets the first other one that has calls left.
"""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from keyvault_api.names import METHODS
from keyvault_client.testing.refusals import Refusal

MUTATIONS = ("Create", "Update", "Delete", "RotateKey")
"""Methods that change a record."""

Kind = Literal["refuse", "delay", "cut", "unknown"]


@dataclass(frozen=True, slots=True)
class Order:
    """One fault as it goes to the server's process."""

    kind: Kind
    methods: tuple[str, ...]
    times: int | None = None
    """Calls that meet it; None for every one."""
    seconds: float = 0.0
    """Length of a delay."""
    committed: bool = False
    """Whether the server does first what was asked; the caller gets the fault instead of its answer."""
    refusal: Refusal | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return what `to_json` returned."""
        refusal = content["refusal"]
        made = content | {"methods": tuple(content["methods"]), "refusal": Refusal(**refusal) if refusal else None}
        return cls(**made)


def check_methods(method: str | None, default: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that a fault is for. Raises ValueError for an unknown one."""
    if method is None:
        return tuple(default)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: must be one of {', '.join(METHODS)}")
    return (method,)


def check_times(times: int | None) -> int | None:
    """Return how many calls meet a fault. Raises ValueError for less than one."""
    if times is not None and times < 1:
        raise ValueError(f"invalid times {times}: must be 1 or more, or None for every call")
    return times


@dataclass(slots=True)
class _Fault:
    order: Order
    calls: int = 0

    def is_for(self, method: str) -> bool:
        left = self.order.times is None or self.calls < self.order.times
        return left and method in self.order.methods


@dataclass(slots=True)
class Faults:
    """The faults of one server; calls on any thread meet them."""

    _faults: dict[int, _Fault] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: int = 0

    def add(self, order: Order) -> int:
        """Play this fault from now on; return its number."""
        with self._lock:
            self._numbers += 1
            self._faults[self._numbers] = _Fault(order)
            return self._numbers

    def calls(self, number: int) -> int:
        """Return how many calls have met this fault; 0 for one that was removed."""
        with self._lock:
            return self._faults[number].calls if number in self._faults else 0

    def remove(self, number: int) -> int:
        """Play this fault no more; return how many calls met it."""
        with self._lock:
            fault = self._faults.pop(number, None)
            return fault.calls if fault else 0

    def clear(self) -> None:
        """Play no fault."""
        with self._lock:
            self._faults.clear()

    def meet(self, method: str) -> list[Order]:
        """Return the faults that this call meets, in the order in which they play, and count it."""
        with self._lock:
            meant = [fault for fault in self._faults.values() if fault.is_for(method)]
            delays = [fault for fault in meant if fault.order.kind == "delay"]
            met = delays + [fault for fault in meant if fault.order.kind != "delay"][:1]
            for fault in met:
                fault.calls += 1
            return [fault.order for fault in met]
