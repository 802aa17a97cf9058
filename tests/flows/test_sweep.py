"""The sweep, over the in-memory twin: what expired goes, what lives stays, and in the end nothing is left."""

import base64
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from shared.errors import SignedOutMeanwhile, StorageUnavailable
from shared.flows.sweep import Sweep
from shared.store.index import Due, end_key, jti_key, sid_key
from shared.store.memory_table import MemoryTable
from shared.store.rows import CACHE_LIMIT
from shared.store.table import Merge, Operation
from tests.support.small_store import NEW, OLD, START, Store, nothing, raising


def test_an_expired_session_goes_with_all_that_points_to_it() -> None:
    """Once its hour has passed: row, index rows, account row; not before."""
    store = Store()
    _, claim = store.sign_in()
    store.sweep.run(START + timedelta(minutes=39))
    assert store.sessions.read(claim) is not None
    store.sweep.run(START + timedelta(minutes=99))  # expired at 9:20, the hour passes at 10:00
    assert store.sessions.read(claim) is not None
    store.sweep.run(START + timedelta(minutes=105))  # on clocks that are behind it has not passed yet
    assert store.sessions.read(claim) is not None
    store.sweep.run(START + timedelta(minutes=106))
    assert store.sessions.read(claim) is None
    store.sweep.run(START + timedelta(hours=4))
    assert store.empty()


def test_a_session_that_slid_is_filed_anew_and_lives() -> None:
    """Its old hour passes, it is still used: it stays, and its new hour finds it."""
    store = Store()
    _, claim = store.sign_in()
    row = store.sessions.read(claim)
    assert row is not None
    slid = store.sessions.slide(row, now=START + timedelta(minutes=55))
    assert store.sweep.run(START + timedelta(minutes=106)) == 1
    found = store.sessions.read(claim)
    assert found is not None
    assert found.idle_expires_at == slid.idle_expires_at
    assert [key for key in found.index_keys if key.startswith("exp:")] == [p for p in store.rows()[1] if p.startswith("exp:")]
    store.sweep.run(START + timedelta(hours=4))
    store.sweep.run(START + timedelta(hours=8))
    assert store.empty()


def test_a_sign_out_leaves_one_row_and_its_pointer_and_then_nothing() -> None:
    """The account row stays as long as an older sign-in could come back."""
    store = Store()
    store.sign_in()
    store.sessions.end_account("a.t", now=START)
    assert store.rows()[0] == ["!"]
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]
    store.sweep.run(START + timedelta(minutes=14))
    assert store.rows()[0] == ["!"]
    store.sweep.run(START + timedelta(hours=2))
    assert store.empty()


def test_the_account_row_stays_while_another_session_lives() -> None:
    """And goes with the last one."""
    store = Store()
    store.sign_in()
    store.sessions.end_account("a.t", now=START)
    _, claim = store.sign_in(now=START + timedelta(minutes=30))
    store.sweep.run(START + timedelta(minutes=50))
    assert "!" in store.rows()[0]
    assert store.sessions.read(claim) is not None
    store.sweep.run(START + timedelta(hours=5))
    store.sweep.run(START + timedelta(hours=9))
    assert store.empty()


def test_rows_of_a_sign_in_that_died_go() -> None:
    """Index rows were written, the session was not."""
    store = Store()
    broken = Broken(store.tables[0], "transact")
    dying = Store(tables=(broken, store.tables[1]))  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        dying.sign_in()
    assert store.rows()[1]
    store.sweep.run(START + timedelta(hours=3))
    assert store.empty()


def test_tombstones_and_marks_of_the_back_channel_go() -> None:
    """``jti:``, ``end:`` and tombstones have their hour like everything else; a renewed ``end:`` stays."""
    store = Store()
    store.sessions.end_session("a.t", "A" * 22, now=START, pointed=True)
    store.index.end(end_key("issuer", "sid", "s"), now=START, until=START + timedelta(minutes=15))
    store.index.record_acted(jti_key("issuer", "j"), until=START + timedelta(minutes=15))
    assert store.index.has_acted(jti_key("issuer", "j"))
    store.index.end(
        end_key("issuer", "sid", "s"), now=START + timedelta(hours=2), until=START + timedelta(hours=2, minutes=15)
    )
    store.sweep.run(START + timedelta(hours=2, minutes=1))
    assert store.index.ended_at(end_key("issuer", "sid", "s")) is not None
    assert not store.index.has_acted(jti_key("issuer", "j"))
    store.sweep.run(START + timedelta(hours=4))
    assert store.empty()


def test_another_apps_rows_are_never_touched() -> None:
    """Two apps on one account: each sweeps its own, and the account row goes with the last of both."""
    one = Store()
    two = Store(tables=one.tables, app="app2")
    one.sign_in()
    _, claim = two.sign_in(now=START + timedelta(hours=2))
    one.sweep.run(START + timedelta(hours=2, minutes=30))
    assert two.sessions.read(claim) is not None
    assert len([key for key in one.rows()[0] if key != "!"]) == 1
    two.sweep.run(START + timedelta(hours=6))
    one.sweep.run(START + timedelta(hours=6))
    assert one.empty()


def test_two_sweeps_at_once_do_no_harm() -> None:
    """Each step is conditional or can be repeated: a second sweep between any two steps of the first."""
    store = Store()
    for n in range(5):
        store.sign_in(f"a{n}.t")
    live, claim = store.sign_in("live.t", now=START + timedelta(hours=3))
    assert live
    other = Store(tables=store.tables)
    interrupted = Interrupting(store.tables[0], lambda: other.sweep.run(START + timedelta(hours=3)))
    Store(tables=(interrupted, store.tables[1])).sweep.run(START + timedelta(hours=3))  # type: ignore[arg-type]
    assert store.sessions.read(claim) is not None
    assert sorted(set(store.rows()[0]) - {"!"}) == [claim.session_id]


def test_what_changes_under_the_sweep_keeps_the_row_that_leads_to_it() -> None:
    """Written between reading and deleting: not settled, and the next sweep finds it."""
    store = Store()
    row, claim = store.sign_in()
    first, _ = store.sign_in("b.t")

    def touch() -> None:
        found = store.tables[0].read(row.account, row.id)
        assert found is not None
        store.tables[0].write(row.account, Merge(key=row.id, values={"Lease": "x"}, etag=found.etag))

    interrupted = Interrupting(store.tables[0], touch)
    settled = Store(tables=(interrupted, store.tables[1])).sweep.run(START + timedelta(hours=3))  # type: ignore[arg-type]
    assert settled == 1
    assert first.id not in store.rows()[0]
    assert store.sessions.read(claim) is not None
    assert row.index_keys[0] in store.rows()[1]
    assert store.sweep.run(START + timedelta(hours=3)) == 1
    assert store.empty()


def test_what_a_newer_release_filed_stays() -> None:
    """Its own sweep knows what to do with it; ours goes on with the rest."""
    store = Store()
    store.index.due_later(kind="of tomorrow", when=START, account="a.t")
    store.index.end(end_key("issuer", "sid", "s"), now=START + timedelta(hours=3), until=START)
    before = store.rows()
    for n in range(2):
        store.sign_in(f"a{n}.t")
    assert store.sweep.run(START + timedelta(hours=3)) == 2
    assert store.rows() == before


def test_a_tombstone_takes_its_account_row_along() -> None:
    """Nothing else leads there where the session never came."""
    store = Store()
    store.sign_in()
    store.sessions.end_account("a.t", now=START)
    store.sessions.end_session("a.t", "T" * 22, now=START + timedelta(hours=1), pointed=True)
    store.sweep.run(START + timedelta(hours=1, minutes=1))  # the account row's hour: the tombstone is still there
    assert sorted(store.rows()[0]) == ["!", "T" * 22]
    assert store.sweep.run(START + timedelta(hours=2)) == 1
    assert store.empty()


def test_a_sweep_stops_in_time_and_the_next_goes_on() -> None:
    """Well before the function's time limit."""
    store = Store()
    for n in range(4):
        store.sign_in(f"a{n}.t")
    before = store.rows()
    Sweep(sessions=store.sessions, index=store.index, time_limit=0).run(START + timedelta(hours=3))
    assert store.rows() == before
    store.sweep.run(START + timedelta(hours=3))
    assert store.empty()


def test_an_index_row_that_stays_keeps_the_row_that_leads_to_it() -> None:
    """The session is gone, what points to it could not be deleted: nothing else would ever find it."""
    down = raising(StorageUnavailable("down"))
    for acts in ([down, nothing, down], [nothing, down, nothing, down]):  # each is tried when its session goes, and once more
        store = Store()
        row, _ = store.sign_in()
        store.meddled(before=acts, index=True).sweep.run(START + timedelta(hours=3))
        assert row.index_keys[0] in store.rows()[1]
        store.sweep.run(START + timedelta(hours=3, minutes=15))
        assert store.empty()


def test_storage_that_fails_leaves_work_for_the_next_sweep(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is lost that leads to what has to go, and the log says how much there is."""
    caplog.set_level("INFO")
    store = Store()
    store.sign_in()
    store.sign_in()
    for method in ("read", "write"):
        caplog.clear()
        Store(tables=(Broken(store.tables[0], method), store.tables[1])).sweep.run(START + timedelta(hours=3))  # type: ignore[arg-type]
        assert any(partition.startswith("exp:") for partition in store.rows()[1])
        assert "swept 0 rows, 2 are left" in caplog.text
    store.sweep.run(START + timedelta(hours=3))
    assert store.empty()


@pytest.mark.parametrize("idle", [1, 4])
def test_a_clock_that_is_ahead_sweeps_nobody_who_is_signing_in(idle: int) -> None:
    """The index rows are written, the session is not there yet, and on the sweep's clock their hour has passed."""
    now = START.replace(hour=11, minute=0) - timedelta(minutes=idle, seconds=5)
    store = Store(idle=timedelta(minutes=idle))
    ahead = now + timedelta(minutes=4, seconds=50)
    store.meddled(before=[lambda: store.sweep.run(ahead)]).sign_in(now=now, sid="i")
    assert store.index.find(sid_key("issuer", "i"))
    store.sweep.run(ahead + timedelta(hours=2))
    assert store.empty()


def test_a_row_that_nobody_understands_stops_no_sweep(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, it stays, and everything else goes."""
    caplog.set_level("INFO")
    store = Store()
    store.sign_in("a.t")
    odd, _ = store.sign_in("b.t")
    store.sign_in("c.t")
    whole = store.sessions.sweep_session

    def sweep_session(due: Due, **kwargs: Any) -> Any:
        if due.account == "b.t":
            raise ValueError("a key holds a character that storage refuses")
        return whole(due, **kwargs)

    store.sessions.sweep_session = sweep_session  # type: ignore[method-assign]
    assert store.sweep.run(START + timedelta(hours=3)) == 2
    assert set(store.rows()[0]) == {"!", odd.id}
    assert "cannot be swept" in caplog.text
    assert "swept 2 rows, 1 are left" in caplog.text


def test_rows_of_one_hour_are_swept_at_once() -> None:
    """Whatever ``parallel`` makes of it: each once, an account of many sessions once, and the ``exp:`` rows last."""
    store = Store()
    for number in range(130):
        store.sign_in(f"a{number % 3}.t")
    calls: list[int] = []

    def backwards(work: Sequence[Callable[[], object]]) -> None:
        calls.append(len(work))
        for one in reversed(work):
            one()

    hour = START + timedelta(hours=3)
    rows = sum(1 for partition in store.rows()[1] if partition.startswith("exp:"))
    assert Sweep(sessions=store.sessions, index=store.index, parallel=backwards).run(hour) == rows
    assert store.empty()
    assert sum(calls[::2]) == rows
    assert all(count <= 3 for count in calls[1::2])


def test_an_account_row_that_could_not_be_swept_keeps_what_leads_to_it() -> None:
    """Nothing else does, where the session is gone already."""
    store = Store()
    store.sign_in("a.t")
    store.sign_in("b.t")
    whole = store.sessions.sweep_account

    def sweep_account(account: str, **kwargs: Any) -> None:
        if account == "a.t":
            raise StorageUnavailable("down")
        whole(account, **kwargs)

    store.sessions.sweep_account = sweep_account  # type: ignore[method-assign]
    assert store.sweep.run(START + timedelta(hours=3)) == 1
    assert store.rows()[0] == ["!"]
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]
    store.sessions.sweep_account = whole  # type: ignore[method-assign]
    assert store.sweep.run(START + timedelta(hours=3)) == 1
    assert store.empty()


def test_a_sweep_with_nothing_to_do_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A log record only when it did something."""
    store = Store()
    with caplog.at_level("INFO", logger="shared.flows.sweep"):
        store.sweep.run(START)
        assert caplog.records == []
        store.sign_in()
        store.sweep.run(START + timedelta(hours=3))
    assert "swept" in caplog.text


def test_sessions_from_before_the_bar_are_swept() -> None:
    """``SESSIONS_NOT_BEFORE``: dead at once, gone with their hour."""
    store = Store()
    _, claim = store.sign_in()
    later = Store(tables=store.tables, not_before=START + timedelta(minutes=1), idle=timedelta(hours=10))
    row = later.sessions.read(claim)
    assert row is not None
    assert not later.sessions.is_live(row, START)
    later.sweep.run(START + timedelta(hours=2))
    assert later.sessions.read(claim) is None


# -- keys that rotate


def test_rotation_signs_nobody_out_and_seals_anew() -> None:
    """New key last everywhere, then first, then the old one out: every ring reads every row, writes use the first key."""
    tables = (MemoryTable(), MemoryTable())
    only_old, both, both_new, only_new = (Store(tables=tables, keys=keys) for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW]))
    row, claim = only_old.sign_in()
    assert row.key_id == "old"
    seen = both.sessions.read(claim)
    assert seen is not None
    seen = both_new.sessions.read(claim)
    assert seen is not None
    slid = both_new.sessions.slide(seen, now=START + timedelta(minutes=10))
    assert slid.key_id == "new"
    for ring in (both, both_new, only_new):
        found = ring.sessions.read(claim)
        assert found is not None
        assert found.identity == row.identity
        assert found.cache == row.cache
    assert only_old.sessions.read(claim) is None  # a straggler answers 401 ...
    assert only_new.sessions.read(claim) is not None  # ... and destroys nothing
    assert len(only_old.sessions.end_account("a.t", now=START + timedelta(minutes=20))) == 1  # it can still sign out


def test_tokens_are_sealed_anew_when_they_are_written() -> None:
    """A refresh after the rotation leaves nothing under the old key."""
    tables = (MemoryTable(), MemoryTable())
    _, claim = Store(tables=tables, keys=[OLD]).sign_in()
    store = Store(tables=tables, keys=[NEW, OLD])
    row = store.sessions.read(claim)
    assert row is not None
    leased = store.sessions.take_lease(row, now=START)
    assert leased is not None
    store.sessions.write_tokens(leased, b'{"new": 1}')
    found = Store(tables=tables, keys=[NEW]).sessions.read(claim)
    assert found is not None
    assert found.cache == b'{"new": 1}'


# -- rows at their limits


@pytest.mark.parametrize("size", [0, 1, 59_972, 59_973, 200_000, CACHE_LIMIT])
def test_a_cache_of_any_size_comes_back(size: int) -> None:
    """Split into parts of at most 60,000 bytes and put together again."""
    store = Store()
    cache = os.urandom(size)
    _, claim = store.sign_in(cache=cache)
    found = store.sessions.read(claim)
    assert found is not None
    assert found.cache == cache
    row = store.tables[0].read("a.t", claim.session_id)
    assert row is not None
    assert all(len(value) <= 60_000 for value in row.values.values() if isinstance(value, bytes))


def test_nothing_readable_is_stored() -> None:
    """Neither tokens nor who it is can be read from a row without the key."""
    store = Store()
    _, claim = store.sign_in(cache=b'{"secret": "refresh-token-value"}')
    row = store.tables[0].read("a.t", claim.session_id)
    assert row is not None
    dump = repr(dict(row.values)).encode() + base64.b64encode(repr(dict(row.values)).encode())
    assert b"refresh-token-value" not in dump
    assert "Identity" in row.values


def test_an_older_flow_is_refused_and_leaves_nothing() -> None:
    """The sign-out came while it was under way."""
    store = Store()
    store.sessions.end_account("a.t", now=START + timedelta(seconds=5))
    with pytest.raises(SignedOutMeanwhile):
        store.sign_in(now=START)
    assert store.rows()[0] == ["!"]
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]
    store.sign_in(now=START + timedelta(seconds=6))


def test_the_same_browser_has_one_session() -> None:
    """A second sign-in with the same ``sid`` ends the first; its pointers go too."""
    store = Store()
    store.sign_in(sid="same")
    second, _ = store.sign_in(sid="same", now=START + timedelta(minutes=1))
    assert [key for key in store.rows()[0] if key != "!"] == [second.id]
    assert [pointer.session_id for pointer in store.index.find(sid_key("issuer", "same"))] == [second.id]


class Broken(MemoryTable):
    """Storage of which one operation fails."""

    def __init__(self, table: MemoryTable, method: str) -> None:
        super().__init__()
        self._inner, self._method = table, method

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        if name == self._method:
            return _fail
        return getattr(self._inner, name)


def _fail(*_: object, **__: object) -> None:
    raise StorageUnavailable("broken on purpose")


class Interrupting(MemoryTable):
    """Storage that lets somebody else act before each write."""

    def __init__(self, table: MemoryTable, act: Callable[[], object]) -> None:
        super().__init__()
        self._inner, self._act = table, act

    def write(self, partition: str, operation: Operation) -> str:
        self._act()
        return self._inner.write(partition, operation)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "write":
            return super().__getattribute__(name)
        return getattr(self._inner, name)
