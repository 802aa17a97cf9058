"""Access: who is signed in, and the tokens they may use.

The row is read for every request: there is nothing in this process that could outlive a sign-out.  A token that has to be
refreshed is refreshed once, by whoever holds the row's lease; everybody else waits for the result.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import datetime

from shared import limits
from shared.errors import AppError, NotSignedIn, ProviderUnavailable, RefreshTokenDead
from shared.flows.audit import Audit
from shared.flows.site import Site
from shared.provider.client import Provider
from shared.provider.token_cache import trim
from shared.provider.values import AccessToken
from shared.store.rows import CACHE_LIMIT, Claim, SessionRow
from shared.store.sessions import LEASE_NEEDED, Sessions
from shared.web.messages import Request

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at a row whose lease somebody else holds."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who is signed in.  ``account`` is the account key, the partition that a sign-out empties."""

    account: str
    name: str
    username: str
    sub: str
    oid: str | None
    tid: str | None


class Session:
    """What a protected function gets: the user, and tokens for APIs."""

    def __init__(self, row: SessionRow, access: "Access", scopes: tuple[str, ...]) -> None:
        self._row = row
        self._access = access
        self._scopes = scopes

    @property
    def row(self) -> SessionRow:
        """The stored session as it was read for this request."""
        return self._row

    @property
    def user(self) -> User:
        """Who is signed in."""
        identity = self._row.identity
        return User(
            account=self._row.account,
            name=identity.name,
            username=identity.username,
            sub=identity.sub,
            oid=identity.oid,
            tid=identity.tid,
        )

    def token(self, scopes: tuple[str, ...] | list[str] | None = None) -> str:
        """An access token for ``scopes`` (default: the decorator's), refreshed where it has to be.

        Raises:
            InteractionRequired: the provider wants to see the user; left alone, it becomes a new sign-in.
            NotSignedIn: signed out meanwhile.
            RefreshTokenDead: the provider ended it; so did we.
            Busy, ProviderUnavailable, ProviderFailed, StorageUnavailable: try again later, the session stays.
        """
        wanted = tuple(scopes) if scopes is not None else self._scopes
        return self._access.token(self._row, wanted).value


class Access:
    """The access flow.  Who redeems, or waits for somebody who does, has one of the ``places``: half of the pool."""

    def __init__(
        self, *, site: Site, provider: Provider, sessions: Sessions, audit: Audit, clock: Clock, places: limits.Places
    ) -> None:
        self._site = site
        self._provider = provider
        self._sessions = sessions
        self._audit = audit
        self._clock = clock
        self._places = places
        self._shared: dict[tuple[str, ...], Future[AccessToken]] = {}
        self._lock = threading.Lock()

    def authenticate(self, request: Request, now: datetime) -> SessionRow | None:
        """The live session that the request's cookie proves: one point read, and a write when the idle limit slides."""
        claim = self._site.claim(request)
        if claim is None:
            return None
        row = self._sessions.read(claim)
        if row is None or not self._sessions.is_live(row, now):
            return None
        try:
            return self._sessions.slide(row, now=now)
        except NotSignedIn:
            return None

    def session(self, request: Request, now: datetime, scopes: tuple[str, ...] = ()) -> Session | None:
        """``authenticate`` for those who write functions."""
        row = self.authenticate(request, now)
        return Session(row, self, scopes or self._site.scopes) if row is not None else None

    def token(self, row: SessionRow, scopes: tuple[str, ...]) -> AccessToken:
        """An access token; see ``Session.token`` for the errors.

        Requests of one process that want the same token share one wait; between processes the lease decides who redeems.
        """
        token = self._cached(row, scopes)
        if token is not None:
            return token
        key = (row.account, row.id, *sorted(scopes))
        with self._places.one():
            with self._lock:
                shared = self._shared.get(key)
                mine: Future[AccessToken] | None = None
                if shared is None:
                    mine = self._shared[key] = Future()
            if mine is None and shared is not None:
                return self._wait_for(shared)
            assert mine is not None  # noqa: S101 - for the type checker: nobody shares, so it is ours
            try:
                token = self._refreshed(row, scopes)
            except BaseException as error:
                mine.set_exception(error)
                mine.exception()  # read once, so that nobody is warned that nobody waited
                raise
            finally:
                with self._lock:
                    self._shared.pop(key, None)
            mine.set_result(token)
            return token

    def _cached(self, row: SessionRow, scopes: tuple[str, ...]) -> AccessToken | None:
        return self._provider.token_from_cache(
            cache=row.cache, home_account_id=row.identity.home_account_id, scopes=scopes, now=self._clock()
        )

    def _wait_for(self, shared: "Future[AccessToken]") -> AccessToken:
        try:
            return shared.result(timeout=limits.left(limits.REQUEST))
        except FutureTimeoutError as error:
            raise ProviderUnavailable("waited for another request's refresh in vain") from error

    def _refreshed(self, row: SessionRow, scopes: tuple[str, ...]) -> AccessToken:
        """Takes the lease and redeems, or waits for whoever holds it; every conclusion is drawn from a row just read.

        Raises:
            ProviderUnavailable: the request's time is up before the lease was free.
        """
        while True:
            now = self._clock()
            if row.lease_until is None or row.lease_until <= now:
                leased = self._sessions.take_lease(row, now=now)
                if leased is not None:
                    return self._redeem(leased, scopes)
            elif limits.left(limits.REQUEST) <= 2 * POLL:
                raise ProviderUnavailable("another request has been refreshing this token for too long")
            else:
                time.sleep(POLL)
            row = self._again(row)
            token = self._cached(row, scopes)
            if token is not None:
                return token

    def _again(self, row: SessionRow) -> SessionRow:
        found = self._sessions.read(_claim(row))
        if found is None or not self._sessions.is_live(found, self._clock()):
            raise NotSignedIn("signed out while waiting for a token")
        return found

    def _redeem(self, leased: SessionRow, scopes: tuple[str, ...]) -> AccessToken:
        """The one token request.  The tokens are used only when the row took them: no row, no session, no tokens."""
        until = leased.lease_until
        if until is None or until - self._clock() < LEASE_NEEDED:
            raise ProviderUnavailable("taking the lease took too long")
        try:
            refreshed = self._provider.refresh(
                cache=leased.cache,
                home_account_id=leased.identity.home_account_id,
                scopes=scopes,
                claims=None,
                now=self._clock(),
            )
        except RefreshTokenDead:
            if not self._sessions.end_if_unchanged(leased, now=self._clock()):
                raise ProviderUnavailable("the row changed while its refresh token was refused") from None
            self._audit.record("sign_out", cause="refresh_token_dead", account=leased.account, ended=1)
            raise
        except AppError:
            self._sessions.release_lease(leased)
            raise
        self._sessions.write_tokens(leased, trim(refreshed.cache, CACHE_LIMIT))
        return refreshed.token


def _claim(row: SessionRow) -> Claim:
    return Claim(account=row.account, session_id=row.id, secret_hash=row.secret_hash)
