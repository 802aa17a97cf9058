"""The contract of ``shared/store/table.py``, kept by the real storage and by its in-memory twin alike."""

import itertools
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import limits
from shared.store.azure_table import AzureTables, StorageAccount
from shared.store.memory_table import MemoryTable
from shared.store.table import (
    Conflict,
    Delete,
    Insert,
    Merge,
    Operation,
    Replace,
    RowChanged,
    RowExists,
    RowMissing,
    Table,
    Upsert,
    Value,
)
from tests.support.stack import Azurite

_partitions = itertools.count()


@pytest.fixture(scope="module", params=["memory", pytest.param("azurite", marks=pytest.mark.azurite)])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Both stores, one after the other."""
    if request.param == "memory":
        yield MemoryTable()
        return
    azurite: Azurite = request.getfixturevalue("azurite")
    account = StorageAccount(connection_string=azurite.connection_string)
    yield AzureTables(account, f"c{secrets.token_hex(5)}").table("sessions")


@pytest.fixture
def p() -> str:
    """A partition of one's own."""
    return f"partition-{next(_partitions)}"


MOMENT = datetime(2026, 11, 23, 8, 0, 1, 234567, tzinfo=UTC)


def test_values_come_back_as_they_were(table: Table, p: str) -> None:
    """Text, whole numbers of 64 bits, truth, bytes and times to the microsecond, with their types."""
    values: dict[str, Value] = {
        "text": "é'\"\n\\日本🦊",
        "empty": "",
        "number": 2**62,
        "small": 1,
        "true": True,
        "bytes": bytes(range(256)),
        "time": MOMENT,
    }
    etag = table.write(p, Insert(key="k", values=values))
    row = table.read(p, "k")
    assert row is not None
    assert (row.partition, row.key, row.etag) == (p, "k", etag)
    assert row.values == values
    assert {name: type(value) for name, value in row.values.items()} == {name: type(value) for name, value in values.items()}


def test_a_row_holds_a_session_near_the_limit(table: Table, p: str) -> None:
    """Fourteen parts of 60,000 bytes."""
    values: dict[str, Value] = {f"Cache{n}": os.urandom(60_000) for n in range(14)}
    table.write(p, Insert(key="k", values=values))
    row = table.read(p, "k")
    assert row is not None
    assert row.values == values


def test_what_is_not_there_is_none(table: Table, p: str) -> None:
    """A missing row is None, a missing partition is empty."""
    assert table.read(p, "k") is None
    assert list(table.list(p)) == []


KEYS = ["!", "~", "A", "a", "a'b", "a%2Fb", "a b", "a:b", "é", "日本", "AAAA_-", "x" * 500]


def test_keys_are_exact_and_ordered(table: Table, p: str) -> None:
    """Case, quotes, percent signs and spaces make different rows; a list is in the order of the keys."""
    for key in KEYS:
        table.write(p, Insert(key=key, values={"k": key}))
    rows = table.list(p)
    assert [row.key for row in rows] == sorted(KEYS)
    for key in KEYS:
        row = table.read(p, key)
        assert row is not None
        assert row.values["k"] == key


def test_partitions_are_exact(table: Table, p: str) -> None:
    """A list is of one partition, whatever quotes stand in its name."""
    for partition in (p, p.upper(), p + "'", p + "' or PartitionKey ne '"):
        table.write(partition, Insert(key="k", values={"p": partition}))
    for partition in (p, p.upper(), p + "'", p + "' or PartitionKey ne '"):
        assert [row.values["p"] for row in table.list(partition)] == [partition]


@pytest.mark.parametrize("key", ["a/b", "a\\b", "a#b", "a?b", "a\tb", "a\nb", "\x00", "\x7f"])
def test_keys_that_storage_refuses_are_not_sent(table: Table, p: str, key: str) -> None:
    """They are a fault of ours."""
    if isinstance(table, MemoryTable):
        return
    with pytest.raises(ValueError, match="refuses"):
        table.write(p, Insert(key=key, values={}))
    with pytest.raises(ValueError, match="refuses"):
        table.read(key, "k")


def test_columns_limit_what_is_fetched(table: Table, p: str) -> None:
    """Keys and ETag come in any case; what a row lacks is absent."""
    etag = table.write(p, Insert(key="k", values={"a": "1", "b": "2"}))
    (row,) = table.list(p, columns=["a", "z"])
    assert (row.key, row.etag, dict(row.values)) == ("k", etag, {"a": "1"})


def test_insert_wants_no_row(table: Table, p: str) -> None:
    """``RowExists``, and the row is as it was."""
    table.write(p, Insert(key="k", values={"a": "1"}))
    with pytest.raises(RowExists):
        table.write(p, Insert(key="k", values={"a": "2"}))
    row = table.read(p, "k")
    assert row is not None
    assert row.values == {"a": "1"}


def test_upsert_takes_either(table: Table, p: str) -> None:
    """The row becomes these values and no others."""
    table.write(p, Upsert(key="k", values={"a": "1"}))
    table.write(p, Upsert(key="k", values={"b": "2"}))
    row = table.read(p, "k")
    assert row is not None
    assert row.values == {"b": "2"}


@pytest.mark.parametrize("kind", [Replace, Merge])
def test_updates_want_the_row_they_saw(table: Table, p: str, kind: Callable[..., Operation]) -> None:
    """A stale ETag is ``RowChanged``, no row ``RowMissing``; nothing changes. Replace forgets other values, merge keeps them."""
    with pytest.raises(RowMissing):
        table.write(p, kind(key="k", values={"a": "1"}, etag="W/\"datetime'2026-01-01T00%3A00%3A00.0000000Z'\""))
    first = table.write(p, Insert(key="k", values={"a": "1", "b": "1"}))
    second = table.write(p, kind(key="k", values={"a": "2"}, etag=first))
    assert second != first
    with pytest.raises(RowChanged):
        table.write(p, kind(key="k", values={"a": "3"}, etag=first))
    row = table.read(p, "k")
    assert row is not None
    assert row.values == ({"a": "2"} if kind is Replace else {"a": "2", "b": "1"})


def test_delete_says_when_there_was_nothing(table: Table, p: str) -> None:
    """``RowMissing`` without a row, ``RowChanged`` with a stale ETag."""
    with pytest.raises(RowMissing):
        table.write(p, Delete(key="k"))
    first = table.write(p, Insert(key="k", values={}))
    second = table.write(p, Upsert(key="k", values={}))
    with pytest.raises(RowChanged):
        table.write(p, Delete(key="k", etag=first))
    assert table.write(p, Delete(key="k", etag=second)) == ""
    assert table.read(p, "k") is None


def test_a_transaction_is_all_or_nothing(table: Table, p: str) -> None:
    """Whichever operation fails, none is carried out, and the error says why."""
    etag = table.write(p, Insert(key="there", values={"a": "1"}))
    table.write(p, Upsert(key="there", values={"a": "1"}))
    failing: list[tuple[Operation, type[Conflict]]] = [
        (Insert(key="there", values={}), RowExists),
        (Delete(key="gone"), RowMissing),
        (Merge(key="there", values={}, etag=etag), RowChanged),
        (Delete(key="there", etag=etag), RowChanged),
        (Replace(key="gone", values={}, etag=etag), RowMissing),
    ]
    for operation, error in failing:
        with pytest.raises(error):
            table.transact(p, [Insert(key="new", values={}), operation, Insert(key="newer", values={})])
        assert [row.key for row in table.list(p)] == ["there"]


def test_a_transaction_does_everything(table: Table, p: str) -> None:
    """Insert, upsert, replace, merge and delete together."""
    etags = {
        key: table.write(p, Insert(key=key, values={"a": "1", "b": "1"})) for key in ("merge", "replace", "delete", "gone")
    }
    table.transact(
        p,
        [
            Insert(key="new", values={"n": 1}),
            Upsert(key="up", values={"n": 2}),
            Merge(key="merge", values={"a": "2"}, etag=etags["merge"]),
            Replace(key="replace", values={"a": "2"}, etag=etags["replace"]),
            Delete(key="delete", etag=etags["delete"]),
            Delete(key="gone"),
        ],
    )
    assert {row.key: dict(row.values) for row in table.list(p)} == {
        "new": {"n": 1},
        "up": {"n": 2},
        "merge": {"a": "2", "b": "1"},
        "replace": {"a": "2"},
    }


def test_a_transaction_has_its_limits(table: Table, p: str) -> None:
    """100 operations are carried out; none, 101 or one row twice are refused before anything is sent."""
    table.transact(p, [Insert(key=f"{n:03}", values={}) for n in range(100)])
    assert len(table.list(p)) == 100
    for operations in ([], [Delete(key=f"{n:03}") for n in range(101)], [Delete(key="001"), Delete(key="001")]):
        with pytest.raises(ValueError, match="transaction"):
            table.transact(p, operations)
    table.transact(p, [Delete(key=f"{n:03}") for n in range(100)])
    assert list(table.list(p)) == []


def test_a_scan_goes_by_partition_and_page(table: Table) -> None:
    """From ``first``, up to and without ``before``, in order, however many pages it takes."""
    name = f"scan{secrets.token_hex(3)}"
    for partition in ("a", "b", "c"):
        for start in range(0, 600, 100):
            table.transact(f"{name}:{partition}", [Insert(key=f"{n:04}", values={"n": n}) for n in range(start, start + 100)])
    found = [(row.partition, row.key) for row in table.scan(first=f"{name}:a", before=f"{name}:c")]
    assert found == [(f"{name}:{partition}", f"{n:04}") for partition in ("a", "b") for n in range(600)]
    assert list(table.scan(first=f"{name}:d", before=f"{name}:e")) == []


def test_of_many_at_once_one_wins(table: Table, p: str) -> None:
    """One insert, and one replacement under an ETag; the others learn it."""

    def race(operations: list[Operation]) -> int:
        won: list[bool] = []

        def run(operation: Operation) -> None:
            try:
                table.write(p, operation)
            except Conflict:
                return
            won.append(True)

        threads = [threading.Thread(target=run, args=(operation,)) for operation in operations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(won)

    assert race([Insert(key="k", values={"n": n}) for n in range(16)]) == 1
    row = table.read(p, "k")
    assert row is not None
    assert race([Replace(key="k", values={"n": n}, etag=row.etag) for n in range(16)]) == 1


def test_a_table_that_is_not_there_is_empty_and_then_made(azurite: Azurite) -> None:
    """Nothing has to be set up: the first write makes the table, and a missing table is never a missing row."""
    account = StorageAccount(connection_string=azurite.connection_string)
    for write in (
        lambda table: table.write("p", Insert(key="k", values={})),
        lambda table: table.transact("p", [Insert(key="k", values={}), Insert(key="l", values={})]),
    ):
        table = AzureTables(account, f"m{secrets.token_hex(5)}").table("sessions")
        assert table.read("p", "k") is None
        assert list(table.list("p")) == []
        assert list(table.scan(first="a", before="z")) == []
        write(table)
        assert table.read("p", "k") is not None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "upsert", "replace", "merge", "delete", "delete any", "transact"]),
        st.sampled_from("ab"),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.azurite
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_twin_does_what_storage_does(azurite: Azurite, steps: list[tuple[str, str, int, bool]]) -> None:
    """Any story of operations, with fresh and stale ETags, ends alike in both."""
    twin, real = (
        MemoryTable(),
        AzureTables(StorageAccount(connection_string=azurite.connection_string), "twin").table("sessions"),
    )
    partition = secrets.token_hex(8)
    outcomes = []
    for table in (twin, real):
        seen: dict[str, list[str]] = {"a": [], "b": []}
        story: list[Any] = []
        for kind, key, number, stale in steps:
            known = seen[key]
            etag = (known[0] if stale else known[-1]) if known else "W/\"datetime'2026-01-01T00%3A00%3A00.0000000Z'\""
            values: dict[str, Value] = {"n": number, f"v{number}": "x"}
            operation: Operation = {
                "insert": Insert(key=key, values=values),
                "upsert": Upsert(key=key, values=values),
                "replace": Replace(key=key, values=values, etag=etag),
                "merge": Merge(key=key, values=values, etag=etag),
                "delete": Delete(key=key, etag=etag),
                "delete any": Delete(key=key),
                "transact": Insert(key=key, values=values),
            }[kind]
            try:
                if kind == "transact":
                    table.transact(partition, [operation, Upsert(key="c", values=values)])
                else:
                    new = table.write(partition, operation)
                    if new:
                        known.append(new)
                story.append("done")
            except Conflict as error:
                story.append(type(error).__name__)
        outcomes.append((story, [(row.key, dict(row.values)) for row in table.list(partition)]))
    assert outcomes[0] == outcomes[1]


def test_an_operation_ends_with_the_request(azurite: Azurite) -> None:
    """No time left: nothing is sent, and nothing is known."""
    from shared.errors import StorageUnavailable

    table = AzureTables(StorageAccount(connection_string=azurite.connection_string), "late").table("sessions")
    with limits.within(0), pytest.raises(StorageUnavailable):
        table.read("p", "k")
