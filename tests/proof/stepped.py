"""Tables whose every call is a step of the explorer, and that meet the faults which a table may meet.

Wraps the product's own ``MemoryTable``.  What is random or differs from run to run in the product (ETags, session ids, nonces) has
names here that depend on the actor alone, so that different schedules that come to the same have the same state.
"""

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from shared.errors import StorageUnavailable
from shared.store.memory_table import MemoryTable
from shared.store.table import Conflict, Insert, Operation, Row, Upsert
from tests.proof.explorer import CRASH, EVERYTHING, LATE, LOST, REPEATED, UNANSWERED, Call, Run

READ_FAULTS = (CRASH, LOST)
WRITE_FAULTS = (CRASH, LOST, UNANSWERED, REPEATED, LATE)
PAGE = 3
"""Rows of one page of a scan."""


class _ETags:
    """ETags named by their writer."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __next__(self) -> str:
        return f"{self._run.who}.{self._run.count('etag')}"


class Rows(MemoryTable):
    """The memory table with ETags that do not depend on the schedule, and a fingerprint of all of its rows."""

    def __init__(self, run: Run, rows: Mapping[tuple[str, str], Row]) -> None:
        super().__init__()
        self._rows = dict(rows)
        self._etags = _ETags(run)  # type: ignore[assignment]
        self._prints = {place: fingerprint(row) for place, row in rows.items()}
        self.state = 0
        for place, mark in self._prints.items():
            self.state ^= hash((place, mark))

    @property
    def rows(self) -> dict[tuple[str, str], Row]:
        """Everything that is stored."""
        return self._rows

    def print_of(self, row: Row) -> int:
        """The fingerprint of a row that is stored now."""
        return self._prints[row.partition, row.key]

    def _apply(self, partition: str, operation: Operation) -> str:
        place = (partition, operation.key)
        before = self._prints.pop(place, None)
        if before is not None:
            self.state ^= hash((place, before))
        etag = super()._apply(partition, operation)
        if etag:
            mark = self._prints[place] = fingerprint(self._rows[place])
            self.state ^= hash((place, mark))
        return etag


def fingerprint(row: Row) -> int:
    """What a row says, with its ETag."""
    return hash((row.etag, frozenset(row.values.items())))


class SteppedTable:
    """A table for actors: every call, and every page of a scan, is a step."""

    def __init__(self, name: str, run: Run, rows: Rows) -> None:
        self._name = name
        self._run = run
        self._rows = rows

    def read(self, partition: str, key: str) -> Row | None:
        """See ``Table.read``."""
        self._before_read("read", f"{partition} {key}", f"{self._name}|{partition}|{key}")
        row = self._rows.read(partition, key)
        self._saw([row] if row is not None else [])
        if self._run.log is not None:
            self._run.note(f"{self._text('read', f'{partition} {key}')} -> {'a row' if row is not None else 'nothing'}")
        return row

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """See ``Table.list``."""
        self._before_read("list", partition, f"{self._name}|{partition}")
        rows = self._rows.list(partition, columns=columns)
        self._saw(rows)
        if self._run.log is not None:
            found = ", ".join(_short(row.key) for row in rows) or "nothing"
            self._run.note(f"{self._text('list', partition)} -> {found}")
        return rows

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        """See ``Table.scan``."""
        place = ("", "")
        while True:
            self._before_read("scan", first, f"{self._name}|{first}")
            rows = [row for row in self._rows.scan(first=first, before=before) if (row.partition, row.key) > place]
            page = rows[:PAGE]
            self._saw(page)
            self._run.note(f"{self._text('scan', first)} -> {len(page)} rows")
            yield from page
            if len(rows) <= PAGE:
                return
            place = (page[-1].partition, page[-1].key)

    def write(self, partition: str, operation: Operation) -> str:
        """See ``Table.write``."""

        def work() -> str:
            return self._rows.write(partition, operation)

        return self._change(partition, [operation], work)

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        """See ``Table.transact``."""

        def work() -> str:
            self._rows.transact(partition, operations)
            return ""

        self._change(partition, operations, work)

    def inserted(self, keys: Sequence[str]) -> None:
        """Session rows that have just been inserted."""

    def _change(self, partition: str, operations: Sequence[Operation], work: Callable[[], str]) -> str:
        text = (
            self._text(" + ".join(_said(operation) for operation in operations), f"in {partition}")
            if self._run.log is not None
            else ""
        )
        rows = frozenset(f"{self._name}|{partition}|{operation.key}" for operation in operations)
        call = Call(text, WRITE_FAULTS, writes=rows | self._parents(partition), rows=rows)
        fault = self._run.step(call)
        if fault == LOST:
            self._run.note(f"{text} -> unavailable, not done")
            raise StorageUnavailable("lost")
        if fault == LATE:

            def land() -> None:
                with contextlib.suppress(Conflict):
                    work()
                    self._run.version += 1
                    self.inserted(_sessions_in(partition, operations))

            self._run.note(f"{text} -> unavailable, still under way")
            self._run.land_later(call, land)
            raise StorageUnavailable("late")
        answer = self._carry_out(text, partition, operations, work)
        if fault == UNANSWERED:
            self._run.note("... its answer is lost")
            self._run.saw("unanswered")
            raise StorageUnavailable("unanswered")
        if fault == REPEATED:
            self._run.note("... its answer is lost, and it is sent once more")
            self._run.step(replace(call, text=text + " (again)", faults=(CRASH,)))
            return self._carry_out(text, partition, operations, work)
        return answer

    def _carry_out(self, text: str, partition: str, operations: Sequence[Operation], work: Callable[[], str]) -> str:
        try:
            answer = work()
        except Conflict as conflict:
            self._run.saw(type(conflict).__name__)
            self._run.note(f"{text} -> {type(conflict).__name__}")
            raise
        self._run.version += 1
        self.inserted(_sessions_in(partition, operations))
        self._run.saw(answer)
        self._run.note(f"{text} -> done")
        return answer

    def _before_read(self, what: str, place: str, reads: str) -> None:
        if self._run.step(Call(self._text(what, place), READ_FAULTS, reads=frozenset({reads}))) == LOST:
            self._run.note(f"{self._text(what, place)} -> unavailable")
            self._run.saw(LOST)
            raise StorageUnavailable("lost")

    def _parents(self, partition: str) -> frozenset[str]:
        """What changes with a row: the lists and scans that show it."""
        kind, colon, _ = partition.partition(":")
        parents = {f"{self._name}|{partition}", f"{self._name}|{kind}:" if colon else ""}
        if kind in {"sid", "sub"} or not colon:
            parents.add(EVERYTHING)
        return frozenset(parents)

    def _saw(self, rows: Sequence[Row]) -> None:
        self._run.saw(tuple((row.partition, row.key, self._rows.print_of(row)) for row in rows))

    def _text(self, what: str, place: str) -> str:
        if self._run.log is None:
            return ""
        return f"{self._name}: {what} {' '.join(_short(part) for part in place.split(' '))}"


def _short(key: str) -> str:
    kind, colon, rest = key.partition(":")
    return f"{kind}:{rest[:4]}" if colon and kind != "exp" else key[:10] if not colon else key


def _said(operation: Operation) -> str:
    return f"{type(operation).__name__.lower()} {_short(operation.key)}"


def _sessions_in(partition: str, operations: Sequence[Operation]) -> list[str]:
    """The sessions that get a row of their own, or one that points to them."""
    if partition.startswith(("sid:", "sub:", "oid:")):
        return [operation.key for operation in operations if isinstance(operation, Upsert)]
    return [operation.key for operation in operations if isinstance(operation, Insert) and "SecretHash" in operation.values]


def named_token(run: Run, size: int) -> str:
    """What stands for ``secrets.token_urlsafe``: as long and as canonical, and the actor's own."""
    data = hashlib.sha512(f"{run.who}:{run.count('token')}".encode()).digest()[:size]
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def named_bytes(run: Run, size: int) -> bytes:
    """What stands for ``os.urandom``."""
    return hashlib.sha512(f"{run.who}:bytes:{run.count('bytes')}".encode()).digest()[:size]
