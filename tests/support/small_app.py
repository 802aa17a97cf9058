"""The flows of one app over the in-memory twin, the proof's provider beside them, and browsers that hold one cookie."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from shared.flows.access import Access
from shared.flows.audit import Audit
from shared.flows.channels import Channels
from shared.flows.pending import PendingSeal
from shared.flows.sign_in import SignIn
from shared.flows.sign_out import SignOut
from shared.flows.site import Site
from shared.limits import Places
from shared.provider import token_cache
from shared.provider.values import AuthorizationRequest, ProviderMetadata, Refreshed
from shared.store.rows import Claim, SessionRow, secret_hash
from shared.store.sealing import KeyRing
from shared.web.cookies import CookieNames, SessionCookie
from shared.web.messages import Request, Response
from tests.proof.explorer import Run
from tests.proof.provider import CLIENT, ISSUER, SCOPES, TOKEN_TIME, ModelProvider
from tests.support.small_store import OLD, START, Store

COOKIES = CookieNames(session="session")
IDLE = timedelta(minutes=60)


class SmallProvider(ModelProvider):
    """Remembers what it was asked, fails where a test says so, and has a revocation endpoint where it is given one."""

    def __init__(self, *, backchannel: bool, revocation: bool) -> None:
        super().__init__(Run(now=START), backchannel=backchannel)
        self._metadata = replace(self._metadata, revocation_endpoint="https://login.example/revoke" if revocation else None)
        self.fails: Exception | None = None
        self.known = True
        self.asked: dict[str, Any] = {}
        self.end_session: dict[str, Any] | None = None
        self.revoked: list[str] = []
        self.requests = 0

    def metadata_if_known(self) -> ProviderMetadata | None:
        return self._metadata if self.known else None

    def authorization_request(self, *, state: str, **asked: Any) -> AuthorizationRequest:
        self.asked = asked
        return super().authorization_request(state=state)

    def refresh(self, **asked: Any) -> Refreshed:
        self.requests += 1
        self.asked = asked
        if self.fails is not None:
            raise self.fails
        return super().refresh(**asked)

    def end_session_url(self, **asked: Any) -> str | None:
        self.end_session = asked
        if self.fails is not None:
            raise self.fails
        return super().end_session_url()

    def revoke(self, refresh_tokens: Sequence[str]) -> int:
        if self.fails is not None:
            raise self.fails
        self.revoked += refresh_tokens
        return len(refresh_tokens)


@dataclass(frozen=True, kw_only=True)
class Browser:
    """A browser that is signed in here."""

    row: SessionRow
    cookie: str = field(repr=False)

    @property
    def forged(self) -> str:
        """The cookie with another secret."""
        return ".".join([*self.cookie.split(".")[:2], secrets.token_urlsafe(32)])

    @property
    def claim(self) -> Claim:
        return Claim(account=self.row.account, session_id=self.row.id, secret_hash=self.row.secret_hash)


class Records(Audit):
    """The audit's records as they were written: event, cause, account, how many ended."""

    def __init__(self) -> None:
        super().__init__(lambda text: text)
        self.written: list[tuple[str, str, str, int]] = []

    def record(self, event: str, *, cause: str, account: str, ended: int) -> None:
        super().record(event, cause=cause, account=account, ended=ended)
        self.written.append((event, cause, account, ended))


class SmallApp:
    """One app; ``store`` may be another process's view of the same tables (``Store.meddled``)."""

    def __init__(self, store: Store | None = None, *, scope: Any = "account", **changes: Any) -> None:
        self.store = store or Store(issuer=ISSUER, **{k: v for k, v in changes.items() if k in ("per_account", "idle")})
        self.now = START
        self.records = Records()
        self.provider = changes.get("provider") or SmallProvider(
            backchannel=changes.get("backchannel", True), revocation=changes.get("revocation", False)
        )
        provider: Any = self.provider
        self.site = Site(
            origin="https://app.example",
            https=True,
            cookies=COOKIES,
            sign_out_scope=scope,
            response_mode=changes.get("response_mode", "form_post"),
            scopes=SCOPES,
        )
        self.places = Places(changes.get("places", 4))
        self.seal = PendingSeal(KeyRing([OLD]), "app1")
        store, audit, sessions = self.store, self.records, self.store.sessions
        self.sign_in = SignIn(site=self.site, provider=provider, sessions=sessions, seal=self.seal, audit=audit)
        self.access = Access(
            site=self.site, provider=provider, sessions=sessions, audit=audit, clock=lambda: self.now, places=self.places
        )
        self.sign_out = SignOut(site=self.site, provider=provider, sessions=sessions, audit=audit, idle=IDLE)
        self.channels = Channels(site=self.site, provider=provider, sessions=sessions, index=store.index, audit=audit)

    def beside(self, store: Store, **changes: Any) -> "SmallApp":
        """Another process of the same app, with its own view of the tables."""
        other = SmallApp(store, scope=self.site.sign_out_scope, provider=self.provider, **changes)
        other.now = self.now
        return other

    def browser(self, account: str = "a.t", **changes: Any) -> Browser:
        """Somebody signs in, without the detour to the provider; the access token lasts ten minutes."""
        secret = secrets.token_urlsafe(32)
        now = changes.get("now", START)
        grant = f"grant{len(self.provider.grants)}"
        self.provider.grants[grant] = (1, 0)
        fixed: dict[str, Any] = {"issuer": ISSUER, "secret_hash": secret_hash(secret), "cache": cache_of(account, grant, now)}
        row, _ = self.store.sign_in(account, **{**fixed, **changes})
        return Browser(row=row, cookie=SessionCookie(account=account, session_id=row.id, secret=secret).encode())

    def lives(self, browser: Browser) -> bool:
        return self.store.sessions.read(browser.claim) is not None


def cache_of(account: str, grant: str, now: datetime) -> bytes:
    """MSAL's token cache as the provider's double reads it."""
    times = {"cached_at": str(int(now.timestamp())), "expires_on": str(int((now + TOKEN_TIME).timestamp()))}
    access = {"home_account_id": account, "client_id": CLIENT, "target": " ".join(SCOPES), "secret": f"{grant}:1", **times}
    refresh = {"home_account_id": account, "secret": f"{grant}:1", "last_modification_time": times["cached_at"]}
    return token_cache.dump({"AccessToken": {"a": access}, "RefreshToken": {"r": refresh}})


def get(path: str, *browsers: Browser, headers: Mapping[str, str] | None = None) -> Request:
    """A request with the session cookies of these browsers."""
    cookies = {"cookie": "; ".join(f"session={browser.cookie}" for browser in browsers)} if browsers else {}
    return Request.of("GET", f"https://app.example{path}", {**cookies, **(headers or {})}, b"")


def post(path: str, form: Mapping[str, str] | None = None, *, cookie: str = "") -> Request:
    """A form, with these cookies."""
    headers = {"content-type": "application/x-www-form-urlencoded", **({"cookie": cookie} if cookie else {})}
    return Request.of("POST", f"https://app.example{path}", headers, urlencode(form or {}).encode())


def code(account: str = "a.t", *, now: datetime = START, **changes: Any) -> str:
    """An authorization code: who signs in, as the provider's double says it."""
    said = {"account": account, "sub": account, "oid": None, "tid": None, "sid": "i", "session_state": None}
    return json.dumps({**said, "iat": now.timestamp(), **changes})


def logout_token(now: datetime = START, **said: Any) -> Request:
    """A back-channel logout with a token that the provider's double vouches for."""
    token = {"sub": None, "sid": None, "jti": "j", "iat": now.timestamp(), **said}
    return post("/auth/backchannel-logout", {"logout_token": json.dumps(token)})


def header(response: Response, name: str) -> str | None:
    return dict(response.headers).get(name)
