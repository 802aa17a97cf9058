"""The store of one process over the in-memory twin, with a short way to sign somebody in and to let others meddle."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.flows.sweep import Sweep
from shared.store.index import Index
from shared.store.memory_table import MemoryTable
from shared.store.rows import Claim, Identity, SessionRow, secret_hash
from shared.store.sealing import KeyRing
from shared.store.sessions import NewSession, Sessions
from shared.store.table import Operation, Row, Table

START = datetime(2026, 11, 23, 8, 20, tzinfo=UTC)
OLD, NEW = ("old", os.urandom(32)), ("new", os.urandom(32))


class Store:
    """The store of one process; several share the tables."""

    def __init__(
        self, *, tables: "tuple[MemoryTable, MemoryTable] | None" = None, keys: Any = (OLD,), app: str = "app1", **changes: Any
    ) -> None:
        self._keys, self._app, self._changes = keys, app, changes
        self.tables = tables or (MemoryTable(), MemoryTable())
        self.index = Index(table=self.tables[1], app=app)
        self.sessions = Sessions(
            table=self.tables[0],
            index=self.index,
            ring=KeyRing(keys),
            app=app,
            issuer=changes.get("issuer", "issuer"),
            idle=changes.get("idle", timedelta(minutes=60)),
            absolute=changes.get("absolute", timedelta(minutes=720)),
            per_account=changes.get("per_account", 50),
            not_before=changes.get("not_before"),
        )
        self.sweep = Sweep(sessions=self.sessions, index=self.index)

    def sign_in(self, account: str = "a.t", *, now: datetime = START, **changes: Any) -> tuple[SessionRow, Claim]:
        """The session as it is stored, and what its cookie claims."""
        row, _ = self.sessions.create(new_session(account, now=now, **changes), now=now)
        claim = Claim(account=account, session_id=row.id, secret_hash=row.secret_hash)
        return self.sessions.read(claim) or row, claim

    def meddled(self, *, before: "Sequence[Act]" = (), after: "Sequence[Act]" = (), index: bool = False) -> "Store":
        """The same store as another process sees it, in which others act around each write of the sessions (or index) table."""
        one, two = self.tables
        tables: Any = (one, Meddled(two, before, after)) if index else (Meddled(one, before, after), two)
        return Store(tables=tables, keys=self._keys, app=self._app, **self._changes)

    def keys(self, prefix: str) -> list[str]:
        """The partitions of the index that begin so."""
        return [partition for partition in self.rows()[1] if partition.startswith(prefix)]

    def rows(self) -> tuple[list[str], list[str]]:
        """What both tables hold: keys of sessions, partitions of the index."""
        return [row.key for row in self.tables[0].scan(first="", before="\uffff")], [
            row.partition for row in self.tables[1].scan(first="", before="\uffff")
        ]

    def empty(self) -> bool:
        return self.rows() == ([], [])


def new_session(account: str = "a.t", *, now: datetime = START, **changes: Any) -> NewSession:
    """Somebody whom the provider vouched for; ``changes`` are fields of the session or of the identity."""
    identity = Identity(
        issuer="issuer", sub=account, oid=None, tid=None, sid=None, name="A", username="a", login_hint=None,
        home_account_id=account, user_agent="", issued_at=now.timestamp(), id_token=None,
    )  # fmt: skip
    changes = {"sid": secrets.token_hex(8), **changes}
    names = {found.name for found in fields(Identity)}
    identity = replace(identity, **{name: value for name, value in changes.items() if name in names})
    new = NewSession(
        account=account, secret_hash=secret_hash(secrets.token_urlsafe(32)), flow_started_at=now, auth_time=now,
        identity=identity, cache=b"{}", session_state=None, backchannel=True, had=(),
    )  # fmt: skip
    return replace(new, **{name: value for name, value in changes.items() if name not in names})


Act = Callable[[], object]


class Meddled:
    """A table around whose writes others act, one act for each write; an act that raises is that write's error."""

    def __init__(self, table: Table, before: Sequence[Act], after: Sequence[Act]) -> None:
        self._table = table
        self._before, self._after = iter(before), iter(after)

    def read(self, partition: str, key: str) -> Row | None:
        return self._table.read(partition, key)

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        return self._table.list(partition, columns=columns)

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        return self._table.scan(first=first, before=before)

    def write(self, partition: str, operation: Operation) -> str:
        next(self._before, nothing)()
        etag = self._table.write(partition, operation)
        next(self._after, nothing)()
        return etag

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        next(self._before, nothing)()
        self._table.transact(partition, operations)
        next(self._after, nothing)()


def nothing() -> None:
    """Nobody acts."""


def raising(error: Exception) -> Act:
    """An act that is this error: a lost answer where it comes after the write."""

    def act() -> None:
        raise error

    return act
