"""Rows of the sessions table: what one holds, how it is named, sealed and opened.  No I/O.

When a row is written, changed or deleted is ``sessions.py``; the pointers to it are ``index.py``.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from shared.store.index import VERSION, keys_of
from shared.store.sealing import OVERHEAD, BrokenSealError, KeyRing, digest
from shared.store.table import Row, Value

ACCOUNT_ROW = "!"
PART = 60_000
"""Bytes of one sealed part: a property holds 64 KiB."""
CACHE_LIMIT = 12 * (PART - OVERHEAD)
"""Bytes of a token cache before sealing: an entity holds 1 MiB (Azurite counts base64), and the rest has its share."""
ID_TOKEN_LIMIT = 6 * 1024
"""Bytes; a longer ID token would not fit into the ``id_token_hint`` of a URL and is not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who signed in, as the provider said; sealed.  ``issued_at`` is the ID token's ``iat`` in seconds since 1970."""

    issuer: str
    sub: str
    oid: str | None
    tid: str | None
    sid: str | None
    name: str
    username: str
    login_hint: str | None
    home_account_id: str
    user_agent: str
    issued_at: float
    id_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """An opened session.  ``cache`` is MSAL's token cache (JSON), b"" where only a listing was read."""

    account: str
    id: str
    etag: str
    key_id: str
    secret_hash: str = field(repr=False)
    created_at: datetime
    auth_time: datetime
    expires_at: datetime
    idle_expires_at: datetime
    index_keys: tuple[str, ...]
    identity: Identity
    cache: bytes = field(repr=False)
    generation: str
    lease: str
    lease_until: datetime | None

    def expired(self, now: datetime) -> bool:
        """Whether the session counts as gone."""
        return now >= self.expires_at or now >= self.idle_expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a cookie claims: where the row is, and the hash of the secret that proves it."""

    account: str
    session_id: str
    secret_hash: str = field(repr=False)

    def fits(self, row: Row) -> bool:
        """Whether the secret is the row's, in constant time."""
        stored = row.values.get("SecretHash")
        return isinstance(stored, str) and hmac.compare_digest(stored.encode(), self.secret_hash.encode())

    def proves(self, row: Row) -> bool:
        """Whether this is the row that is claimed, and the secret fits."""
        return (row.partition, row.key) == (self.account, self.session_id) and self.fits(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A partition as it was listed: this app's session rows, tombstones, and the account row."""

    rows: tuple[Row, ...]
    tombstones: frozenset[str]
    account_row: Row | None


def secret_hash(secret: str) -> str:
    """SHA-256 of the cookie's secret, 64 hex digits: what the row keeps of it."""
    return hashlib.sha256(secret.encode("ascii", "replace")).hexdigest()


def account_key(home_account_id: str, issuer: str, sub: str) -> str:
    """The PartitionKey of a person: ``home_account_id`` where it can be a key, else ``~`` and a hash of issuer and ``sub``.

    B2C policies give an empty user part or one led by ``-`` or ``.``; two people must never share such a partition.
    No case folding: ``AbC`` and ``aBc`` are two people.
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", home_account_id):
        return home_account_id
    return hashed_account_key(issuer, sub)


def hashed_account_key(issuer: str, sub: str) -> str:
    """The PartitionKey of a person whose ``home_account_id`` cannot be one."""
    return "~" + digest(issuer, sub)


def oid_account(oid: str, tid: str) -> str:
    """The PartitionKey that ``oid`` and ``tid`` name: a member's account; for guests the place of an administrator's mark."""
    return account_key(f"{oid}.{tid}", tid, oid)


class Rows:
    """The rows of one app: which are its own, and their sealed values."""

    def __init__(self, *, ring: KeyRing, app: str) -> None:
        self._ring = ring
        self._app = app

    def is_mine(self, row: Row) -> bool:
        """A session of this app, of whatever version or key: what a sign-out ends."""
        return row.key != ACCOUNT_ROW and row.values.get("App") == self._app and "Tombstone" not in row.values

    def is_session(self, row: Row) -> bool:
        """A session of this app that this release can read."""
        return self.is_mine(row) and row.values.get("V") == VERSION

    def values(self, session: SessionRow) -> dict[str, Value]:
        """The whole row, sealed with the current key."""

        def seal(name: str, plain: bytes) -> bytes:
            return self._ring.seal(plain, *self._place(session.account, session.id, session.secret_hash, name))

        identity = json.dumps(asdict(session.identity), ensure_ascii=False, separators=(",", ":"))
        step = PART - OVERHEAD
        parts = [session.cache[start : start + step] for start in range(0, len(session.cache), step)]
        values: dict[str, Value] = {
            "V": VERSION,
            "App": self._app,
            "KeyId": self._ring.current,
            "SecretHash": session.secret_hash,
            "CreatedAt": session.created_at,
            "AuthTime": session.auth_time,
            "ExpiresAt": session.expires_at,
            "IdleExpiresAt": session.idle_expires_at,
            "IndexKeys": json.dumps(session.index_keys),
            "Identity": seal("Identity", identity.encode("utf-8", "surrogatepass")),
            "CacheParts": len(parts),
            "Generation": session.generation,
            **{f"Cache{n}": seal(f"Cache{n}/{len(parts)}", part) for n, part in enumerate(parts)},
        }
        if session.lease and session.lease_until is not None:
            values |= {"Lease": session.lease, "LeaseUntil": session.lease_until}
        return values

    def open(self, row: Row) -> SessionRow:
        """The row as a session.

        Raises:
            UnknownKeyError: sealed with a key that is not in the ring; a newer release may have written it.
            BrokenSealError: it does not open though its key is known, or something is missing.
        """
        values = row.values
        try:
            stored_hash = str(values["SecretHash"])
            key_id = str(values["KeyId"])

            def unseal(name: str, column: str) -> bytes:
                sealed = values[column]
                place = self._place(row.partition, row.key, stored_hash, name)
                return self._ring.open(key_id, sealed if isinstance(sealed, bytes) else b"", *place)

            identity = Identity(**json.loads(unseal("Identity", "Identity").decode("utf-8", "surrogatepass")))
            parts = int(str(values["CacheParts"])) if "CacheParts" in values else 0
            until = values.get("LeaseUntil")
            return SessionRow(
                account=row.partition,
                id=row.key,
                etag=row.etag,
                key_id=key_id,
                secret_hash=stored_hash,
                created_at=_time(values, "CreatedAt"),
                auth_time=_time(values, "AuthTime"),
                expires_at=_time(values, "ExpiresAt"),
                idle_expires_at=_time(values, "IdleExpiresAt"),
                index_keys=keys_of(row),
                identity=identity,
                cache=b"".join(unseal(f"Cache{n}/{parts}", f"Cache{n}") for n in range(parts)),
                generation=str(values.get("Generation", "")),
                lease=str(values.get("Lease", "")),
                lease_until=until if isinstance(until, datetime) else None,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise BrokenSealError(type(error).__name__) from error

    def _place(self, account: str, session_id: str, stored_hash: str, name: str) -> tuple[str, ...]:
        # The secret's hash is bound too: whoever can write the table cannot put a secret of their own before the tokens.
        return ("session", str(VERSION), self._app, account, session_id, stored_hash, name)


def created_at(row: Row) -> datetime:
    """``CreatedAt``; a row without it is the oldest."""
    value = row.values.get("CreatedAt")
    return value if isinstance(value, datetime) else datetime.min.replace(tzinfo=UTC)


def time_or_never(row: Row, name: str) -> datetime:
    """The time in the property ``name``; a row without it never comes due by it."""
    value = row.values.get(name)
    return value if isinstance(value, datetime) else datetime.max.replace(tzinfo=UTC)


def _time(values: Mapping[str, Value], name: str) -> datetime:
    value = values[name]
    if not isinstance(value, datetime):
        raise TypeError(name)
    return value
