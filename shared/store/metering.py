"""Counts storage operations, for the audit's records: one a call, whichever thread makes it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from shared.store.table import Operation, Row, Table

_counter: ContextVar[list[None] | None] = ContextVar("storage requests", default=None)
# A list that grows: appending is atomic, and every thread with a copy of the context appends to the same one.


@contextmanager
def counting() -> Iterator[None]:
    """Counts the operations inside from 0, also those of threads that got a copy of the context."""
    token = _counter.set([])
    try:
        yield
    finally:
        _counter.reset(token)


def requests_so_far() -> int:
    """Operations since ``counting`` began; 0 outside of it."""
    counter = _counter.get()
    return len(counter) if counter is not None else 0


def _tick() -> None:
    counter = _counter.get()
    if counter is not None:
        counter.append(None)


Operations = Sequence[Operation]


class Metered:
    """A table whose operations are counted."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def read(self, partition: str, key: str) -> Row | None:
        """See ``Table.read``."""
        _tick()
        return self._table.read(partition, key)

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """See ``Table.list``."""
        _tick()
        return self._table.list(partition, columns=columns)

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        """See ``Table.scan``."""
        _tick()
        return self._table.scan(first=first, before=before)

    def write(self, partition: str, operation: Operation) -> str:
        """See ``Table.write``."""
        _tick()
        return self._table.write(partition, operation)

    def transact(self, partition: str, operations: Operations) -> None:
        """See ``Table.transact``."""
        _tick()
        self._table.transact(partition, operations)
