"""The user's own sign-out: here, everywhere, and device by device.

Everything local is done before anybody is sent to the provider: users close its pages, and it may hang.  The provider's own
sign-outs and the administrator's are ``channels.py``.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared import limits
from shared.errors import AppError, BadRequest, NotFound, NotSignedIn
from shared.flows.audit import Audit
from shared.flows.site import COOKIES_AT_MOST, Site
from shared.provider.client import Provider
from shared.store.rows import Claim, Listing, SessionRow
from shared.store.sessions import Sessions
from shared.store.table import Row
from shared.web.messages import Request, Response

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One of the user's sessions, for their eyes.  ``this`` is the one that asks."""

    id: str
    this: bool
    signed_in_at: datetime
    last_used_at: datetime
    expires_at: datetime
    user_agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOut:
    """What a sign-out did: how many sessions are gone, and the row of the one that asked (None where none was left)."""

    ended: int
    own: Row | None


class SignOut:
    """The user's own sign-out."""

    def __init__(self, *, site: Site, provider: Provider, sessions: Sessions, audit: Audit, idle: timedelta) -> None:
        self._site = site
        self._provider = provider
        self._sessions = sessions
        self._audit = audit
        self._idle = idle

    # -- here

    def logout(self, request: Request, now: datetime) -> Response:
        """Ends the session or the account (``SIGN_OUT_SCOPE``), clears the cookie, and goes on to the provider.

        The caller has made sure that the request is the user's own.  A session that has expired still authorises its owner's
        sign-out; where no row is left, this browser is signed out and nothing more is claimed.

        Raises:
            BadRequest: more session cookies than can be looked at: nothing was ended, none is taken away.
            StorageUnavailable: it is not done; the cookie stays, so that a retry can finish.
        """
        claims = self._site.claims(request)
        if len(claims) > COOKIES_AT_MOST:
            raise BadRequest("too many session cookies to say that the right one is ended")
        done = [self._end(claim, now) for claim in claims]
        proven = [out.own for out in done if out.own is not None]
        if not proven:
            return self._leave(request, self._site.logged_out_url)
        # Of two, one was planted: the provider is told neither name.
        opened = self._sessions.open(proven[0]) if len(proven) == 1 else None
        identity = opened.identity if opened is not None else None
        try:
            with limits.within(limits.REVOCATION):
                url = self._provider.end_session_url(
                    post_logout_redirect_uri=self._site.logged_out_url,
                    state=secrets.token_urlsafe(16),
                    logout_hint=identity.login_hint if identity else None,
                    id_token_hint=identity.id_token if identity else None,
                )
        except AppError as error:
            log.warning("signed out here, the provider's sign-out page is not known: %s", error)
            url = None
        return self._leave(request, url or self._site.logged_out_url)

    def _leave(self, request: Request, url: str) -> Response:
        """Takes the session's cookie away, and those of sign-ins under way: none of them goes on behind the sign-out."""
        cookies = self._site.cookies
        response = Response.redirect(303, url).with_cookie(cookies.clear_session())
        for state in cookies.flows(request.headers.get("cookie")):
            response = response.with_cookie(cookies.clear_flow(state))
        return response

    def is_signed_in(self, request: Request, now: datetime) -> bool:
        """Whether this browser has a live session: ``/auth/logged-out`` claims nothing that did not happen."""
        rows = [self._sessions.proven(claim) for claim in self._site.claims(request)]
        return any(row is not None and self._sessions.is_standing(row, now) for row in rows)

    def _end(self, claim: Claim, now: datetime) -> SignedOut:
        """Ends what the claim proves.  A row whose key this instance does not have ends as well: others may have it."""
        revoking = self._revokes()
        if self._site.sign_out_scope == "session":
            own = self._sessions.proven(claim)
            if own is None:
                return SignedOut(ended=0, own=None)
            self._sessions.end_known(own, now=now)
            rows = [own]
        else:
            listing = self._sessions.listing(claim.account)  # no caches: a guess must not make us read them
            own = _proven(listing, claim)
            if own is None:
                return SignedOut(ended=0, own=None)
            rows = self._sessions.end_account(
                claim.account,
                now=now,
                requester=claim.session_id,
                listing=None if revoking else listing,
                caches=revoking,
            )
        self._audit.record("sign_out", cause="user", account=claim.account, ended=len(rows))
        if revoking:
            revoke(self._provider, caches_of(self._sessions, rows))
        return SignedOut(ended=len(rows), own=own)

    def _revokes(self) -> bool:
        metadata = self._provider.metadata_if_known()
        return metadata is not None and metadata.revocation_endpoint is not None

    # -- the user's devices

    def devices(self, request: Request, now: datetime) -> list[Device]:
        """The user's own live sessions, this one first, then the latest.

        Raises:
            NotSignedIn: the cookie proves no live session.
        """
        mine, listing = self._own(request, now)
        sessions = [session for row in listing.rows if (session := self._sessions.open(row)) is not None]
        devices = [
            Device(
                id=session.id,
                this=session.id == mine.id,
                signed_in_at=session.created_at,
                last_used_at=max(session.created_at, session.idle_expires_at - self._idle),
                expires_at=min(session.idle_expires_at, session.expires_at),
                user_agent=session.identity.user_agent,
            )
            for session in sessions
            if self._sessions.is_live(session, now)
        ]
        return sorted(devices, key=lambda device: (not device.this, -device.last_used_at.timestamp()))

    def end_device(self, request: Request, session_id: str, now: datetime) -> bool:
        """Ends one of the user's own sessions, whatever ``SIGN_OUT_SCOPE`` says; whether it was the one that asked.

        Raises:
            NotSignedIn: the cookie proves no live session.
            NotFound: the user has no such session; somebody else's looks the same.
        """
        mine, listing = self._own(request, now)
        if not any(row.key == session_id for row in listing.rows):
            raise NotFound("no such session in this account")
        ended = self._sessions.end_session(mine.account, session_id, now=now)
        self._audit.record("sign_out", cause="device", account=mine.account, ended=int(ended is not None))
        if ended is not None and self._revokes():
            revoke(self._provider, caches_of(self._sessions, [ended]))
        return session_id == mine.id

    def end_everywhere(self, request: Request, now: datetime) -> int:
        """Ends all of the user's own sessions; returns how many.

        Raises:
            NotSignedIn: the cookie proves no live session.
        """
        mine, listing = self._own(request, now)
        revoking = self._revokes()
        rows = self._sessions.end_account(
            mine.account, now=now, requester=mine.id, listing=None if revoking else listing, caches=revoking
        )
        self._audit.record("sign_out", cause="everywhere", account=mine.account, ended=len(rows))
        if revoking:
            revoke(self._provider, caches_of(self._sessions, rows))
        return len(rows)

    def _own(self, request: Request, now: datetime) -> tuple[SessionRow, Listing]:
        claim = self._site.claim(request)
        if claim is None:
            raise NotSignedIn("no cookie")
        listing = self._sessions.listing(claim.account)
        row = _proven(listing, claim)
        mine = self._sessions.open(row) if row is not None else None
        if mine is None or not self._sessions.is_live(mine, now):
            raise NotSignedIn("no live session for this cookie")
        return mine, listing


def _proven(listing: Listing, claim: Claim) -> Row | None:
    """The listed row that the claim proves: the list that a sign-out needs anyway authenticates it too."""
    return next((row for row in listing.rows if row.key == claim.session_id and claim.fits(row)), None)


def caches_of(sessions: Sessions, rows: Iterable[Row]) -> list[bytes]:
    """The token caches of rows that are gone, as far as they open."""
    opened = [sessions.open(row) for row in rows]
    return [session.cache for session in opened if session is not None and session.cache]


def revoke(provider: Provider, caches: Sequence[bytes]) -> None:
    """Revokes refresh tokens at the provider (RFC 7009), for at most 2 s in all; failure is only logged.

    The local deletion is the sign-out and is done already; this is a courtesy to whoever holds a copy.
    """
    try:
        with limits.within(limits.REVOCATION):
            for cache in caches:
                if limits.left(limits.REVOCATION) <= 0:
                    log.warning("time is up, some refresh tokens were not revoked at the provider")
                    return
                provider.revoke(cache)
    except AppError as error:
        log.warning("refresh tokens were not revoked at the provider: %s", error)
