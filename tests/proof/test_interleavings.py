"""Every order of the storage calls of two and three actors, on the product's own code.

``explorer.py`` runs the actors, ``world.py`` says what must hold, ``stories.py`` what they do.  ``PROOF=full`` also tries a fault (a
crash, a lost answer, a repetition, a write that lands late) at every step of every pair (with
back-channel logout: of the pairs with a sign-in), and every three actors; that takes half an hour.
"""

import itertools
import os

import pytest

from tests.proof.explorer import REPEATED
from tests.proof.stories import LATE, alone, dusk, evening, nobody, story
from tests.proof.world import Setting

FULL = os.environ.get("PROOF") == "full"
WRITERS = ["sign-in", "sign-in in a tab", "use", "refresh"]
OUTS = [
    "logout",
    "everywhere",
    "device",
    "front-channel",
    "front-channel of the sign-in",
    "administrator",
    "administrator by oid",
    "logout and back",
]
BACKS = [
    "back-channel sid",
    "back-channel sub",
    "back-channel both",
    "back-channel of the sign-in",
    "back-channel of the sign-in, both",
]


def pairs(*, back: bool) -> list[tuple[str, str]]:
    """Who acts at once: writers against sign-outs, writers among themselves, sign-outs among themselves."""
    outs = OUTS + BACKS if back else OUTS
    every = [*itertools.product(WRITERS, outs), *itertools.combinations(WRITERS, 2), *itertools.combinations(outs, 2)]
    return [pair for pair in every if not back or set(pair) & set(BACKS)]


@pytest.mark.parametrize("back", [False, True], ids=["", "back-channel"])
@pytest.mark.parametrize("scope", ["account", "session"])
def test_no_order_of_two_actors_loses(scope: str, back: bool) -> None:
    """Signed out stays signed out, others stay signed in, nothing is orphaned: exhaustively, for each pair."""
    schedules = 0
    for pair in pairs(back=back):
        schedules += (
            story(pair, setting=Setting(scope=scope, backchannel=back, parallel=False))
            .prove(faults=1 if FULL and not back else 0)
            .schedules
        )
    assert schedules > 10_000


TRIPLES = [
    ("refresh", "logout", "use"),
    ("refresh", "another refresh", "logout"),
    ("sign-in", "logout", "front-channel of the sign-in"),
    ("sign-in", "sign-in in a tab", "logout"),
    ("sign-in in a tab", "use", "administrator by oid"),
    ("refresh", "front-channel", "logout"),
]


def triples() -> list[tuple[str, ...]]:
    """Chosen ones; with ``PROOF=full`` all that hold a writer and a sign-out."""
    if not FULL:
        return TRIPLES
    acts = (*WRITERS, *(name for name in OUTS if name not in {"everywhere", "device"}))  # these need the second browser
    every = itertools.combinations(acts, 3)
    return [*TRIPLES, *(three for three in every if set(three) & set(WRITERS) and set(three) & set(OUTS))]


@pytest.mark.parametrize("scope", ["account", "session"])
def test_no_order_of_three_actors_loses(scope: str) -> None:
    """The same with a third: what two leave half done, another one meets."""
    schedules = 0
    for three in triples():
        schedules += (
            story(three, room=alone, setting=Setting(scope=scope, backchannel=False, parallel=False)).prove().schedules
        )
    assert schedules > 1_000_000


FAULTY = [
    ("sign-in", "logout"),
    ("sign-in", "front-channel of the sign-in"),
    ("refresh", "logout"),
    ("use", "everywhere"),
    ("logout", "front-channel"),
]


FAULTY_BACK = [
    ("use", "back-channel sub"),
    ("refresh", "back-channel sid"),
    *([("sign-in", name) for name in BACKS] if FULL else []),
]


@pytest.mark.parametrize("scope", ["account", "session"])
@pytest.mark.parametrize("pair", [*FAULTY, *FAULTY_BACK], ids=" + ".join)
def test_no_fault_at_any_step_loses(scope: str, pair: tuple[str, str]) -> None:
    """A crash, a lost answer, a repetition or a late write, at each step of each order; sign-outs that failed are repeated."""
    setting = Setting(scope=scope, backchannel=pair in FAULTY_BACK, parallel=False)
    assert story(pair, retry=True, setting=setting).prove(faults=1).schedules > 1_000


SWEPT = ["sign-in", "use two", "logout two", "refresh two", "another sweep"]


@pytest.mark.parametrize("other", SWEPT)
def test_no_order_with_a_sweep_loses(other: str) -> None:
    """The sweep takes what expired and nothing else, whoever acts meanwhile."""
    for room in (evening, dusk):
        if room is dusk and other.endswith("two"):
            continue
        assert story(("sweep", other), room=room, minute=LATE, setting=Setting(parallel=False)).prove().schedules > 1


@pytest.mark.parametrize("scope", ["account", "session"])
@pytest.mark.parametrize("back", [False, True], ids=["", "back-channel"])
def test_no_repeated_sign_in_loses_its_mark(scope: str, back: bool) -> None:
    """A sign-in whose answer is lost, a logout that names it, and a sweep: in turns, or with ``PROOF=full`` in every order."""
    acts = ("sign-in", "back-channel of the sign-in" if back else "front-channel of the sign-in", "sweep")
    told = story(acts, room=dusk, minute=LATE, setting=Setting(scope=scope, backchannel=back, parallel=False))
    every = FULL and not back
    assert told.prove(faults=1, kinds=(REPEATED,), faulty=("sign-in",), preemptions=None if every else 1).schedules > 100


NOBODYS = [
    ("sign-in", "the same sign-in"),
    ("sign-in", "sign-in without sid"),
    ("sign-in without sid", "front-channel of the sign-in"),
    ("a guest's sign-in", "administrator for a guest"),
    *(("sign-in without sid", name) for name in BACKS if "of the sign-in" in name),
]


@pytest.mark.parametrize("scope", ["account", "session"])
@pytest.mark.parametrize("pair", NOBODYS, ids=" + ".join)
def test_no_order_of_first_sign_ins_loses(scope: str, pair: tuple[str, str]) -> None:
    """Guests, browsers without a ``sid``, the same answer twice, where nobody has a session yet; with a fault at any step."""
    setting = Setting(scope=scope, backchannel=any(name in BACKS for name in pair), parallel=False)
    assert story(pair, room=nobody, setting=setting, retry=True).prove(faults=1 if FULL else 0).schedules > 1
