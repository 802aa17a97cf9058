"""The table of docs/proof.md, counted anew: ``python -m tests.proof.figures``, some minutes."""

from collections.abc import Iterable

from tests.proof import test_interleavings as every
from tests.proof.explorer import REPEATED, Report
from tests.proof.stories import LATE, alone, dusk, evening, nobody, story
from tests.proof.world import Setting

SCOPES = ("account", "session")


def row(what: str, reports: Iterable[Report]) -> None:
    """One row: stories, different states, schedules."""
    found = list(reports)
    states, schedules = sum(one.states for one in found), sum(one.schedules for one in found)
    print(f"| {what} | {len(found)} | {states:,} | {schedules:,} |", flush=True)


def setting(scope: str, *, back: bool = False) -> Setting:
    """As the tests have it."""
    return Setting(scope=scope, backchannel=back, parallel=False)  # type: ignore[arg-type]


def main() -> None:
    """Prints the rows."""
    for back in (False, True):
        pairs = [(pair, scope) for scope in SCOPES for pair in every.pairs(back=back)]
        row(
            "two actors, provider with back-channel logout" if back else "two actors, every order, both scopes",
            (story(pair, setting=setting(scope, back=back)).prove() for pair, scope in pairs),
        )
    row(
        "first sign-ins: guests, without `sid`, twice the same",
        (
            story(pair, room=nobody, retry=True, setting=setting(scope, back=bool(set(pair) & set(every.BACKS)))).prove()
            for scope in SCOPES
            for pair in every.NOBODYS
        ),
    )
    row(
        "three actors, every order (chosen ones)",
        (story(three, room=alone, setting=setting(scope)).prove() for scope in SCOPES for three in every.TRIPLES),
    )
    row(
        "two actors and one fault at any step, with retries",
        (
            story(pair, retry=True, setting=setting(scope, back=pair in every.FAULTY_BACK)).prove(faults=1)
            for scope in SCOPES
            for pair in [*every.FAULTY, *every.FAULTY_BACK]
        ),
    )
    row(
        "a sweep and somebody",
        (
            story(("sweep", other), room=room, minute=LATE, setting=setting("account")).prove()
            for other in every.SWEPT
            for room in (evening, dusk)
            if not (room is dusk and other.endswith("two"))
        ),
    )
    row(
        "a sign-in whose answer is lost, a front-channel logout, a sweep",
        (
            story(("sign-in", "front-channel of the sign-in", "sweep"), room=dusk, minute=LATE, setting=setting(scope)).prove(
                faults=1, kinds=(REPEATED,), faulty=("sign-in",)
            )
            for scope in SCOPES
        ),
    )


if __name__ == "__main__":
    main()
