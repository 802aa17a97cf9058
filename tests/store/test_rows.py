"""Rows of the sessions table: how people are named, what a row holds, and what opens."""

import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.store.index import keys_of
from shared.store.rows import (
    ACCOUNT_ROW,
    CACHE_LIMIT,
    PART,
    Claim,
    Identity,
    Rows,
    SessionRow,
    account_key,
    created_at,
    hashed_account_key,
    oid_account,
    secret_hash,
    time_or_never,
)
from shared.store.sealing import BrokenSealError, KeyRing, UnknownKeyError
from shared.store.table import Row

NOW = datetime(2026, 11, 23, 8, 20, tzinfo=UTC)
RING = KeyRing([("k1", os.urandom(32))])
ROWS = Rows(ring=RING, app="app1")
IDENTITY = Identity(
    issuer="https://login.example", sub="s", oid="o", tid="t", sid="i", name="Zoë \ud800", username="zoe", login_hint="hint",
    home_account_id="o.t", user_agent="Firefox", issued_at=1.5, id_token="a.b.c",
)  # fmt: skip
SESSION = SessionRow(
    account="o.t", id="A" * 22, etag="", key_id="k1", secret_hash=secret_hash("secret"), created_at=NOW,
    auth_time=NOW - timedelta(minutes=1), expires_at=NOW + timedelta(hours=12), idle_expires_at=NOW + timedelta(hours=1),
    index_keys=("exp:1", "sid:2"), identity=IDENTITY, cache=b"tokens", generation="g", lease="", lease_until=None,
)  # fmt: skip


def stored(session: SessionRow = SESSION, *, key: str = "", partition: str = "", **changes: Any) -> Row:
    """The row of a session; ``...`` takes a property away."""
    values = {**ROWS.values(session), **changes}
    values = {name: value for name, value in values.items() if value is not ...}
    return Row(partition=partition or session.account, key=key or session.id, etag="1", values=values)


@pytest.mark.parametrize("name", ["o.t", "AbC.t", "_a.t", "0", "a" * 200, "a-b_c.d-e"])
def test_a_home_account_id_is_the_account_where_it_can_be(name: str) -> None:
    """Letters, digits, dot, hyphen and underscore, at most 200, as it is spelled."""
    assert account_key(name, "issuer", "sub") == name


@pytest.mark.parametrize("name", ["", "-policy.t", ".t", "a/b", "a b", "é.t", "a" * 201, "a\n", "~" + "0" * 64, "!"])
def test_what_can_be_no_key_is_hashed(name: str) -> None:
    """An empty or ``-``/``.``-led user part of a B2C policy is never shared by two people."""
    key = account_key(name, "issuer", "one")
    assert key == hashed_account_key("issuer", "one")
    assert key.startswith("~")
    assert len(key) == 65
    assert len({key, account_key(name, "issuer", "two"), account_key(name, "other", "one")}) == 3


def test_oid_and_tid_name_the_members_account() -> None:
    """``home_account_id`` of a member is ``oid.tid``; one that can be no key still has a place of its own."""
    assert oid_account("o", "t") == "o.t"
    assert oid_account("-o", "t") == hashed_account_key("t", "-o")


def test_only_the_hash_of_a_secret_is_kept() -> None:
    """SHA-256 in hex, for any text that a cookie may hold."""
    assert secret_hash("secret") == "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    assert secret_hash("é") == secret_hash("?") != secret_hash("")


def test_a_session_comes_back_as_it_was() -> None:
    """Every field, half of a surrogate pair in a name included; the row itself shows none of what is sealed."""
    row = stored()
    assert ROWS.open(row) == replace(SESSION, etag="1")
    assert {name for name, value in row.values.items() if isinstance(value, bytes)} == {"Identity", "Cache0"}
    assert asdict(IDENTITY)["username"] not in {value for value in row.values.values() if isinstance(value, str)}
    assert keys_of(row) == SESSION.index_keys


def test_a_lease_comes_back_whole_or_not_at_all() -> None:
    """An id without an end, or an end without an id, is no lease and is not written."""
    leased = replace(SESSION, lease="mine", lease_until=NOW)
    found = ROWS.open(stored(leased))
    assert (found.lease, found.lease_until) == ("mine", NOW)
    for half in (replace(SESSION, lease="mine"), replace(SESSION, lease_until=NOW)):
        assert not {"Lease", "LeaseUntil"} & stored(half).values.keys()
    assert ROWS.open(stored(leased, LeaseUntil="soon")).lease_until is None


def test_a_cache_is_split_in_parts_that_fit() -> None:
    """No property over 60,000 bytes, as few parts as may be, and their number is sealed with each."""
    for size, parts in ((0, 0), (1, 1), (PART - 28, 1), (PART - 27, 2), (CACHE_LIMIT, 12)):
        row = stored(replace(SESSION, cache=os.urandom(size)))
        sizes = [len(value) for name, value in row.values.items() if name.startswith("Cache") and isinstance(value, bytes)]
        assert (row.values["CacheParts"], len(sizes)) == (parts, parts)
        assert all(size <= 60_000 for size in sizes)
    assert CACHE_LIMIT + 12 * 28 <= 12 * 60_000


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "other.t"},
        {"key": "B" * 22},
        {"SecretHash": secret_hash("another")},
        {"Identity": ...},
        {"Identity": "text"},
        {"Identity": b""},
        {"Cache0": ...},
        {"CacheParts": 2},
        {"CacheParts": "many"},
        {"SecretHash": ...},
        {"KeyId": ...},
        {"CreatedAt": ...},
        {"AuthTime": "yesterday"},
        {"ExpiresAt": 5},
        {"IdleExpiresAt": ...},
    ],
    ids=str,
)
def test_a_row_that_was_changed_does_not_open(changes: dict[str, Any]) -> None:
    """Moved, mixed or cut: no session, never half of one."""
    with pytest.raises(BrokenSealError):
        ROWS.open(stored(**changes))


def test_a_part_does_not_stand_for_another() -> None:
    """Parts of one row that changed places, or a cache with its end cut off, do not open."""
    row = stored(replace(SESSION, cache=os.urandom(2 * PART)))
    swapped = {**row.values, "Cache0": row.values["Cache1"], "Cache1": row.values["Cache0"]}
    for values in (swapped, {**row.values, "CacheParts": 2}):
        with pytest.raises(BrokenSealError):
            ROWS.open(replace(row, values=values))


def test_an_identity_of_another_form_does_not_open() -> None:
    """What this release does not know how to read is no session."""
    for identity in ({"sub": "s"}, {**asdict(IDENTITY), "more": 1}, ["sub"]):
        place = ("session", "1", "app1", SESSION.account, SESSION.id, SESSION.secret_hash, "Identity")
        sealed = RING.seal(json.dumps(identity).encode(), *place)
        with pytest.raises(BrokenSealError):
            ROWS.open(stored(Identity=sealed))


def test_the_form_of_a_row_never_changes() -> None:
    """Releases run side by side: what was sealed by hand for the documented place opens, and nothing stands elsewhere."""
    place = ("session", "1", "app1", SESSION.account, SESSION.id, SESSION.secret_hash)
    plain = {
        "Identity": json.dumps(asdict(IDENTITY), ensure_ascii=False).encode("utf-8", "surrogatepass"),
        "Cache0/1": b"mine",
    }
    sealed = {name.partition("/")[0]: RING.seal(value, *place, name) for name, value in plain.items()}
    found = ROWS.open(stored(**sealed))
    assert (found.identity, found.cache) == (IDENTITY, b"mine")
    assert stored().values.keys() == {
        "V", "App", "KeyId", "SecretHash", "CreatedAt", "AuthTime", "ExpiresAt", "IdleExpiresAt", "IndexKeys", "Identity",
        "CacheParts", "Cache0", "Generation",
    }  # fmt: skip


def test_another_key_another_app_another_version() -> None:
    """An unknown key is told apart from a broken seal; rows of other apps and versions are no sessions of ours."""
    with pytest.raises(UnknownKeyError):
        ROWS.open(stored(KeyId="k2"))
    with pytest.raises(BrokenSealError):
        Rows(ring=RING, app="app2").open(stored())
    assert ROWS.is_session(stored())
    assert not Rows(ring=RING, app="app2").is_mine(stored())
    newer = stored(V=2)
    assert ROWS.is_mine(newer)  # a sign-out ends it
    assert not ROWS.is_session(newer)  # and nobody reads it
    assert not ROWS.is_mine(stored(Tombstone=True))
    assert not ROWS.is_mine(stored(key=ACCOUNT_ROW))
    assert not ROWS.is_session(stored(key=ACCOUNT_ROW))


def test_a_listing_without_caches_opens_without_tokens() -> None:
    """A list leaves the caches in storage; who it is can be read all the same, and there is no generation nor lease."""
    row = stored(Cache0=..., CacheParts=..., Generation=...)
    found = ROWS.open(row)
    assert (found.identity, found.cache, found.generation, found.lease) == (IDENTITY, b"", "", "")


def test_a_claim_fits_the_secret_and_nothing_else() -> None:
    """Another hash, none, or something that is no text proves nothing."""
    claim = Claim(account="o.t", session_id=SESSION.id, secret_hash=SESSION.secret_hash)
    assert claim.fits(stored())
    for value in (secret_hash("x"), "", ..., b"x", SESSION.secret_hash.upper()):
        assert not claim.fits(stored(SecretHash=value))
    assert SESSION.secret_hash not in repr(claim)
    assert SESSION.secret_hash not in repr(SESSION)


def test_expired_is_from_the_moment_on() -> None:
    """The idle limit and the absolute one: whichever comes first, and the moment itself is too late."""
    moment = timedelta(microseconds=1)
    assert not SESSION.expired(SESSION.idle_expires_at - moment)
    assert SESSION.expired(SESSION.idle_expires_at)
    late = replace(SESSION, idle_expires_at=SESSION.expires_at + timedelta(hours=1))
    assert not late.expired(late.expires_at - moment)
    assert late.expired(late.expires_at)


def test_a_row_without_times_is_the_oldest_and_never_due() -> None:
    """It goes first where there are too many, and a sweep that cannot read it leaves it."""
    row = stored()
    assert created_at(row) == NOW
    assert time_or_never(row, "ExpiresAt") == SESSION.expires_at
    bare = stored(CreatedAt=..., ExpiresAt="never")
    assert created_at(bare) < NOW - timedelta(days=365_000)
    assert time_or_never(bare, "ExpiresAt") > NOW + timedelta(days=365_000)
