"""The product over stepped tables: browsers, the requests they send, what a sign-out promises, and what must hold.

Everything that acts is the product's own code, flows and store; only the tables' timing and the provider are the model's.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch
from urllib.parse import urlencode

from shared.errors import AppError, NotFound, NotSignedIn, SignedOutMeanwhile, StorageUnavailable
from shared.flows import access as access_module
from shared.flows.access import Access
from shared.flows.audit import Audit
from shared.flows.channels import Channels
from shared.flows.pending import PendingSeal
from shared.flows.sign_in import SignIn
from shared.flows.sign_out import SignOut
from shared.flows.site import Site
from shared.flows.sweep import Sweep
from shared.limits import Places
from shared.store import sealing
from shared.store.index import Index, in_turn, oid_key, sid_key, sub_key
from shared.store.rows import Claim, secret_hash
from shared.store.sealing import KeyRing
from shared.store.sessions import Sessions
from shared.store.table import Row
from shared.web.cookies import CookieNames, SessionCookie
from shared.web.messages import Request, Response
from tests.proof.explorer import FAULTS, NAP, Call, Execution, Report, Run, Violation, explore
from tests.proof.provider import END_SESSION, ISSUER, SCOPES, ModelProvider
from tests.proof.stepped import Rows, SteppedTable, named_bytes, named_token

T0 = datetime(2026, 3, 2, 10, 20, tzinfo=UTC)
"""When the story begins.  Sessions idle for 60 minutes, access tokens live for 10."""
IDLE = timedelta(minutes=60)
ABSOLUTE = timedelta(minutes=720)
RING = KeyRing([("k1", bytes(range(32)))])
HOME, OTHER_APP = "a" * 16, "b" * 16
"""Two apps that share the tables."""
_COOKIES = CookieNames(session="session")


def at(minutes: float) -> datetime:
    """Minutes after the story began."""
    return T0 + timedelta(minutes=minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody at the provider."""

    account: str
    sub: str
    oid: str
    tid: str


ANN = Person(account="ann-oid.tenant", sub="ann", oid="ann-oid", tid="tenant")
BEN = Person(account="ben-oid.tenant", sub="ben", oid="ben-oid", tid="tenant")
GUEST = Person(account="guest-home.home", sub="guest", oid="guest-oid", tid="tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """A browser with its session at the provider (``sid``), and its session cookie here."""

    person: Person
    sid: str | None
    session_state: str | None = None
    cookie: str = ""

    @property
    def id(self) -> str:
        """The id of the session that the cookie claims."""
        return self.cookie.split(".")[1]

    @property
    def claim(self) -> Claim:
        """What the cookie claims."""
        cookie = SessionCookie.decode(self.cookie)
        assert cookie is not None
        return Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A sign-in that a browser has started."""

    browser: Browser
    app: str
    state: str
    cookie: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an operator chooses."""

    scope: Literal["account", "session"] = "account"
    backchannel: bool = False
    per_account: int = 50
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored, to start from again and again."""

    sessions: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    index: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    grants: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    owners: Mapping[str, Flow] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)


class World(Execution):
    """One execution of a scenario."""

    def __init__(self, setting: Setting, run: Run, stored: Stored) -> None:
        _now_running[0] = run
        self.setting = setting
        self.run = run
        run.on_begin = self._begins
        self.sessions = Rows(run, stored.sessions)
        self.index = Rows(run, stored.index)
        self.provider = ModelProvider(run, stored.grants, backchannel=setting.backchannel)
        self.owners = dict(stored.owners)
        self.flows = dict(stored.flows)
        self.apps: dict[str, Parts] = {}
        self.began: dict[str, frozenset[str]] = {}
        self.pointed: dict[str, frozenset[tuple[str, str]]] = {}
        self.dead: frozenset[str] = frozenset()
        self.dead_flows: frozenset[str] = frozenset()
        self.said_ended: dict[str, list[str]] = {}
        self.alive: tuple[Browser, ...] = ()
        self.sure: tuple[str, ...] = ()
        self.requests = 1
        self.swept = False

    def app(self, name: str = HOME) -> "Parts":
        """The product, built as ``shared.app`` builds it."""
        parts = self.apps.get(name)
        if parts is None:
            parts = self.apps[name] = Parts(self, name)
        return parts

    @property
    def stored(self) -> Stored:
        """What is stored now."""
        return Stored(
            sessions=dict(self.sessions.rows),
            index=dict(self.index.rows),
            grants=dict(self.provider.grants),
            owners=dict(self.owners),
            flows=dict(self.flows),
        )

    # -- requests

    def login(self, browser: Browser, now: datetime, *, app: str = HOME) -> Flow:
        """``GET /auth/login``."""
        response = self.app(app).sign_in.begin(_get("/auth/login", browser.cookie), now, return_to="/")
        cookie = response.cookies[-1]
        state = cookie.name.removeprefix(_COOKIES.flow_name(""))
        flow = Flow(browser=browser, app=app, state=state, cookie=f"{cookie.name}={cookie.value}", started_at=now)
        self.flows[state] = flow
        return flow

    def callback(self, flow: Flow, now: datetime, *, issued: datetime | None = None) -> Browser:
        """``POST /auth/callback``; the browser with its new cookie."""
        person = flow.browser.person
        code = {
            "account": person.account,
            "sub": person.sub,
            "oid": person.oid,
            "tid": person.tid,
            "sid": flow.browser.sid,
            "session_state": flow.browser.session_state,
            "iat": (issued or now).timestamp(),
        }
        self._callback_of[self.run.who.partition("/")[0]] = flow
        request = _post("/auth/callback", flow.cookie, code=json.dumps(code), state=flow.state)
        response = self.app(flow.app).sign_in.callback(request, now)
        cookie = next(cookie.value for cookie in response.cookies if cookie.name == _COOKIES.session)
        return replace(flow.browser, cookie=cookie)

    @cached_property
    def _callback_of(self) -> dict[str, Flow]:
        return {}

    def belongs(self, session_id: str) -> None:
        """A session's row or one of its index rows has been written: remembers whose it is."""
        if session_id not in self.owners:
            self.owners[session_id] = self._callback_of[self.run.who.partition("/")[0].partition("~")[0]]

    def use(self, browser: Browser, now: datetime, *, app: str = HOME) -> bool:
        """Any request: whether it is signed in."""
        return self.app(app).access.authenticate(_get("/", browser.cookie), now) is not None

    def call_api(self, browser: Browser, now: datetime, *, app: str = HOME) -> str:
        """``GET /api/profile``: a token, refreshed where it is due."""
        session = self.app(app).access.session(_get("/api/profile", browser.cookie), now, SCOPES)
        if session is None:
            raise NotSignedIn("no session")
        return session.token()

    def logout(self, browser: Browser, now: datetime) -> bool:
        """``POST /auth/logout``; whether there was a session."""
        response = self.app().sign_out.logout(_post("/auth/logout", f"session={browser.cookie}"), now)
        found = dict(response.headers)["Location"] == END_SESSION
        if found and self.setting.scope == "account":
            self.promise_account(browser.person.account, now)
        self.promise_sessions({browser.id})
        return found

    def everywhere(self, browser: Browser, now: datetime) -> int:
        """``DELETE /auth/sessions``."""
        ended = self.app().sign_out.end_everywhere(_get("/auth/sessions", browser.cookie), now)
        self.promise_account(browser.person.account, now)
        return ended

    def device(self, browser: Browser, which: Browser, now: datetime) -> bool:
        """``DELETE /auth/sessions/{id}``."""
        mine = self.app().sign_out.end_device(_get("/auth/sessions", browser.cookie), which.id, now)
        self.promise_sessions({which.id})
        return mine

    def front(self, sid: str, now: datetime) -> None:
        """``GET /auth/frontchannel-logout``: promises what its index rows led to, or should have."""
        self.app().channels.front_channel(_get(f"/auth/frontchannel-logout?{urlencode({'sid': sid})}", ""), now)
        self._promise_named(now, lambda flow: sid in (flow.browser.sid, flow.browser.session_state), [sid_key(ISSUER, sid)])

    def back(
        self, now: datetime, *, sid: str | None = None, sub: str | None = None, jti: str = "1", iat: datetime | None = None
    ) -> None:
        """``POST /auth/backchannel-logout``: promises also what is under way."""
        token = json.dumps({"sub": sub, "sid": sid, "jti": jti, "iat": (iat or now).timestamp()})
        self.app().channels.back_channel(_post("/auth/backchannel-logout", "", logout_token=token), now)

        def named(flow: Flow) -> bool:
            by_sub = sub is None or flow.browser.person.sub == sub
            return by_sub and (
                sid is None
                or sid in (flow.browser.sid, flow.browser.session_state)
                or (sub is not None and not flow.browser.sid)
            )

        if sid is None:
            assert sub is not None
            self._promise_named(now, named, [sub_key(ISSUER, sub)], everything=True)
        else:
            self._promise_named(now, named, [sid_key(ISSUER, sid)])
        # Behind the record nothing comes in, whether an index row led to it or not.
        self.dead_flows |= {
            flow.state
            for flow in self.flows.values()
            if named(flow)
            and flow.app == HOME
            and flow.started_at <= now
            and (sid is None or sid in (flow.browser.sid, flow.browser.session_state))
        }

    def admin(self, wish: Mapping[str, str], now: datetime, person: Person) -> int:
        """``POST /auth/admin/sign-out``."""
        ended = self.app().channels.administrator(dict(wish), now)["ended"]
        self.promise_account(person.account, now)
        return int(ended)

    def sweep(self, now: datetime, *, app: str = HOME) -> int:
        """The timer."""
        self.swept = True
        return self.app(app).sweep.run(now)

    def jump(self) -> None:
        """The clock jumps over what is left of a lease."""
        self.run.step(Call("the clock jumps", alone=True))
        self.run.now += NAP
        self.run.version += 1
        self.run.fault_met = True  # whoever was held up so long may give up
        self.run.note("the clock jumps by 31 s")

    # -- what a sign-out promises when it is acknowledged

    def promise_sessions(self, ids: set[str]) -> None:
        """These sessions are gone for good."""
        self.dead |= ids

    def promise_account(self, account: str, now: datetime) -> None:
        """Every session there was when the sign-out began, and every sign-in that had begun before, is gone for good."""
        mine = {key for key in self._began if self._is_of(key, account) and self.owners[key].started_at <= now}
        self.dead |= mine
        self.dead_flows |= {
            flow.state
            for flow in self.flows.values()
            if flow.app == HOME and flow.browser.person.account == account and flow.started_at <= now
        }

    def _promise_named(
        self, now: datetime, named: Callable[[Flow], bool], partitions: list[str], *, everything: bool = False
    ) -> None:
        there = {
            key for key in self._began if (flow := self.owners[key]).app == HOME and named(flow) and flow.started_at <= now
        }
        # A sign-in whose index rows are written counts: its session is about to be inserted.
        pointed = {key for partition, key in self._pointed if partition in partitions and self.owners[key].started_at <= now}
        self.promise_sessions(there | pointed)
        # Whose account it was is known where a session was there to be ended: another sign-out may have been quicker.
        if self.setting.scope == "account" or everything:
            for account in self.said_ended.pop(self.run.who, ()):
                self.promise_account(account, now)

    def _is_of(self, key: str, account: str) -> bool:
        flow = self.owners[key]
        return flow.app == HOME and flow.browser.person.account == account

    def _begins(self, actor: str) -> None:
        self.began[actor] = frozenset(key for (_, key), row in self.sessions.rows.items() if "SecretHash" in row.values)
        self.pointed[actor] = frozenset(
            (partition, key)
            for (partition, key), row in self.index.rows.items()
            if partition.startswith(("sid:", "sub:")) and row.values["App"] == HOME
        )
        self.run.saw((self.began[actor], self.pointed[actor]))

    @property
    def _began(self) -> frozenset[str]:
        return self.began.get(self.run.who, frozenset())

    @property
    def _pointed(self) -> frozenset[tuple[str, str]]:
        return self.pointed.get(self.run.who, frozenset())

    # -- what must hold

    def state(self) -> object:
        """See ``Execution``."""
        return self.sessions.state, self.index.state, self.provider.state(), self.dead, self.dead_flows

    def after_step(self) -> None:
        """What was promised to be gone is gone, and nothing brings it back."""
        if not self.dead and not self.dead_flows:
            return
        for (_, key), row in self.sessions.rows.items():
            if "SecretHash" not in row.values:
                continue
            if key in self.dead:
                raise Violation(f"the session {key[:8]} is there though its sign-out was acknowledged")
            if self.owners[key].state in self.dead_flows:
                raise Violation("a sign-in that began before the acknowledged sign-out has a session")

    def at_end(self) -> None:
        """What must hold when everybody is done, and after the sweeps of the days to come."""
        self.run.phase = "end"
        self.after_step()
        self._check_outcomes()
        self._check_pointers()
        if not self.run.fault_met:
            self._check_leftovers()
        for browser in self.alive:
            self._check_alive(browser)
        self._check_swept()

    def _check_outcomes(self) -> None:
        for name, actor in self.run.actors.items():
            outcome = actor.outcome
            if isinstance(outcome, tuple) and outcome and outcome[0] == "broken":
                raise Violation(f"{name}: {outcome[1]}")
            if self.run.fault_met:
                continue
            if isinstance(outcome, tuple) and outcome and outcome[0] == "gave up":
                raise Violation(f"{name} gave up without a fault: {outcome[1]}")
            if name in self.sure and isinstance(outcome, tuple) and outcome and outcome[0] == "refused":
                raise Violation(f"{name} was refused without a reason: {outcome[1]}")
        if not self.run.fault_met and any(requests > self.requests for _, requests in self.provider.grants.values()):
            raise Violation("more token requests than expired tokens")

    def _check_pointers(self) -> None:
        for (partition, key), row in self.index.rows.items():
            kind = partition.partition(":")[0]
            if kind not in {"sid", "sub", "oid"} or key not in self.owners:
                continue
            browser = self.owners[key].browser
            person = browser.person
            good = {
                "sid": {sid_key(ISSUER, sid) for sid in (browser.sid, browser.session_state) if sid},
                "sub": {sub_key(ISSUER, person.sub)},
                "oid": {oid_key(person.tid, person.oid)},
            }[kind]
            if partition not in good or row.values["Account"] != person.account:
                raise Violation("an index row points to somebody else's session")

    def _check_leftovers(self) -> None:
        gone = set(self.dead) | {key for key, flow in self.owners.items() if flow.state in self.dead_flows}
        for partition, key in self.index.rows:
            # A sweep that files a session by its new hour may be overtaken; its row is swept in that hour.
            if key in gone and not (partition.startswith("exp:") and self.swept):
                raise Violation(f"an index row of an ended session is left: {partition[:12]}")

    def _check_alive(self, browser: Browser) -> None:
        flow = self.owners[browser.id]
        if not self.use(browser, self.run.now, app=flow.app):
            raise Violation(f"a session that nobody signed out is gone: {browser.person.sub} {browser.sid}")
        try:
            self.call_api(browser, self.run.now + timedelta(minutes=15), app=flow.app)
        except AppError as error:
            raise Violation(f"a session that nobody signed out has no tokens any more: {type(error).__name__}") from error

    def _check_swept(self) -> None:
        apps = dict.fromkeys((HOME, *(flow.app for flow in self.flows.values())))
        later = self.run.now + timedelta(days=2)
        for n in range(4):
            for app in apps:
                self.app(app).sweep.run(later + timedelta(hours=2 * n))
        left = [f"{partition[:14]} {key[:10]}" for rows in (self.sessions.rows, self.index.rows) for partition, key in rows]
        if left:
            raise Violation(f"no sweep ever finds: {', '.join(left)}")


class Parts:
    """The product's parts for one app over the world's tables."""

    def __init__(self, world: World, app: str) -> None:
        run, setting = world.run, world.setting
        parallel = run.parallel if setting.parallel else in_turn
        index = _Watched("index", run, world.index, world.belongs)
        self._index = Index(table=index, app=app, parallel=parallel)
        self.sessions = Sessions(
            table=_Watched("sessions", run, world.sessions, world.belongs),
            index=self._index,
            ring=RING,
            app=app,
            issuer=ISSUER,
            idle=IDLE,
            absolute=ABSOLUTE,
            per_account=setting.per_account,
            not_before=None,
        )
        self._site = Site(
            origin="https://app.example",
            https=True,
            cookies=_COOKIES,
            sign_out_scope=setting.scope,
            response_mode="form_post",
            scopes=SCOPES,
        )
        self._run = run
        self._provider: Any = world.provider
        self._audit = _Recorder(world)
        self.sign_in = SignIn(
            site=self._site, provider=self._provider, sessions=self.sessions, seal=PendingSeal(RING, app), audit=self._audit
        )
        self.sign_out = SignOut(site=self._site, provider=self._provider, sessions=self.sessions, audit=self._audit, idle=IDLE)
        self.channels = Channels(
            site=self._site, provider=self._provider, sessions=self.sessions, index=self._index, audit=self._audit
        )
        self.sweep = Sweep(sessions=self.sessions, index=self._index)

    @property
    def access(self) -> Access:
        """A process of its own for every request: what one process shares is no help."""
        return Access(
            site=self._site,
            provider=self._provider,
            sessions=self.sessions,
            audit=self._audit,
            clock=self._run.clock,
            places=Places(4),
        )


class _Recorder(Audit):
    """Remembers which accounts an actor's sign-out says it has ended."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda text: text)
        self._world = world

    def record(self, event: str, *, cause: str, account: str, ended: int) -> None:
        """See ``Audit.record``."""
        if event == "sign_out":
            self._world.said_ended.setdefault(self._world.run.who, []).append(account)


class _Watched(SteppedTable):
    """A table that tells of each session that gets a row in it."""

    def __init__(self, name: str, run: Run, rows: Rows, belongs: Callable[[str], None]) -> None:
        super().__init__(name, run, rows)
        self._belongs = belongs

    def inserted(self, keys: list[str]) -> None:
        for key in keys:
            self._belongs(key)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A story: what is there at first, and who acts then, at minute ``minute``."""

    setting: Setting
    prepare: Callable[[World], SimpleNamespace]
    actors: Callable[[World, SimpleNamespace], Mapping[str, Callable[[], object]]]
    minute: float = 21
    alive: Callable[[SimpleNamespace], tuple[Browser, ...]] = lambda _: ()
    sure: tuple[str, ...] = ()
    requests: int = 1

    @cached_property
    def _prepared(self) -> tuple[Stored, SimpleNamespace]:
        world = World(self.setting, Run(now=at(0)), Stored())
        there = self.prepare(world)
        return world.stored, there

    def fresh(self, *, faults: int = 0, kinds: tuple[str, ...] = FAULTS, faulty: tuple[str, ...] = ()) -> World:
        """A run that begins, all actors before their first step."""
        stored, there = self._prepared
        run = Run(now=at(self.minute), faults=faults, kinds=kinds, faulty=faulty)
        world = World(self.setting, run, stored)
        world.alive, world.sure, world.requests = self.alive(there), self.sure, self.requests
        run.start({name: _attempt(work) for name, work in self.actors(world, there).items()})
        return world

    def prove(
        self,
        *,
        faults: int = 0,
        kinds: tuple[str, ...] = FAULTS,
        faulty: tuple[str, ...] = (),
        preemptions: int | None = None,
        at_most: int | None = None,
    ) -> Report:
        """Goes through all schedules.

        Raises:
            Violation: a schedule loses.
        """
        with determined():
            return explore(
                lambda: self.fresh(faults=faults, kinds=kinds, faulty=faulty), preemptions=preemptions, at_most=at_most
            )


def retried(work: Callable[[], object], times: int = 2) -> Callable[[], object]:
    """What a person or a provider does whose request was answered 503."""

    def again() -> object:
        for _ in range(times - 1):
            try:
                return work()
            except StorageUnavailable:
                continue
        return work()

    return again


def _attempt(work: Callable[[], object]) -> Callable[[], object]:
    def attempt() -> object:
        try:
            return ("did", work())
        except (NotSignedIn, NotFound, SignedOutMeanwhile) as error:
            return ("refused", error.code)
        except AppError as error:
            return ("gave up", f"{type(error).__name__}: {error}")
        except Exception as error:
            return ("broken", f"{type(error).__name__}: {error}")

    return attempt


def _get(path: str, cookie: str) -> Request:
    headers = {"cookie": f"session={cookie}"} if cookie else {}
    return Request.of("GET", f"https://app.example{path}", headers, b"")


def _post(path: str, cookies: str, **form: str) -> Request:
    headers = {"cookie": cookies, "content-type": "application/x-www-form-urlencoded"}
    return Request.of("POST", f"https://app.example{path}", headers, urlencode(form).encode())


def status(response: Response) -> int:
    """The status of an answer."""
    return response.status


_now_running: list[Run] = []
_now_running.append(Run(now=T0))


@contextmanager
def determined() -> Iterator[None]:
    """Nothing random, no real sleep, no log: the same schedule is the same run."""

    def token(size: int = 32) -> str:
        return named_token(_now_running[0], size)

    def sleep(_: float) -> None:
        _now_running[0].nap()

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            patch("secrets.token_urlsafe", token),
            patch.object(sealing, "os", SimpleNamespace(urandom=lambda size: named_bytes(_now_running[0], size))),
            patch.object(access_module, "time", SimpleNamespace(sleep=sleep)),
        ):
            yield
    finally:
        logging.disable(before)
