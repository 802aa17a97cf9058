"""Sign-outs that do not come from the user's browser tab: the provider's, by front- and back-channel, and the administrator's.

The user's own is ``sign_out.py``.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from shared.errors import AppError, BadRequest, StorageUnavailable, TokenInvalid
from shared.flows.audit import Audit
from shared.flows.revocation import Revocation
from shared.flows.site import Site
from shared.provider.client import Provider
from shared.provider.values import LogoutToken
from shared.store.index import SUB_WITHOUT_SID, Index, Pointer, end_key, jti_key, oid_key, sid_key, sub_key
from shared.store.rows import account_key, hashed_account_key, oid_account
from shared.store.sealing import digest
from shared.store.sessions import CLOCK_LEEWAY, KEEP_ENDED, Sessions, Spare
from shared.store.table import Row
from shared.web.messages import Request

log = logging.getLogger(__name__)

ADMIN_LIST = 20
"""Accounts in one call of the administrator."""
_KEPT_AT_MOST = timedelta(days=366)
"""How long a ``jti`` is kept, whatever ``exp`` its token has."""
_NAME_LIMIT = 1024
_HASHED = re.compile(r"~[0-9a-f]{64}")
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


class Channels:
    """Sign-outs by the provider and by administrators."""

    def __init__(self, *, site: Site, provider: Provider, sessions: Sessions, index: Index, audit: Audit) -> None:
        self._site = site
        self._provider = provider
        self._sessions = sessions
        self._index = index
        self._audit = audit
        self._issuer = provider.configured_issuer()
        self._revocation = Revocation(provider=provider, sessions=sessions)

    # -- front-channel (OpenID Connect Front-Channel Logout 1.0, section 2)

    def front_channel(self, request: Request, now: datetime) -> bool:
        """Ends what ``sid`` names, without any cookie; the answer must not depend on what was found.

        1. Exactly one ``sid``, and ``iss`` absent (Entra ID) or the configured one: otherwise nothing happens.
        2. One read of the index; a guess ends here.
        3. End the session, or its account, by ``SIGN_OUT_SCOPE``.

        Returns:
            Whether the browser's own session was the one named: only then may its cookie be cleared.

        Raises:
            StorageUnavailable: it is not done; the provider's page shows that it failed.
        """
        try:
            params = request.params()
            sid, iss = params.one("sid"), params.one("iss")
        except BadRequest:
            return False
        if not sid:
            return False
        if iss is not None and not self._provider.issuer_matches(iss):
            return False
        key = sid_key(self._issuer, sid)
        named = [pointer for pointer in self._index.find(key) if iss is None or pointer.issuer == iss]
        # First those that an ID token vouched for: ``session_state`` comes unsigned, from whoever likes.
        named.sort(key=lambda pointer: pointer.sid != digest(self._issuer, sid))
        self._end_named(named, now, cause="front_channel")
        own = self._site.claim(request)
        return own is not None and any(p.account == own.account and p.session_id == own.session_id for p in named)

    def _end_named(self, named: Sequence[Pointer], now: datetime, *, cause: str, spare: Spare | None = None) -> None:
        """Ends each, or its account.  One that fails keeps no other from being ended; then the whole is not done."""
        failed: StorageUnavailable | None = None
        by_account: dict[str, list[Pointer]] = {}
        for pointer in named:
            by_account.setdefault(pointer.account, []).append(pointer)
        for account, pointers in by_account.items():
            try:
                if self._site.sign_out_scope == "account":
                    rows = self._sessions.end_named_account(pointers, now=now, spare=spare)
                else:
                    found = [self._sessions.end_named_session(pointer, now=now, spare=spare) for pointer in pointers]
                    rows = [row for row in found if row is not None]
            except StorageUnavailable as error:
                failed = error
                continue
            if rows is not None:
                self._audit.record("sign_out", cause=cause, account=account, ended=len(rows))
        if failed is not None:
            raise failed

    # -- back-channel (OpenID Connect Back-Channel Logout 1.0, sections 2.5 to 2.8)

    def back_channel(self, request: Request, now: datetime) -> None:
        """Ends what a verified ``logout_token`` names.

        1. The token is true, and has not acted before.
        2. Record the end of its ``sid`` or ``sub``: a sign-in under way that looks from now on is refused ...
        3. ... and one that looked before has written its index rows, so it is found here.
        4. End them; only then has the token acted, so that the provider's retry after a failure works.

        Raises:
            BadRequest, TokenInvalid: 400, nothing was ended.
            StorageUnavailable, ProviderUnavailable: 503, the provider tries again.
        """
        form = request.form()
        text = form.one("logout_token")
        if not text or "logout_token" in request.params().names:
            raise BadRequest("one logout_token in the form, none in the query")
        token = self._provider.logout_token(text, now=now)
        if token.sid is None and not self._provider.metadata().backchannel_logout:
            # ``sub:`` rows are only written where the metadata says that there is such a logout: 200 would claim too much.
            raise TokenInvalid("sub: without sid, from a provider whose metadata has no backchannel_logout_supported")
        acted = jti_key(self._issuer, token.jti)
        if self._index.has_acted(acted):
            raise TokenInvalid("jti: this token has acted already")
        who = digest(self._issuer, token.sub) if token.sub else ""
        by_sid = self._pointers(sid_key(self._issuer, token.sid), token) if token.sid else []
        # Only a ``sid`` that an ID token vouched for may refuse: ``session_state`` comes unsigned through the browser.
        signed = digest(self._issuer, token.sid) if token.sid else ""
        if who and any(pointer.sub != who and pointer.sid == signed for pointer in by_sid):
            raise TokenInvalid("sub: the session of that sid is another user's")
        self._record_end(token, who, now)
        if token.sid is None:
            assert token.sub is not None  # noqa: S101 - for the type checker: a logout token has one of the two
            accounts = {p.account: p for p in self._pointers(sub_key(self._issuer, token.sub), token)}
            for account in accounts:
                self._end_account(account, token, now)
        else:
            # Looked up again behind the record: a sign-in that saw no record has its rows by now.
            named = self._pointers(sid_key(self._issuer, token.sid), token)
            if token.sub:
                named = [pointer for pointer in named if pointer.sub == who]
                theirs = self._pointers(sub_key(self._issuer, token.sub), token)
                named += [p for p in theirs if not p.sid and p not in named]
            self._end_named(named, now, cause="back_channel", spare=self._younger_than(token))
        self._index.record_acted(acted, until=min(token.expires_at, now + _KEPT_AT_MOST) + 2 * CLOCK_LEEWAY)

    def _pointers(self, key: str, token: LogoutToken) -> list[Pointer]:
        return [pointer for pointer in self._index.find(key) if pointer.issuer == token.issuer]

    def _record_end(self, token: LogoutToken, who: str, now: datetime) -> None:
        until = now + KEEP_ENDED
        if token.sid is not None:
            self._index.end(end_key(self._issuer, "sid", token.sid), now=now, until=until, sub=who)
            if token.sub is not None:  # sessions of that user that record no ``sid`` end as well
                self._index.end(end_key(self._issuer, SUB_WITHOUT_SID, token.sub), now=now, until=until)
        elif token.sub is not None:
            self._index.end(end_key(self._issuer, "sub", token.sub), now=now, until=until)

    def _end_account(self, account: str, token: LogoutToken, now: datetime) -> None:
        rows = self._sessions.end_account(account, now=now, spare=self._younger_than(token))
        self._audit.record("sign_out", cause="back_channel", account=account, ended=len(rows))

    def _younger_than(self, token: LogoutToken) -> "_Younger":
        return _Younger(self._sessions, token.issued_at.timestamp())

    # -- administrator

    def administrator(self, wish: object, now: datetime) -> dict[str, Any]:
        """Ends accounts: one (an object) or up to 20 (a list), each ``account``, ``oid`` and ``tid``, or ``sub``.

        Raises:
            BadRequest: anything is malformed; nothing was ended.
            StorageUnavailable: a single account was not ended; in a list it is that entry's ``error``.
        """
        if not isinstance(wish, list):
            return {"ended": self._end_for_administrator(self._accounts(wish), now)}
        if not 1 <= len(wish) <= ADMIN_LIST:
            raise BadRequest(f"a list of 1 to {ADMIN_LIST} accounts")
        wishes = [self._accounts(entry) for entry in wish]
        results: list[dict[str, Any]] = []
        for accounts in wishes:
            try:
                results.append({"ended": self._end_for_administrator(accounts, now)})
            except AppError as error:
                log.warning("administrator's sign-out failed for one account: %s", error)
                results.append({"error": error.code})
        return {"ended": sum(result.get("ended", 0) for result in results), "results": results}

    def _accounts(self, entry: object) -> tuple[tuple[str, ...], str | None]:
        """The account keys that an entry names, and the index partition that may name more."""
        if not isinstance(entry, Mapping) or not all(isinstance(value, str) for value in entry.values()):
            raise BadRequest("each account is an object of strings")
        if any(not value or len(value) > _NAME_LIMIT or not value.isprintable() for value in entry.values()):
            raise BadRequest("a name is empty, too long or not printable")
        # GUIDs are lower case at Entra ID, whoever types them; another provider's may not be: both spellings are meant.
        accounts: dict[str, None] = {}
        for names in ({name: _lower_guids(value) for name, value in entry.items()}, entry):
            match sorted(names):
                case ["account"]:
                    accounts[self._account(names["account"])] = None
                case ["oid", "tid"]:
                    accounts[oid_account(names["oid"], names["tid"])] = None
                case ["sub"]:
                    # With client_info from the provider the account is not the sub itself, but may be its hash.
                    sub = names["sub"]
                    accounts |= dict.fromkeys((account_key(sub, self._issuer, sub), hashed_account_key(self._issuer, sub)))
                case _:
                    raise BadRequest("each account is named by account, by oid and tid, or by sub")
        return tuple(accounts), oid_key(entry["tid"], entry["oid"]) if "oid" in entry else None

    def _account(self, name: str) -> str:
        """The account key for a ``home_account_id`` or for a PartitionKey itself."""
        return name if _HASHED.fullmatch(name) else account_key(name, self._issuer, name)

    def accounts(self, wish: object) -> Iterator[str]:
        """The keys of the accounts that one of the administrator's wishes may mean, one by one.

        Raises:
            BadRequest: it is malformed.
        """
        return self._one_by_one(*self._accounts(wish))

    def _end_for_administrator(self, named: tuple[tuple[str, ...], str | None], now: datetime) -> int:
        ended = 0
        tokens: list[str] = []
        for account in self._one_by_one(*named):
            listing = self._sessions.listing(account)
            tokens += self._revocation.tokens(listing.rows)
            rows = self._sessions.end_account(account, now=now, listing=listing)
            self._audit.record("sign_out", cause="administrator", account=account, ended=len(rows))
            ended += len(rows)
        self._revocation.revoke(tokens)
        return ended

    def _one_by_one(self, accounts: tuple[str, ...], partition: str | None) -> Iterator[str]:
        """The accounts to end; looks for others only when the named ones have ended.

        Their marks refuse a guest's sign-in under way, and one that saw no mark has written its index rows by then.
        """
        yield from accounts
        if partition is not None:
            yield from dict.fromkeys(p.account for p in self._index.find(partition) if p.account not in accounts)


class _Younger:
    """Spares sessions whose ID token is younger than a logout token: they began after the logout."""

    def __init__(self, sessions: Sessions, issued_at: float) -> None:
        self._sessions = sessions
        self._issued_at = issued_at

    def __call__(self, row: Row) -> bool:
        session = self._sessions.open(row)
        return session is not None and session.identity.issued_at > self._issued_at


def _lower_guids(value: str) -> str:
    return _GUID.sub(lambda found: found.group().lower(), value)
