"""The index: pointers to sessions, what goes by its hour, and what a back-channel logout leaves behind."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shared.errors import StorageUnavailable
from shared.store.index import (
    Due,
    Index,
    Pointer,
    end_key,
    exp_key,
    in_turn,
    jti_key,
    keys_of,
    oid_key,
    sid_key,
    sub_key,
)
from shared.store.memory_table import MemoryTable
from shared.store.table import Insert, Merge, Row, RowChanged, RowExists, Upsert
from tests.support.small_store import START, Meddled, Store, nothing, raising

NOW = datetime(2026, 11, 23, 8, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
POINTER = Pointer(
    account="a.t", session_id="S", issuer="https://login.example", sub="hash of sub", sid="hash of sid", written_at=NOW
)
KEYS = ("exp:2026112309:a", "sid:1", "sub:2")


class Places:
    """One index over a table, and the same table as another app or process sees it."""

    def __init__(self) -> None:
        self.table = MemoryTable()
        self.index = Index(table=self.table, app="app1")

    def other_app(self) -> Index:
        return Index(table=self.table, app="app2")

    def meddled(self, *, before: Sequence[Callable[[], object]] = (), after: Sequence[Callable[[], object]] = ()) -> Index:
        return Index(table=Meddled(self.table, before, after), app="app1")

    def rows(self) -> list[Row]:
        return list(self.table.scan(first="", before="\uffff"))


@pytest.fixture
def places() -> Places:
    """An empty index."""
    return Places()


def test_names_do_not_meet() -> None:
    """Every kind has partitions of its own; each part of a name counts, and they do not run into each other."""
    pairs = [("i", "x"), ("j", "x"), ("i", "y"), ("ix", ""), ("", "ix"), ("x", "i")]
    kinds: list[Callable[[str, str], str]] = [sid_key, sub_key, oid_key, jti_key]
    kinds += [lambda a, b, name=name: end_key(a, name, b) for name in ("sid", "sub")]  # type: ignore[misc]
    keys = {kind(*pair) for kind in kinds for pair in pairs}
    assert len(keys) == len(kinds) * len(pairs)
    assert {key[:4] for key in keys} == {"sid:", "sub:", "oid:", "jti:", "end:"}
    assert all(len(key) == 68 for key in keys)


def test_an_hour_is_utc_and_has_sixteen_shards() -> None:
    """Whatever zone the time comes in; rows of one hour are spread."""
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert exp_key(NOW, "S") == exp_key(local, "S")
    assert exp_key(NOW, "S") == "exp:2026112308:4"  # releases run side by side
    assert {exp_key(NOW, str(n))[-1] for n in range(300)} == set("0123456789abcdef")


@pytest.mark.parametrize(
    ("value", "keys"), [('["a", "b"]', ("a", "b")), ('["a", 1, null]', ("a",)), ("no json", ()), ('{"a": 1}', ()), (7, ())]
)
def test_index_keys_of_any_row_can_be_read(value: Any, keys: tuple[str, ...]) -> None:
    """What is no list of names leads nowhere and breaks nothing."""
    assert keys_of(Row(partition="p", key="k", etag="1", values={"IndexKeys": value})) == keys
    assert keys_of(Row(partition="p", key="k", etag="1", values={})) == ()


def test_a_pointer_is_found_by_each_of_its_names_until_it_is_forgotten(places: Places) -> None:
    """Account, session, issuer and the hashes come back; after ``forget`` nothing does."""
    places.index.point(POINTER, KEYS)
    assert places.index.find("sid:1") == places.index.find("sub:2") == [POINTER]
    assert places.index.find("sid:2") == []
    assert {row.values.get("V") for row in places.rows()} == {1}
    places.index.forget((key, "S") for key in KEYS)
    assert places.rows() == []
    places.index.forget((key, "S") for key in KEYS)  # again: nothing to do is no fault


def test_the_row_that_leads_the_sweep_is_written_first_and_deleted_last(places: Places) -> None:
    """Whoever dies in between leaves nothing that no sweep finds."""
    written: list[str] = []
    index = places.meddled(before=[lambda: written.append(str(len(places.rows())))] * 3)
    index.point(POINTER, ("sid:1", "sub:2", KEYS[0]))
    exp = places.table.read(KEYS[0], "S")
    assert written == ["0", "1", "2"]
    assert exp is not None
    assert exp.etag == 'W/"1"'
    assert keys_of(exp) == ("sid:1", "sub:2", KEYS[0])
    failing = places.meddled(before=[lambda: None, raising(StorageUnavailable("down"))])
    failing.forget([(KEYS[0], "S"), ("sid:1", "S"), ("sub:2", "S")])
    assert KEYS[0] in {row.partition for row in places.rows()}


def test_a_failure_at_writing_is_told_and_one_at_forgetting_is_not(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    """A sign-in cannot go on without its rows; a sign-out is done already."""
    down = raising(StorageUnavailable("down"))
    with pytest.raises(StorageUnavailable):
        places.meddled(before=[down]).point(POINTER, KEYS)
    assert places.rows() == []
    with pytest.raises(StorageUnavailable):
        places.meddled(before=[lambda: None, down]).point(POINTER, KEYS)
    assert [row.partition[:4] for row in places.rows()] == ["exp:", "sub:"]  # the others are written all the same
    places.meddled(before=[down]).forget([(KEYS[0], "S")])
    assert "sweep" in caplog.text


def test_all_calls_are_made_and_the_first_error_is_told() -> None:
    """One failure keeps nobody else from being tried."""
    made: list[int] = []
    first, second = ValueError("first"), ValueError("second")
    with pytest.raises(ValueError, match="first"):
        in_turn([lambda: made.append(1), raising(first), raising(second), lambda: made.append(2)])
    assert made == [1, 2]


def test_rows_of_another_app_or_version_are_not_found(places: Places) -> None:
    """Apps that share the tables do not see each other's sessions; a row without what a pointer needs is none."""
    places.index.point(POINTER, KEYS)
    assert places.other_app().find("sid:1") == []
    good = places.table.read("sid:1", "S")
    assert good is not None
    for n, bad in enumerate(({"V": 2}, {"App": "x"})):
        places.table.write("sid:1", Insert(key=f"x{n}", values={**good.values, **bad}))
    for name in ("Account", "Issuer"):
        values = {key: value for key, value in good.values.items() if key != name}
        places.table.write("sid:1", Insert(key=f"without {name}", values=values))
    bare = {key: value for key, value in good.values.items() if key not in ("Sub", "Sid")}
    places.table.write("sid:1", Insert(key="bare", values=bare))
    assert [(p.session_id, p.sub, p.sid) for p in places.index.find("sid:1")] == [
        ("S", "hash of sub", "hash of sid"),
        ("bare", "", ""),
    ]


def test_what_is_due_is_what_its_hour_has_passed(places: Places) -> None:
    """Oldest first, this app's only, with all that the sweep has to know."""
    places.index.file(["sid:1", exp_key(NOW - HOUR, "S")], account="a.t", session_id="S")
    places.index.due_later(kind="tombstone", when=NOW - 2 * HOUR, account="a.t", session_id="T")
    places.index.due_later(kind="jti", when=NOW - 3 * HOUR, partition="jti:1")
    places.index.due_later(kind="account", when=NOW, account="now.t")  # its hour is not over
    places.other_app().due_later(kind="account", when=NOW - HOUR, account="other.t")
    jti, tombstone, session = places.index.due(NOW)
    assert (jti.kind, jti.partition, jti.account, jti.index_keys) == ("jti", "jti:1", "", ())
    assert (tombstone.kind, tombstone.account, tombstone.session_id, tombstone.partition) == ("tombstone", "a.t", "T", "")
    assert (session.kind, session.account, session.key, session.session_id) == ("session", "a.t", "S", "S")
    assert session.hour == exp_key(NOW - HOUR, "S")
    assert session.index_keys == ("sid:1", session.hour)
    zone = timezone(timedelta(hours=-7))
    assert len(list(places.index.due(NOW.astimezone(zone)))) == 3
    assert len(list(places.index.due(NOW + HOUR))) == 4


def test_the_machines_own_zone_does_not_count(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours are UTC's wherever the instance runs."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        places.index.due_later(kind="account", when=NOW, account="a.t")
        assert list(places.index.due(NOW + timedelta(minutes=39))) == []
        assert len(list(places.index.due(NOW + timedelta(minutes=40)))) == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_row_of_no_form_is_due_all_the_same(places: Places) -> None:
    """The sweep decides what to do with it: nothing."""
    places.table.write("exp:2020010100:0", Upsert(key="k", values={"V": 1, "App": "app1"}))
    (due,) = places.index.due(NOW)
    assert (due.kind, due.key, due.account, due.session_id, due.partition) == ("", "k", "", "k", "")


def test_the_same_thing_is_filed_once_in_an_hour(places: Places) -> None:
    """Different things never share a row."""
    for _ in range(2):
        places.index.due_later(kind="account", when=NOW, account="a.t")
    places.index.due_later(kind="account", when=NOW, account="b.t")
    places.index.due_later(kind="tombstone", when=NOW, account="a.t", session_id="1")
    places.index.due_later(kind="tombstone", when=NOW, account="a.t", session_id="2")
    places.index.due_later(kind="end", when=NOW, partition="end:1")
    places.index.due_later(kind="end", when=NOW, partition="end:2")
    places.other_app().due_later(kind="account", when=NOW, account="a.t")
    assert len(places.rows()) == 7


# -- marks of a back-channel logout


def test_an_end_is_remembered_for_whom_it_was_meant(places: Places) -> None:
    """Of everybody with that ``sid``, or of one user alone; apps that share the tables do not read each other's."""
    who, other = "a" * 64, "b" * 64
    assert places.index.ended_at("end:1") is None
    places.index.end("end:1", now=NOW, until=NOW + HOUR, sub=who)
    assert places.index.ended_at("end:1") is None
    assert places.index.ended_at("end:1", sub=other) is None
    assert places.index.ended_at("end:1", sub=who) == NOW
    places.index.end("end:1", now=NOW + HOUR, until=NOW + HOUR)
    assert places.index.ended_at("end:1") == NOW + HOUR
    assert places.index.ended_at("end:1", sub=who) == places.index.ended_at("end:1", sub=other) == NOW + HOUR
    assert places.other_app().ended_at("end:1") is None
    row = places.table.read("end:1", "-app1")
    assert row is not None
    assert (row.values["V"], row.values["App"], row.values["Kind"]) == (1, "app1", "end")


def test_an_end_never_goes_back(places: Places) -> None:
    """A late message does not make room for a sign-in that a later one refused."""
    places.index.end("end:1", now=NOW, until=NOW + HOUR)
    places.index.end("end:1", now=NOW - HOUR, until=NOW + HOUR)
    assert places.index.ended_at("end:1") == NOW
    row = places.table.read("end:1", "-app1")
    places.index.end("end:1", now=NOW, until=NOW + HOUR)
    assert places.table.read("end:1", "-app1") == row  # again: nothing written


def test_an_end_has_its_hour_before_it_is_there(places: Places) -> None:
    """Whoever dies in between leaves a row that the sweep finds."""
    index = places.meddled(before=[lambda: None, raising(StorageUnavailable("down"))])
    with pytest.raises(StorageUnavailable):
        index.end("end:1", now=NOW, until=NOW + HOUR)
    (row,) = places.rows()
    assert row.partition.startswith("exp:2026112309:")
    assert (row.values["Kind"], row.values["Partition"]) == ("end", "end:1")


def test_two_that_end_at_once_both_count(places: Places) -> None:
    """Whoever loses the race looks again; the later time stands."""
    for first in (NOW - HOUR, NOW + HOUR):
        each = Places()
        meddled = each.meddled(before=[lambda: None, lambda e=each, f=first: e.index.end("end:1", now=f, until=NOW + HOUR)])
        meddled.end("end:1", now=NOW, until=NOW + HOUR)
        assert each.index.ended_at("end:1") == max(first, NOW)


def test_an_end_that_loses_every_race_is_told(places: Places) -> None:
    """503, and the provider tries again: never an end that was claimed and not written."""
    places.table.write("end:1", Insert(key="-app1", values={}))

    def touch() -> None:
        row = places.table.read("end:1", "-app1")
        assert row is not None
        places.table.write("end:1", Merge(key="-app1", values={"x": 1}, etag=row.etag))

    with pytest.raises(StorageUnavailable, match="conflicts"):
        places.meddled(before=[lambda: None, *[touch] * 50]).end("end:1", now=NOW, until=NOW + HOUR)
    places.meddled(before=[lambda: None, *[touch] * 3]).end("end:1", now=NOW, until=NOW + HOUR)
    assert places.index.ended_at("end:1") == NOW


def test_a_token_acts_once_and_its_record_has_an_hour(places: Places) -> None:
    """Recorded twice is recorded; another app's token is another one."""
    until = NOW + HOUR
    assert not places.index.has_acted("jti:1")
    for _ in range(2):
        places.index.record_acted("jti:1", until=until)
    assert places.index.has_acted("jti:1")
    assert not places.other_app().has_acted("jti:1")
    (due,) = places.index.due(until + HOUR)
    assert (due.kind, due.partition) == ("jti", "jti:1")
    row = places.table.read("jti:1", "-app1")
    assert row is not None
    assert dict(row.values) == {"V": 1, "App": "app1", "Kind": "jti"}


def test_what_was_renewed_does_not_expire(places: Places) -> None:
    """An ``end:`` that still refuses somebody stays; everything else goes, once."""
    who = "a" * 64
    places.index.end("end:1", now=NOW - HOUR, until=NOW)
    places.index.end("end:1", now=NOW, until=NOW + HOUR, sub=who)
    due = next(iter(places.index.due(NOW + 2 * HOUR)))
    assert not places.index.expire(due, older_than=NOW)
    assert places.index.ended_at("end:1", sub=who) == NOW
    assert places.index.expire(due, older_than=NOW + timedelta(seconds=1))
    assert places.table.read("end:1", "-app1") is None
    assert places.index.expire(due, older_than=NOW)  # gone already


def test_what_changes_under_the_sweep_stays(places: Places) -> None:
    """An ``end:`` renewed between reading and deleting is left to the next sweep; one that vanished is settled."""
    places.index.end("end:1", now=NOW - HOUR, until=NOW - HOUR)
    (due,) = places.index.due(NOW)
    renew = places.meddled(before=[lambda: places.index.end("end:1", now=NOW, until=NOW + HOUR)])
    assert not renew.expire(due, older_than=NOW - timedelta(minutes=15))
    assert places.index.ended_at("end:1") == NOW
    gone = places.meddled(before=[lambda: places.index.expire(due, older_than=NOW + HOUR)])
    assert gone.expire(due, older_than=NOW + HOUR)
    assert not places.meddled(before=[raising(RowChanged("x"))]).has_acted("end:1")


def test_a_record_whose_answer_was_lost_stands(places: Places) -> None:
    """The repetition meets its own row."""
    places.meddled(after=[lambda: None, raising(RowExists("-app1"))]).record_acted("jti:1", until=NOW)
    assert places.index.has_acted("jti:1")


def due_rows(store: Store, count: int) -> list[Due]:
    """Rows of one hour and shard that are due."""
    later = START + timedelta(hours=3)
    number = 0
    while True:
        store.index.due_later(kind="jti", partition=f"jti:{number}", when=START)
        number += 1
        by_hour: dict[str, list[Due]] = {}
        for due in store.index.due(later):
            by_hour.setdefault(due.hour, []).append(due)
        full = next((found for found in by_hour.values() if len(found) == count), None)
        if full is not None:
            return full


def test_settled_rows_go_in_one_transaction() -> None:
    """One request for up to a hundred; the rows of other shards stay."""
    store = Store()
    batch = due_rows(store, 5)
    others = len(store.keys("exp:")) - 5
    single = raising(AssertionError("one by one"))
    store.meddled(before=[nothing, single], index=True).index.settle(batch)
    assert len(store.keys("exp:")) == others
    assert batch[0].hour not in store.keys("exp:")


def test_settled_rows_go_one_by_one_where_another_sweep_was_quicker() -> None:
    """One of them is gone already: the others go all the same.  A storage that fails leaves them for the next sweep."""
    store = Store()
    batch = due_rows(store, 3)
    store.meddled(before=[raising(StorageUnavailable("down"))], index=True).index.settle(batch)
    assert store.keys("exp:").count(batch[0].hour) == 3
    store.index.forget([(batch[1].hour, batch[1].key)])
    store.index.settle(batch)
    assert batch[0].hour not in store.keys("exp:")
