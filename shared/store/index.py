"""The index: rows that point from something else to a session, and everything that must go some day by its hour.

A row holds no secret, and one whose session is gone is harmless.  Whoever deletes a session deletes the rows named in
its ``IndexKeys``; what a crash leaves behind is found by its ``exp:`` row, which is written first and deleted last.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.errors import StorageUnavailable
from shared.store.sealing import digest
from shared.store.table import Conflict, Delete, Insert, Merge, Row, RowExists, RowMissing, Table, Upsert, Value

log = logging.getLogger(__name__)

VERSION = 1
_CONFLICTS = 10
Parallel = Callable[[Sequence[Callable[[], object]]], None]
"""Runs all of the calls, perhaps at once, waits for all, and raises the first error."""


def in_turn(calls: Sequence[Callable[[], object]]) -> None:
    """The plainest ``Parallel``: one after the other; all are made even when one fails."""
    failure: Exception | None = None
    for call in calls:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the others must be made; the first failure is raised below
            failure = failure or error
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Where an index row points: a session of an account, and who vouched for whom.

    ``issuer`` is the concrete one; ``sub`` and ``sid`` are ``digest(configured issuer, …)``; no ``sid`` recorded is "".
    ``written_at``: when the sign-in wrote it, a moment before it inserts the session.
    """

    account: str
    session_id: str
    issuer: str
    sub: str
    sid: str
    written_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A row of an hour that has passed: what is perhaps due to go.

    ``kind`` is ``session``, ``tombstone``, ``account``, ``jti`` or ``end``; ``account`` and ``session_id`` name a row of the
    sessions table (kinds ``session``, ``tombstone``, ``account``), ``partition`` one of the index (``jti``, ``end``).
    """

    kind: str
    hour: str
    key: str
    account: str
    session_id: str
    partition: str
    index_keys: tuple[str, ...]


def sid_key(issuer: str, sid: str) -> str:
    """Front- and back-channel logout by ``sid``; ``issuer`` is the configured one."""
    return "sid:" + digest(issuer, sid)


def sub_key(issuer: str, sub: str) -> str:
    """Back-channel logout tokens that carry only ``sub``."""
    return "sub:" + digest(issuer, sub)


def oid_key(tid: str, oid: str) -> str:
    """Administrator's sign-out by tenant and object id, in whatever case they are written."""
    return "oid:" + digest(tid.lower(), oid.lower())


def jti_key(issuer: str, jti: str) -> str:
    """A logout token that has acted."""
    return "jti:" + digest(issuer, jti)


SUB_WITHOUT_SID = "sub without sid"
"""A logout of ``sid`` and ``sub`` ends that user's sessions that record no ``sid``, too, and no others."""


def end_key(issuer: str, name: str, value: str) -> str:
    """A verified back-channel logout of ``name``: ``sid``, ``sub``, or ``SUB_WITHOUT_SID``."""
    return "end:" + digest(issuer, name, value)


def exp_key(due: datetime, key: str) -> str:
    """The hour of ``due`` and a shard that spreads the load of one hour over 16 partitions."""
    return f"exp:{due.astimezone(UTC):%Y%m%d%H}:{digest(key)[0]}"


def keys_of(row: Row) -> tuple[str, ...]:
    """The ``IndexKeys`` of a row: the partitions of the index that point to it."""
    try:
        keys = json.loads(str(row.values.get("IndexKeys", "[]")))
    except ValueError:
        return ()
    return tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else ()


def _ended_at(sub: str) -> str:
    return f"EndedAt_{sub[:32]}" if sub else "EndedAt"


class Index:
    """The index table of one app."""

    def __init__(self, *, table: Table, app: str, parallel: Parallel = in_turn) -> None:
        self._table = table
        self._app = app
        self._own = "-" + app  # one app's logout must not act on another that shares the tables
        self._parallel = parallel

    # -- pointers to sessions

    def point(self, pointer: Pointer, partitions: Sequence[str]) -> None:
        """Writes the rows of one session: its ``exp:`` row, which carries all of its keys, and then the others in parallel.

        Raises:
            StorageUnavailable: some may have been written; the ``exp:`` row leads to them.
        """
        values: dict[str, Value] = {
            **self._ours("session"),
            "Account": pointer.account,
            "Issuer": pointer.issuer,
            "Sub": pointer.sub,
            "Sid": pointer.sid,
        }
        if pointer.written_at is not None:
            values["WrittenAt"] = pointer.written_at

        def write(partition: str) -> Callable[[], object]:
            return lambda: self._table.write(partition, Upsert(key=pointer.session_id, values=values))

        # Not at once with the others: whoever dies in between would leave rows that no sweep ever finds.
        self.file(partitions, account=pointer.account, session_id=pointer.session_id)
        self._parallel([write(partition) for partition in partitions if not partition.startswith("exp:")])

    def file(self, partitions: Sequence[str], *, account: str, session_id: str) -> None:
        """Writes the ``exp:`` row of a session, one of ``partitions``: it leads the sweep to the session and all its rows."""
        exp = next(partition for partition in partitions if partition.startswith("exp:"))
        values: dict[str, Value] = {**self._ours("session"), "Account": account, "IndexKeys": json.dumps(list(partitions))}
        self._table.write(exp, Upsert(key=session_id, values=values))

    def find(self, partition: str) -> list[Pointer]:
        """The sessions of this app that a partition points to: one storage request."""
        return [
            Pointer(
                account=str(row.values["Account"]),
                session_id=row.key,
                issuer=str(row.values["Issuer"]),
                sub=str(row.values.get("Sub", "")),
                sid=str(row.values.get("Sid", "")),
                written_at=written_at if isinstance(written_at := row.values.get("WrittenAt"), datetime) else None,
            )
            for row in self._table.list(partition)
            if self._is_ours(row) and {"Account", "Issuer"} <= row.values.keys()
        ]

    def forget(self, rows: Iterable[tuple[str, str]]) -> None:
        """``remove`` for those who have done their work: a failure is logged, the sweep will find what is left."""
        try:
            self.remove(rows)
        except StorageUnavailable as error:
            log.warning("index rows are left for the sweep: %s", error)

    def remove(self, rows: Iterable[tuple[str, str]]) -> None:
        """Deletes rows (partition, key) in parallel, ``exp:`` rows last.

        Raises:
            StorageUnavailable: some are left, and the ``exp:`` rows that lead to them.
        """
        wanted = list(rows)
        for last in (False, True):
            self._parallel([self._deletion(p, k) for p, k in wanted if p.startswith("exp:") is last])

    def _deletion(self, partition: str, key: str) -> Callable[[], object]:
        def delete() -> None:
            try:
                self._table.write(partition, Delete(key=key))
            except RowMissing:
                return

        return delete

    # -- what must go some day

    def due_later(self, *, kind: str, when: datetime, account: str = "", session_id: str = "", partition: str = "") -> None:
        """Files a row that is no session (see ``Due``) by the hour in which it may go."""
        key = kind + "-" + digest(self._app, account, session_id, partition)
        values: dict[str, Value] = {
            **self._ours(kind),
            "Account": account,
            "SessionId": session_id,
            "Partition": partition,
            "IndexKeys": "[]",
        }
        self._table.write(exp_key(when, key), Upsert(key=key, values=values))

    def due(self, now: datetime) -> Iterator[Due]:
        """This app's rows of the hours that have passed, oldest first."""
        for row in self._table.scan(first="exp:", before=f"exp:{now.astimezone(UTC):%Y%m%d%H}"):
            if self._is_ours(row):
                yield Due(
                    kind=str(row.values.get("Kind", "")),
                    hour=row.partition,
                    key=row.key,
                    account=str(row.values.get("Account", "")),
                    session_id=str(row.values.get("SessionId", row.key)),
                    partition=str(row.values.get("Partition", "")),
                    index_keys=keys_of(row),
                )

    def settle(self, batch: Sequence[Due]) -> None:
        """Deletes due rows of one hour, at most 100, in one transaction; one by one where another sweep was quicker."""
        (hour,) = {due.hour for due in batch}
        try:
            self._table.transact(hour, [Delete(key=due.key) for due in batch])
        except Conflict:
            self.forget((hour, due.key) for due in batch)
        except StorageUnavailable as error:
            log.warning("rows that are settled are left for the next sweep: %s", error)

    # -- back-channel logout: what was ended, and which tokens have acted

    def ended_at(self, partition: str, *, sub: str = "") -> datetime | None:
        """When a verified back-channel logout ended this ``sid`` or ``sub`` last: whoever's, or that of ``sub`` (hashed)."""
        row = self._table.read(partition, self._own)
        times = [row.values.get(name) for name in ("EndedAt", _ended_at(sub))] if row is not None else []
        return max((time for time in times if isinstance(time, datetime)), default=None)

    def end(self, partition: str, *, now: datetime, until: datetime, sub: str = "") -> None:
        """Records that a verified back-channel logout ended a ``sid`` or ``sub`` at ``now``; never turns the time back.

        ``sub`` (hashed) limits it to that user: a token that names the ``sid`` of another must not touch them.

        Raises:
            StorageUnavailable: also after many conflicts.
        """
        name = _ended_at(sub)
        self.due_later(kind="end", partition=partition, when=until)
        for _ in range(_CONFLICTS):
            row = self._table.read(partition, self._own)
            before = row.values.get(name) if row is not None else None
            if isinstance(before, datetime) and before >= now:
                return
            try:
                if row is None:
                    self._table.write(partition, Insert(key=self._own, values={**self._ours("end"), name: now}))
                else:
                    self._table.write(partition, Merge(key=self._own, values={name: now}, etag=row.etag))
            except Conflict:
                continue
            return
        raise StorageUnavailable("end: too many conflicts")

    def has_acted(self, partition: str) -> bool:
        """Whether a logout token of this ``jti`` has ended its sessions already."""
        return self._table.read(partition, self._own) is not None

    def record_acted(self, partition: str, *, until: datetime) -> None:
        """Records that a logout token has ended its sessions."""
        self.due_later(kind="jti", partition=partition, when=until)
        try:
            self._table.write(partition, Insert(key=self._own, values=self._ours("jti")))
        except RowExists:
            return

    def expire(self, due: Due, *, older_than: datetime) -> bool:
        """Deletes the ``jti:`` or ``end:`` row that is due; False where it was renewed and has to stay."""
        row = self._table.read(due.partition, self._own)
        if row is None:
            return True
        times = [value for name, value in row.values.items() if name.startswith("EndedAt")]
        if any(isinstance(time, datetime) and time >= older_than for time in times):
            return False
        try:
            self._table.write(due.partition, Delete(key=self._own, etag=row.etag))
        except RowMissing:
            return True
        except Conflict:
            return False
        return True

    # -- rows

    def _ours(self, kind: str) -> dict[str, Value]:
        return {"V": VERSION, "App": self._app, "Kind": kind}

    def _is_ours(self, row: Row) -> bool:
        return row.values.get("App") == self._app and row.values.get("V") == VERSION
