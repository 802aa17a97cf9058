"""MSAL's token cache as bytes: read without MSAL, and kept small.  Pure: no I/O, no clock.

The form is the unified cache of the MSAL libraries: JSON with ``AccessToken``, ``RefreshToken`` and ``Account``, each a
mapping of keys to entries.  ``AppMetadata`` says nothing that we need, and the ID token is kept with the session: both are
left out.  Two accounts may differ in case alone, so entries are told apart by ``home_account_id`` and not by MSAL's keys,
which are in lower case.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.provider.values import AccessToken

ENOUGH = timedelta(minutes=5)
"""A token with less left is not handed out: it may expire on its way to the API."""
ACCESS, REFRESH, ACCOUNT = "AccessToken", "RefreshToken", "Account"

Entry = dict[str, Any]
Cache = dict[str, dict[str, Entry]]


def load(data: bytes) -> Cache:
    """The cache's entries; what is not of the cache's form is left out, so that old bytes never crash."""
    try:
        document = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        return {}
    return {
        kind: {key: entry for key, entry in entries.items() if isinstance(entry, dict)}
        for kind in (ACCESS, REFRESH, ACCOUNT)
        if isinstance(entries := document.get(kind), dict)
    }


def dump(cache: Mapping[str, Any]) -> bytes:
    """Compact JSON; MSAL's own is indented, and a third larger."""
    return json.dumps({kind: entries for kind, entries in cache.items() if entries}, separators=(",", ":")).encode()


def compact(data: bytes, *, home_account_id: str, now: datetime) -> bytes:
    """This account's entries alone: access tokens that still work, and one refresh token, the newest."""
    cache = {
        kind: {key: entry for key, entry in entries.items() if entry.get("home_account_id") == home_account_id}
        for kind, entries in load(data).items()
    }
    cache[ACCESS] = {key: entry for key, entry in cache.get(ACCESS, {}).items() if _expires_at(entry) > now}
    cache[REFRESH] = _newest(cache.get(REFRESH, {}).items())
    return dump(cache)


def trim(data: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes if that can be: the oldest access tokens go first, the refresh token never."""
    if len(data) <= limit:
        return data
    cache = load(data)
    tokens = cache.get(ACCESS, {})
    size = len(dump(cache))
    for key in sorted(tokens, key=lambda key: _number(tokens[key], "cached_at")):
        if size <= limit:
            break
        size -= len(json.dumps({key: tokens.pop(key)}, separators=(",", ":"))) - 1
    return dump(cache)


def access_token(
    data: bytes, *, home_account_id: str, client_id: str, scopes: Iterable[str], now: datetime
) -> AccessToken | None:
    """The access token for all of ``scopes`` that lasts longest, if it lasts long enough.

    No scope at all asks for no API in particular, and gets none: MSAL would answer with any token.
    """
    wanted = set(scopes)
    if not wanted:
        return None
    best: AccessToken | None = None
    for entry in load(data).get(ACCESS, {}).values():
        expires_at, secret = _expires_at(entry), entry.get("secret")
        if (
            entry.get("home_account_id") == home_account_id
            and entry.get("client_id") == client_id
            and wanted <= set(str(entry.get("target", "")).split())
            and isinstance(secret, str)
            and secret
            and expires_at - now >= ENOUGH
            and (best is None or expires_at > best.expires_at)
        ):
            best = AccessToken(value=secret, expires_at=expires_at)
    return best


def refresh_tokens(data: bytes) -> list[str]:
    """The secrets of the refresh tokens."""
    entries = load(data).get(REFRESH, {}).values()
    return [secret for entry in entries if isinstance(secret := entry.get("secret"), str) and secret]


def _newest(entries: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """The last one written; among equals the last of ``entries``.

    MSAL would try one refresh token after the other, and a provider that rotates them takes an old one for theft.
    """
    newest: tuple[str, Entry] | None = None
    for key, entry in entries:
        if newest is None or _number(entry, "last_modification_time") >= _number(newest[1], "last_modification_time"):
            newest = key, entry
    return {} if newest is None else {newest[0]: newest[1]}


def _number(entry: Entry, name: str) -> int:
    try:
        return int(entry.get(name, 0))
    except (TypeError, ValueError, OverflowError):
        return 0


def _expires_at(entry: Entry) -> datetime:
    try:
        return datetime.fromtimestamp(_number(entry, "expires_on"), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
