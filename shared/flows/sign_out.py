"""The user's own sign-out: here, everywhere, and device by device.

Everything local is done before anybody is sent to the provider: users close its pages, and it may hang.  The provider's own
sign-outs and the administrator's are ``channels.py``.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared import limits
from shared.errors import AppError, BadRequest, NotFound, NotSignedIn
from shared.flows.audit import Audit
from shared.flows.revocation import Revocation
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


class SignOut:
    """The user's own sign-out."""

    def __init__(self, *, site: Site, provider: Provider, sessions: Sessions, audit: Audit, idle: timedelta) -> None:
        self._site = site
        self._provider = provider
        self._sessions = sessions
        self._audit = audit
        self._idle = idle
        self._revocation = Revocation(provider=provider, sessions=sessions)

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
        proven: list[Row] = []
        tokens: list[str] = []
        for account in dict.fromkeys(claim.account for claim in claims):
            own, revocable = self._end(account, [claim for claim in claims if claim.account == account], now)
            proven += own
            tokens += revocable
        self._revocation.revoke(tokens)
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

    def _end(self, account: str, claims: Sequence[Claim], now: datetime) -> tuple[list[Row], list[str]]:
        """Ends what the claims of one account prove; the rows that they prove, and the refresh tokens that may be revoked.

        A row whose key this instance does not have ends as well: others may have it.
        """
        if self._site.sign_out_scope == "session":
            own = [row for claim in claims if (row := self._sessions.proven(claim)) is not None]
            tokens = self._revocation.tokens(own)
            for row in own:
                self._sessions.end_known(row, now=now)
            ended = len(own)
        else:
            listing = self._sessions.listing(account)
            own = [row for row in listing.rows if any(claim.proves(row) for claim in claims)]
            if not own:
                return [], []
            tokens = self._revocation.tokens([*own, *(row for row in listing.rows if row not in own)])
            ended = len(self._sessions.end_account(account, now=now, requester=own[0].key, listing=listing))
        if own:
            self._audit.record("sign_out", cause="user", account=account, ended=ended)
        return own, tokens

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
        if ended is not None:
            self._revocation.revoke(self._revocation.tokens([ended]))
        return session_id == mine.id

    def end_everywhere(self, request: Request, now: datetime) -> int:
        """Ends all of the user's own sessions; returns how many.

        Raises:
            NotSignedIn: the cookie proves no live session.
        """
        mine, listing = self._own(request, now)
        tokens = self._revocation.tokens(listing.rows)
        rows = self._sessions.end_account(mine.account, now=now, requester=mine.id, listing=listing)
        self._audit.record("sign_out", cause="everywhere", account=mine.account, ended=len(rows))
        self._revocation.revoke(tokens)
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
    return next((row for row in listing.rows if claim.proves(row)), None)
