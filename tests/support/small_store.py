"""The store of one process over the in-memory twin, with a short way to sign somebody in."""

import os
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.flows.sweep import Sweep
from shared.store.index import Index
from shared.store.memory_table import MemoryTable
from shared.store.rows import Claim, Identity, SessionRow, secret_hash
from shared.store.sealing import KeyRing
from shared.store.sessions import NewSession, Sessions

START = datetime(2026, 11, 23, 8, 20, tzinfo=UTC)
OLD, NEW = ("old", os.urandom(32)), ("new", os.urandom(32))


class Store:
    """The store of one process; several share the tables."""

    def __init__(
        self, *, tables: "tuple[MemoryTable, MemoryTable] | None" = None, keys: Any = (OLD,), app: str = "app1", **changes: Any
    ) -> None:
        self.tables = tables or (MemoryTable(), MemoryTable())
        self.index = Index(table=self.tables[1], app=app)
        self.sessions = Sessions(
            table=self.tables[0],
            index=self.index,
            ring=KeyRing(keys),
            app=app,
            issuer="issuer",
            idle=changes.get("idle", timedelta(minutes=60)),
            absolute=changes.get("absolute", timedelta(minutes=720)),
            per_account=changes.get("per_account", 50),
            not_before=changes.get("not_before"),
        )
        self.sweep = Sweep(sessions=self.sessions, index=self.index)

    def sign_in(
        self, account: str = "a.t", *, now: datetime = START, sid: str | None = None, cache: bytes = b"{}"
    ) -> tuple[SessionRow, Claim]:
        secret = secrets.token_urlsafe(32)
        identity = Identity(
            issuer="issuer", sub=account, oid=None, tid=None, sid=sid or secrets.token_hex(8), name="A", username="a", login_hint=None,
            home_account_id=account, user_agent="", issued_at=now.timestamp(), id_token=None,
        )  # fmt: skip
        new = NewSession(
            account=account, secret_hash=secret_hash(secret), flow_started_at=now, auth_time=now, identity=identity, cache=cache,
            session_state=None, backchannel=True, had=None,
        )  # fmt: skip
        row, _ = self.sessions.create(new, now=now)
        return row, Claim(account=account, session_id=row.id, secret_hash=row.secret_hash)

    def rows(self) -> tuple[list[str], list[str]]:
        """What both tables hold: keys of sessions, partitions of the index."""
        return [row.key for row in self.tables[0].scan(first="", before="\uffff")], [
            row.partition for row in self.tables[1].scan(first="", before="\uffff")
        ]

    def empty(self) -> bool:
        return self.rows() == ([], [])
