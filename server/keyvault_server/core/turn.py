"""Turns: what a call waits for before it asks the store, and gives back after, where few may ask at a time."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

Turn: TypeAlias = AbstractAsyncContextManager[None]
NO_WAIT: Turn = nullcontext()
"""The turn of a call that need not wait."""
