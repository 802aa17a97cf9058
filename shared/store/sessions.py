"""Sessions: one row per session, partitioned by account, and the account row ``!``.

The account row makes a sign-out and a sign-in exclude each other.

The rules that everything rests on:
- only ``create`` inserts a session, in one transaction with the account row under the ETag that was seen;
- whatever happens later updates the row under its ETag, so nothing brings a deleted row back;
- no row, no session: deleting the row is the sign-out.

What a row holds is ``rows.py``, the pointers to it are ``index.py``.  Who may ask for what, and in which order the wings act,
is ``flows``.
"""

import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from shared.errors import NotSignedIn, SignedOutMeanwhile, StorageUnavailable
from shared.store.index import (
    SUB_WITHOUT_SID,
    VERSION,
    Due,
    Index,
    Pointer,
    end_key,
    exp_key,
    keys_of,
    oid_key,
    sid_key,
    sub_key,
)
from shared.store.rows import ACCOUNT_ROW, Claim, Identity, Listing, Rows, SessionRow, created_at, oid_account, time_or_never
from shared.store.sealing import BrokenSealError, KeyRing, UnknownKeyError, digest
from shared.store.table import (
    TRANSACTION_LIMIT,
    Conflict,
    Delete,
    Insert,
    Merge,
    Operation,
    Replace,
    Row,
    RowChanged,
    RowExists,
    RowMissing,
    Table,
    Value,
)

log = logging.getLogger(__name__)

FLOW_LIFETIME = timedelta(minutes=10)
"""How long a sign-in may be under way; its sealed cookie lives as long."""
CLOCK_LEEWAY = timedelta(minutes=5)
"""How far the clocks of two instances may be apart."""
KEEP_ENDED = FLOW_LIFETIME + CLOCK_LEEWAY
"""How long the account row has to stay: no older sign-in can come back after it, and nobody looks for a mark any more."""
UNDER_WAY = CLOCK_LEEWAY + timedelta(minutes=1)
"""How long an index row may be there before its session is: a request's time, on clocks that differ."""
LEASE = timedelta(seconds=30)
LEASE_NEEDED = timedelta(seconds=12)
"""What must be left of a lease to begin a token request (10 s) and to write its result."""
_CONFLICTS = 12
_MARKS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A sign-in that the provider vouched for.

    ``backchannel``: the provider has back-channel logout.  ``had`` are the sessions that this browser's cookies claimed when
    the flow started: one at most, unless somebody planted another.
    """

    account: str
    secret_hash: str = field(repr=False)
    flow_started_at: datetime
    auth_time: datetime
    identity: Identity
    cache: bytes = field(repr=False)
    session_state: str | None
    backchannel: bool
    had: tuple[Claim, ...]


Spare = Callable[[Row], bool]
"""Says of a session's row that a sign-out leaves it alone."""


class Sessions:
    """The sessions table of one app."""

    def __init__(
        self,
        *,
        table: Table,
        index: Index,
        ring: KeyRing,
        app: str,
        issuer: str,
        idle: timedelta,
        absolute: timedelta,
        per_account: int,
        not_before: datetime | None,
    ) -> None:
        self._table = table
        self._index = index
        self._ring = ring
        self._rows = Rows(ring=ring, app=app)
        self._app = app
        self._issuer = issuer
        self._idle = idle
        self._absolute = absolute
        self._per_account = per_account
        self._not_before = not_before
        self._ended_at = f"EndedAt_{app}"  # apps that share the tables share the account row, not their sign-outs
        self._columns = [
            *("V", "App", "KeyId", "SecretHash", "CreatedAt", "AuthTime", "ExpiresAt", "IdleExpiresAt", "IndexKeys"),
            *("Identity", "Tombstone", "Marks", "MarkedAt", "EndedAt", self._ended_at),
        ]

    # -- reading

    def proven(self, claim: Claim) -> Row | None:
        """The row that the claim proves, expired or not, whether it opens here or not: one point read.

        Enough to end a session: its owner's sign-out holds on an instance that does not have the row's key, too.
        """
        row = self._table.read(claim.account, claim.session_id)
        return row if row is not None and self._rows.is_mine(row) and claim.fits(row) else None

    def read(self, claim: Claim) -> SessionRow | None:
        """The session that the claim proves, expired or not: one point read.

        A row that does not open though its key is known is removed; one of an unknown key, version or app is left alone.
        """
        row = self.proven(claim)
        return self._open_or_remove(row) if row is not None and self._rows.is_session(row) else None

    def listing(self, account: str) -> Listing:
        """The account's rows of this app, without their token caches: one storage request."""
        rows = self._table.list(account, columns=self._columns)
        return Listing(
            rows=tuple(row for row in rows if self._rows.is_mine(row)),
            tombstones=frozenset(row.key for row in rows if "Tombstone" in row.values and row.values.get("App") == self._app),
            account_row=next((row for row in rows if row.key == ACCOUNT_ROW), None),
        )

    def open(self, row: Row) -> SessionRow | None:
        """The listed row as a session; None where it does not open or is of another version.  Changes nothing."""
        try:
            return self._rows.open(row) if self._rows.is_session(row) else None
        except (BrokenSealError, UnknownKeyError):
            return None

    def whole(self, row: Row) -> SessionRow | None:
        """The session of a listed row, with its token cache: one point read where the row came without."""
        found: Row | None = row if "CacheParts" in row.values else self._table.read(row.partition, row.key)
        return self.open(found) if found is not None else None

    def is_standing(self, row: Row, now: datetime) -> bool:
        """``is_live`` for a row that need not open here: another instance may have its key."""
        return _due(row) > now and (self._not_before is None or created_at(row) >= self._not_before)

    def is_live(self, session: SessionRow, now: datetime) -> bool:
        """Whether the session still counts: neither expired nor from before ``SESSIONS_NOT_BEFORE``."""
        return not session.expired(now) and (self._not_before is None or session.created_at >= self._not_before)

    def ended_at(self, listing: Listing) -> datetime | None:
        """When this app last signed the account out."""
        value = listing.account_row.values.get(self._ended_at) if listing.account_row is not None else None
        return value if isinstance(value, datetime) else None

    # -- signing in

    def create(self, new: NewSession, *, now: datetime) -> tuple[SessionRow, int]:
        """Inserts a session, unless a sign-out came since its flow started.  Returns it and how many others it replaced.

        1. Write the index rows: from here on every sign-out can find what is about to be inserted.
        2. List the partition and read the back-channel's marks: a sign-out that came before is seen here ...
        3. ... and one that comes after changes the account row, so the one transaction that inserts fails and we list again.

        Raises:
            SignedOutMeanwhile: the sign-out wins; nothing is left of this sign-in.
            StorageUnavailable: nothing is signed in; what may have been written has no cookie and expires.
        """
        session_id = secrets.token_urlsafe(16)
        mark = secrets.token_urlsafe(9)
        session = SessionRow(
            account=new.account,
            id=session_id,
            etag="",
            key_id=self._ring.current,
            secret_hash=new.secret_hash,
            created_at=now,
            auth_time=new.auth_time,
            expires_at=now + self._absolute,
            idle_expires_at=min(now + self._idle, now + self._absolute),
            index_keys=(),
            identity=new.identity,
            cache=new.cache,
            generation=mark,
            lease="",
            lease_until=None,
        )
        session = replace(session, index_keys=self._index_keys(session, new))
        self._index.point(self._pointer(session), session.index_keys)
        try:
            replaced = self._insert(session, new, mark)
        except SignedOutMeanwhile:
            self._index.forget((key, session_id) for key in session.index_keys)
            raise
        except StorageUnavailable:
            self._abandon(session, now=now)
            raise
        self._index.forget(_index_rows(replaced))
        return session, len(replaced)

    def _insert(self, session: SessionRow, new: NewSession, mark: str) -> Sequence[Row]:
        if self._not_before is not None and new.flow_started_at < self._not_before:
            raise SignedOutMeanwhile("SESSIONS_NOT_BEFORE is later than the sign-in's start")
        listing = self.listing(session.account)
        if new.backchannel and self._ended_by_backchannel(new):
            raise SignedOutMeanwhile("back-channel logout since the sign-in started")
        if self._ended_by_oid(session, new):
            raise SignedOutMeanwhile("an administrator signed this oid out since the sign-in started")
        leaving: Sequence[Row] = ()
        for _ in range(_CONFLICTS):
            if self._has_mark(listing, mark):
                # The transaction was carried out and its answer lost.  No row: it has been signed out since.
                if any(row.key == session.id for row in listing.rows):
                    return leaving
                raise SignedOutMeanwhile("signed out right after the sign-in")
            ended_at = self.ended_at(listing)
            if ended_at is not None and ended_at >= new.flow_started_at:
                raise SignedOutMeanwhile("the account was signed out since the sign-in started")
            if session.id in listing.tombstones:
                raise SignedOutMeanwhile("the session was signed out before it was there")
            leaving = self._to_replace(listing, session, new)
            try:
                self._table.transact(
                    session.account,
                    [
                        Insert(key=session.id, values=self._rows.values(session)),
                        self._account_operation(listing, mark, now=session.created_at),
                        *(Delete(key=row.key) for row in leaving),
                    ],
                )
            except Conflict:
                listing = self.listing(session.account)
                continue
            return leaving
        raise StorageUnavailable("sign-in: too many conflicts")

    def _ended_by_backchannel(self, new: NewSession) -> bool:
        identity = new.identity
        names = [("sub", identity.sub), *(("sid", sid) for sid in _sids(new))]
        if identity.sid is None:
            names.append((SUB_WITHOUT_SID, identity.sub))
        who = digest(self._issuer, identity.sub)
        ends = [self._index.ended_at(end_key(self._issuer, name, value), sub=who) for name, value in names]
        return any(end is not None and end >= new.flow_started_at for end in ends)

    def _ended_by_oid(self, session: SessionRow, new: NewSession) -> bool:
        """Whether an administrator ended ``oid`` and ``tid`` of somebody whose account they do not name (guests, B2C).

        The account of a sign-in under way is known to nobody else, so the mark stands in the account of that name.
        """
        named = _oid_and_tid(session)
        row = self._table.read(oid_account(*named), ACCOUNT_ROW) if named is not None else None
        ended_at = row.values.get(self._ended_at) if row is not None else None
        return isinstance(ended_at, datetime) and ended_at >= new.flow_started_at

    def _to_replace(self, listing: Listing, session: SessionRow, new: NewSession) -> list[Row]:
        """The rows that this sign-in ends: the same browser's, and the oldest over the limit."""
        same_browser = {key for key in session.index_keys if key.startswith("sid:")}
        leaving = [
            row for row in listing.rows if same_browser & set(keys_of(row)) or any(claim.proves(row) for claim in new.had)
        ]
        names = {row.key for row in leaving}
        staying = sorted((row for row in listing.rows if row.key not in names), key=created_at)
        surplus = max(0, len(staying) - (self._per_account - 1))
        return (leaving + staying[:surplus])[: TRANSACTION_LIMIT - 2]

    def _index_keys(self, session: SessionRow, new: NewSession) -> tuple[str, ...]:
        identity = session.identity
        keys = [exp_key(session.idle_expires_at, session.id)]
        keys += [sid_key(self._issuer, sid) for sid in _sids(new)]
        if new.backchannel:
            keys.append(sub_key(self._issuer, identity.sub))
        named = _oid_and_tid(session)
        if named is not None:
            keys.append(oid_key(*reversed(named)))
        return tuple(keys)

    def _abandon(self, session: SessionRow, *, now: datetime) -> None:
        """Nobody has this session's cookie, and nobody knows whether its row is there, or is still to come.

        If it is there it goes; if not, a tombstone keeps it out.  A bare deletion would take away a sign-out's tombstone.
        """
        try:
            self.end_session(session.account, session.id, now=now, pointed=True)
        except StorageUnavailable as error:
            log.info("an abandoned sign-in is left for the sweep: %s", error)

    def _pointer(self, session: SessionRow) -> Pointer:
        identity = session.identity
        return Pointer(
            account=session.account,
            session_id=session.id,
            issuer=identity.issuer,
            sub=digest(self._issuer, identity.sub),
            sid=digest(self._issuer, identity.sid) if identity.sid else "",
            written_at=session.created_at,
        )

    # -- a session in use

    def slide(self, session: SessionRow, *, now: datetime) -> SessionRow:
        """Moves the idle limit, at most once per tenth of the idle time; seals anew where the key is not the current one.

        Raises:
            NotSignedIn: the row is gone.
        """
        until = min(now + self._idle, session.expires_at)
        if until - session.idle_expires_at < self._idle / 10:
            return session
        moved = replace(session, idle_expires_at=until)
        try:
            if session.key_id == self._ring.current:
                etag = self._table.write(
                    session.account, Merge(key=session.id, values={"IdleExpiresAt": until}, etag=session.etag)
                )
            else:
                moved = replace(moved, key_id=self._ring.current)
                etag = self._table.write(
                    session.account, Replace(key=session.id, values=self._rows.values(moved), etag=session.etag)
                )
        except RowMissing as error:
            raise NotSignedIn("signed out during the request") from error
        except (RowChanged, StorageUnavailable) as error:
            # Somebody else wrote, or nobody can: the session was there, and the next request slides it.
            log.info("idle limit not moved: %s", type(error).__name__)
            return session
        return replace(moved, etag=etag)

    def take_lease(self, session: SessionRow, *, now: datetime) -> SessionRow | None:
        """Makes the caller the one that redeems the refresh token for 30 s; None where the row changed meanwhile.

        Raises:
            NotSignedIn: the row is gone.
        """
        lease = secrets.token_urlsafe(9)
        until = now + LEASE
        try:
            etag = self._table.write(
                session.account, Merge(key=session.id, values={"Lease": lease, "LeaseUntil": until}, etag=session.etag)
            )
        except RowMissing as error:
            raise NotSignedIn("signed out before the refresh") from error
        except RowChanged:
            now_there = self._reread(session)
            return now_there if now_there is not None and now_there.lease == lease else None
        return replace(session, etag=etag, lease=lease, lease_until=until)

    def write_tokens(self, session: SessionRow, cache: bytes) -> SessionRow:
        """Writes a token cache and gives the lease back; ``session`` is the one with the lease.

        Where the row changed meanwhile (its idle limit, its index keys) while the lease and the cache generation are still the
        same, the tokens go into the row as it is now, without a new token request.

        Raises:
            NotSignedIn: the row is gone, the tokens are dropped.
        """
        generation = secrets.token_urlsafe(9)
        base: SessionRow | None = session
        for _ in range(_CONFLICTS):
            if base is None:
                raise NotSignedIn("signed out during the refresh")
            if base.generation == generation:
                return base  # written, and the answer was lost
            if (base.lease, base.generation) != (session.lease, session.generation):
                return base  # somebody else's tokens are newer than ours
            fresh = replace(base, cache=cache, generation=generation, lease="", lease_until=None, key_id=self._ring.current)
            try:
                etag = self._table.write(
                    session.account, Replace(key=session.id, values=self._rows.values(fresh), etag=base.etag)
                )
            except Conflict:
                base = self._reread(session)
                continue
            return replace(fresh, etag=etag)
        raise StorageUnavailable("refresh: too many conflicts")

    def _reread(self, session: SessionRow) -> SessionRow | None:
        row = self._table.read(session.account, session.id)
        return self.open(row) if row is not None else None

    def release_lease(self, session: SessionRow) -> None:
        """Gives the lease back after a token request that failed, so that others need not wait for it to run out."""
        try:
            self._table.write(
                session.account,
                Merge(key=session.id, values={"Lease": "", "LeaseUntil": session.created_at}, etag=session.etag),
            )
        except (Conflict, StorageUnavailable) as error:
            log.info("lease not released, it runs out by itself: %s", type(error).__name__)

    # -- signing out

    def end_account(
        self,
        account: str,
        *,
        now: datetime,
        requester: str = "",
        listing: Listing | None = None,
        spare: Spare | None = None,
    ) -> list[Row]:
        """Ends every session of the account and refuses every sign-in that is under way.  Returns the rows that are gone.

        Each round is one transaction: the account row under its ETag with ``EndedAt``, and up to 99 deletions, the requester's
        own row in the last one, so that a sign-out that was cut short can be repeated.  ``listing`` saves the first list where
        the caller has one; ``spare`` says which rows stay.

        Raises:
            StorageUnavailable: the sign-out is not complete; it can be repeated.
        """

        def listed() -> Listing:
            return _without(self.listing(account), spare)

        listing = listed() if listing is None else _without(listing, spare)
        filed = False
        mark = secrets.token_urlsafe(9)
        gone: dict[str, Row] = {}
        batch: Sequence[Row] = ()
        conflicts = 0
        while True:
            if self._has_mark(listing, mark):
                gone.update((row.key, row) for row in batch)
                mark = secrets.token_urlsafe(9)
            if self._is_ended(listing, now):
                break  # by us, or by a sign-out no older than this one: of many at once, most end here
            if not listing.rows and not filed:
                self._file_account(account, now=now)  # nothing else would lead the sweep to the account row
                filed = True
            waiting = sorted(listing.rows, key=lambda row: row.key == requester)
            batch = waiting[: TRANSACTION_LIMIT - 1]
            try:
                if conflicts < _CONFLICTS // 2:
                    self._table.transact(
                        account,
                        [
                            self._account_operation(listing, mark, now=now, ended_at=now),
                            *(Delete(key=row.key) for row in batch),
                        ],
                    )
                else:
                    self._end_one_by_one(account, listing, batch, mark, now)
            except Conflict as error:
                conflicts += 1
                if conflicts >= _CONFLICTS:
                    raise StorageUnavailable("sign-out: too many conflicts") from error
                listing = listed()
                continue
            gone.update((row.key, row) for row in batch)
            if len(waiting) == len(batch):
                break
            listing = listed()
            mark = secrets.token_urlsafe(9)
            conflicts = 0
        self._clean_up(account, list(gone.values()), now=now, filed=filed)
        return list(gone.values())

    def _is_ended(self, listing: Listing, now: datetime) -> bool:
        ended_at = self.ended_at(listing)
        return not listing.rows and ended_at is not None and ended_at >= now

    def _end_one_by_one(self, account: str, listing: Listing, batch: Sequence[Row], mark: str, now: datetime) -> None:
        """What is left when the transaction lost every race: the mark first, then each row by itself."""
        self._table.write(account, self._account_operation(listing, mark, now=now, ended_at=now))
        for row in batch:
            try:
                self._table.write(account, Delete(key=row.key))
            except RowMissing:
                continue

    def end_named_account(self, pointers: Sequence[Pointer], *, now: datetime, spare: Spare | None = None) -> list[Row] | None:
        """``end_account`` for one account that index rows led to; None where they are leftovers, and nothing was done.

        A row whose session is gone is harmless: it must not sign people out who came later.  Only while its session may
        still be on its way is the account ended for it.  The session that was named goes last, so that a repetition finds it.
        """
        account = pointers[0].account
        listing = self.listing(account)
        there = {pointer.session_id for pointer in pointers} & {row.key for row in listing.rows}
        if not there and not any(_is_under_way(pointer, now) for pointer in pointers):
            return None
        return self.end_account(account, now=now, requester=min(there, default=""), listing=listing, spare=spare)

    def end_named_session(self, pointer: Pointer, *, now: datetime, spare: Spare | None = None) -> Row | None:
        """``end_session`` for a session that an index row led to, also where it is still on its way."""
        pointed = _is_under_way(pointer, now)
        return self.end_session(pointer.account, pointer.session_id, now=now, pointed=pointed, spare=spare)

    def end_session(
        self, account: str, session_id: str, *, now: datetime, pointed: bool = False, spare: Spare | None = None
    ) -> Row | None:
        """Ends one session and leaves the account's others alone.  Returns its row, None where there was none.

        ``pointed``: its index rows are written.  Then a sign-in may be about to insert that session, and a tombstone under its
        keys makes its transaction fail.

        Raises:
            StorageUnavailable: the sign-out is not done; it can be repeated.
        """
        row: Row | None = None
        for _ in range(_CONFLICTS):
            found = self._table.read(account, session_id)
            if found is not None and not self._rows.is_mine(found):
                break  # a tombstone, or another app's
            if found is not None and spare is not None and spare(found):
                break
            if found is None and not pointed:
                break
            try:
                if found is not None:
                    row = found
                    self._table.write(account, Delete(key=session_id))
                else:
                    self._bury(account, session_id, now=now)
            except RowMissing:
                break
            except RowExists:
                continue  # the sign-in was quicker than the tombstone: its row is there now
            break
        else:
            raise StorageUnavailable("sign-out: too many conflicts")
        if row is not None:
            self._clean_up(account, [row], now=now, filed=False)
        return row

    def end_known(self, row: Row, *, now: datetime) -> None:
        """Ends one session that was read, whatever became of it since.

        Raises:
            StorageUnavailable: the sign-out is not done; it can be repeated.
        """
        with contextlib.suppress(RowMissing):
            self._table.write(row.partition, Delete(key=row.key))
        self._clean_up(row.partition, [row], now=now, filed=False)

    def end_if_unchanged(self, session: SessionRow, *, now: datetime) -> bool:
        """Ends a session whose refresh token is dead, unless somebody else gave it new tokens meanwhile."""
        try:
            self._table.write(session.account, Delete(key=session.id, etag=session.etag))
        except RowChanged:
            return False
        except RowMissing:
            log.info("it is gone already, perhaps it was us and the answer was lost")
        rows = [(key, session.id) for key in session.index_keys]
        self._clean_up_rows(session.account, rows, now=now)
        return True

    def _bury(self, account: str, session_id: str, *, now: datetime) -> None:
        self._index.due_later(kind="tombstone", account=account, session_id=session_id, when=now + KEEP_ENDED)
        values: dict[str, Value] = {"V": VERSION, "App": self._app, "Tombstone": True, "EndedAt": now}
        self._table.write(account, Insert(key=session_id, values=values))

    # -- after a sign-out: nothing of the account but its ``!`` row and the row that will sweep it

    def _clean_up(self, account: str, gone: Iterable[Row], *, now: datetime, filed: bool) -> None:
        self._clean_up_rows(account, _index_rows(gone), now=now, filed=filed)

    def _clean_up_rows(self, account: str, rows: Iterable[tuple[str, str]], *, now: datetime, filed: bool = False) -> None:
        """Files the account row and forgets the index rows.  The sign-out is done already: a failure is only logged."""
        try:
            if not filed:
                self._file_account(account, now=now)
        except StorageUnavailable as error:
            log.warning("index rows are left for the sweep: %s", error)
            return
        self._index.forget(rows)

    def _file_account(self, account: str, *, now: datetime) -> None:
        self._index.due_later(kind="account", account=account, when=now + KEEP_ENDED)

    # -- sweeping: ``flows/sweep.py`` decides, these act

    def sweep_session(self, due: Due, *, now: datetime) -> Literal["gone", "filed", "stays"]:
        """Removes a session that has expired (``gone``), files one that slid by its new hour (``filed``).

        ``stays``: it changed just now, the next sweep sees.

        Raises:
            StorageUnavailable: the next sweep goes on here.
        """
        row = self._table.read(due.account, due.session_id)
        index_keys = set(due.index_keys)
        if row is not None and self._rows.is_mine(row):
            if self.is_standing(row, now):
                return self._refile(row, due.hour)
            try:
                self._table.write(due.account, Delete(key=due.session_id, etag=row.etag))
            except Conflict:
                return "stays"
            index_keys |= set(keys_of(row))
        # Not forgotten: nothing but the row that is due leads to those that could not be removed.
        self._index.remove((key, due.session_id) for key in sorted(index_keys - {due.hour}))
        return "gone"

    def _refile(self, row: Row, filed_under: str) -> Literal["filed", "stays"]:
        filed = exp_key(_due(row), row.key)
        if filed == filed_under:
            return "stays"
        keys = (filed, *(key for key in keys_of(row) if not key.startswith("exp:")))
        self._index.file(keys, account=row.partition, session_id=row.key)
        try:
            self._table.write(row.partition, Merge(key=row.key, values={"IndexKeys": json.dumps(keys)}, etag=row.etag))
        except Conflict:
            return "stays"  # both rows stay: a session that nothing leads to would be worse
        return "filed"

    def sweep_tombstone(self, account: str, session_id: str) -> None:
        """Removes a tombstone whose sign-in can no longer come."""
        row = self._table.read(account, session_id)
        if row is not None and "Tombstone" in row.values:
            with contextlib.suppress(Conflict):
                self._table.write(account, Delete(key=session_id, etag=row.etag))

    def sweep_account(self, account: str, *, now: datetime) -> None:
        """Removes the account row where no session is left and nobody looks for its last mark any more.

        Read first, list then: a sign-in after the reading changes the row, and the deletion under its ETag fails.
        """
        row = self._table.read(account, ACCOUNT_ROW)
        if row is None:
            return
        if any(other.key != ACCOUNT_ROW for other in self._table.list(account, columns=("App",))):
            return  # that row's own ``exp:`` row leads here again
        # A sign-in may look for ``EndedAt``; and one whose answer was lost for its mark, or it inserts its session again.
        marked_at = row.values.get("MarkedAt")
        if isinstance(marked_at, datetime) and marked_at > now - KEEP_ENDED:
            self._file_account(account, now=now)
            return
        with contextlib.suppress(Conflict):
            self._table.write(account, Delete(key=ACCOUNT_ROW, etag=row.etag))

    # -- rows

    def _open_or_remove(self, row: Row) -> SessionRow | None:
        try:
            return self._rows.open(row)
        except UnknownKeyError as error:
            log.warning("a session is sealed with a key that is not in SEALING_KEYS: %s", error)
        except BrokenSealError as error:
            log.warning("a session that does not open is removed: %s", error)
            try:
                self._table.write(row.partition, Delete(key=row.key, etag=row.etag))
            except Conflict:
                log.info("it changed meanwhile")
        return None

    def _has_mark(self, listing: Listing, mark: str) -> bool:
        return listing.account_row is not None and mark in str(listing.account_row.values.get("Marks", "")).split()

    def _account_operation(self, listing: Listing, mark: str, *, now: datetime, ended_at: datetime | None = None) -> Operation:
        """The write of the account row that goes with every sign-in and sign-out, under the ETag that was seen."""
        row = listing.account_row
        stored: Mapping[str, Value] = row.values if row is not None else {}

        def latest(name: str, time: datetime) -> datetime:
            earlier = stored.get(name)
            return max(time, earlier) if isinstance(earlier, datetime) else time

        marks = [*str(stored.get("Marks", "")).split(), mark][-_MARKS:]
        values: dict[str, Value] = {"Marks": " ".join(marks), "MarkedAt": latest("MarkedAt", now)}
        if ended_at is not None:
            values |= {name: latest(name, ended_at) for name in ("EndedAt", self._ended_at)}
        if row is None:
            return Insert(key=ACCOUNT_ROW, values={"V": VERSION, "App": self._app, **values})
        return Merge(key=ACCOUNT_ROW, values=values, etag=row.etag)


def _sids(new: NewSession) -> list[str]:
    """What a logout may call this session: its ``sid``, and Entra's ``session_state``."""
    return [sid for sid in dict.fromkeys((new.identity.sid, new.session_state)) if sid]


def _oid_and_tid(session: SessionRow) -> tuple[str, str] | None:
    """``oid`` and ``tid`` where they do not name the session's own account: guests, B2C (whose tokens may lack ``tid``)."""
    identity = session.identity
    _, dot, utid = identity.home_account_id.rpartition(".")
    oid, tid = identity.oid, identity.tid or (utid if dot else None)
    return (oid, tid) if oid and tid and f"{oid}.{tid}" != session.account else None


def _is_under_way(pointer: Pointer, now: datetime) -> bool:
    """Whether the session that an index row names may be on its way still; one that does not say when it was written may."""
    return pointer.written_at is None or pointer.written_at > now - UNDER_WAY


def _without(listing: Listing, spare: Spare | None) -> Listing:
    return listing if spare is None else replace(listing, rows=tuple(row for row in listing.rows if not spare(row)))


def _due(row: Row) -> datetime:
    return min(time_or_never(row, "IdleExpiresAt"), time_or_never(row, "ExpiresAt"))


def _index_rows(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(key, row.key) for row in rows for key in keys_of(row)]
