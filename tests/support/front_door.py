"""``function_app.py`` as the worker loads it, over tables in memory and a provider whose metadata is known.

For what holds at the front door: which function answers, and what every answer carries.  Nobody is asked over the network, and
codes and logout tokens are what the test says they are.
"""

import base64
import importlib.util
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlencode, urlsplit

import azure.functions as func

from shared.app import App, assemble, now
from shared.errors import InteractionRequired, StorageUnavailable
from shared.front import Front
from shared.provider.kept import Kept
from shared.provider.values import LogoutToken, ProviderMetadata, SignedIn
from shared.settings import Settings
from shared.store.memory_table import MemoryTable
from shared.store.rows import secret_hash
from shared.store.table import Operation, Row
from shared.web.cookies import SessionCookie
from tests.proof.provider import CLIENT, ISSUER
from tests.support.small_app import cache_of
from tests.support.small_store import new_session

FUNCTION_APP = Path(__file__).parent.parent.parent / "function_app.py"
HTTPS, LOCALHOST = "https://app.example", "http://localhost:7071"
LOGIN, LOGOUT = "https://login.example", "https://logout.example"
"""Where the provider signs in, and out: two origins, as the metadata may name them."""
METADATA = ProviderMetadata(
    issuer=ISSUER,
    authorization_endpoint=f"{LOGIN}/authorize",
    token_endpoint=f"{LOGIN}/token",
    jwks_uri=f"{LOGIN}/keys",
    end_session_endpoint=f"{LOGOUT}/end",
    backchannel_logout=True,
)
HTML, JSON = {"Accept": "text/html,*/*;q=0.8"}, {"Accept": "application/json"}
OURS, THEIRS = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}
CHALLENGE = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


@dataclass(frozen=True, kw_only=True)
class HttpFunction:
    """A function of the route table, as the worker indexes it."""

    name: str
    route: str
    methods: tuple[str, ...]
    call: Callable[[func.HttpRequest], func.HttpResponse]

    @property
    def is_framable(self) -> bool:
        """Whether the provider shows it in a frame."""
        return self.route == "auth/frontchannel-logout"

    def answers(self, method: str, path: str) -> bool:
        template = re.sub(r"\{\w+\}", "[^/]+", self.route.strip("/"))
        return method in self.methods and re.fullmatch(template, path.strip("/")) is not None


class FrontDoor:
    """The app; ``settings`` are changes to its environment.  ``down`` takes its storage away, ``challenge`` makes Graph ask."""

    def __init__(self, origin: str = HTTPS, **settings: str) -> None:
        self.https = origin.startswith("https:")
        self.down = self.challenge = False
        self.tables = (MemoryTable(), MemoryTable())
        environ = {
            "OIDC_AUTHORITY": ISSUER,
            "CLIENT_ID": CLIENT,
            "CLIENT_SECRET": "secret",
            "REDIRECT_URI": f"{origin}/auth/callback",
            "TOKEN_STORE": "UseDevelopmentStorage=true",
            "SEALING_KEYS": "k:" + base64.b64encode(os.urandom(32)).decode(),
            **settings,
        }
        self.functions, self.front = _loaded(environ)
        self.front._builder = self._build

    def _build(self, settings: Settings) -> App:
        stores = [Storage(self, table) for table in self.tables]
        app = assemble(settings, sessions_table=stores[0], index_table=stores[1], check_storage=self.reach)
        provider: Any = app.provider
        provider._metadata = Kept(lambda: METADATA, max_age=3600, pause=30)
        provider.metadata()
        really = provider.redeem
        provider.redeem = lambda *, answer, **asked: (_redeemed if "code" in answer else really)(answer=answer, **asked)
        provider.logout_token = _logout_token
        graph: Any = self
        return replace(app, graph=graph)

    def me(self, token: str) -> dict[str, Any]:
        """Graph."""
        if self.challenge:
            raise InteractionRequired("Graph refused the token", claims=CHALLENGE)
        return {"displayName": "A", "token": len(token)}

    def reach(self) -> None:
        """Storage, as far as it is there."""
        if self.down:
            raise StorageUnavailable("the test took it away")

    @property
    def app(self) -> App:
        return self.front.app()

    @property
    def origin(self) -> str:
        return self.app.site.origin

    def rows(self) -> list[Row]:
        """All that is stored."""
        return [row for table in self.tables for row in table.scan(first="", before="\uffff")]

    # -- a browser

    def sign_in(self, account: str = "a.t", **changes: Any) -> dict[str, str]:
        """Somebody is signed in; their cookie, as a header."""
        secret, time_ = secrets.token_urlsafe(32), now()
        fixed = {"issuer": ISSUER, "secret_hash": secret_hash(secret), "cache": cache_of(account, "grant", time_)}
        row, _ = self.app.sessions.create(new_session(account, now=time_, **{**fixed, **changes}), now=time_)
        cookie = SessionCookie(account=account, session_id=row.id, secret=secret).encode()
        return {"Cookie": f"{self.app.site.cookies.session}={cookie}"}

    def find(self, method: str, path: str) -> HttpFunction:
        """The function that the host gives this to."""
        found = [function for function in self.functions if function.answers(method, urlsplit(path).path)]
        return min(found, key=lambda function: "{" in function.route)

    def send(
        self,
        method: str,
        path: str,
        *headers: Mapping[str, str],
        form: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> func.HttpResponse:
        """Asks as the worker does."""
        return self.find(method, path).call(asked(method, path, *headers, form=form, body=body))

    def come_back(self, sent: func.HttpResponse, **answer: str) -> func.HttpResponse:
        """The provider's answer to the sign-in that ``sent`` started."""
        state = query(sent)["state"]
        cookies = "; ".join(header.partition(";")[0] for header in sent.headers.getlist("Set-Cookie"))
        form = {"state": state, **(answer or {"code": "somebody"})}
        return self.send("POST", "/auth/callback", HTML, THEIRS, {"Cookie": cookies}, form=form)


class Storage:
    """A table that its door can take away."""

    def __init__(self, door: FrontDoor, table: MemoryTable) -> None:
        self._door = door
        self._table = table

    def read(self, partition: str, key: str) -> Row | None:
        self._door.reach()
        return self._table.read(partition, key)

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        self._door.reach()
        return self._table.list(partition, columns=columns)

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        self._door.reach()
        return self._table.scan(first=first, before=before)

    def write(self, partition: str, operation: Operation) -> str:
        self._door.reach()
        return self._table.write(partition, operation)

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        self._door.reach()
        self._table.transact(partition, operations)


def asked(
    method: str, path: str, *headers: Mapping[str, str], form: Mapping[str, str] | None = None, body: bytes = b""
) -> func.HttpRequest:
    """A request as the worker hands it over; a form's body has its media type."""
    sent: dict[str, str] = {}
    if form is not None:
        sent["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(form).encode()
    for some in headers:
        sent |= some
    return func.HttpRequest(method, f"http://localhost:7071{path}", headers=sent, body=body)


def query(answer: func.HttpResponse) -> dict[str, str]:
    """What a redirect's address asks for."""
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def logout_token(**said: Any) -> dict[str, str]:
    """A back-channel logout's form, with a token that the provider vouches for."""
    return {"logout_token": json.dumps({"sub": None, "sid": None, "jti": "j", "iat": time.time(), **said})}


def _loaded(environ: Mapping[str, str]) -> tuple[list[HttpFunction], Front]:
    spec = importlib.util.spec_from_file_location("function_app_in_memory", FUNCTION_APP)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, environ, clear=True):
        spec.loader.exec_module(module)
    functions = []
    for built in module.app.get_functions():
        trigger = built.get_trigger()
        if trigger.type == "httpTrigger":
            methods = tuple(getattr(method, "value", method) for method in trigger.methods)
            name, call = built.get_function_name(), built.get_user_function()
            functions.append(HttpFunction(name=name, route=trigger.route, methods=methods, call=call))
    return functions, module.auth


def _redeemed(*, flow: Mapping[str, Any], answer: Mapping[str, str], now: Any) -> SignedIn:
    code = answer["code"]
    return SignedIn(
        issuer=ISSUER, sub=code, oid=None, tid=None, sid=code, session_state=None, name=code, username=code, login_hint=None,
        auth_time=now, issued_at=now, home_account_id=f"{code}.t", id_token="id token", cache=cache_of(f"{code}.t", "g", now),
    )  # fmt: skip


def _logout_token(token: str, *, now: Any) -> LogoutToken:
    said = json.loads(token)
    return LogoutToken(issuer=ISSUER, sub=said["sub"], sid=said["sid"], jti=said["jti"], issued_at=now, expires_at=now)
