"""The narrow protocol of a table, and its contract in prose.  ``azure_table.py`` and ``memory_table.py`` keep it.

A table is a set of rows.  A row has a partition, a key and values; (partition, key) is unique; strings compare by ordinal,
case matters.  Each successful write of a row gives it a new ETag.

- A single operation and a transaction are atomic; a transaction is all or nothing and touches one partition.
- Reads see every write that was acknowledged before they began.
- ``Conflict`` means that the row was not as the operation demanded, and that nothing was changed - *or* that the operation
  was carried out, its answer was lost, and the repetition met its own work ("perhaps it was me").  Whoever writes
  reads again and looks for a mark of its own.
- ``StorageUnavailable`` means that nothing is known: the operation may have been carried out or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Value = str | int | bool | bytes | datetime
"""``Edm.String``, ``Edm.Int64``, ``Edm.Boolean``, ``Edm.Binary``, ``Edm.DateTime`` (aware, UTC, microseconds)."""

TRANSACTION_LIMIT = 100
"""Operations in one transaction (Table service, "Performing entity group transactions")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it was read: its keys, its ETag and its values (without keys and ``Timestamp``)."""

    partition: str
    key: str
    etag: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A new row; ``RowExists`` where there is one."""

    key: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """The row becomes these values, whether there was one or not.  For index rows only, never for a session."""

    key: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """The row with this ETag becomes these values; ``RowMissing`` or ``RowChanged`` otherwise."""

    key: str
    values: Mapping[str, Value]
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """The row with this ETag gets these values and keeps its others; ``RowMissing`` or ``RowChanged`` otherwise."""

    key: str
    values: Mapping[str, Value]
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """The row goes; ``RowMissing`` where there is none, ``RowChanged`` where an ETag is given and differs."""

    key: str
    etag: str | None = None


Operation = Insert | Upsert | Replace | Merge | Delete


class Conflict(Exception):
    """A row was not as the operation demanded (see the module's contract for "perhaps it was me")."""


class RowExists(Conflict):
    """409: there is a row under these keys."""


class RowMissing(Conflict):
    """404: there is no row under these keys."""


class RowChanged(Conflict):
    """412: the row's ETag is another one."""


class Table(Protocol):
    """One table.  All methods may raise ``errors.StorageUnavailable``; they are safe to call from many threads."""

    def read(self, partition: str, key: str) -> Row | None:
        """The row, or None: one storage request."""
        ...

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """All rows of the partition in the order of their keys; ``columns`` limits the values that are fetched."""
        ...

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        """Rows with ``first <= partition < before``, by partition and key, fetched page by page as they are consumed."""
        ...

    def write(self, partition: str, operation: Operation) -> str:
        """Carries out one operation; the row's new ETag, "" for a deletion.  Raises ``Conflict``."""
        ...

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        """Carries out 1 to ``TRANSACTION_LIMIT`` operations on different keys, all or nothing.

        Raises ``Conflict`` (the first that failed) and ``ValueError`` for none or too many operations, before anything
        is sent.
        """
        ...
