"""Sign-in: to the provider and back (OpenID Connect Core 1.0, section 3.1; PKCE, RFC 7636).

What the provider's answer must prove is ``provider``; how the session gets in beside a sign-out is ``store/sessions``.
"""

import logging
import re
import secrets
from collections.abc import Mapping
from datetime import datetime

from shared.errors import AppError, BadRequest, MethodNotAllowed, SignInStateInvalid, StorageUnavailable
from shared.flows.audit import Audit
from shared.flows.pending import AT_MOST, Pending, PendingSeal
from shared.flows.site import Site
from shared.provider.client import Provider
from shared.provider.token_cache import trim
from shared.provider.values import SignedIn
from shared.store.rows import CACHE_LIMIT, ID_TOKEN_LIMIT, Claim, Identity, account_key, secret_hash
from shared.store.sessions import NewSession, Sessions
from shared.web.cookies import SessionCookie, read
from shared.web.messages import Params, Request, Response
from shared.web.urls import safe_return_to

log = logging.getLogger(__name__)

_PROMPTS = frozenset({"login", "select_account", "consent", "none"})
_STATE = re.compile(r"[A-Za-z0-9_-]{22}")
_ANSWER = ("code", "state", "iss", "session_state", "client_info", "error", "error_description", "error_uri", "error_codes")
_HINT_LIMIT = 320
_USER_AGENT_LIMIT = 512
_HAD_AT_MOST = 3
"""Sessions that a sign-in ends because the browser had them; more than one are there where somebody planted cookies."""


class SignIn:
    """The sign-in flow."""

    def __init__(self, *, site: Site, provider: Provider, sessions: Sessions, seal: PendingSeal, audit: Audit) -> None:
        self._site = site
        self._provider = provider
        self._sessions = sessions
        self._seal = seal
        self._audit = audit

    def login(self, request: Request, now: datetime) -> Response:
        """``GET /auth/login``: ``return_to``, ``prompt``, ``login_hint``, ``domain_hint``; writes nothing.

        Raises:
            BadRequest: not a navigation of a browser's tab, or a parameter that makes no sense.
        """
        if not request.is_top_level_navigation:
            raise BadRequest("sign-in starts with a navigation, not with a frame, an image or a prefetch")
        params = request.params()
        wanted = params.all("return_to")
        prompt = params.one("prompt") or None
        if prompt is not None and prompt not in _PROMPTS:
            raise BadRequest("prompt is none that OpenID Connect Core 3.1.2.1 names")
        return self.begin(
            request,
            now,
            return_to=safe_return_to(wanted[0] if len(wanted) == 1 else None),
            prompt=prompt,
            login_hint=_hint(params, "login_hint"),
            domain_hint=_hint(params, "domain_hint"),
        )

    def begin(
        self,
        request: Request,
        now: datetime,
        *,
        return_to: str,
        scopes: tuple[str, ...] = (),
        claims: str | None = None,
        prompt: str | None = None,
        login_hint: str | None = None,
        domain_hint: str | None = None,
    ) -> Response:
        """Sends the browser to the provider; it comes back to ``return_to`` (a path of this origin)."""
        state = secrets.token_urlsafe(16)
        asked = self._provider.authorization_request(
            state=state,
            scopes=tuple(dict.fromkeys((*self._site.scopes, *scopes))),
            prompt=prompt,
            login_hint=login_hint,
            domain_hint=domain_hint,
            claims=claims,
        )
        had = self._site.claims(request)[:_HAD_AT_MOST]
        pending = Pending(state=state, flow=asked.flow, return_to=return_to, started_at=now, had=had)
        cookies = self._site.cookies
        form_post = self._site.response_mode == "form_post"
        response = Response.redirect(302, asked.url)
        for stale in self._no_longer_wanted(request, now):
            response = response.with_cookie(cookies.clear_flow(stale))
        try:
            return response.with_cookie(cookies.flow_cookie(state, self._seal.seal(pending), form_post=form_post))
        except ValueError as error:
            raise BadRequest(str(error)) from error

    def _no_longer_wanted(self, request: Request, now: datetime) -> list[str]:
        """The browser's other sign-ins that are over, not ours, or the oldest over the limit."""
        known = self._site.cookies.flows(request.headers.get("cookie"))
        opened = {state: self._seal.open(state, value) for state, value in known.items()}
        running = [p for p in opened.values() if p is not None and not p.is_over(now)]
        running.sort(key=lambda pending: pending.started_at, reverse=True)
        keep = {pending.state for pending in running[: AT_MOST - 1]}
        return [state for state in known if state not in keep]

    def callback(self, request: Request, now: datetime) -> Response:
        """``/auth/callback``: the provider's answer becomes a session, or one error and nothing.

        1. Whose answer is it?  The sealed cookie named by ``state`` says who started what, when.
        2. Is it true?  The provider's wing redeems the code and checks everything.
        3. Insert the session, unless a sign-out came since the flow started.
        4. End the sessions of other accounts that this browser had.

        Raises:
            MethodNotAllowed: the other one of GET and POST than ``RESPONSE_MODE`` says.
            AppError: see the tree; nobody is signed in.
        """
        allowed = "POST" if self._site.response_mode == "form_post" else "GET"
        if request.method != allowed:
            raise MethodNotAllowed(f"RESPONSE_MODE is {self._site.response_mode}", allowed=allowed)
        params = request.form() if request.method == "POST" else request.params()
        answer = {name: value for name in _ANSWER if (value := params.one(name)) is not None}
        if "code" in answer and "error" in answer:
            raise BadRequest("code and error exclude each other")
        pending = self._pending(request, answer, now)
        signed_in = self._provider.redeem(flow=pending.flow, answer=answer, now=now)
        secret = secrets.token_urlsafe(32)
        session, replaced = self._sessions.create(self._new(request, pending, signed_in, secret), now=now)
        self._audit.record("sign_in", cause="callback", account=session.account, ended=replaced)
        for claim in pending.had:
            if claim.account != session.account:
                self._end_other_account(claim, now)
        cookie = SessionCookie(account=session.account, session_id=session.id, secret=secret)
        return (
            Response.redirect(303, pending.return_to)
            .with_cookie(self._site.cookies.session_cookie(cookie.encode()))
            .with_cookie(self._site.cookies.clear_flow(pending.state))
        )

    def state_of(self, request: Request) -> str | None:
        """The ``state`` of a callback that failed, so that its cookie can be cleared; None where there is none."""
        try:
            params = request.form() if request.method == "POST" else request.params()
            state = params.one("state") or ""
        except AppError:
            return None
        return state if _STATE.fullmatch(state) else None

    def _pending(self, request: Request, answer: Mapping[str, str], now: datetime) -> Pending:
        state = answer.get("state", "")
        if not _STATE.fullmatch(state):
            raise SignInStateInvalid("no state, or none of ours")
        values = read(request.headers.get("cookie"), self._site.cookies.flow_name(state))
        if len(values) != 1:
            raise SignInStateInvalid("no cookie for this state" if not values else "two cookies for this state")
        pending = self._seal.open(state, values[0])
        if pending is None:
            raise SignInStateInvalid("the cookie for this state does not open")
        if pending.is_over(now):
            raise SignInStateInvalid("the sign-in took too long")
        return pending

    def _new(self, request: Request, pending: Pending, signed_in: SignedIn, secret: str) -> NewSession:
        metadata = self._provider.metadata_if_known()
        return NewSession(
            account=account_key(signed_in.home_account_id, self._provider.configured_issuer(), signed_in.sub),
            secret_hash=secret_hash(secret),
            flow_started_at=pending.started_at,
            auth_time=signed_in.auth_time,
            identity=Identity(
                issuer=signed_in.issuer,
                sub=signed_in.sub,
                oid=signed_in.oid,
                tid=signed_in.tid,
                sid=signed_in.sid,
                name=signed_in.name,
                username=signed_in.username,
                login_hint=signed_in.login_hint,
                home_account_id=signed_in.home_account_id,
                user_agent=request.headers.get("user-agent", "")[:_USER_AGENT_LIMIT],
                issued_at=signed_in.issued_at.timestamp(),
                id_token=signed_in.id_token if len(signed_in.id_token) <= ID_TOKEN_LIMIT else None,
            ),
            cache=trim(signed_in.cache, CACHE_LIMIT),
            session_state=signed_in.session_state,
            backchannel=metadata is not None and metadata.backchannel_logout,
            had=pending.had,
        )

    def _end_other_account(self, had: Claim, now: datetime) -> None:
        """A browser has one session: that of another account, if its secret proves it, ends.  The new one stands already."""
        try:
            other = self._sessions.proven(had)
            if other is None:
                return
            self._sessions.end_known(other, now=now)
        except StorageUnavailable as error:
            log.warning("the browser's earlier session is left to expire: %s", error)
            return
        self._audit.record("sign_out", cause="another_account", account=had.account, ended=1)


def _hint(params: Params, name: str) -> str | None:
    value = params.one(name)
    if value is not None and (len(value) > _HINT_LIMIT or not value.isprintable()):
        raise BadRequest(f"{name} is too long or not printable")
    return value or None
