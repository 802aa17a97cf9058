"""Promises that need a clock or a hand in between: rows that vanish under a sign-out, clocks that differ, the sweep's hours."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.store.memory_table import MemoryTable
from shared.store.table import Operation, Row
from tests.support.small_store import START, Store


class Interrupted(MemoryTable):
    """A table before whose transactions somebody else acts, and that remembers what was scanned."""

    def __init__(self, table: MemoryTable, acts: list[Callable[[], object]]) -> None:
        super().__init__()
        self._inner, self._acts = table, acts
        self.scanned: list[tuple[str, str]] = []

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        if self._acts:
            self._acts.pop(0)()
        self._inner.transact(partition, operations)

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        self.scanned.append((first, before))
        return self._inner.scan(first=first, before=before)

    def __getattribute__(self, name: str) -> Any:
        if name in {"transact", "scan", "scanned"} or name.startswith("_"):
            return super().__getattribute__(name)
        return getattr(self._inner, name)


# -- rows that vanish


@pytest.mark.parametrize("count", [2, 99, 100, 250])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_row_that_vanished_rolls_no_deletion_back_unnoticed(count: int, rounds: int) -> None:
    """A device's own sign-out between the list and the transaction: the transaction fails as a whole, and all go all the same."""
    store = Store(per_account=1000)
    ids = [store.sign_in()[0].id for _ in range(count)]

    def vanish() -> None:
        there = min(key for key in store.rows()[0] if key != "!")
        store.sessions.end_session("a.t", there, now=START)
        ids.remove(there)

    acts: list[Callable[[], object]] = [vanish] * min(rounds, count - 1)
    interrupted = Interrupted(store.tables[0], acts)
    gone = Store(tables=(interrupted, store.tables[1]), per_account=1000).sessions.end_account("a.t", now=START)
    assert acts == []
    assert sorted(row.key for row in gone) == sorted(ids)
    assert store.rows()[0] == ["!"]
    assert {partition[:4] for partition in store.rows()[1]} == {"exp:"}


# -- clocks that differ


SKEWS = [timedelta(minutes=-5), timedelta(minutes=5)]


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_an_instance_whose_clock_differs_neither_ends_nor_shortens_a_session(skew: timedelta) -> None:
    """Five minutes ahead or behind: it lets the user in from the first moment, never moves the limit back, sweeps nobody early."""
    here = Store()
    there = Store(tables=here.tables)
    _, claim = here.sign_in()
    until = START + timedelta(minutes=60)
    for minute in range(0, 54, 6):
        now = START + timedelta(minutes=minute)
        for store, clock in ((here, now), (there, now + skew)):
            row = store.sessions.read(claim)
            assert row is not None
            assert store.sessions.is_live(row, clock)
            assert row.idle_expires_at >= until
            until = store.sessions.slide(row, now=clock).idle_expires_at
            store.sweep.run(clock)
    there.sweep.run(until - timedelta(minutes=6) + skew)
    row = here.sessions.read(claim)
    assert row is not None
    assert here.sessions.is_live(row, until - timedelta(minutes=6))


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_a_lease_between_clocks_that_differ_loses_no_tokens(skew: timedelta) -> None:
    """One takes the other's lease to be over: whoever wrote first wins, the other uses that, and the session stays."""
    here = Store()
    there = Store(tables=here.tables)
    _, claim = here.sign_in()
    row = here.sessions.read(claim)
    assert row is not None
    ours = here.sessions.take_lease(row, now=START)
    assert ours is not None
    seen = there.sessions.read(claim)
    assert seen is not None
    assert seen.lease_until is not None
    theirs = there.sessions.take_lease(seen, now=START + skew)
    assert theirs is not None
    there.sessions.write_tokens(theirs, b'{"new": "theirs"}')
    assert here.sessions.write_tokens(ours, b'{"new": "ours"}').cache == b'{"new": "theirs"}'
    found = here.sessions.read(claim)
    assert found is not None
    assert (found.cache, found.lease) == (b'{"new": "theirs"}', "")


# -- the sweep's hours


def test_the_sweep_reads_only_hours_that_have_passed() -> None:
    """From the first ``exp:`` row up to the hour it is now, which is left for later; other index rows are never looked through."""
    store = Store()
    store.sign_in()
    spied = Interrupted(store.tables[1], [])
    Store(tables=(store.tables[0], spied)).sweep.run(START)
    Store(tables=(store.tables[0], spied)).sweep.run(START + timedelta(hours=16))
    assert spied.scanned == [("exp:", "exp:2026112308"), ("exp:", "exp:2026112400")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=700), max_size=30), st.integers(min_value=0, max_value=14))
def test_tokens_are_gone_within_an_hour_or_so_of_idle_expiry(uses: list[int], offset: int) -> None:
    """However a session is used, with a sweep each quarter of an hour: there as long as it lives, gone 75 minutes after."""
    store = Store()
    _, claim = store.sign_in(cache=secrets.token_bytes(50))
    pending = sorted({START + timedelta(minutes=minute) for minute in uses})
    expires: datetime = START + timedelta(minutes=60)
    now = START + timedelta(minutes=offset)
    while not store.empty():
        while pending and pending[0] <= now:
            at = pending.pop(0)
            row = store.sessions.read(claim)
            if row is not None and store.sessions.is_live(row, at):
                expires = store.sessions.slide(row, now=at).idle_expires_at
        store.sweep.run(now)
        there = store.sessions.read(claim) is not None
        assert there or now >= expires
        assert not there or now <= expires + timedelta(minutes=75)
        assert now < START + timedelta(hours=24)
        now += timedelta(minutes=15)
