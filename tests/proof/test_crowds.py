"""More than three actors: too many orders for all of them, so Hypothesis draws acts, faults and schedules, and shrinks what loses.

``PROOF=n`` (or ``full``) draws that many (20,000) stories.
"""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proof.explorer import walk
from tests.proof.stories import ACTS, LATE, RETRIED, evening, home, story
from tests.proof.world import Setting, determined

_WISH = os.environ.get("PROOF", "")
EXAMPLES = {"": 400, "full": 20_000}.get(_WISH) or int(_WISH)
NEED_ANOTHER_ROOM = {"the same sign-in", "sign-in without sid", "a guest's sign-in", "administrator for a guest"}
CROWD = sorted(set(ACTS) - NEED_ANOTHER_ROOM)
NOT_IN_THE_EVENING = {"sign-in in a tab", "Ben's sign-in", "logout and back"}
EVENING_CROWD = sorted(set(CROWD) - NOT_IN_THE_EVENING)


SETTINGS = st.builds(
    Setting,
    scope=st.sampled_from(["account", "session"]),
    backchannel=st.booleans(),
    per_account=st.sampled_from([2, 50]),
    parallel=st.booleans(),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    acts=st.lists(st.sampled_from(CROWD), min_size=3, max_size=6, unique=True),
    setting=SETTINGS,
    faults=st.integers(0, 3),
    data=st.data(),
)
def test_no_crowd_loses(acts: list[str], setting: Setting, faults: int, data: st.DataObject) -> None:
    """Whoever acts at once, in whatever order, whatever fails: signed out stays signed out, and others stay signed in."""
    if not setting.backchannel:
        acts = [act for act in acts if not act.startswith("back-channel")]
    scenario = story(acts, room=home, setting=setting, retry=bool(set(acts) & RETRIED))
    with determined():
        walk(lambda: scenario.fresh(faults=faults), lambda among: data.draw(st.integers(0, among - 1)))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    acts=st.lists(st.sampled_from(EVENING_CROWD), min_size=2, max_size=5, unique=True),
    setting=SETTINGS,
    faults=st.integers(0, 3),
    data=st.data(),
)
def test_no_crowd_around_a_sweep_loses(acts: list[str], setting: Setting, faults: int, data: st.DataObject) -> None:
    """The same in the evening, when a session has idled out, another one slid on, and the sweep has something to do."""
    acts = sorted({"sweep", *(act for act in acts if setting.backchannel or not act.startswith("back-channel"))})
    scenario = story(acts, room=evening, minute=LATE, setting=setting, retry=bool(set(acts) & RETRIED))
    with determined():
        walk(lambda: scenario.fresh(faults=faults), lambda among: data.draw(st.integers(0, among - 1)))
