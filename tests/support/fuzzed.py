"""The whole app in memory for tests that draw what strangers send: its routes, its flows, a provider at the other end of HTTP.

Owns the app (``function_app.py`` itself over the in-memory tables), the people who are signed in at it, and what may have
changed after a request.  The provider is ``fuzzed_provider.py``, its tokens are ``forged.py``, what they must say ``judged.py``.
"""

import base64
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlencode, urlsplit

import azure.functions as func
from hypothesis import HealthCheck, settings

from shared import front
from shared.app import App, assemble
from shared.provider.http import Http
from shared.settings import Settings
from shared.store.memory_table import MemoryTable
from shared.store.table import Row
from tests.provider.fake_provider import part, sign
from tests.support.fuzzed_provider import BEN, MANY, VIC, Kind, Person, Provider
from tests.support.judged import Judge

ORIGIN = "https://app.example"
CLIENT = "client"
COOKIE = "__Secure-session"
FORM = "application/x-www-form-urlencoded"
LONG_SID = "long " * 120 + "\x07é"
"""A provider may choose its ids: 600 characters, not all of them printable."""
Rows = dict[tuple[str, str, str], Row]


def drawn(share: int) -> settings:
    """The settings of one test by its share of the time; ``FUZZ=n`` multiplies the examples, 6 in CI (a minute for all tests)."""
    times = int(os.environ.get("FUZZ", "6" if os.environ.get("CI") else "1"))
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=12 * share * times, deadline=None, suppress_health_check=quiet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A browser that is signed in: what the provider calls its session, and what it holds."""

    person: Person
    sid: str | None
    session_state: str | None
    issuer: str
    issued_at: int
    cookie: str = field(repr=False)
    account: str
    session_id: str


class Overheard(logging.Handler):
    """What the app logged during one request."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.crash: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.crash = self.crash or (record.exc_info[1] if record.exc_info else None)


class CountedTable(MemoryTable):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def read(self, *args: Any) -> Any:
        self.calls.append("read")
        return super().read(*args)

    def list(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("list")
        return super().list(*args, **kwargs)

    def write(self, *args: Any) -> Any:
        self.calls.append("write")
        return super().write(*args)

    def transact(self, *args: Any) -> None:
        self.calls.append("transact")
        super().transact(*args)


class Fuzzed:
    """One app with people signed in at it; ``restore`` gives every example the same world."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.time = int(self.now.timestamp())
        self.provider = Provider(kind)
        self.tables = {"sessions": CountedTable(), "index": CountedTable()}
        self.overheard = Overheard()
        self.secrets: list[str] = []
        environ = {
            kind.setting: kind.authority,
            "CLIENT_ID": CLIENT,
            "CLIENT_SECRET": "client-secret",
            "REDIRECT_URI": f"{ORIGIN}/auth/callback",
            "TOKEN_STORE": "UseDevelopmentStorage=true",
            "SEALING_KEYS": "k:" + base64.b64encode(os.urandom(32)).decode(),
            "SIGN_OUT_SCOPE": kind.scope,
        }
        spec = importlib.util.spec_from_file_location("fuzzed_app", Path(__file__).parents[2] / "function_app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, environ, clear=True):
            spec.loader.exec_module(module)
        module.auth._builder = self._build
        self.app: App = module.auth.app()
        self._routes: dict[tuple[str, str], Callable[[func.HttpRequest], func.HttpResponse]] = {}
        for function in module.app.get_functions():
            trigger = function.get_trigger()
            for method in getattr(trigger, "methods", None) or ():
                self._routes[method.value, "/" + trigger.route.strip("/")] = function.get_user_function()

    def _build(self, values: Settings) -> App:
        tables = {f"{name}_table": table for name, table in self.tables.items()}
        app = assemble(values, **tables, check_storage=lambda: None)  # type: ignore[arg-type]
        http = Http()
        http._session.mount("https://", self.provider)
        app.provider._http = lambda: http  # type: ignore[assignment]
        return app

    # -- people

    def populate(self) -> None:
        """Vic has four browsers, Ben one; all came in by the front door."""
        self.devices = [
            self.sign_in(VIC, sid="vic-1"),
            self.sign_in(VIC, sid="vic-2", session_state="vic-state"),
            self.sign_in(VIC, sid=None),
            self.sign_in(VIC, sid=LONG_SID),
            self.sign_in(BEN, sid="ben-1", session_state="ben-state"),
        ]
        self.vic, self.ben = self.devices[0], self.devices[-1]
        self.start = self.rows()

    def sign_in(self, person: Person, *, sid: str | None, session_state: str | None = None, cookie: str = "") -> Device:
        """A sign-in as browsers and the provider do it."""
        flow = self.begin("/", cookie=cookie)
        self.answers(200, self.tokens(person, self.id_claims(person, flow.nonce, sid=sid)))
        answer = self.callback(flow, {**flow.good(person), **({"session_state": session_state} if session_state else {})})
        assert answer.status_code == 303, answer.get_body()
        value = session_cookie(answer)
        assert value is not None
        account, session_id, _ = value.split(".")
        return Device(
            person=person,
            sid=sid,
            session_state=session_state,
            issuer=self.provider.issuer_of(person),
            issued_at=self.time,
            cookie=value,
            account=base64.urlsafe_b64decode(account + "==").decode(),
            session_id=session_id,
        )

    def begin(self, return_to: str, *, cookie: str = "") -> "Flow":
        """A browser that starts a sign-in."""
        query = urlencode({"return_to": return_to})
        answer = self.send("GET", f"/auth/login?{query}", headers={"cookie": cookie} if cookie else {})
        assert answer.status_code == 302, answer.get_body()
        return Flow.of(self, answer)

    def callback(self, flow: "Flow", fields: Mapping[str, str]) -> func.HttpResponse:
        """The provider's answer, as the browser posts it."""
        headers = {"content-type": FORM, "cookie": f"{flow.name}={flow.sealed}"}
        return self.send("POST", "/auth/callback", headers=headers, body=urlencode(fields).encode())

    # -- the provider

    def id_claims(self, person: Person, nonce: str, *, sid: str | None = None) -> dict[str, Any]:
        """What a good ID token says; a day long, so that MSAL's own clock says nothing to it."""
        claims = {
            "iss": self.provider.issuer_of(person),
            "aud": CLIENT,
            "sub": person.sub,
            "iat": self.time,
            "exp": self.time + 86_400,
            "nonce": nonce,
            "name": person.name,
            **({"sid": sid} if sid else {}),
        }
        return {**claims, "tid": person.tenant, "oid": f"oid-{person.sub}"} if self.kind is MANY else claims

    def tokens(self, person: Person, id_token: "Mapping[str, Any] | str") -> dict[str, Any]:
        """The token endpoint's good answer."""
        signed = id_token if isinstance(id_token, str) else sign(id_token, self.provider.keys["ec"], alg="ES256", kid="ec")
        answer = {
            "token_type": "Bearer",
            "access_token": "at-fuzzed",
            "refresh_token": "rt-fuzzed",
            "expires_in": 3600,
            "id_token": signed,
        }
        info = part({"uid": person.uid, "utid": person.tenant})
        return {**answer, "client_info": info} if self.kind is MANY else answer

    def answers(self, status: int, answer: Any) -> None:
        """What the token endpoint says from now on."""
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.provider.token_answer = lambda _: (status, body)

    def judge(self) -> Judge:
        """What the specifications say of tokens here and now."""
        kind, time = self.kind, int(self.now.timestamp())
        return Judge(issuer=kind.issuer, client=CLIENT, published=self.provider.published, algs=kind.algs, time=time)

    # -- requests

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        trouble: tuple[int, ...] = (),
    ) -> func.HttpResponse:
        """One request, whose answer is never 5xx (but for those that ``trouble`` names), never stored, nor its secrets logged."""
        path = url.partition("?")[0]
        route = "/auth/sessions/{id}" if path.startswith("/auth/sessions/") and method == "DELETE" else path
        request = func.HttpRequest(method, f"http://localhost{url}", headers=dict(headers or {}), body=body)
        logging.getLogger("shared").handlers = [self.overheard]  # pytest would keep each line of each example
        self.overheard.lines.clear()
        self.overheard.crash = None
        answer = self._routes[method, route](request)
        if self.overheard.crash is not None:
            raise AssertionError(f"{method} {path} crashed") from self.overheard.crash
        assert answer.status_code < 500 or answer.status_code in trouble, (answer.status_code, self.overheard.lines)
        assert answer.headers["Cache-Control"] == "no-store"
        logged = "\n".join(self.overheard.lines)
        assert not any(secret in logged for secret in (*self.secrets, "at-fuzzed", "rt-fuzzed", "client-secret"))
        return answer

    def me(self, cookie: str, **headers: str) -> func.HttpResponse:
        """``/auth/me`` with these cookies."""
        return self.send("GET", "/auth/me", headers={"cookie": cookie, **headers})

    def is_signed_in(self, device: Device) -> bool:
        """Whether the device's cookie still proves who it is."""
        answer = self.me(f"{COOKIE}={device.cookie}")
        if answer.status_code != 200:
            assert answer.status_code == 401
            return False
        assert json.loads(answer.get_body())["session"]["id"] == device.session_id
        return True

    # -- what is stored

    def rows(self) -> Rows:
        """Every stored entity."""
        return {(name, *place): row for name, table in self.tables.items() for place, row in table._rows.items()}

    def restore(self) -> None:
        """Everybody is signed in as at the start, and nothing else is there."""
        self.now = datetime.fromtimestamp(self.time, UTC)
        self.secrets.clear()
        for name, table in self.tables.items():
            table._rows = {place[1:]: row for place, row in self.start.items() if place[0] == name}
            table.calls.clear()

    def unchanged(self) -> None:
        """Every entity is as it was, to the byte."""
        assert self.rows() == self.start

    def ended(
        self,
        ended: "list[Device]",
        *,
        touched: frozenset[str] = frozenset(),
        kinds: frozenset[str] = frozenset(),
        came: str = "",
    ) -> None:
        """Exactly these sessions are gone, with all that pointed to them; every other row is the same to the byte.

        ``touched`` are accounts whose own row may tell of a sign-out; ``kinds`` are the index rows that may have come;
        ``came`` is the session that may have.
        """
        names = {device.session_id for device in ended}
        after = self.rows()
        for place, row in self.start.items():
            table, partition, key = place
            if key in names:
                assert place not in after, place
            elif table == "sessions" and key == "!" and partition in touched:
                assert place in after
            else:
                assert after.get(place) == row, place
        for place in after.keys() - self.start.keys():
            table, partition, key = place
            if key == came:
                continue
            assert (table, key) == ("sessions", "!") or after[place].values.get("Kind") in kinds, place
            assert table == "index" or partition in touched, place

    def clean(self, answer: func.HttpResponse) -> None:
        """Nothing happened: no row changed, and nobody got a cookie."""
        self.unchanged()
        assert answer.headers.getlist("Set-Cookie") == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A sign-in under way, as its browser and the provider know it."""

    world: Fuzzed
    state: str
    nonce: str
    name: str
    sealed: str

    @staticmethod
    def of(world: Fuzzed, answer: func.HttpResponse) -> "Flow":
        """From the answer of ``/auth/login``."""
        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        (header,) = answer.headers.getlist("Set-Cookie")
        name, _, sealed = header.partition(";")[0].partition("=")
        return Flow(world=world, state=query["state"][0], nonce=query["nonce"][0], name=name, sealed=sealed)

    def good(self, person: Person) -> dict[str, str]:
        """The provider's good answer."""
        iss = {"iss": self.world.provider.issuer_of(person)} if self.world.kind.iss_parameter else {}
        return {"state": self.state, "code": "code-fuzzed", **iss}

    @property
    def return_to(self) -> str:
        """Where the sealed cookie says that it goes."""
        pending = self.world.app.sign_in._seal.open(self.state, self.sealed)
        assert pending is not None
        return pending.return_to


def session_cookie(answer: func.HttpResponse) -> str | None:
    """The session cookie that an answer sets, None where it sets none; nothing but a clearing has ``Max-Age``."""
    values = [header for header in answer.headers.getlist("Set-Cookie") if header.startswith(f"{COOKIE}=")]
    value = values[0].partition(";")[0].partition("=")[2] if values else ""
    assert len(values) <= 1
    assert all("; Secure" in header and "; HttpOnly" in header for header in values)
    assert not value or "Max-Age" not in values[0]
    return value or None


@contextmanager
def opened(kind: Kind) -> Iterator[Fuzzed]:
    """The app with its people, whose clock stands still until a test moves it."""
    fuzzed = Fuzzed(kind)
    log = logging.getLogger("shared")
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    with mock.patch.object(front, "now", side_effect=lambda: fuzzed.now):
        try:
            fuzzed.populate()
            yield fuzzed
        finally:
            log.handlers = []
            log.propagate, log.level = before
