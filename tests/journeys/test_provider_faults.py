"""A provider that hangs, breaks off, answers late, at length or with something else.

At each call that the app makes to it: nobody is signed in or out by mistake, what is stored stays as it was, a sign-out is done
all the same, the request ends in its time, and the same person succeeds when the provider is back.  ``FAULTS=full`` in the
environment tries every route; without it each fault at each call, at the route that makes it.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urljoin

import pytest

from dev import stack as local
from dev.stack import Azurite
from shared import limits
from shared.provider.kept import AFTER_FAILURE
from tests.support.provider_proxy import QUICK, SLOW, ProviderProxy
from tests.support.stack import App, Provider, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack

FULL = os.environ.get("FAULTS") == "full"
EVERYWHERE = (*QUICK, *SLOW) if FULL else ("drop", "500", "hang")
"""Faults that every route meets."""
NO_ANSWER = {"refused", "drop", "lost", "cut", "no_line_end", *SLOW}
SLACK = 5.0
"""Seconds that a busy machine may add."""
REST = AFTER_FAILURE + 1.0
"""Seconds after which a process that knows nothing yet asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The app behind whose back the provider fails."""

    app: App
    stack: Stack
    provider: Provider
    proxy: ProviderProxy
    fresh: Iterator[str]
    """The origins of processes that know nothing of the provider yet."""


@pytest.fixture(scope="module")
def world(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One app of many processes, and a provider of its own behind the proxy."""
    folder = tmp_path_factory.mktemp("provider-faults")
    with ProviderProxy() as proxy:
        launched = local.launch_provider(folder, address=proxy.address)
        provider = Provider(local.provider_ready(launched))
        stack = Stack(azurite, provider, folder)
        try:
            proxy.upstream = provider.browser
            provider.switch(revocation_endpoint=True, frontchannel=False)
            app = stack.start_app(
                {"SIGN_OUT_SCOPE": "session"},
                backchannel=True,
                processes=1 + len(QUICK) + 2 * len(SLOW) + len(EVERYWHERE),
                ready="/auth/me",
                statuses=(401,),
            )
            UserAgent().sign_in(app.url)  # the first write makes the tables
            yield World(app=app, stack=stack, provider=provider, proxy=proxy, fresh=iter(app.urls[1:]))
        finally:
            stack.stop()
            launched.stop()


# -- people


class Person:
    """Somebody with a browser and a session."""

    def __init__(self, world: World, *, due: bool = False) -> None:
        """``due``: the access token has to be refreshed before it is used."""
        self.login = f"fault-{secrets.token_hex(4)}"
        self.agent = UserAgent()
        self._app = world.app
        if due:
            world.provider.switch(access_token_ttl=60)
        self.agent.sign_in(world.app.url, self.login, return_to="/auth/logged-out")
        if due:
            world.provider.switch(access_token_ttl=3600)
        found = self.agent.fetch(f"{world.app.url}/auth/me").json()
        self.account: str = found["account"]
        self.id: str = found["session"]["id"]
        self.cookie = self.agent.cookies["session"].value
        self.sid: str = next(s["clients"][world.app.client_id] for s in world.provider.sessions(self.login))

    def signed_in(self) -> bool:
        """Whether the cookie, as it was at first, is good."""
        page = UserAgent().request("GET", f"{self._app.url}/auth/me", headers={"Cookie": f"session={self.cookie}"})
        assert page.status in (200, 401)
        return page.status == 200

    def profile(self, url: str = "") -> Page:
        """What the protected API says."""
        return self.agent.fetch(f"{url or self._app.url}/api/profile")

    def logout(self, url: str = "") -> Page:
        """The form of the home page."""
        url = url or self._app.url
        return self.agent.request("POST", f"{url}/auth/logout", initiator=f"{url}/", form={})


class Newcomer:
    """Somebody who comes back from the provider with its answer, which has not been posted yet."""

    def __init__(self, world: World) -> None:
        self.login = f"fault-{secrets.token_hex(4)}"
        self.agent = UserAgent()
        self._app = world.app
        user = world.provider.user(self.login)
        self.account = f"{user['uid']}.{user['utid']}"
        page = self.agent.open(f"{world.app.url}/auth/login?return_to=/auth/logged-out", follow=False)
        while True:
            forms = [form for form in page.document.forms if form.action.endswith("/auth/callback")]
            if forms:
                self.fields = dict(forms[0].fields)
                return
            if page.status in (302, 303):
                page = self.agent.open(urljoin(page.url, page.header("location") or ""), follow=False)
            else:
                page = self.agent.choose(self.login, follow=False)

    def arrive(self, url: str = "") -> Page:
        """Posts it."""
        return self.agent.request(
            "POST", f"{url or self._app.url}/auth/callback", initiator="http://127.0.0.1:1/", form=self.fields
        )

    def sign_in(self) -> None:
        """From the start."""
        self.agent.sign_in(self._app.url, self.login, return_to="/auth/logged-out")
        assert "session" in self.agent.cookies


def stored(app: App, account: str) -> list[dict[str, Any]]:
    """All rows of an account but for the lease, which comes and goes with a refresh."""
    found: list[dict[str, Any]] = []
    with app.tables() as service:
        for table, name in (("sessions", "PartitionKey"), ("index", "Account")):
            with service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + table) as client:
                found += map(dict, client.query_entities(f"{name} eq @account", parameters={"account": account}))
    return [{name: value for name, value in row.items() if name not in {"Lease", "LeaseUntil"}} for row in found]


# -- answers


def failed(page: Page, fault: str) -> None:
    """The documented error for that fault: nobody is signed in or out, and when to come back."""
    expected = (503, "provider_unavailable", "5") if fault in NO_ANSWER else (502, "provider_failed", None)
    code = next((code for code in ("provider_unavailable", "provider_failed", "busy") if code in page.text), page.text)
    assert (page.status, code, page.header("retry-after")) == expected
    assert page.set_cookies == []
    assert page.header("cache-control") == "no-store"


def some_fault(page: Page) -> None:
    """One of the provider's two errors."""
    failed(page, "drop" if page.status == 503 else "500")


# -- a case: what is prepared, the request that meets the fault, what must hold then, and that it works afterwards


Act = tuple[str, Callable[[], Page]]
"""The call that fails, and the request that makes it.  Without a call: a request some time later, when the provider is back."""
Case = Generator[Act, Page, None]


def code(world: World, fault: str) -> Case:
    """``/auth/callback``, redeeming the code."""
    newcomer = Newcomer(world)
    failed((yield "code", newcomer.arrive), fault)
    assert stored(world.app, newcomer.account) == []
    page = newcomer.arrive()
    if fault == "lost":  # the code is spent
        assert (page.status, "code_refused" in page.text) == (400, True)
        assert stored(world.app, newcomer.account) == []
        newcomer.sign_in()
        return
    assert page.status == 303
    assert "session" in newcomer.agent.cookies


def refresh(world: World, fault: str) -> Case:
    """``/api/profile``, with an access token that is due."""
    person = Person(world, due=True)
    before = stored(world.app, person.account)
    failed((yield "refresh", person.profile), fault)
    assert stored(world.app, person.account) == before
    assert person.signed_in()
    page = person.profile()
    if fault == "lost":  # the refresh token is spent, and the provider takes the second use for theft
        assert page.status == 401
        assert not person.signed_in()
        person.agent.sign_in(world.app.url, person.login, return_to="/auth/logged-out")
        page = person.profile()
    assert page.status == 200


def graph(world: World, fault: str) -> Case:
    """``/api/profile``, asking Graph."""
    person = Person(world)
    before = stored(world.app, person.account)
    failed((yield "graph", person.profile), fault)
    assert stored(world.app, person.account) == before
    assert person.signed_in()
    assert person.profile().status == 200


def revocation(world: World, fault: str, way: str = "POST /auth/logout") -> Case:
    """Any way to sign out that revokes: it is done, whatever becomes of the courtesy."""
    person = Person(world)
    page = yield "revocation", lambda: WAYS_OUT[way](world.app.url, person)
    assert page.status == (303 if "/auth/logout" in way or "form" in way else 200)
    if "/auth/logout" in way:
        assert (page.header("location") or "").startswith(world.provider.browser)
    assert ("session" in person.agent.cookies) is ("admin" in way)
    assert not person.signed_in()
    assert [row["RowKey"] for row in stored(world.app, person.account) if "SecretHash" in row] == []
    person.agent.sign_in(world.app.url, person.login, return_to="/auth/logged-out")
    assert "session" in person.agent.cookies


WAYS_OUT: Mapping[str, Callable[[str, Person], Page]] = {
    "POST /auth/logout": lambda url, person: person.logout(url),
    "GET /auth/logout": lambda url, person: person.agent.request("GET", f"{url}/auth/logout", initiator=f"{url}/"),
    "DELETE /auth/sessions": lambda url, person: person.agent.fetch(f"{url}/auth/sessions", "DELETE"),
    "DELETE /auth/sessions/{id}": lambda url, person: person.agent.fetch(f"{url}/auth/sessions/{person.id}", "DELETE"),
    "form /auth/sessions/end": lambda url, person: person.agent.request(
        "POST", f"{url}/auth/sessions/end", initiator=f"{url}/", form={"all": "1"}
    ),
    "POST /auth/admin/sign-out": lambda url, person: UserAgent().fetch(
        f"{url}/auth/admin/sign-out", "POST", json_body={"account": person.account}
    ),
}


def discovery(world: World, fault: str) -> Case:
    """``/auth/login`` at a process that knows nothing yet; when it does, it is the keys that fail."""
    url = next(world.fresh)
    failed((yield "discovery", lambda: UserAgent().open(f"{url}/auth/login", follow=False)), fault)
    page = yield "", lambda: UserAgent().open(f"{url}/auth/login", follow=False)
    assert page.status == 302
    if fault in QUICK:
        yield from jwks(world, fault, url)


def jwks(world: World, fault: str, url: str = "") -> Case:
    """``/auth/callback`` at a process that has no keys yet, and back-channel logout beside it."""
    url = url or next(world.fresh)
    newcomer, told = Newcomer(world), Person(world)
    token = world.provider.logout_token(client_id=world.app.client_id, sid=told.sid)
    before = stored(world.app, told.account)
    assert UserAgent().open(f"{url}/auth/login", follow=False).status == 302
    failed((yield "jwks", lambda: newcomer.arrive(url)), fault)
    with world.proxy.failing("jwks", fault if fault in QUICK else "500"):
        assert send(url, token).status == 503
    assert stored(world.app, told.account) == before
    assert stored(world.app, newcomer.account) == []
    again = Newcomer(world)
    page = yield "", lambda: again.arrive(url)
    assert page.status == 303
    assert "session" in again.agent.cookies
    assert send(url, token).status == 200
    assert not told.signed_in()


def every_route(world: World, fault: str) -> Case:
    """A process that knows nothing yet: who is signed in goes on, every way to sign out works, the rest says when to come back."""
    url = next(world.fresh)
    person, due, leaving, framed, told = (Person(world, due=number == 1) for number in range(5))
    newcomer = Newcomer(world)
    token = world.provider.logout_token(client_id=world.app.client_id, sid=told.sid)
    before = [stored(world.app, one.account) for one in (person, due, told)]
    failed((yield "discovery", lambda: UserAgent().open(f"{url}/auth/login", follow=False)), fault)
    with world.proxy.failing("discovery", fault if fault in QUICK else "500"):
        some_fault(newcomer.arrive(url))
        some_fault(due.profile(url))
        assert send(url, token).status == 503
        assert person.agent.fetch(f"{url}/auth/me").status == 200
        assert person.profile(url).status == (503 if fault == "refused" else 200)  # Graph is behind the same proxy
        assert person.agent.open(f"{url}/").status == 200
        page = UserAgent().fetch(f"{url}/health")
        assert (page.status, page.json()["storage"]) == (503, "ok")
        assert page.json()["provider"] in ("provider_unavailable", "provider_failed")
        page = leaving.logout(url)
        assert (page.status, page.header("location")) == (303, f"{world.app.url}/auth/logged-out")
        assert "session" not in leaving.agent.cookies
        frame = f"{url}/auth/frontchannel-logout?sid={framed.sid}"
        assert UserAgent().frame(frame, inside="http://127.0.0.1:1/").status == 200
    assert [leaving.signed_in(), framed.signed_in()] == [False, False]
    assert [stored(world.app, one.account) for one in (person, due, told)] == before
    assert stored(world.app, newcomer.account) == []
    page = yield "", lambda: newcomer.arrive(url)
    assert page.status == 303
    assert "session" in newcomer.agent.cookies
    assert due.profile(url).status == 200
    assert send(url, token).status == 200
    assert not told.signed_in()
    assert UserAgent().fetch(f"{url}/health").status == 200


def send(url: str, token: str) -> Page:
    """A back-channel logout, as the provider's server sends it."""
    return UserAgent().request(
        "POST",
        f"{url}/auth/backchannel-logout",
        form={"logout_token": token},
        headers={"Sec-Fetch-Mode": "", "Sec-Fetch-Dest": "", "Sec-Fetch-Site": "", "Accept": "*/*"},
    )


def met(world: World, cases: list[tuple[Case, str]], *, together: bool = False) -> None:
    """Takes cases to their end, step by step beside each other; ``together`` lets them meet their faults at the same time."""
    steps = [(case, fault, next(case)) for case, fault in cases]
    while steps:
        if not all(call for _, _, (call, _) in steps):
            time.sleep(REST)
        world.proxy.reset()
        with ThreadPoolExecutor(len(steps) if together else 1) as pool:
            done = [pool.submit(_meet, world, fault, *act) for _, fault, act in steps]
        pages = [(case, fault, one.result()) for (case, fault, _), one in zip(steps, done, strict=True)]
        counts = world.proxy.counts()
        assert "elsewhere" not in counts, "a redirect was followed"
        struck = Counter(call for _, fault, (call, _) in steps if call and fault not in ("refused", "mute"))
        if "jwks" in struck:  # they are asked for when the code has been redeemed
            struck["code"] += struck["jwks"]
        assert {call: counts.get(call, 0) for call in struck} == struck, "a request was repeated"
        steps = [(case, fault, act) for case, fault, page in pages if (act := _next(case, page)) is not None]


def _meet(world: World, fault: str, call: str, act: Callable[[], Page]) -> Page:
    def timed() -> tuple[Page, float]:
        began = time.monotonic()
        return act(), time.monotonic() - began

    page, seconds = world.proxy.during(call, fault, timed) if call else timed()
    assert seconds < (limits.REVOCATION if call == "revocation" else limits.PROVIDER) + SLACK
    return page


def _next(case: Case, page: Page) -> Act | None:
    try:
        return case.send(page)
    except StopIteration:
        return None


WARM: Mapping[str, Callable[[World, str], Case]] = {
    "code": code,
    "refresh": refresh,
    "graph": graph,
    **{way: partial(revocation, way=way) for way in (WAYS_OUT if FULL else ["POST /auth/logout"])},
}


@pytest.mark.parametrize("fault", QUICK)
@pytest.mark.parametrize("case", WARM)
def test_a_fault_is_an_error_and_nothing_else(world: World, case: str, fault: str) -> None:
    """The documented status, what is stored is as it was, and the next try succeeds; a sign-out is done all the same."""
    met(world, [(WARM[case](world, fault), fault)])


def test_a_process_that_knows_nothing_yet_survives_a_fault(world: World) -> None:
    """Signed-in users go on, every way to sign out works, the rest says when to come back; and later it works."""
    met(world, [(case(world, fault), fault) for fault in QUICK for case in cold(fault)])


def test_a_provider_that_keeps_us_waiting_is_given_up_in_time(world: World) -> None:
    """All the same, after no more than ten seconds, or two where a user waits to be signed out."""
    cases = [(case(world, fault), fault) for fault in SLOW for case in (*WARM.values(), *cold(fault))]
    # A connection for the keys comes after others.
    cases += [(jwks(world, fault), fault) for fault in SLOW if fault != "mute"]
    met(world, cases, together=True)


def cold(fault: str) -> list[Callable[[World, str], Case]]:
    """The cases that need a process of their own."""
    return [discovery, every_route] if fault in EVERYWHERE else [discovery]


@pytest.fixture
def few(world: World) -> World:
    """Two processes of eight threads, of which the second knows nothing of the provider yet."""
    eight = {"PYTHON_THREADPOOL_THREAD_COUNT": "8"}
    app = world.stack.start_app(eight, backchannel=True, processes=2, ready="/auth/me", statuses=(401,))
    return replace(world, app=app, fresh=iter(app.urls[1:]))


def test_a_hanging_provider_leaves_threads_for_sign_outs(few: World) -> None:
    """Whatever hangs, half of the pool waits: the rest of those get 503 at once, and a sign-out takes its usual time."""
    url, fresh = few.app.url, next(few.fresh)
    leaving = [Person(few) for _ in range(4)]
    staying = [Person(few, due=number % 2 == 0) for number in range(8)]
    newcomers = [Newcomer(few) for _ in range(4)]
    token = few.provider.logout_token(client_id=few.app.client_id, sid=staying[0].sid)
    acts: list[Callable[[], Page]] = [*(one.profile for one in staying), *(one.arrive for one in newcomers)]
    for _ in range(6):
        acts += [lambda: UserAgent().open(f"{fresh}/auth/login", follow=False), lambda: send(fresh, token)]
    few.proxy.reset()
    with ExitStack() as faults, ThreadPoolExecutor(len(acts)) as pool:
        for call in ("code", "refresh", "graph", "discovery"):
            faults.enter_context(few.proxy.failing(call, "hang"))
        waiting = [pool.submit(act) for act in acts]
        time.sleep(1)
        for one, origin in zip(leaving, [url, fresh] * 2, strict=True):
            began = time.monotonic()
            assert one.logout(origin).status == 303
            assert time.monotonic() - began < 3
            assert not one.signed_in()
        pages = [one.result() for one in waiting]
    counts = few.proxy.counts()
    assert counts["discovery"] == 1
    assert sum(counts.get(call, 0) for call in ("code", "refresh", "graph")) == 4
    assert {page.status for page in pages} == {503}
    assert sum("busy" in page.text for page in pages[: len(staying) + len(newcomers)]) == 8
    assert all(one.signed_in() for one in staying)
    assert {one.profile().status for one in staying} == {200}
    assert {one.arrive().status for one in newcomers} == {303}


def test_hanging_revocations_leave_threads_for_sign_outs(few: World) -> None:
    """A quarter of the pool revokes; the others' sign-outs do not wait for the courtesy."""
    leaving = [Person(few) for _ in range(12)]
    few.proxy.reset()
    with few.proxy.failing("revocation", "hang"), ThreadPoolExecutor(len(leaving)) as pool:
        pages = list(pool.map(Person.logout, leaving))
    assert {page.status for page in pages} == {303}
    assert not any(one.signed_in() for one in leaving)
    # Two at once, and in two seconds all the others are through, however busy this machine is.
    assert few.proxy.counts()["revocation"] < len(leaving) / 2
