"""MSAL's cache as bytes: compact, trimmed, merged, read."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.provider import token_cache

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T = int(NOW.timestamp())


def at(
    name: str,
    *,
    home: str = "h",
    cached: int = T,
    expires: int = T + 3600,
    target: str = "A",
    secret: str = "",
    client: str = "app",
) -> dict[str, Any]:
    """An access token's entry."""
    entry = {
        "home_account_id": home,
        "client_id": client,
        "secret": secret or name,
        "target": target,
        "cached_at": str(cached),
        "expires_on": str(expires),
    }
    return {name: entry}


def rt(name: str, *, home: str = "h", written: int = T) -> dict[str, Any]:
    """A refresh token's entry."""
    return {name: {"home_account_id": home, "secret": name, "last_modification_time": str(written)}}


def cache(access: dict[str, Any] | None = None, refresh: dict[str, Any] | None = None) -> bytes:
    """A cache as MSAL writes it."""
    account = {"k": {"home_account_id": "h"}}
    return json.dumps(
        {
            "AccessToken": access or {},
            "RefreshToken": refresh or {},
            "Account": account,
            "AppMetadata": {"x": {}},
            "IdToken": {"i": {"home_account_id": "h"}},
        },
        indent=4,
    ).encode()


def names(data: bytes, kind: str) -> set[str]:
    """The keys of a kind of entry."""
    return set(json.loads(data).get(kind, {}))


def test_compact_keeps_what_is_needed_of_one_account() -> None:
    """Other accounts, expired tokens, ID tokens and metadata of the app go; of refresh tokens the newest stays."""
    data = cache(
        {**at("good"), **at("expired", expires=T), **at("theirs", home="H")},
        {**rt("old", written=T - 1), **rt("new"), **rt("theirs", home="other", written=T + 9)},
    )
    compact = token_cache.compact(data, home_account_id="h", now=NOW)
    assert b" " not in compact
    assert set(json.loads(compact)) == {"AccessToken", "RefreshToken", "Account"}
    assert names(compact, "AccessToken") == {"good"}
    assert names(compact, "RefreshToken") == {"new"}


def test_trim_drops_the_oldest_access_tokens_and_never_the_refresh_token() -> None:
    """They can be had again; the refresh token cannot."""
    access: dict[str, Any] = {}
    for n in range(100):
        access |= at(f"at-{n}", cached=T + n, secret="x" * 5000)
    data = token_cache.compact(cache(access, rt("rt")), home_account_id="h", now=NOW)
    limit = 100_000
    trimmed = token_cache.trim(data, limit)
    assert limit - 6000 < len(trimmed) <= limit
    kept = {int(name[3:]) for name in names(trimmed, "AccessToken")}
    assert kept == set(range(100 - len(kept), 100))
    assert names(trimmed, "RefreshToken") == {"rt"}
    assert token_cache.trim(data, len(data)) == data
    assert names(token_cache.trim(data, 10), "RefreshToken") == {"rt"}
    assert names(token_cache.trim(data, 10), "AccessToken") == set()


def test_one_refresh_token_stays_the_newest() -> None:
    """MSAL leaves the old one beside the new one; among those of one second the last in the cache is the new one."""
    newer = cache({}, {**rt("new", written=T + 1), **rt("old", written=T)})
    assert token_cache.refresh_tokens(token_cache.compact(newer, home_account_id="h", now=NOW)) == ["new"]
    tie = cache({}, {**rt("first"), **rt("last")})
    assert token_cache.refresh_tokens(token_cache.compact(tie, home_account_id="h", now=NOW)) == ["last"]


def find(data: bytes, *scopes: str, home: str = "h", client: str = "app") -> str | None:
    """The access token that is found."""
    found = token_cache.access_token(data, home_account_id=home, client_id=client, scopes=scopes, now=NOW)
    return found and found.value


def test_an_access_token_is_found_by_account_client_scopes_and_time() -> None:
    """All scopes in one token, five minutes left, the one that lasts longest."""
    data = cache(
        {
            **at("a", target="A openid"),
            **at("ab", target="A B openid", expires=T + 7200),
            **at("short", target="C", expires=T + 299),
            **at("enough", target="D", expires=T + 300),
        }
    )
    assert find(data, "A") == "ab"
    assert find(data, "B", "A") == "ab"
    assert find(data, "A", "C") is None
    assert find(data, "C") is None
    assert find(data, "D") == "enough"
    assert find(data, "a") is None
    assert find(data) is None
    assert find(data, "A", home="H") is None
    assert find(data, "A", client="other") is None
    assert (
        token_cache.access_token(data, home_account_id="h", client_id="app", scopes=["A"], now=NOW + timedelta(hours=2))
        is None
    )


ODD = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff",
    b'{"AccessToken": []}',
    b'{"AccessToken": {"k": 7}}',
    b'{"RefreshToken": {"k": {"secret": 7}}}',
    b'{"AccessToken": {"k": {"expires_on": "x", "home_account_id": "h"}}}',
    b'{"AccessToken": {"k": {"expires_on": 1e999}}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_bytes_of_another_form_hold_nothing(data: bytes) -> None:
    """A cache that is none never crashes a request: there are no tokens in it."""
    assert find(data, "A") is None
    assert token_cache.refresh_tokens(data) == []
    assert json.loads(token_cache.compact(data, home_account_id="h", now=NOW)) == {}
    token_cache.trim(data, 1)


ENTRIES = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "home_account_id": st.sampled_from(["h", "x"]),
            "secret": st.text(max_size=3) | st.integers(),
            "target": st.text(max_size=5) | st.none(),
            "cached_at": st.text(max_size=4) | st.integers() | st.none(),
            "expires_on": st.integers(-(10**20), 10**20) | st.text(max_size=4) | st.floats(),
            "last_modification_time": st.integers() | st.none(),
            "client_id": st.just("app"),
        },
    )
    | st.integers(),
    max_size=4,
)


@given(access=ENTRIES, refresh=ENTRIES, limit=st.integers(0, 500))
def test_whatever_the_entries_only_this_accounts_come_out(access: Any, refresh: Any, limit: int) -> None:
    """Compact and trim never mix accounts, and a compact cache is its own compact form."""
    data = json.dumps({"AccessToken": access, "RefreshToken": refresh}).encode()
    kept = token_cache.trim(token_cache.compact(data, home_account_id="h", now=NOW), limit)
    for entries in json.loads(kept).values():
        assert all(entry["home_account_id"] == "h" for entry in entries.values())
    assert len(json.loads(kept).get("RefreshToken", {})) <= 1
    assert token_cache.compact(kept, home_account_id="h", now=NOW) == kept
