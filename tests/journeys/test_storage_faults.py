"""Storage that throttles, hangs, drops or answers too late, at each storage call of each route.

Nobody is signed in or out by mistake: an answer is the documented error, which claims nothing and takes no cookie, or what it
says is so in the rows; and the repetition, when storage is back, ends clean.  ``TABLE`` has every route as somebody uses it:
how it is prepared and asked, which answer claims that it is done, what is true then, what its repetition may answer, and what is
true then whatever failed before.  ``tests/support/storage_cases.py`` takes each through its steps: once without a fault, which
shows its storage calls, and then for each of these calls with faults that stay and faults that pass.

``FAULTS=full`` in the environment tries every fault at every call; without it each call meets two kinds in turn for good, and
some meet such that pass, or keep the app waiting.
"""

import contextlib
import copy
import http.client
import json
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from azure.data.tables import TableServiceClient

from shared.app import build
from shared.flows import sweep
from shared.settings import load
from shared.store.index import jti_key
from shared.store.rows import Claim, secret_hash
from shared.store.transport import Transport
from shared.web.cookies import SessionCookie
from tests.support import journey
from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.storage_cases import (
    NO_CALL,
    QUICK,
    SLOW,
    Act,
    Campaign,
    Case,
    Device,
    Person,
    Way,
    World,
    keys_of,
    refused,
    staged,
)
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack

FULL = os.environ.get("FAULTS") == "full"
LATER = timedelta(hours=3)
"""When a session that nobody used has expired, and the mark of a sign-out has done its work."""


def guest(case: Case) -> Person:
    """Somebody whose account is in another tenant: ``oid`` and ``tid`` do not name it."""
    return case.person(uid=f"{secrets.token_hex(4)}-aaaa-4bbb-8ccc-000000000001", utid="99999999-2222-4333-8444-555555555555")


# -- answers


def says(status: int, text: str = "") -> Callable[[Case, Page], bool]:
    """The answer has that status, and its body says so."""
    return lambda case, page: page.status == status and text in page.text


def one_of(*statuses: int) -> Callable[[Case, Page], bool]:
    """One of these; those that say that there is nothing left to end are true, or what follows does not hold."""
    return lambda case, page: page.status in statuses


# -- who is there, and what they ask


def alone(case: Case) -> tuple[Person, Device]:
    """Somebody with one device, which is about to leave."""
    person = case.person()
    return person, case.leaves(person)


def with_another_device(case: Case) -> tuple[Person, Device]:
    """Somebody with a second device where the scope of a sign-out is the session, which stays."""
    person, device = alone(case)
    if case.app.settings["SIGN_OUT_SCOPE"] == "session":
        case.stays(person)
    return person, device


def posts_logout(case: Case) -> Act:
    _, device = with_another_device(case)
    return lambda: device.agent.request("POST", f"{case.url}/auth/logout", initiator=f"{case.url}/", form={})


def navigates_to_logout(case: Case) -> Act:
    _, device = with_another_device(case)
    return lambda: device.agent.request("GET", f"{case.url}/auth/logout", initiator=f"{case.url}/")


def navigates_to_logout_from_elsewhere(case: Case) -> Act:
    device = case.stays(case.person())
    return lambda: device.agent.request("GET", f"{case.url}/auth/logout", initiator="https://elsewhere.example/")


def signs_out_everywhere(case: Case) -> Act:
    person, device = alone(case)
    case.leaves(person)
    return lambda: device.agent.fetch(f"{case.url}/auth/sessions", "DELETE")


def signs_out_everywhere_by_form(case: Case) -> Act:
    person, device = alone(case)
    case.leaves(person)
    return lambda: device.agent.request("POST", f"{case.url}/auth/sessions/end", initiator=f"{case.url}/", form={"all": "all"})


def ends_a_device(case: Case, *, own: bool, form: bool) -> Act:
    person, leaving = alone(case)
    asking = case.stays(person)
    agent = leaving.agent if own else asking.agent
    if form:
        return lambda: agent.request(
            "POST", f"{case.url}/auth/sessions/end", initiator=f"{case.url}/", form={"id": leaving.id}
        )
    return lambda: agent.fetch(f"{case.url}/auth/sessions/{leaving.id}", "DELETE")


def framed(case: Case) -> Act:
    _, device = with_another_device(case)
    return lambda: journey.frame(case.app, f"?sid={device.sid}")


def framed_before_the_session_is_there(case: Case) -> Act:
    person, device = alone(case)
    person.lose(device)
    return lambda: journey.frame(case.app, f"?sid={device.sid}")


def told(case: Case, **names: str) -> Act:
    """The provider's server, with a logout token."""
    jti = secrets.token_urlsafe(16)
    token = case.world.provider.logout_token(client_id=case.app.client_id, claims={"jti": jti}, **names)
    case.watch.know(jti_key(case.world.provider.issuer, jti))
    return lambda: journey.send(case.app, token)


def told_by_sid(case: Case) -> Act:
    _, device = with_another_device(case)
    return told(case, sid=device.sid)


def told_by_sub(case: Case) -> Act:
    person, _ = alone(case)
    case.leaves(person)
    return told(case, sub=person.user["sub"])


def told_by_both(case: Case) -> Act:
    person, device = with_another_device(case)
    return told(case, sid=device.sid, sub=person.user["sub"])


def asked_by_administrator(case: Case, wish: Callable[[], Any]) -> Act:
    return lambda: UserAgent().fetch(f"{case.url}/auth/admin/sign-out", "POST", json_body=wish())


def administrator_by_account(case: Case) -> Act:
    person, _ = alone(case)
    case.leaves(person)
    return asked_by_administrator(case, lambda: {"account": person.account})


def administrator_by_oid(case: Case) -> Act:
    person = guest(case)
    case.leaves(person)
    return asked_by_administrator(case, lambda: {"oid": person.user["oid"], "tid": person.user["tid"]})


def administrator_by_list(case: Case) -> Act:
    people = [alone(case)[0] for _ in range(2)]
    return asked_by_administrator(case, lambda: [{"account": person.account} for person in people])


def says_what_became_of_each(case: Case, page: Page) -> bool:
    """Who is said to have ended has no session any more, and whoever has one is said to have failed."""
    if page.status != 200:
        return False
    results = page.json()["results"]
    assert page.json()["ended"] == sum(result.get("ended", 0) for result in results)
    for person, result in zip(case.people, results, strict=True):
        assert result in ({"ended": 1}, {"error": "storage_unavailable"})
        assert "error" in result or person.sessions() == set()
    return True


def both_have_ended(case: Case) -> None:
    """Where one failure passed, nobody was left out."""
    if case.passes:
        case.is_gone()


def looks(path: str, *, page: bool = False) -> Callable[[Case], Act]:
    """Somebody who is signed in, with another device, looks at a page or asks as a script."""

    def prepare(case: Case) -> Act:
        person = case.person()
        device, _ = case.stays(person), case.stays(person)
        return lambda: device.agent.open(f"{case.url}{path}") if page else device.agent.fetch(f"{case.url}{path}")

    return prepare


def looks_after_sign_out(path: str, *, page: bool = False) -> Callable[[Case], Act]:
    """The same with the cookie of a session that was ended elsewhere."""

    def prepare(case: Case) -> Act:
        _, device = alone(case)
        journey.frame(case.app, f"?sid={device.sid}")
        return lambda: device.agent.open(f"{case.url}{path}") if page else device.agent.fetch(f"{case.url}{path}")

    return prepare


def comes_back_when_the_idle_limit_slides(case: Case) -> Act:
    person = case.person()
    device = case.stays(person)
    person.edit(device, IdleExpiresAt=datetime.now(UTC) + timedelta(minutes=20))
    return lambda: device.agent.fetch(f"{case.url}/auth/me")


# -- tokens (each is due when it is issued: see ``world``)


def calls_graph(case: Case) -> Act:
    person = case.person()
    device = person.device_with_tokens()
    case.staying.append((person, device))

    def again() -> Page:
        if device.id in person.sessions():
            person.edit(device, LeaseUntil=datetime.now(UTC) - timedelta(seconds=1))  # half a minute later
        return device.agent.fetch(f"{case.url}/api/profile")

    case.again = again
    return lambda: device.agent.fetch(f"{case.url}/api/profile")


def calls_graph_with_a_dead_refresh_token(case: Case) -> Act:
    person = case.person()
    device = person.device_with_tokens()
    case.leaving.append((person, device))
    cookie = SessionCookie.decode(device.value)
    assert cookie is not None
    sessions = case.world.behind[case.name].sessions
    row = sessions.read(Claim(account=person.account, session_id=device.id, secret_hash=secret_hash(cookie.secret)))
    assert row is not None
    cache = json.loads(row.cache)
    for token in cache["RefreshToken"].values():
        token["secret"] = "none-of-the-provider"
    sessions.write_tokens(row, json.dumps(cache).encode())

    def again() -> Page:
        if device.id in person.sessions():
            person.edit(device, LeaseUntil=datetime.now(UTC) - timedelta(seconds=1))
        return device.agent.fetch(f"{case.url}/api/profile")

    case.again = again
    return lambda: device.agent.fetch(f"{case.url}/api/profile")


def has_tokens_again(case: Case, page: Page) -> bool:
    """As before; or the refresh token was redeemed and what came of it lost: the user is asked to sign in again."""
    return page.status == 200 or (page.status == 401 and case.faulted.what == "replace sessions")


def is_signed_in_or_signs_in_again(case: Case) -> None:
    ((person, device),) = case.staying
    if not case.alive(device):
        assert person.sessions() == set()
        device = person.device_with_tokens()
    assert person.sessions() == {device.id}
    assert case.alive(device)


# -- signing in


def arriving(case: Case, person: Person, agent: UserAgent) -> Act:
    """Somebody comes back from the provider; who tries again begins anew, since the code is spent."""
    fields = person.answer(agent)
    case.kept.update(person=person, agent=agent)
    case.again = lambda: person.arrive(agent, person.answer(agent))
    return lambda: person.arrive(agent, fields)


def arrives(case: Case) -> Act:
    return arriving(case, case.person(), UserAgent())


def guest_arrives(case: Case) -> Act:
    return arriving(case, guest(case), UserAgent())


def arrives_again(case: Case) -> Act:
    person, device = alone(case)
    return arriving(case, person, device.agent)


def arrives_as_somebody_else(case: Case) -> Act:
    _, device = alone(case)
    return arriving(case, case.person(), device.agent)


def arrives_after_back_channel(case: Case) -> Act:
    act = arrives(case)
    assert told(case, sub=case.kept["person"].user["sub"])().status == 200
    return act


def arrives_after_administrator(case: Case) -> Act:
    act = guest_arrives(case)
    user = case.kept["person"].user
    assert asked_by_administrator(case, lambda: {"oid": user["oid"], "tid": user["tid"]})().status == 200
    return act


def is_let_in(case: Case, page: Page) -> bool:
    return page.status == 303 and journey.sets_a_session(page)


def is_in(case: Case) -> None:
    """One session, and its cookie is good."""
    person, agent = case.kept["person"], case.kept["agent"]
    (found,) = person.sessions()
    cookie = SessionCookie.decode(agent.cookies["session"].value)
    assert cookie is not None
    assert (cookie.account, cookie.session_id) == (person.account, found)
    assert agent.fetch(f"{case.url}/auth/me").status == 200


def is_in_alone(case: Case) -> None:
    """And the session that this browser had is gone; only where ending it failed is it left to expire."""
    is_in(case)
    ((other, _),) = case.leaving
    if case.faulted.what not in {"read sessions", "delete sessions"} or other is case.kept["person"]:
        case.is_gone()


def is_not_in(case: Case) -> None:
    assert case.kept["person"].sessions() == set()
    assert "session" not in case.kept["agent"].cookies


def comes_and_goes(case: Case) -> None:
    """One session, whatever failed before; and it ends as any other does."""
    is_in(case)
    person, agent = case.kept["person"], case.kept["agent"]
    for other, device in case.leaving:
        if other is not person and device.id in other.sessions():  # left to expire, and its owner can still end it
            page = UserAgent().request(
                "POST",
                f"{case.url}/auth/logout",
                initiator=f"{case.url}/",
                form={},
                headers={"Cookie": f"session={device.value}"},
            )
            assert page.status == 303
    case.is_gone_for_good()
    assert agent.request("POST", f"{case.url}/auth/logout", initiator=f"{case.url}/", form={}).status == 303
    assert person.sessions() == set()
    assert agent.fetch(f"{case.url}/auth/me").status == 401


# -- housekeeping


class Left:
    """What there is to sweep, made once and copied for each case.

    Of one account a session has expired and another has slid on; of another a back-channel logout has ended the session, and a
    front-channel logout was quicker than a sign-in.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._people: list[Person] = []
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.slid = ""

    def copied(self, case: Case) -> str:
        """Fills tables of their own, makes the people those of the case, and returns the tables' prefix."""
        with self._lock:
            if not self._rows:
                with case.world.proxy.watch() as watch:
                    self._make(Case(case.world, case.name, watch))
        prefix = f"s{secrets.token_hex(8)}"
        case.watch.know(prefix)
        for name, rows in self._rows.items():
            partitions = defaultdict(list)
            for row in rows:
                partitions[row["PartitionKey"]].append(("create", row))
            with case.world.storage.create_table_if_not_exists(prefix + name) as table:
                for steps in partitions.values():
                    table.submit_transaction(steps)
        for one in self._people:
            person = copy.copy(one)
            person.prefix = prefix
            case.people.append(person)
        return prefix

    def _make(self, case: Case) -> None:
        person, other = case.person(), case.person()
        person.device()
        slid = person.device()
        person.edit(slid, IdleExpiresAt=datetime.now(UTC) + timedelta(hours=8))
        assert told(case, sid=other.device().sid)().status == 200
        lost = other.device()
        other.lose(lost)
        assert journey.frame(case.app, f"?sid={lost.sid}").status == 200
        self._people, self.slid = case.people, slid.id
        for name in ("sessions", "index"):
            rows = case.world.rows(person.prefix, name, "PartitionKey ge @first", first="")
            self._rows[name] = [row for row in rows if case.watch.knows(json.dumps(row, default=str))]


LEFT = Left()


def sweeps(case: Case) -> Act:
    """The timer, three hours later, and a quarter of an hour after that, on tables of their own."""
    case.watch.learns = False  # copies have the same keys
    prefix = LEFT.copied(case)
    settings = {**case.app.settings, "TOKEN_STORE": case.world.proxy.connection_string, "TOKEN_STORE_TABLE_PREFIX": prefix}
    swept = build(load(settings)).sweep

    def act(later: timedelta = LATER) -> Any:
        return swept.run(datetime.now(UTC) + later)

    case.again = lambda: act(LATER + timedelta(minutes=15))
    case.kept.update(prefix=prefix, act=act)
    return act


def is_still_led_to(case: Case) -> None:
    """What has not been swept is led to by a row that the next sweep finds; who is signed in is."""
    assert LEFT.slid in case.people[0].sessions()
    for person in case.people:
        person.astray()
    index = case.world.rows(case.kept["prefix"], "index", "PartitionKey ge @first", first="")
    led = {row["Partition"] for row in index if row.get("Partition")}
    assert {row["PartitionKey"] for row in index if row["PartitionKey"].startswith(("jti:", "end:"))} <= led
    sessions = case.world.rows(case.kept["prefix"], "sessions", "PartitionKey ge @first", first="")
    assert {row["RowKey"] for row in sessions if "Tombstone" in row} <= {row.get("SessionId") for row in index}


def is_swept(case: Case) -> None:
    """Nothing is left but the session that slid on, and when that is over nothing at all."""

    def stored(name: str) -> list[dict[str, Any]]:
        return case.world.rows(case.kept["prefix"], name, "PartitionKey ge @first", first="")

    assert {(row["PartitionKey"], row["RowKey"]) for row in stored("sessions")} == {
        (case.people[0].account, key) for key in ("!", LEFT.slid)
    }
    (session,) = (row for row in stored("sessions") if row["RowKey"] == LEFT.slid)
    assert {(row["PartitionKey"], row["RowKey"]) for row in stored("index")} == {(key, LEFT.slid) for key in keys_of(session)}
    if case.faulted is NO_CALL:
        for hours in (20, 24):
            case.kept["act"](timedelta(hours=hours))
        assert (stored("sessions"), stored("index")) == ([], [])


def is_settled(case: Case, settled: Any) -> bool:
    """It claims nothing but what it has settled, which the rows show."""
    return isinstance(settled, int)


# -- the table


def nothing(case: Case) -> None:
    """The answer is all there is."""


BOTH = ("account", "session")
ALL = (*BOTH, "revoking")
MORE = ("revoking",) if FULL else ()
"""Where a way asks storage for little else than elsewhere."""


def signs_out(
    route: str, when: str, prepare: Callable[[Case], Act], done: Callable[[Case, Page], bool], *, apps: Iterable[str] = BOTH,
    again: Callable[[Case, Page], bool] | None = None, **more: Any,
) -> Way:  # fmt: skip
    """Who is said to be signed out has no row and no good cookie, nobody else is; repeated, it is so for certain."""
    return Way(
        route=route, when=when, apps=tuple(apps), prepare=prepare, acknowledged=done, holds=Case.is_gone, again=again or done,
        after=Case.is_gone_for_good, **more,
    )  # fmt: skip


def shows(route: str, when: str, prepare: Callable[[Case], Act], done: Callable[[Case, Page], bool]) -> Way:
    """Says what is true of the session, changes nothing, and says it again."""
    return Way(
        route=route, when=when, apps=("session",), prepare=prepare, acknowledged=done, holds=Case.is_gone, again=done,
        after=Case.is_gone_for_good,
    )  # fmt: skip


def signs_in(
    when: str, prepare: Callable[[Case], Act], *, apps: Iterable[str] = ("session",),
    done: Callable[[Case, Page], bool] = is_let_in, holds: Callable[[Case], None] = is_in,
) -> Way:  # fmt: skip
    """Who has a cookie has the one session; who has none begins anew and has one then, and signs out to nothing."""
    return Way(
        route="POST /auth/callback", when=when, apps=tuple(apps), prepare=prepare, acknowledged=done, holds=holds,
        again=is_let_in, after=comes_and_goes,
    )  # fmt: skip


TABLE: tuple[Way, ...] = (
    # What was carried out though nobody said so finds nobody signed in (401) or no such session (404) when it is asked again.
    signs_out("POST /auth/logout", "by the form", posts_logout, says(303), apps=ALL, refusal="not signed out yet"),
    signs_out("GET /auth/logout", "from a page of ours", navigates_to_logout, says(303), refusal="not signed out yet"),
    shows("GET /auth/logout", "from elsewhere", navigates_to_logout_from_elsewhere, says(200, "<form")),
    signs_out("DELETE /auth/sessions", "with two devices", signs_out_everywhere, says(200, '{"ended": 2}'),
              apps=("session", *MORE), again=one_of(200, 401)),
    signs_out("DELETE /auth/sessions/{id}", "another device", partial(ends_a_device, own=False, form=False),
              says(200, '{"ended": 1}'), apps=("session", *MORE), again=one_of(200, 404)),
    signs_out("DELETE /auth/sessions/{id}", "this device", partial(ends_a_device, own=True, form=False),
              says(200, '{"ended": 1}'), apps=("account",), again=one_of(200, 401)),
    signs_out("POST /auth/sessions/end", "all", signs_out_everywhere_by_form, says(303), apps=("account",),
              again=one_of(303, 401)),
    signs_out("POST /auth/sessions/end", "another device", partial(ends_a_device, own=False, form=True), says(303),
              apps=("account",), again=one_of(303, 404)),
    signs_out("POST /auth/sessions/end", "this device", partial(ends_a_device, own=True, form=True), says(303),
              apps=("session",), again=one_of(303, 401)),
    signs_out("GET /auth/frontchannel-logout", "with a session", framed, says(200)),
    # The sign-in that is under way still needs its index rows.
    signs_out("GET /auth/frontchannel-logout", "before the session is there", framed_before_the_session_is_there, says(200),
              tidy=False),
    # The last call records that the token has acted, when the sessions are gone: 503, and 400 where it was recorded after all.
    signs_out("POST /auth/backchannel-logout", "by sid", told_by_sid, says(200), again=one_of(200, 400), as_before=False),
    signs_out("POST /auth/backchannel-logout", "by sub", told_by_sub, says(200), apps=("session",), again=one_of(200, 400),
              as_before=False),
    signs_out("POST /auth/backchannel-logout", "by sid and sub", told_by_both, says(200), apps=("session",),
              again=one_of(200, 400), as_before=False),
    signs_out("POST /auth/admin/sign-out", "by account", administrator_by_account, says(200, '{"ended": 2}'),
              apps=("account", *MORE), again=says(200, "ended")),
    signs_out("POST /auth/admin/sign-out", "a guest by oid and tid", administrator_by_oid, says(200, '{"ended": 1}'),
              apps=("session",), again=says(200, "ended"), as_before=False),
    Way(route="POST /auth/admin/sign-out", when="a list of two", apps=("account",), prepare=administrator_by_list,
        acknowledged=says_what_became_of_each, holds=both_have_ended, again=says(200, "results"), after=Case.is_gone_for_good),
    signs_in("a member", arrives, apps=BOTH),
    signs_in("a guest", guest_arrives),
    signs_in("the same person again", arrives_again, holds=is_in_alone),
    signs_in("somebody else", arrives_as_somebody_else, holds=is_in_alone),
    signs_in("signed out meanwhile by the back channel", arrives_after_back_channel, done=says(409), holds=is_not_in),
    signs_in("signed out meanwhile by an administrator", arrives_after_administrator, done=says(409), holds=is_not_in),
    Way(route="GET /auth/login", when="a new browser", apps=("session",), holds=nothing, again=says(302), after=nothing,
        prepare=lambda case: lambda: UserAgent().open(f"{case.url}/auth/login", follow=False), acknowledged=says(302)),
    shows("GET /", "signed in", looks("/", page=True), says(200, "Signed in as")),
    shows("GET /", "signed out elsewhere", looks_after_sign_out("/", page=True), says(200, "You are not signed in")),
    shows("GET /auth/me", "signed in", looks("/auth/me"), says(200, "idle_expires_at")),
    shows("GET /auth/me", "when the idle limit slides", comes_back_when_the_idle_limit_slides, says(200, "idle_expires_at")),
    shows("GET /auth/me", "signed out elsewhere", looks_after_sign_out("/auth/me"), says(401, "not_signed_in")),
    shows("GET /auth/sessions", "signed in", looks("/auth/sessions"), says(200, '"this"')),
    shows("GET /auth/sessions", "signed out elsewhere", looks_after_sign_out("/auth/sessions"), says(401, "not_signed_in")),
    shows("GET /auth/logged-out", "still signed in", looks("/auth/logged-out", page=True),
          says(200, "You are still signed in here")),
    shows("GET /auth/logged-out", "signed out elsewhere", looks_after_sign_out("/auth/logged-out", page=True),
          says(200, "You are signed out in this browser")),
    Way(route="GET /api/profile", when="a token is due", apps=("session",), prepare=calls_graph, acknowledged=says(200),
        holds=Case.is_gone, again=has_tokens_again, after=is_signed_in_or_signs_in_again),
    signs_out("GET /api/profile", "the refresh token is dead", calls_graph_with_a_dead_refresh_token, says(401),
              apps=("session",)),
    Way(route="timer sweep", when="three hours later", apps=("session",), prepare=sweeps, acknowledged=is_settled,
        holds=is_still_led_to, again=is_settled, after=is_swept, seconds=sweep.TIME),
)  # fmt: skip
"""Every route that asks storage for anything; ``GET /health``, whose call is about nobody, has a test of its own."""


# -- trying it


PAIRS = (("503", "drop_before"), ("drop_after", "503_after"), ("429", "500"), ("503_after", "429"))


def few(number: int) -> Iterator[tuple[tuple[str, ...], int | None]]:
    """Two faults in turn for good; for some calls also until the app's third try, or one that keeps the app waiting."""
    yield PAIRS[number % 4], None
    if number % 8 == 0:
        yield PAIRS[number // 8 % 4], 2
    if number % 14 == 3:
        yield (SLOW[number // 14 % 6],), 1


def all_of_them(_: int) -> Iterator[tuple[tuple[str, ...], int | None]]:
    """Every fault, for good and for once; those that keep the app waiting take all of its time."""
    yield from (((fault,), times) for fault in QUICK for times in (None, 1))
    yield from (((fault,), 1) for fault in SLOW)


@pytest.fixture(scope="module")
def proxy(azurite: Azurite) -> Iterator[StorageProxy]:
    """Fails what the apps of this module ask."""
    with StorageProxy(azurite.connection_string) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def world(
    azurite: Azurite, provider: Provider, proxy: StorageProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Apps of both scopes, and one at whose provider a sign-out revokes, on storage that can be failed."""
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("faulty"))
    store = {
        "TOKEN_STORE": proxy.connection_string,
        "AzureWebJobs.sweep.Disabled": "true",  # the hosts' own timers would sweep between the cases
        "PYTHON_THREADPOOL_THREAD_COUNT": "128",  # half of them for those who wait with a refresh under way
    }
    transport = Transport(connection_timeout=5, read_timeout=30)  # the usual one takes more of the machine than all the rest
    with TableServiceClient.from_connection_string(azurite.connection_string, transport=transport) as storage:
        try:
            apps = {name: stack.start_app({**store, "SIGN_OUT_SCOPE": name}, backchannel=True) for name in BOTH}
            provider.switch(revocation_endpoint=True)
            apps["revoking"] = stack.start_app({**store, "SIGN_OUT_SCOPE": "account"}, backchannel=True)
            behind = {name: journey.built(app, TOKEN_STORE=azurite.connection_string) for name, app in apps.items()}
            yield World(apps=apps, behind=behind, provider=provider, proxy=proxy, storage=storage)
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def campaign(world: World, request: pytest.FixtureRequest) -> Campaign:
    """All cases of the ways that were chosen, tried beside each other."""
    world.provider.switch(access_token_ttl=60, frontchannel=False)  # every use of a token is a refresh
    for name in world.apps:
        with staged(world, name) as case:
            case.person().device_with_tokens()  # the first write makes the tables
    chosen = {item.callspec.params.get("way") for item in request.session.items if hasattr(item, "callspec")}
    return Campaign(world, all_of_them if FULL else few).run([way for way in TABLE if way in chosen])


@pytest.mark.timeout(7200 if FULL else 300)
@pytest.mark.parametrize("way", TABLE, ids=str)
def test_a_fault_at_any_storage_call_claims_nothing_and_a_retry_ends_clean(campaign: Campaign, way: Way) -> None:
    """The documented error, or what is said is so; and then nothing is left but what the sweep finds."""
    outcomes = campaign.of(way)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        pytest.fail("\n".join(f"{outcome.job}: {outcome.error!r}" for outcome in failed), pytrace=False)
    for app in way.apps:
        (healthy,) = (outcome for outcome in outcomes if outcome.job.app == app and not outcome.job.faults)
        met = defaultdict(set)
        for outcome in outcomes:
            if outcome.job.app == app and outcome.job.faults:
                met[outcome.job.call].update(outcome.job.faults)
        assert met.keys() == set(healthy.calls)
        assert all(len(faults) >= 2 for faults in met.values())


def test_every_case_met_the_faults_that_were_meant_for_it(campaign: Campaign, world: World) -> None:
    """No request to storage was nobody's: whatever a route asks was counted among its calls."""
    strangers = world.proxy.strangers()
    if strangers:  # a kind of key that ``Person`` does not know yet
        pytest.fail("\n".join(strangers), pytrace=False)
    slowest = max(campaign.outcomes, key=lambda outcome: outcome.seconds)
    print(f"{len(campaign.outcomes)} cases, the slowest {slowest.seconds:.1f} s: {slowest.job}")


@pytest.mark.timeout(7200 if FULL else 300)
def test_when_everything_is_over_the_sweep_leaves_nothing(campaign: Campaign, world: World) -> None:
    """After all these failures no row is left that no sweep finds."""
    assert campaign.outcomes
    for name, app in world.apps.items() if FULL else [("revoking", world.apps["revoking"])]:
        for hours in (20, 24, 28):
            world.behind[name].sweep.run(datetime.now(UTC) + timedelta(hours=hours))
        assert (app.entities("sessions"), app.entities("index")) == ([], [])


def test_the_table_has_every_route() -> None:
    """A route that is added to the app is added here."""
    import function_app

    routes = set()
    for function in function_app.app.get_functions():
        trigger = function.get_trigger()
        if trigger.type == "timerTrigger":
            routes.add(f"timer {function.get_function_name()}")
        else:
            routes |= {f"{getattr(method, 'value', method)} /{trigger.route.strip('/')}" for method in trigger.methods}
    # The callback's GET is for RESPONSE_MODE=query and goes the same way.
    assert routes == {way.route for way in TABLE} | {"GET /health", "GET /auth/callback"}


def test_storage_that_hangs_or_drips_is_given_up_in_time(world: World) -> None:
    """Five seconds an operation, fifteen a request, whatever is asked and whether nothing comes or a byte now and then."""

    def looked_and_left(fault: str, prepare: Callable[[Case], Act], limit: float) -> None:
        with staged(world, "account") as case:
            act = prepare(case)
            case.watch.fail(fault, times=None)
            began = time.monotonic()
            refused(act())
            assert time.monotonic() - began < limit
            case.watch.heal()
            assert act().status in (200, 303)

    def asked_for_health() -> None:
        began = time.monotonic()
        assert UserAgent().fetch(f"{world.apps['account'].url}/health").status == 503
        assert time.monotonic() - began < 8

    ways = [(looks("/auth/me"), 8), (posts_logout, 16), (arrives_twice, 16)]
    world.proxy.fail("hang", kind="other", times=None)
    with ThreadPoolExecutor(2 * len(ways) + 1) as pool:
        running = [pool.submit(looked_and_left, fault, *way) for way in ways for fault in ("hang", "drip")]
        for done in [*running, pool.submit(asked_for_health)]:
            done.result()
    world.proxy.reset()


def arrives_twice(case: Case) -> Act:
    """A sign-in that begins anew each time."""
    person, agent = case.person(), UserAgent()
    return lambda: person.arrive(agent, person.answer(agent))


def test_health_says_that_storage_is_down(world: World, proxy: StorageProxy) -> None:
    """503 with the name of what fails, and nothing secret; one failure is survived."""
    url = world.apps["account"].url
    for fault in QUICK if FULL else QUICK[::3]:
        proxy.reset()
        proxy.fail(fault, kind="other")
        assert UserAgent().fetch(f"{url}/health").status == 200
        proxy.fail(fault, kind="other", times=None)
        page = UserAgent().fetch(f"{url}/health")
        assert (page.status, page.json()) == (
            503,
            {"status": "unavailable", "storage": "storage_unavailable", "provider": "ok"},
        )
    proxy.reset()
    assert UserAgent().fetch(f"{url}/health").status == 200


@pytest.mark.parametrize("count", [1, 99, 100, 101, 350])
def test_any_number_of_sessions_ends(app: App, count: int) -> None:
    """More than a transaction holds: all of them go."""
    agent = journey.signed_in(app)
    account = journey.account_of(agent)
    copy_session(app, account, count - 1)
    assert len(sessions(app, account)) == count
    assert journey.logout(app, agent).status == 303
    assert sessions(app, account) == []


def test_a_sign_out_killed_between_two_batches_is_finished_by_the_next(stack: Stack, proxy: StorageProxy) -> None:
    """The requester's own row goes in the last batch: the cookie still authorises the second try."""
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
    agent = journey.signed_in(app)
    account, cookie = journey.account_of(agent), agent.cookies["session"].value
    copy_session(app, account, 249)
    proxy.fail("hang", kind="transaction", nth=2, times=None)

    def cut_short() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            journey.logout(app, agent)

    thread = threading.Thread(target=cut_short)
    thread.start()
    journey.until(lambda: len(sessions(app, account)) < 250)
    for process in app.processes:
        process.kill()
    thread.join()
    proxy.reset()
    assert 0 < len(sessions(app, account)) < 250
    names = ("TOKEN_STORE", "TOKEN_STORE_TABLE_PREFIX", "SEALING_KEYS", "CLIENT_ID")
    again = stack.start_app({name: app.settings[name] for name in names})
    page = UserAgent().request(
        "POST", f"{again.url}/auth/logout", initiator=f"{again.url}/", form={}, headers={"Cookie": f"session={cookie}"}
    )
    assert page.status == 303
    assert sessions(again, account) == []


def sessions(app: App, account: str) -> list[str]:
    return [key for key in journey.left(app, account)[0] if key != "!"]


def copy_session(app: App, account: str, count: int) -> None:
    """More sessions of the account, as other devices would have made them."""
    with app.tables() as service, service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + "sessions") as table:
        one = next(dict(e) for e in app.entities("sessions") if e["PartitionKey"] == account and e["RowKey"] != "!")
        for start in range(0, count, 90):
            table.submit_transaction(
                [("create", {**one, "RowKey": secrets.token_urlsafe(16)}) for _ in range(start, min(start + 90, count))]
            )
