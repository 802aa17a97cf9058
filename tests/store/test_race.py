"""The race that session stores lose: a refresh in flight against a sign-out, on real storage."""

import pytest

from benchmarks.race import run
from tests.support.stack import Azurite

pytestmark = pytest.mark.azurite


def test_no_refresh_brings_a_session_back(azurite: Azurite) -> None:
    """200 sign-ins, each with three refreshing and sliding threads against one sign-out: nothing is left."""
    left, written = run(azurite.connection_string, rounds=200)  # benchmarks/race.py says how
    assert written > 100
    assert left == 0


def test_the_race_is_one_without_the_guard(azurite: Azurite) -> None:
    """The same with updates that do not insist on the row: sessions come back, so the test above can fail."""
    left, _ = run(azurite.connection_string, rounds=10, guarded=False)
    assert left > 0
