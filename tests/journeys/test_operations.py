"""Devices, administrators, the sweep, keys that rotate, revocation and records, on real processes."""

import itertools
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dev import stack as local
from dev.stack import ROOT, Azurite
from shared.store.index import end_key, jti_key
from shared.store.rows import Identity, secret_hash
from shared.store.sessions import NewSession
from tests.support.journey import (
    EMPTY,
    account_of,
    answer,
    at_once,
    built,
    cookie_of,
    edit,
    frame,
    left,
    live,
    logout,
    name,
    post,
    rows,
    send,
    sets_a_session,
    sid_of,
    signed_in,
    until,
)
from tests.support.stack import App, Provider, Stack
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_frames(provider: Provider) -> None:
    """Where the provider signs somebody out, no frame of its page does our work."""
    provider.switch(frontchannel=False)


@pytest.fixture(scope="module")
def proxy(azurite: Azurite) -> Iterator[StorageProxy]:
    """Counts and fails what ``back`` asks of storage."""
    with StorageProxy(azurite.connection_string) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def backed(
    azurite: Azurite, provider: Provider, proxy: StorageProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    """An app with scope ``session``, back-channel logout, a function key, and storage that can be counted and failed."""
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("operations"))
    yield stack.start_app(
        {"TOKEN_STORE": proxy.connection_string, "SIGN_OUT_SCOPE": "session"},
        backchannel=True,
        options=["--function-key", "k"],
    )
    stack.stop()


@pytest.fixture
def back(backed: App, proxy: StorageProxy, provider: Provider) -> Iterator[App]:
    """``backed``, with nothing counted and nothing failing."""
    provider.switch(backchannel_logout_supported=True)
    proxy.reset()
    yield backed
    proxy.reset()


# -- devices


def test_a_device_is_shown_as_last_used_when_its_idle_time_says_so(app: App) -> None:
    """The sliding limit less the idle time; one that has expired is none of the user's devices any more."""
    login = name()
    first, second, third = (signed_in(app, login) for _ in range(3))
    used = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=50)
    edit(app, second, CreatedAt=used - timedelta(hours=1), IdleExpiresAt=used + timedelta(minutes=60))
    edit(app, third, IdleExpiresAt=datetime.now(UTC) - timedelta(seconds=1))
    listed = first.fetch(f"{app.url}/auth/sessions").json()["sessions"]
    assert [device["id"] for device in listed] == [cookie_of(agent).session_id for agent in (first, second)]
    assert datetime.fromisoformat(listed[1]["last_used_at"]) == used
    assert datetime.fromisoformat(listed[1]["expires_at"]) == used + timedelta(minutes=60)
    page = first.open(f"{app.url}/")
    ids = [value for form in page.document.forms for _, value in [*form.fields.items(), *form.buttons]]
    assert cookie_of(second).session_id in ids
    assert cookie_of(third).session_id not in ids


def test_devices_are_ended_from_here_alone(app: App) -> None:
    """With the user's own cookie, from another site or from nowhere: 403, and everything is as it was."""
    agent = signed_in(app)
    cookie = {"Cookie": f"session={agent.cookies['session'].value}", "Accept": "application/json"}
    before = rows(app)
    for initiator, headers in (
        ("https://evil.example/", {}),
        (None, {"Sec-Fetch-Site": ""}),
        (None, {"Origin": "null", "Sec-Fetch-Site": ""}),
    ):
        for method, path in (("DELETE", ""), ("DELETE", f"/{cookie_of(agent).session_id}"), ("POST", "/end")):
            page = UserAgent().request(
                method, f"{app.url}/auth/sessions{path}", initiator=initiator, headers={**cookie, **headers},
                form={"all": "1"} if method == "POST" else None,
            )  # fmt: skip
            assert (page.status, page.set_cookies) == (403, [])
    assert rows(app) == before


def test_the_session_over_the_limit_goes_with_its_index_rows(stack: Stack) -> None:
    """``SESSIONS_PER_ACCOUNT=2``: what led to the oldest session leads nowhere; its front-channel ``sid`` ends nothing."""
    app = stack.start_app({"SESSIONS_PER_ACCOUNT": "2", "SIGN_OUT_SCOPE": "session"})
    login = name()
    first, second = (signed_in(app, login) for _ in range(2))
    sid, session_id = sid_of(app, first), cookie_of(first).session_id
    third = signed_in(app, login)
    assert not any(e["RowKey"] == session_id for table in ("sessions", "index") for e in app.entities(table))
    before = rows(app)
    assert frame(app, f"?sid={sid}").status == 200
    assert rows(app) == before
    assert [live(app, agent) for agent in (first, second, third)] == [False, True, True]


# -- administrator


def admin(app: App, wish: Any, query: str = "", **headers: str) -> Page:
    return UserAgent().request(
        "POST",
        f"{app.url}/auth/admin/sign-out{query}",
        headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
        body=json.dumps(wish).encode(),
    )


KEY = {"x-functions-key": "k"}


def test_without_the_key_nobody_is_an_administrator(back: App) -> None:
    """None, a wrong one, or the user's own cookie: 401 by the host, everything as it was; in the query the key counts, too."""
    agent = signed_in(back)
    wish = {"account": account_of(agent)}
    before = rows(back)
    for headers in ({}, {"x-functions-key": "K"}, {"Cookie": f"session={agent.cookies['session'].value}"}):
        page = admin(back, wish, **headers)
        assert (page.status, page.header("cache-control")) == (401, "no-store")
    assert admin(back, wish, "?code=wrong").status == 401
    assert rows(back) == before
    assert admin(back, wish, "?code=k").json() == {"ended": 1}
    assert not live(back, agent)


@pytest.mark.parametrize("by", ["account", "oid and tid", "oid and tid of a guest", "oid and tid from a B2C policy", "sub"])
def test_an_administrator_refuses_a_sign_in_of_somebody_without_sessions(back: App, provider: Provider, by: str) -> None:
    """There was nothing to end, and yet who was on the way in has to begin again; after that they may come in."""
    login = name()
    elsewhere = {"uid": f"{secrets.token_hex(4)}-aaaa-4bbb-8ccc-000000000001", "utid": "99999999-2222-4333-8444-555555555555"}
    user = provider.user(login, **(elsewhere if "guest" in by else {"uid": "-b2c_1_flow"} if "B2C" in by else {}))
    provider.switch(client_info=by != "sub")
    agent = UserAgent()
    fields = answer(agent, back, login)
    wish = {
        "account": {"account": f"{user['uid']}.{user['utid']}"},
        "sub": {"sub": user["sub"]},
    }.get(by, {"oid": user["oid"], "tid": user["tid"]})
    assert admin(back, wish, **KEY).json() == {"ended": 0}
    page = post(agent, back, fields)
    assert (page.status, "signed_out_meanwhile" in page.text, sets_a_session(page)) == (409, True, False)
    agent = signed_in(back, login)
    assert admin(back, wish, **KEY).json() == {"ended": 1}
    assert not live(back, agent)


def test_each_of_twenty_accounts_has_its_result(back: App, proxy: StorageProxy) -> None:
    """Twenty go; twenty-one, or one that is malformed among good ones, end nothing; one that fails leaves the others ended."""
    agents = [signed_in(back) for _ in range(3)]
    wishes: list[dict[str, str]] = [{"account": account_of(agent)} for agent in agents]
    nobody = [{"account": f"nobody-{n}.nowhere"} for n in range(18)]
    before = rows(back)
    for bad in ([*wishes, *nobody], [*wishes, {"account": ""}], [*wishes, {"oid": "x"}], {**wishes[0], "sub": "x"}):
        page = admin(back, bad, **KEY)
        assert (page.status, page.json()["code"]) == (400, "invalid_request")
    assert rows(back) == before
    proxy.fail("503", kind="transaction", table="sessions", nth=2, times=None)
    page = admin(back, wishes[:2], **KEY)
    proxy.reset()
    assert (page.status, page.json()) == (200, {"ended": 1, "results": [{"ended": 1}, {"error": "storage_unavailable"}]})
    assert [live(back, agent) for agent in agents] == [False, True, True]
    page = admin(back, [*wishes, *nobody[:17]], **KEY)
    assert page.json() == {"ended": 2, "results": [{"ended": 0}, {"ended": 1}, {"ended": 1}, *[{"ended": 0}] * 17]}
    assert not any(live(back, agent) for agent in agents)


def test_the_operators_command_shows_how_far_it_is(app: App, tmp_path: Path) -> None:
    """On a terminal a bar that grows to the last line of the file; what became of each account is on stdout alone."""
    pty = pytest.importorskip("pty", reason="a terminal is a Unix thing")
    agent = signed_in(app)
    names = [account_of(agent), *(f"nobody-{n}.nowhere" for n in range(40))]
    file = tmp_path / "accounts"
    file.write_text("\n".join(names))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shared.admin", "sign-out", str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **app.settings}, stdout=subprocess.PIPE, stderr=theirs
    ) as running:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux ends a terminal that nobody writes to any more with an error
            while some := os.read(ours, 65536):
                shown += some
        os.close(ours)
        said = running.communicate(timeout=30)[0].decode().splitlines()
    assert running.returncode == 0
    assert said == [f"{names[0]}: 1 ended", *(f"{one}: 0 ended" for one in names[1:])]
    assert [f"{n}/41".encode() in shown for n in (1, 20, 41)] == [True] * 3
    assert b"[" + b"#" * 30 + b"]" in shown
    assert not live(app, agent)


# -- sweep and keys


def new_session(account: str, now: datetime) -> NewSession:
    """A sign-in as the callback would insert it."""
    identity = Identity(
        issuer="https://op.example", sub=account, oid=None, tid=None, sid=secrets.token_hex(8), name="A", username="a", login_hint=None,
        home_account_id=account, user_agent="", issued_at=now.timestamp(), id_token=None,
    )  # fmt: skip
    return NewSession(
        account=account, secret_hash=secret_hash(secrets.token_urlsafe(32)), flow_started_at=now, auth_time=now, identity=identity,
        cache=b"{}", session_state=None, backchannel=True, had=(),
    )  # fmt: skip


def test_two_instances_sweep_at_once(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """Both timers fire together: what expired is gone with all that led to it, the living stay, and then there is silence."""
    app = stack.start_app(processes=2, backchannel=True)
    store = built(app)
    past = datetime.now(UTC) - timedelta(hours=5)
    for number in range(12):
        store.sessions.create(new_session(f"swept-{number % 8}.tenant", past), now=past)
    store.sessions.end_account("swept-0.tenant", now=past)
    store.sessions.end_session("swept-9.tenant", "A" * 22, now=past, pointed=True)
    index = store.sweep._index
    index.end(end_key("issuer", "sid", "s"), now=past, until=past)
    index.record_acted(jti_key("issuer", "j"), until=past)
    agent = signed_in(app)
    account = account_of(agent)

    def tick(url: str) -> int:
        headers = {"Content-Type": "application/json"}
        return UserAgent().request("POST", f"{url}/admin/functions/sweep", headers=headers, body=b"{}").status

    def strangers() -> list[str]:
        return [
            e["PartitionKey"]
            for table in ("sessions", "index")
            for e in app.entities(table)
            if account not in (e["PartitionKey"], e.get("Account"))
        ]

    assert len(strangers()) > 40
    assert at_once(*(lambda url=url: tick(url) for url in app.urls)) == [202, 202]
    until(lambda: strangers() == [])
    until(lambda: "swept" in app.logs())
    assert live(app, agent)
    assert "failed" not in app.logs()
    caplog.set_level("INFO")
    assert store.sweep.run(datetime.now(UTC)) == 0
    assert "swept" not in caplog.text
    assert live(app, agent)


def key_of(app: App, agent: UserAgent) -> str:
    cookie = cookie_of(agent)
    return next(
        str(e["KeyId"])
        for e in app.entities("sessions")
        if (e["PartitionKey"], e["RowKey"]) == (cookie.account, cookie.session_id)
    )


def test_sealing_keys_rotate_under_way(stack: Stack) -> None:
    """Four processes as a rotation leaves them side by side: each reads what its neighbours write, and writes with its first key.

    The new key goes last everywhere, then first, then the old one out.
    """
    provider = stack.provider
    old, new = local.sealing_key("old"), local.sealing_key("new")
    first = stack.start_app({"SEALING_KEYS": old})
    shared = {"CLIENT_ID": first.client_id, "TOKEN_STORE_TABLE_PREFIX": first.settings["TOKEN_STORE_TABLE_PREFIX"]}
    apps = [first] + [stack.start_app({**shared, "SEALING_KEYS": ring}) for ring in (f"{old},{new}", f"{new},{old}", new)]
    client = local.client(first.url, client_id=first.client_id)
    provider.register({**client, "redirect_uris": [f"{app.url}/auth/callback" for app in apps]})
    _, last_place, first_place, only_new = apps
    provider.switch(access_token_ttl=60)
    login = name()

    # Neighbours: a sign-in that one of them starts ends at the other, and each knows the other's sessions.
    people: list[UserAgent] = []
    for one, other in itertools.pairwise(apps):
        for here, there in ((one, other), (other, one)):
            agent = UserAgent()
            assert post(agent, there, answer(agent, here, login)).status == 303
            assert [live(app, agent) for app in (one, other)] == [True, True]
            people.append(agent)
    assert [key_of(first, agent) for agent in people] == ["old", "old", "new", "old", "new", "new"]

    # The next write of whoever has the new key first seals anew: a slide, a refresh.  The neighbour reads it.
    sliding, refreshing, resting = people[0], people[1], people[3]
    edit(first, sliding, IdleExpiresAt=datetime.now(UTC) + timedelta(minutes=30))
    assert live(last_place, sliding)
    assert key_of(first, sliding) == "old"
    edit(first, sliding, IdleExpiresAt=datetime.now(UTC) + timedelta(minutes=30))
    assert live(first_place, sliding)
    assert refreshing.fetch(f"{first_place.url}/api/profile").status == 200
    assert [key_of(first, agent) for agent in (sliding, refreshing, resting)] == ["new", "new", "old"]
    for agent in (sliding, refreshing):
        assert [live(app, agent) for app in (last_place, first_place, only_new)] == [True, True, True]
        assert agent.fetch(f"{only_new.url}/api/profile").status == 200  # the tokens open, too

    # Who is too far behind or ahead says 401 and leaves row and cookie alone; who has the key goes on.
    before = rows(first)
    for app, agent in ((first, sliding), (only_new, resting)):
        page = agent.fetch(f"{app.url}/auth/me")
        assert (page.status, page.set_cookies) == (401, [])
    assert rows(first) == before
    assert [live(first_place, agent) for agent in people] == [True] * 6
    # And a sign-out needs no key at all: who can no longer read the session ends it all the same.
    page = logout(first, sliding)
    assert (page.status, "session" in sliding.cookies) == (303, False)
    assert not any(live(first_place, agent) for agent in people[1:])
    assert left(first, account_of(resting)) == EMPTY


# -- revocation and records


def test_revocation_comes_after_the_deletion_and_by_request_of_the_user_alone(stack: Stack) -> None:
    """The rows are gone while the provider still thinks; its refusal is logged.

    A back-channel logout and a refused refresh token revoke nothing.
    """
    stack.provider.switch(revocation_endpoint=True)
    app = stack.start_app(backchannel=True)
    provider = stack.provider
    login = name()
    agents = [signed_in(app, login) for _ in range(4)]
    account = account_of(agents[0])
    provider.switch(revocation="slow", slow_seconds=1)

    def revoked(work: Callable[[], Any], *, keeps: int) -> int:
        """How many revocations ``work`` asks for; its rows are gone when the first one is asked."""
        with provider.counting() as counted, ThreadPoolExecutor(1) as pool:
            before = provider.counters()["revocation"]
            working = pool.submit(work)
            until(lambda: provider.counters()["revocation"] > before)
            assert len([key for key in left(app, account)[0] if key != "!"]) == keeps
            assert not working.done()
            assert working.result().status in (200, 303)
        return int(counted["revocation"])

    ended = cookie_of(agents[1]).session_id
    assert revoked(lambda: agents[0].fetch(f"{app.url}/auth/sessions/{ended}", "DELETE"), keeps=3) == 1
    provider.switch(slow_seconds=0.2)
    assert revoked(lambda: agents[0].fetch(f"{app.url}/auth/sessions", "DELETE"), keeps=0) == 3
    provider.switch(revocation="500")
    agent = signed_in(app, login)
    assert logout(app, agent).status == 303
    assert "refresh tokens were not revoked at the provider" in app.logs()
    provider.switch(revocation="ok")
    agent = signed_in(app, login)
    with provider.counting() as counted:
        assert send(app, provider.logout_token(client_id=app.client_id, sid=sid_of(app, agent))).status == 200
        assert not live(app, agent)
        provider.switch(access_token_ttl=60)
        agent = signed_in(app, login)
        provider.switch(token_refresh="400")
        assert agent.fetch(f"{app.url}/api/profile").status == 401
    assert counted["revocation"] == 0


def records(logs: str) -> list[dict[str, Any]]:
    """The audit's records in a host's log."""
    return [json.loads(line[line.index('{"event"') :]) for line in logs.splitlines() if '{"event"' in line]


def test_every_other_way_out_has_its_record_too(stack: Stack) -> None:
    """Front-channel, back-channel, everywhere, a dead refresh token: the same fields, the same account, no name in them."""
    app = stack.start_app(backchannel=True)
    provider, login = stack.provider, name()
    provider.switch(access_token_ttl=60)
    agent = signed_in(app, login)
    account = account_of(agent)
    frame(app, f"?sid={sid_of(app, agent)}")
    agent = signed_in(app, login)
    send(app, provider.logout_token(client_id=app.client_id, sid=sid_of(app, agent)))
    agent = signed_in(app, login)
    agent.fetch(f"{app.url}/auth/sessions", "DELETE")
    agent = signed_in(app, login)
    provider.switch(token_refresh="400")
    agent.fetch(f"{app.url}/api/profile")
    found = records(app.logs())
    ways = ["front_channel", "back_channel", "everywhere", "refresh_token_dead"]
    expected = [record for way in ways for record in (("sign_in", "callback", 0), ("sign_out", way, 1))]
    assert [(record["event"], record["cause"], record["sessions_ended"]) for record in found] == expected
    assert {frozenset(record) for record in found} == {
        frozenset({"event", "cause", "account", "sessions_ended", "storage_requests", "milliseconds"})
    }
    assert len({record["account"] for record in found}) == 1
    assert all(record["storage_requests"] > 0 and record["milliseconds"] >= 0 for record in found)
    assert account not in app.logs()
    assert login not in app.logs()
