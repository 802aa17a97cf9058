"""Each guard of the protocol taken away: then some order loses, so the proof of the others can fail.

``-s`` prints the schedule that loses, step by step; ``docs/proof.md`` tells them in words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from shared.store import sessions as module
from shared.store.index import Index
from shared.store.sessions import Sessions
from shared.store.table import Merge, Replace, Row, Upsert
from tests.proof.explorer import FAULTS, REPEATED
from tests.proof.stories import LATE, NOW, dusk, evening, home, story
from tests.proof.world import Browser, Setting, Violation

Patch = pytest.MonkeyPatch


def nothing_is_never_inserted(monkeypatch: Patch) -> None:
    """Never insert: tokens are written whether the row is still there or not."""

    def upsert(*, key: str, values: Any, etag: str | None) -> Upsert:
        del etag
        return Upsert(key=key, values=values)

    monkeypatch.setattr(module, "Replace", upsert)


def no_etag(monkeypatch: Patch) -> None:
    """The ETag of the session's row: whoever comes last overwrites, as long as there is a row."""

    def merge(*, key: str, values: Any, etag: str | None) -> Merge:
        del etag
        return Merge(key=key, values=values, etag=None)

    def over(*, key: str, values: Any, etag: str | None) -> Replace:
        del etag
        return Replace(key=key, values=values, etag=None)

    monkeypatch.setattr(module, "Merge", merge)
    monkeypatch.setattr(module, "Replace", over)


def no_tombstone(monkeypatch: Patch) -> None:
    """The tombstone of a session that is not there yet."""
    monkeypatch.setattr(Sessions, "_bury", lambda *_, **__: None)


def no_ended_at(monkeypatch: Patch) -> None:
    """``EndedAt`` of the account row: the sign-in does not look at it."""
    monkeypatch.setattr(Sessions, "ended_at", lambda *_: None)


def no_account_row(monkeypatch: Patch) -> None:
    """The account row: written without its ETag, sign-in and sign-out no longer exclude each other."""
    whole = Sessions._account_operation

    def loose(self: Sessions, *args: Any, **kwargs: Any) -> Any:
        operation = whole(self, *args, **kwargs)
        return Upsert(key=operation.key, values=operation.values)

    monkeypatch.setattr(Sessions, "_account_operation", loose)


def index_rows_come_after(monkeypatch: Patch) -> None:
    """The order of writes at sign-in: the index rows come after the session."""
    whole, point = Sessions._insert, Index.point
    monkeypatch.setattr(Index, "point", lambda *_: None)

    def late(self: Sessions, session: Any, new: Any, mark: str) -> Any:
        gone = whole(self, session, new, mark)
        point(self._index, self._pointer(session), session.index_keys)
        return gone

    monkeypatch.setattr(Sessions, "_insert", late)


def index_rows_go_before(monkeypatch: Patch) -> None:
    """The order of writes at sign-out: the index rows go before the sessions."""
    whole = Sessions.end_account

    def early(self: Sessions, account: str, **kwargs: Any) -> list[Row]:
        listing = kwargs.get("listing") or self.listing(account)
        self._index.forget(module._index_rows(listing.rows))
        return whole(self, account, **{**kwargs, "listing": listing})

    monkeypatch.setattr(Sessions, "end_account", early)


def no_end_rows(monkeypatch: Patch) -> None:
    """``end:`` rows of a back-channel logout: the sign-in does not look at them."""
    monkeypatch.setattr(Index, "ended_at", lambda *_, **__: None)


def no_marks(monkeypatch: Patch) -> None:
    """The marks by which a writer whose answer was lost knows its own work again."""
    whole = Sessions._to_replace

    def but_itself(self: Sessions, listing: Any, session: Any, new: Any) -> list[Row]:
        return [row for row in whole(self, listing, session, new) if row.key != session.id]

    monkeypatch.setattr(Sessions, "_has_mark", lambda *_: False)
    monkeypatch.setattr(Sessions, "_to_replace", but_itself)


def no_lease(monkeypatch: Patch) -> None:
    """The lease: everybody redeems the refresh token."""
    monkeypatch.setattr(
        Sessions, "take_lease", lambda _, session, *, now: replace(session, lease="x", lease_until=now + module.LEASE)
    )


def no_second_write(monkeypatch: Patch) -> None:
    """The merge on 412: tokens are dropped where the row changed meanwhile, and the old refresh token is dead."""
    monkeypatch.setattr(Sessions, "_reread", lambda *_: None)


def nothing_says_when_it_was_marked(monkeypatch: Patch) -> None:
    """``MarkedAt`` of the account row: the sweep takes a row whose mark a sign-in is about to look for."""
    whole = Sessions._account_operation

    def without(self: Sessions, *args: Any, **kwargs: Any) -> Any:
        operation = whole(self, *args, **kwargs)
        return replace(operation, values={name: value for name, value in operation.values.items() if name != "MarkedAt"})

    monkeypatch.setattr(Sessions, "_account_operation", without)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """How a guard is removed, and where that shows."""

    remove: Callable[[Patch], None]
    acts: tuple[str, ...]
    setting: Mapping[str, Any] = field(default_factory=dict)
    faults: int = 0
    kinds: tuple[str, ...] = FAULTS
    preemptions: int | None = None
    room: Callable[[Any], SimpleNamespace] = home
    minute: float = NOW
    alive: Callable[[SimpleNamespace], tuple[Browser, ...]] | None = None
    retry: bool = False

    def prove(self) -> None:
        """Goes through all schedules."""
        setting = Setting(**{"parallel": False, **self.setting})
        story(self.acts, room=self.room, setting=setting, minute=self.minute, alive=self.alive, retry=self.retry).prove(
            faults=self.faults, kinds=self.kinds, preemptions=self.preemptions
        )


def _second(there: SimpleNamespace) -> tuple[Browser, ...]:
    return (there.two,)


GUARDS = [
    Guard(remove=nothing_is_never_inserted, acts=("refresh", "logout")),
    Guard(remove=no_etag, acts=("refresh", "another refresh")),
    Guard(remove=no_tombstone, acts=("sign-in", "front-channel of the sign-in"), setting={"scope": "session"}),
    Guard(remove=no_ended_at, acts=("sign-in", "logout")),
    Guard(remove=no_account_row, acts=("sign-in", "logout")),
    Guard(remove=index_rows_come_after, acts=("sign-in", "front-channel of the sign-in"), setting={"scope": "session"}),
    Guard(remove=index_rows_go_before, acts=("logout", "front-channel"), faults=1, retry=True),
    Guard(remove=no_end_rows, acts=("sign-in", "back-channel of the sign-in"), setting={"backchannel": True}),
    Guard(remove=no_marks, acts=("sign-in", "front-channel of the sign-in"), setting={"scope": "session"}, faults=1),
    Guard(
        remove=nothing_says_when_it_was_marked,
        acts=("sign-in", "front-channel of the sign-in", "sweep"),
        setting={"scope": "session"},
        faults=1,
        kinds=(REPEATED,),
        preemptions=1,
        room=dusk,
        minute=LATE,
    ),
    Guard(remove=no_lease, acts=("refresh", "another refresh")),
    Guard(remove=no_second_write, acts=("sweep", "refresh two"), room=evening, minute=LATE, alive=_second),
]


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.remove.__name__ for guard in GUARDS])
def test_without_the_guard_an_order_loses(monkeypatch: Patch, guard: Guard) -> None:
    """With it no schedule of the story loses; without it the explorer finds one, and says it step by step."""
    guard.prove()
    guard.remove(monkeypatch)
    with pytest.raises(Violation) as lost:
        guard.prove()
    assert lost.value.trace
    print(f"\n{guard.remove.__name__}: {lost.value}")
