"""Cases of faulty storage: who is there, the request that meets a fault, and what must hold whatever is answered.

A ``Way`` is one route as somebody uses it; the table of all of them is ``tests/journeys/test_storage_faults.py``.  ``tried``
takes one through its steps: prepare, fail one storage call, ask, judge the answer by the rows behind the proxy, heal, try
again, judge again.  Cases run beside each other: each has people of its own, and its faults are for these alone
(``StorageProxy.watch``).
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from azure.data.tables import TableServiceClient, UpdateMode

from shared import limits
from shared.app import App as Built
from shared.store.index import SUB_WITHOUT_SID, end_key, oid_key, sub_key
from shared.store.rows import Identity, account_key, hashed_account_key, oid_account, secret_hash
from shared.store.sessions import NewSession
from shared.web.cookies import SessionCookie
from tests.support import journey
from tests.support.stack import App, Provider
from tests.support.storage_proxy import Call, StorageProxy, Watch
from tests.support.user_agent import Page, UserAgent

QUICK = ("429", "500", "503", "drop_before", "drop_after", "503_after")
"""Faults that are over at once."""
SLOW = ("hang", "delay", "hang_after", "late", "drip", "drip_body")
"""Faults that keep the app waiting: ``delay`` for a second, the others until it gives up."""
LOST = frozenset({"drop_after", "503_after", "hang_after", "late", "drip", "drip_body"})
"""Faults after which the request was, or will be, carried out though its answer says nothing."""
WAITS = frozenset({"hang", "hang_after", "late", "drip", "drip_body"})
"""Faults that take all the time of an operation: one is as good as many."""
SLACK = 6.0
"""Seconds that a busy machine may add."""
_AT_ONCE = 12
_WAITING = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The apps behind whose back storage fails."""

    apps: Mapping[str, App]
    behind: Mapping[str, Built]
    """The same apps in this process, on storage that does not fail."""
    provider: Provider
    proxy: StorageProxy
    storage: TableServiceClient
    """Azurite itself, behind the proxy."""

    def rows(self, prefix: str, table: str, query: str, **parameters: str) -> list[dict[str, Any]]:
        """What is stored, read from behind the proxy."""
        with self.storage.get_table_client(prefix + table) as client:
            return [dict(row) for row in client.query_entities(query, parameters=parameters)]


# -- people


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A browser with a session, as its cookie had it at first."""

    agent: UserAgent
    value: str = field(repr=False)
    sid: str

    @property
    def id(self) -> str:
        """The session's id."""
        cookie = SessionCookie.decode(self.value)
        assert cookie is not None, "a cookie that is none of ours"
        return cookie.session_id


class Person:
    """Somebody with an account of their own at the provider, and what storage holds of it."""

    def __init__(self, world: World, name: str, watch: Watch, **claims: Any) -> None:
        """``name`` is the app's; ``claims``: see ``Provider.user``."""
        self._world = world
        self._app = app = world.apps[name]
        self._behind = world.behind[name]
        self._watch = watch
        self.prefix = app.settings["TOKEN_STORE_TABLE_PREFIX"]
        self.login = f"fault-{secrets.token_hex(6)}"
        self.user = world.provider.user(self.login, **claims)
        issuer = world.provider.issuer
        self.account = account_key(f"{self.user['uid']}.{self.user['utid']}", issuer, self.user["sub"])
        watch.know(self.account, oid_account(self.user["oid"], self.user["tid"]), hashed_account_key(issuer, self.user["sub"]))
        watch.know(sub_key(issuer, self.user["sub"]))
        watch.know(*(end_key(issuer, name, self.user["sub"]) for name in ("sub", SUB_WITHOUT_SID)))
        watch.know(oid_key(self.user["tid"], self.user["oid"]))

    def answer(self, agent: UserAgent) -> dict[str, str]:
        """Signs in at the provider, which knows nobody in this browser any more, and keeps its answer."""
        agent.cookies.all = [cookie for cookie in agent.cookies.live() if cookie.host == "localhost"]
        fields = journey.answer(agent, self._app, self.login)
        self._watch.know(end_key(self._world.provider.issuer, "sid", fields["session_state"]))
        return fields

    def arrive(self, agent: UserAgent, fields: Mapping[str, str]) -> Page:
        """Posts the provider's answer to the callback."""
        return journey.post(agent, self._app, fields)

    def device(self) -> Device:
        """A browser that signed in a minute ago: what the callback stores is stored, without the way to the provider."""
        now = datetime.now(UTC) - timedelta(minutes=1)
        secret, sid = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        user = self.user
        identity = Identity(
            issuer=self._world.provider.issuer,
            sub=user["sub"],
            oid=user["oid"],
            tid=user["tid"],
            sid=sid,
            name=user["name"],
            username=user["username"],
            login_hint=user["login_hint"],
            home_account_id=f"{user['uid']}.{user['utid']}",
            user_agent="",
            issued_at=now.timestamp(),
            id_token=None,
        )
        session, _ = self._behind.sessions.create(
            NewSession(
                account=self.account,
                secret_hash=secret_hash(secret),
                flow_started_at=now,
                auth_time=now,
                identity=identity,
                cache=b"",
                session_state=None,
                backchannel=True,
                had=(),
            ),
            now=now,
        )
        self._watch.know(session.id, *(key for key in session.index_keys if not key.startswith("exp:")))
        self._watch.know(end_key(self._world.provider.issuer, "sid", sid))
        agent = UserAgent()
        value = SessionCookie(account=self.account, session_id=session.id, secret=secret).encode()
        agent.cookies.put(self._app.url, "session", value)
        return Device(agent=agent, value=value, sid=sid)

    def device_with_tokens(self) -> Device:
        """A browser in which somebody signs in at the provider."""
        agent = UserAgent()
        fields = self.answer(agent)
        page = self.arrive(agent, fields)
        assert page.status == 303, f"the sign-in to prepare a case failed: {page.status} {page.text}"
        return Device(agent=agent, value=agent.cookies["session"].value, sid=fields["session_state"])

    def sessions(self) -> set[str]:
        """The ids of the stored sessions."""
        rows = self._world.rows(self.prefix, "sessions", "PartitionKey eq @account", account=self.account)
        return {row["RowKey"] for row in rows if "SecretHash" in row}

    def edit(self, device: Device, **values: Any) -> None:
        """Changes a stored session behind the app's back."""
        with self._world.storage.get_table_client(self.prefix + "sessions") as table:
            table.update_entity({"PartitionKey": self.account, "RowKey": device.id, **values}, mode=UpdateMode.MERGE)

    def lose(self, device: Device) -> None:
        """Deletes a stored session behind the app's back, and leaves its index rows."""
        with self._world.storage.get_table_client(self.prefix + "sessions") as table:
            table.delete_entity(self.account, device.id)

    def astray(self) -> list[str]:
        """Index rows of sessions that are gone; each has an ``exp:`` row that leads the sweep to it.

        Raises:
            AssertionError: one has none, or nothing leads to the account row: they would stay for ever.
        """
        live = self.sessions()
        index = self._world.rows(self.prefix, "index", "Account eq @account", account=self.account)
        leads = {(row["RowKey"], key) for row in index if row["PartitionKey"].startswith("exp:") for key in keys_of(row)}
        gone = [row for row in index if row["Kind"] == "session" and row["RowKey"] not in live]
        lost = [row["PartitionKey"] for row in gone if (row["RowKey"], row["PartitionKey"]) not in leads and not _is_exp(row)]
        assert lost == [], f"index rows that no sweep will find: {lost}"
        others = self._world.rows(self.prefix, "sessions", "PartitionKey eq @account", account=self.account)
        kinds = {row["Kind"] for row in index}
        assert not others or kinds & {"account", "session", "tombstone"}, "an account row that no sweep will find"
        filed = {row["RowKey"] for row in index if row["Kind"] == "session" and _is_exp(row)}
        assert live <= filed, "a session that no sweep will find"
        return [row["PartitionKey"] for row in gone]


def keys_of(row: Mapping[str, Any]) -> list[str]:
    """The ``IndexKeys`` of a stored row."""
    keys: list[str] = json.loads(row.get("IndexKeys", "[]"))
    return keys


def _is_exp(row: Mapping[str, Any]) -> bool:
    return str(row["PartitionKey"]).startswith("exp:")


# -- a case


class Case:
    """One case: its people, and whose sessions the request is about to end (``leaving``), and whose not (``staying``)."""

    def __init__(self, world: World, name: str, watch: Watch) -> None:
        self.world = world
        self.name = name
        self.app = world.apps[name]
        self.url = self.app.url
        self.watch = watch
        self.people: list[Person] = []
        self.leaving: list[tuple[Person, Device]] = []
        self.staying: list[tuple[Person, Device]] = []
        self.again: Callable[[], Page] | None = None
        """How the request is repeated, where not in the same way."""
        self.kept: dict[str, Any] = {}
        """What one step of a way leaves for the next."""
        self.faulted = NO_CALL
        """The call that fails, in the cases that have a fault."""
        self.passes = True
        """Whether the app's own repetition gets through."""

    def person(self, **claims: Any) -> Person:
        """One more person."""
        self.people.append(Person(self.world, self.name, self.watch, **claims))
        return self.people[-1]

    def leaves(self, person: Person) -> Device:
        """A device that is about to be signed out."""
        self.leaving.append((person, person.device()))
        return self.leaving[-1][1]

    def stays(self, person: Person) -> Device:
        """A device that nobody means."""
        self.staying.append((person, person.device()))
        return self.staying[-1][1]

    def alive(self, device: Device) -> bool:
        """Whether its cookie, as it was at first, is good."""
        headers = {"Cookie": f"session={device.value}", "Accept": "application/json"}
        page = UserAgent().request("GET", f"{self.url}/auth/me", headers=headers)
        assert page.status in (200, 401), f"/auth/me answers {page.status} without a fault"
        return page.status == 200

    def is_gone(self) -> None:
        """The rows of those who were to leave are gone, and nobody else's."""
        stored = set().union(*(person.sessions() for person in self.people))
        assert not stored & {device.id for _, device in self.leaving}, "said to be signed out, and the row is there"
        assert {device.id for _, device in self.staying} <= stored, "nobody meant this session, and its row is gone"

    def is_gone_for_good(self) -> None:
        """And so are their cookies; whoever was not meant is signed in."""
        self.is_gone()
        assert not any(self.alive(device) for _, device in self.leaving), "said to be signed out, and the cookie is good"
        assert all(self.alive(device) for _, device in self.staying), (
            "nobody meant this session, and its cookie is good no more"
        )


Act = Callable[[], Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One route as somebody uses it."""

    route: str
    """As in the route table."""
    when: str
    """Who uses it, and how."""
    apps: Sequence[str]
    """The apps, by their names in ``World.apps``."""
    prepare: Callable[[Case], Act]
    """Makes the people, and returns the request."""
    acknowledged: Callable[[Case, Page], bool]
    """Whether the answer claims that what was asked for is done; if it does not, it has to be the documented error."""
    holds: Callable[[Case], None]
    """What is true when it was acknowledged."""
    again: Callable[[Case, Page], bool]
    """Whether the answer to the repetition, without a fault, is one of those that end clean."""
    after: Callable[[Case], None]
    """What is true then, whatever failed before."""
    as_before: bool = True
    """Whether what was not acknowledged, and was not carried out behind a lost answer either, changed no session."""
    tidy: bool = True
    """Whether, when all went well, no index row of a session that is gone is left for the sweep."""
    refusal: str = ""
    """What the page of the documented error says."""
    seconds: float = limits.STORAGE
    """How long it may take when one storage call has no answer."""

    def __str__(self) -> str:
        return f"{self.route}, {self.when}"


# -- trying


NO_CALL = Call("", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One way, and the fault that it meets; no fault at first, to see what it asks of storage."""

    way: Way
    app: str
    call: Call = NO_CALL
    faults: tuple[str, ...] = ()
    """In turn, as often as the call is tried."""
    times: int | None = None
    """How many tries fail; None: all."""

    def __str__(self) -> str:
        how = f"{', '.join(self.faults)} {f'{self.times} times' if self.times else 'always'}"
        return f"{self.way} | {self.app} | {f'{how} at {self.call.what} #{self.call.nth}' if self.faults else 'no fault'}"

    @property
    def passes(self) -> bool:
        """Whether the app's own repetition gets through: the route simply works."""
        return set(self.faults) <= {"delay"} or (self.times is not None and WAITS.isdisjoint(self.faults))

    @property
    def loses(self) -> bool:
        """Whether it may have been carried out, or may still be, though no answer said so."""
        return not LOST.isdisjoint(self.faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job; ``error`` is None where everything held."""

    job: Job
    calls: list[Call]
    error: BaseException | None
    seconds: float


@contextmanager
def staged(world: World, app: str) -> Iterator[Case]:
    """A case on that app."""
    with world.proxy.watch() as watch:
        yield Case(world, app, watch)


def tried(world: World, job: Job) -> list[Call]:
    """Takes a job through its steps; returns the storage calls of its request, where nothing failed.

    Raises:
        AssertionError: something did not hold.
    """
    way = job.way
    with staged(world, job.app) as case:
        act = way.prepare(case)
        before = [person.sessions() for person in case.people]
        case.watch.begin()
        if job.faults:
            case.faulted, case.passes = job.call, job.passes
            seconds = limits.STORAGE + 0.5 if "late" in job.faults else 1.0
            case.watch.fail(*job.faults, call=job.call, times=job.times, seconds=seconds)
        began = time.monotonic()
        page = act()
        took = time.monotonic() - began
        calls = case.watch.calls()
        struck = case.watch.heal()
        assert bool(struck) is bool(job.faults), "the fault was not met"
        assert took < way.seconds + SLACK, f"answered after {took:.1f} s"
        if way.acknowledged(case, page):
            way.holds(case)
        else:
            assert not job.passes, f"one failure, and the route does not work: {page.status} {page.text}"
            refused(page, way.refusal)
            if way.as_before and not job.loses:
                assert [person.sessions() for person in case.people] == before, "not done, and not as before"
        page = (case.again or act)()
        assert way.again(case, page), f"the repetition does not end clean: {page.status} {page.text}"
        way.after(case)
        astray = [row for person in case.people for row in person.astray()]
        assert not (job.passes and way.tidy) or astray == [], f"index rows of sessions that are gone: {astray}"
        return calls


def refused(page: Page, text: str = "") -> None:
    """The documented error: try again later, no cookie is given or taken, nothing is claimed."""
    assert page.status == 503, f"{page.status}: {page.text}"
    assert page.header("retry-after"), "503 without Retry-After"
    assert page.set_cookies == [], f"503 with {page.set_cookies}"
    assert page.header("cache-control") == "no-store", page.header("cache-control")
    assert "You are signed out" not in page.text, page.text
    assert "igned in as" not in page.text, page.text
    assert text in page.text, page.text
    if "json" in (page.header("content-type") or ""):
        assert page.json().get("code", page.json().get("error")) in {"storage_unavailable", "temporarily_unavailable"}, (
            page.text
        )


Choice = Callable[[int], Iterable[tuple[tuple[str, ...], int | None]]]
"""The faults that a call meets, by its number among all: those of one case in turn, and the tries that fail (None: all)."""


class Campaign:
    """All ways, each without a fault at first and then with those of ``choice`` at each of its calls."""

    def __init__(self, world: World, choice: Choice) -> None:
        self._world = world
        self._choice = choice
        self.outcomes: list[Outcome] = []

    def run(self, ways: Sequence[Way]) -> Self:
        """Tries everything; what keeps the app waiting has threads of its own."""
        with ExitStack() as stack:
            quick = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
            slow = stack.enter_context(ThreadPoolExecutor(_WAITING))
            running: set[Future[Outcome]] = set()
            places = {(way, app): place for place, (way, app) in enumerate((way, app) for way in ways for app in way.apps)}
            running |= {quick.submit(self._outcome, Job(way=way, app=app)) for way, app in places}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    outcome = one.result()
                    self.outcomes.append(outcome)
                    if outcome.job.faults or outcome.error is not None:
                        continue
                    start = 7 * places[outcome.job.way, outcome.job.app]
                    for number, call in enumerate(outcome.calls, start=start):
                        for faults, times in self._choice(number):
                            job = Job(way=outcome.job.way, app=outcome.job.app, call=call, faults=faults, times=times)
                            pool = quick if set(faults) <= set(QUICK) else slow
                            running.add(pool.submit(self._outcome, job))
        return self

    def _outcome(self, job: Job) -> Outcome:
        began = time.monotonic()
        calls: list[Call] = []
        error: BaseException | None = None
        try:
            calls = tried(self._world, job)
        except Exception as failure:
            error = failure
        return Outcome(job=job, calls=calls, error=error, seconds=time.monotonic() - began)

    def of(self, way: Way) -> list[Outcome]:
        """What became of that way."""
        return [outcome for outcome in self.outcomes if outcome.job.way is way]
