"""Profiles of the property tests, and of those that draw their trials at random.

A profile decides about seeds, the database and the number of trials; a test only about its examples. `ci` derives its
examples from the test, so that a run can be repeated, and is what CI=true takes. `default` takes new seeds and prints
how to repeat a failure. `prove` takes new seeds, ten times the examples, and keeps what failed in .hypothesis.
"""

import os

from hypothesis import settings

THOROUGH = "prove"


def register() -> None:
    """Register the profiles and load the one of this machine; pytest's --hypothesis-profile comes later and wins."""
    settings.register_profile("ci", deadline=None, database=None, derandomize=True)
    settings.register_profile("default", deadline=None, database=None, print_blob=True)
    settings.register_profile(THOROUGH, deadline=None, print_blob=True)
    settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


def examples(count: int) -> settings:
    """Settings of a test that tries so many examples, and ten times as many in `prove`."""
    return settings(max_examples=count * (10 if _is_thorough() else 1))


def trials(count: int) -> int:
    """Return how many random trials a test marked `sampled` makes: all of them in `prove`, a tenth elsewhere."""
    return count if _is_thorough() else count // 10


def _is_thorough() -> bool:
    return settings.get_current_profile_name() == THOROUGH
