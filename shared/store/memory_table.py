"""The in-memory twin of ``azure_table.py``, for tests and models: the same contract, nothing kept."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence

from shared.store.table import (
    TRANSACTION_LIMIT,
    Delete,
    Insert,
    Merge,
    Operation,
    Replace,
    Row,
    RowChanged,
    RowExists,
    RowMissing,
    Value,
)


class MemoryTable:
    """A table in memory; every call is atomic."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._etags = itertools.count(1)
        self._lock = threading.RLock()

    def read(self, partition: str, key: str) -> Row | None:
        """See ``Table.read``."""
        with self._lock:
            return self._rows.get((partition, key))

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """See ``Table.list``."""
        with self._lock:
            rows = [row for (place, _), row in sorted(self._rows.items()) if place == partition]
        return rows if columns is None else [_limited(row, columns) for row in rows]

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        """See ``Table.scan``."""
        with self._lock:
            rows = [row for (place, _), row in sorted(self._rows.items()) if first <= place < before]
        yield from rows

    def write(self, partition: str, operation: Operation) -> str:
        """See ``Table.write``."""
        with self._lock:
            self._check(partition, operation)
            return self._apply(partition, operation)

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        """See ``Table.transact``."""
        if not 1 <= len(operations) <= TRANSACTION_LIMIT:
            raise ValueError(f"a transaction has 1 to {TRANSACTION_LIMIT} operations")
        if len({operation.key for operation in operations}) < len(operations):
            raise ValueError("a transaction touches each row once")
        with self._lock:
            for operation in operations:
                self._check(partition, operation)
            for operation in operations:
                self._apply(partition, operation)

    def _check(self, partition: str, operation: Operation) -> None:
        row = self._rows.get((partition, operation.key))
        match operation:
            case Insert():
                if row is not None:
                    raise RowExists(operation.key)
            case Replace(etag=etag) | Merge(etag=etag) | Delete(etag=etag):
                if row is None:
                    raise RowMissing(operation.key)
                if etag is not None and etag != row.etag:
                    raise RowChanged(operation.key)

    def _apply(self, partition: str, operation: Operation) -> str:
        place = (partition, operation.key)
        if isinstance(operation, Delete):
            del self._rows[place]
            return ""
        values: Mapping[str, Value] = operation.values
        if isinstance(operation, Merge):
            values = {**self._rows[place].values, **values}
        etag = f'W/"{next(self._etags)}"'
        self._rows[place] = Row(partition=partition, key=operation.key, etag=etag, values=dict(values))
        return etag


def _limited(row: Row, columns: Sequence[str]) -> Row:
    values = {name: value for name, value in row.values.items() if name in columns}
    return Row(partition=row.partition, key=row.key, etag=row.etag, values=values)
