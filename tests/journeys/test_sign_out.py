"""Signing out in every way it can come: what ends, what stays, and what the tables hold afterwards."""

import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from shared.web.cookies import SessionCookie
from tests.support.stack import App, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack


def cookie_of(agent: UserAgent) -> str:
    return next(cookie.value for cookie in agent.cookies.live() if cookie.name == "session")


def signed_in(app: App, agent: UserAgent) -> bool:
    return agent.fetch(f"{app.url}/auth/me").status == 200


def rows(app: App) -> list[tuple[str, str, str]]:
    return [
        (e["PartitionKey"], e["RowKey"], e.metadata["etag"]) for table in ("sessions", "index") for e in app.entities(table)
    ]


def left(app: App, account: str) -> tuple[list[str], list[str]]:
    """What the tables still hold of an account: rows of its partition, and index rows that name it."""
    sessions = [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account]
    return sessions, [e["PartitionKey"][:4] for e in app.entities("index") if e.get("Account") == account]


def devices(app: App, login: str, count: int) -> tuple[str, list[UserAgent]]:
    agents = [UserAgent() for _ in range(count)]
    for agent in agents:
        agent.sign_in(app.url, login)
    return agents[-1].fetch(f"{app.url}/auth/me").json()["account"], agents


def sid_of(app: App, login: str, stack: Stack, which: int = 0) -> str:
    sids = [
        session["clients"][app.client_id] for session in stack.provider.sessions(login) if app.client_id in session["clients"]
    ]
    return str(sids[which] if isinstance(sids[which], str) else sids[which]["sid"])


def logout(app: App, agent: UserAgent) -> Page:
    """The form of our own page, without following it to the provider."""
    return agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})


# -- the user's own


def test_scope_account_ends_every_device_and_nobody_else(stack: Stack) -> None:
    """Three devices of one user, one of another: after one click three cookies are dead and one lives; the tables are empty."""
    app = stack.start_app({"SIGN_OUT_SCOPE": "account"})
    account, agents = devices(app, "three", 3)
    _, (other,) = devices(app, "other", 1)
    page = agents[1].sign_out(app.url)
    assert "signed out" in page.text
    assert [signed_in(app, agent) for agent in (*agents, other)] == [False, False, False, True]
    assert left(app, account) == (["!"], ["exp:"])


def test_scope_session_ends_one_device(stack: Stack) -> None:
    """The user's other devices stay, and are as they were."""
    app = stack.start_app({"SIGN_OUT_SCOPE": "session"})
    stack.provider.switch(frontchannel=False)
    account, agents = devices(app, "three", 3)
    _, (other,) = devices(app, "other", 1)
    ended = SessionCookie.decode(cookie_of(agents[1]))
    agents[1].sign_out(app.url)
    assert [signed_in(app, agent) for agent in (*agents, other)] == [True, False, True, True]
    assert ended is not None
    sessions, _ = left(app, account)
    assert ended.session_id not in sessions
    assert len(sessions) == 3
    assert not any(e["RowKey"] == ended.session_id for e in app.entities("index"))


def test_the_provider_is_told_with_the_hint(app: App) -> None:
    """303 with everything that spares the user a question, and the cookie cleared."""
    agent = UserAgent()
    agent.sign_in(app.url, "hinted")
    page = logout(app, agent)
    url = urlsplit(page.header("location") or "")
    sent = parse_qs(url.query)
    assert page.status == 303
    assert sent["post_logout_redirect_uri"] == [f"{app.url}/auth/logged-out"]
    assert sent["client_id"] == [app.client_id]
    assert "state" in sent
    assert "id_token_hint" in sent  # Entra ID gets logout_hint, see tests/provider
    assert any("max-age=0" in cookie.lower() for cookie in page.set_cookies)
    assert not agent.cookies.live() or "session" not in agent.cookies


def test_twice_or_without_a_session_is_success(app: App) -> None:
    """There is nothing to do and nothing to complain about; no more is claimed than is true."""
    agent = UserAgent()
    agent.sign_in(app.url, "twice")
    value = cookie_of(agent)
    assert logout(app, agent).status == 303
    for cookie in (value, "nonsense", None):
        headers = {} if cookie is None else {"Cookie": f"session={cookie}"}
        page = UserAgent().request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={}, headers=headers)
        assert (page.status, page.header("location")) == (303, f"{app.url}/auth/logged-out")


@pytest.mark.parametrize(
    ("method", "initiator", "mode", "dest", "headers"),
    [
        ("POST", "https://evil.example/", "navigate", "document", {}),
        ("POST", "http://localhost:1/", "navigate", "document", {}),
        ("POST", None, "navigate", "document", {"Sec-Fetch-Site": ""}),
        ("POST", None, "navigate", "document", {"Sec-Fetch-Site": "", "Origin": "null"}),
        ("GET", "https://evil.example/", "navigate", "document", {}),
        ("GET", "https://evil.example/", "no-cors", "image", {}),
        ("GET", None, "navigate", "document", {}),
        ("GET", "SELF", "navigate", "document", {"Sec-Purpose": "prefetch"}),
        ("GET", "SELF", "no-cors", "image", {}),
        ("GET", "SELF", "navigate", "iframe", {}),
        ("PUT", "SELF", "cors", "empty", {}),
        ("DELETE", "SELF", "cors", "empty", {}),
        ("HEAD", "SELF", "navigate", "document", {}),
    ],
)  # fmt: skip
def test_nobody_else_can_sign_a_user_out(
    app: App, method: str, initiator: str | None, mode: str, dest: str, headers: dict[str, str]
) -> None:
    """Other sites, images, prefetches, wrong methods: everything is as it was."""
    agent = UserAgent()
    agent.sign_in(app.url, "untouchable")
    value = cookie_of(agent)
    before = rows(app)
    page = agent.request(
        method,
        f"{app.url}/auth/logout",
        initiator=f"{app.url}/" if initiator == "SELF" else initiator,
        mode=mode,
        dest=dest,
        headers={"Cookie": f"session={value}", **headers},
    )
    assert page.status in (200, 403, 404, 405), page.status
    assert page.set_cookies == []
    assert rows(app) == before
    assert signed_in(app, agent)


def test_a_link_of_our_own_signs_out_and_anybody_elses_asks(app: App) -> None:
    """GET: a same-origin navigation is the user's will; anything else shows one button, which works."""
    agent = UserAgent()
    agent.sign_in(app.url, "linked")
    page = agent.open(f"{app.url}/auth/logout", follow=False)
    assert (page.status, "Do you want to sign out?" in page.text) == (200, True)
    agent.open(f"{app.url}/auth/logout")
    agent.submit(action="/auth/logout")
    assert not signed_in(app, agent)
    agent.sign_in(app.url, "linked")
    page = agent.request("GET", f"{app.url}/auth/logout", initiator=f"{app.url}/")
    assert page.status == 303
    assert not signed_in(app, agent)


@pytest.mark.parametrize("query", ["", "?state=", "?state=replayed", "?state=" + "x" * 4000, "?state=%3Cscript%3E"])
def test_the_way_back_is_a_harmless_page(app: App, query: str) -> None:
    """Whatever state it comes with; and it does not say "signed out" to somebody who is signed in."""
    agent = UserAgent()
    page = agent.open(f"{app.url}/auth/logged-out{query}", follow=False)
    assert (page.status, "You are signed out in this browser" in page.text) == (200, True)
    agent.sign_in(app.url, "still-there")
    page = agent.open(f"{app.url}/auth/logged-out{query}", follow=False)
    assert (page.status, "still signed in" in page.text) == (200, True)
    assert signed_in(app, agent)


@pytest.mark.parametrize("fault", ["hang", "drop", "500"])
def test_a_provider_that_is_down_does_not_keep_anybody_signed_in(stack: Stack, fault: str) -> None:
    """The local sign-out is done before the provider matters."""
    app = stack.start_app()
    agent = UserAgent()
    agent.sign_in(app.url)
    stack.provider.switch(discovery=fault, token_endpoint=fault)
    page = logout(app, agent)
    assert page.status == 303
    assert not signed_in(app, agent)


def test_a_sign_in_that_began_before_the_sign_out_is_refused(app: App) -> None:
    """It was under way in another tab: the sign-out wins, and the user is asked to sign in again."""
    agent, slow = UserAgent(), UserAgent()
    agent.sign_in(app.url, "racing")
    account = agent.fetch(f"{app.url}/auth/me").json()["account"]
    page = slow.open(f"{app.url}/auth/login")
    logout(app, agent)
    page = slow.choose("racing")
    assert page.status == 409
    assert "signed_out_meanwhile" in page.text
    assert left(app, account) == (["!"], ["exp:"])
    page = slow.sign_in(app.url, "racing")
    assert page.status == 200
    assert signed_in(app, slow)


# -- front-channel


def frame(app: App, query: str, agent: UserAgent | None = None) -> Page:
    return (agent or UserAgent()).frame(f"{app.url}/auth/frontchannel-logout{query}", inside="http://127.0.0.1:1/")


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_sid_signs_out_without_any_cookie(stack: Stack, scope: str) -> None:
    """The provider's iframe: no cookie is sent and none is needed. The scope says how much goes."""
    app = stack.start_app({"SIGN_OUT_SCOPE": scope})
    account, agents = devices(app, f"front-{scope}", 2)
    sids = {sid_of(app, f"front-{scope}", stack, n) for n in range(2)}
    assert len(sids) == 2
    page = frame(app, f"?sid={sids.pop()}")
    assert page.status == 200
    assert [signed_in(app, agent) for agent in agents].count(True) == (0 if scope == "account" else 1)
    if scope == "account":
        assert left(app, account) == (["!"], ["exp:"])


QUERIES = [
    "", "?sid=", "?sid=unknown", "?iss=ISS", "?sid=SID&sid=SID", "?sid=SID&iss=https://evil.example", "?sid=SID&iss=ISS&iss=ISS", "?sid[]=SID", "?sid=SID%00", "?sid=%0d%0aSID",
    "?sid=" + "x" * 6000, "?sid=a/b%5Cc%23d%3Fe", "?sid=%FF", "?SID=SID", "?sid=SID'", "?sid=%27%20or%201%20eq%201",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_what_names_no_session_ends_none_and_answers_the_same(app: App, stack: Stack, query: str) -> None:
    """Wrong issuer, repeats, arrays, 6 KB, control characters, guesses: the same 200 byte for byte, everything as it was."""
    agent, login = UserAgent(), f"front-{secrets.token_hex(4)}"
    agent.sign_in(app.url, login)
    sid = sid_of(app, login, stack)
    before = rows(app)
    page = frame(app, query.replace("SID", sid).replace("ISS", stack.provider.issuer))
    assert rows(app) == before
    assert signed_in(app, agent)
    real = frame(app, f"?sid={sid}")
    assert not signed_in(app, agent)
    volatile = {"date"}
    assert (page.status, page.body) == (real.status, real.body) == (200, page.body)
    assert [(k.lower(), v) for k, v in page.headers if k.lower() not in volatile] == [
        (k.lower(), v) for k, v in real.headers if k.lower() not in volatile
    ]


def test_sid_with_the_right_issuer_signs_out(app: App, stack: Stack) -> None:
    """The specification says both or none; Entra ID sends ``sid`` alone."""
    agent = UserAgent()
    agent.sign_in(app.url, "front-both")
    assert frame(app, f"?iss={stack.provider.issuer}&sid={sid_of(app, 'front-both', stack)}").status == 200
    assert not signed_in(app, agent)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_front_channel_takes_get_alone(app: App, stack: Stack, method: str) -> None:
    """Anything else changes nothing."""
    agent, login = UserAgent(), f"front-{method}"
    agent.sign_in(app.url, login)
    page = UserAgent().request(
        method,
        f"{app.url}/auth/frontchannel-logout?sid={sid_of(app, login, stack)}",
        form={} if method != "HEAD" else None,
    )
    assert page.status == 404
    assert signed_in(app, agent)


def test_another_sessions_sid_clears_no_cookie_of_this_browser(stack: Stack) -> None:
    """The browser's own session stays, and so does its cookie; its own sid takes the cookie along."""
    app = stack.start_app()
    agent, other = UserAgent(), UserAgent()
    agent.sign_in(app.url, "front-own")
    other.sign_in(app.url, "front-other")
    value = {"Cookie": f"session={cookie_of(agent)}"}
    page = UserAgent().request(
        "GET", f"{app.url}/auth/frontchannel-logout?sid={sid_of(app, 'front-other', stack)}", headers=value
    )
    assert page.set_cookies == []
    assert (signed_in(app, agent), signed_in(app, other)) == (True, False)
    page = UserAgent().request(
        "GET", f"{app.url}/auth/frontchannel-logout?sid={sid_of(app, 'front-own', stack)}", headers=value
    )
    assert ["max-age=0" in cookie.lower() for cookie in page.set_cookies] == [True]


def test_only_the_provider_may_frame_the_answer(app: App, stack: Stack) -> None:
    """``frame-ancestors`` names it; there is no ``X-Frame-Options`` to contradict."""
    page = frame(app, "?sid=x")
    policy = page.header("content-security-policy") or ""
    ancestors = policy.partition("frame-ancestors ")[2].split(";")[0].split()
    assert stack.provider.browser in ancestors
    assert all(origin.startswith(("http://127.0.0.1:", "https://127.0.0.1:")) for origin in ancestors)
    assert page.header("x-frame-options") is None


def test_session_state_names_the_session_where_the_sid_claim_is_missing(stack: Stack) -> None:
    """Entra without the optional claim: the callback's ``session_state`` is indexed instead."""
    app = stack.start_app()
    stack.provider.switch(sid_claim=False)
    agent = UserAgent()
    agent.sign_in(app.url, "no-sid")
    assert frame(app, f"?sid={sid_of(app, 'no-sid', stack)}").status == 200
    assert not signed_in(app, agent)


def test_signing_out_in_another_app_signs_out_here(stack: Stack) -> None:
    """The whole way round: the provider's page, its hidden iframe, our tables."""
    app = stack.start_app()
    agent = UserAgent()
    agent.sign_in(app.url, "elsewhere")
    account = agent.fetch(f"{app.url}/auth/me").json()["account"]
    agent.open(f"{stack.provider.another_app}/sign-in")
    assert signed_in(app, agent)
    agent.open(f"{stack.provider.another_app}/sign-out")
    assert not signed_in(app, agent)
    assert left(app, account) == (["!"], ["exp:"])


# -- devices


def test_the_devices_are_listed_without_secrets(app: App) -> None:
    """Id, this one or not, times, browser and system in words."""
    login = f"lister-{secrets.token_hex(3)}"
    from tests.support.user_agent import FIREFOX

    first, second = UserAgent(), UserAgent(user_agent=FIREFOX)
    first.sign_in(app.url, login)
    second.sign_in(app.url, login)
    listed: list[dict[str, Any]] = first.fetch(f"{app.url}/auth/sessions").json()["sessions"]
    assert [(device["this"], device["device"]) for device in listed] == [
        (True, "Chrome on Linux"),
        (False, "Firefox on Windows"),
    ]
    assert all(set(device) == {"id", "this", "signed_in_at", "last_used_at", "expires_at", "device"} for device in listed)
    assert cookie_of(second).split(".")[2] not in str(listed)
    assert UserAgent().fetch(f"{app.url}/auth/sessions").status == 401


@pytest.mark.parametrize("scope", ["account", "session"])
def test_one_device_can_be_ended_whatever_the_scope(stack: Stack, scope: str) -> None:
    """That one alone; by script and by the home page's button."""
    app = stack.start_app({"SIGN_OUT_SCOPE": scope})
    _, (first, second, third) = devices(app, "ender", 3)
    ids = [cookie_of(agent).split(".")[1] for agent in (first, second, third)]
    assert first.fetch(f"{app.url}/auth/sessions/{ids[1]}", "DELETE").json() == {"ended": 1}
    assert [signed_in(app, agent) for agent in (first, second, third)] == [True, False, True]
    first.open(f"{app.url}/")
    first.submit(id=ids[2])
    assert [signed_in(app, agent) for agent in (first, third)] == [True, False]
    page = first.fetch(f"{app.url}/auth/sessions/{ids[0]}", "DELETE")
    assert any("max-age=0" in cookie.lower() for cookie in page.set_cookies)
    assert not signed_in(app, first)


def test_nobody_ends_somebody_elses_device(app: App) -> None:
    """An id of another user, or of nobody: 404, the same; from another site: 403."""
    agent, other = UserAgent(), UserAgent()
    agent.sign_in(app.url, "owner")
    other.sign_in(app.url, "stranger")
    theirs = cookie_of(agent).split(".")[1]
    assert other.fetch(f"{app.url}/auth/sessions/{theirs}", "DELETE").status == 404
    assert other.fetch(f"{app.url}/auth/sessions/{'A' * 22}", "DELETE").status == 404
    assert other.fetch(f"{app.url}/auth/sessions/!", "DELETE").status == 404
    assert (
        agent.request(
            "POST",
            f"{app.url}/auth/sessions/end",
            initiator="https://evil.example/",
            form={"all": "1"},
            headers={"Cookie": f"session={cookie_of(agent)}"},
        ).status
        == 403
    )
    assert signed_in(app, agent)


def test_everywhere_ends_all_devices(stack: Stack) -> None:
    """By script and by form, whatever the scope."""
    app = stack.start_app({"SIGN_OUT_SCOPE": "session"})
    account, agents = devices(app, "everywhere", 3)
    assert agents[0].fetch(f"{app.url}/auth/sessions", "DELETE").json() == {"ended": 3}
    assert not any(signed_in(app, agent) for agent in agents)
    assert left(app, account) == (["!"], ["exp:"])
    _, agents = devices(app, "everywhere", 2)
    agents[0].open(f"{app.url}/")
    page = agents[0].submit(all="all")
    assert "signed out" in page.text
    assert not any(signed_in(app, agent) for agent in agents)


@pytest.mark.parametrize("form", [{}, {"id": "x", "all": "1"}, [("id", "a"), ("id", "b")]], ids=str)
def test_a_form_that_makes_no_sense_ends_nothing(app: App, form: Any) -> None:
    """Neither, both or two: 400."""
    agent = UserAgent()
    agent.sign_in(app.url, "form")
    assert agent.request("POST", f"{app.url}/auth/sessions/end", initiator=f"{app.url}/", form=form).status == 400
    assert signed_in(app, agent)


def test_the_oldest_session_over_the_limit_ends(stack: Stack) -> None:
    """``SESSIONS_PER_ACCOUNT=2``: the third sign-in ends the first."""
    app = stack.start_app({"SESSIONS_PER_ACCOUNT": "2"})
    account, agents = devices(app, "limited", 3)
    assert [signed_in(app, agent) for agent in agents] == [False, True, True]
    assert len(left(app, account)[0]) == 3


# -- administrator


def admin(app: App, wish: Any, key: str = "k") -> Page:
    return UserAgent().request(
        "POST",
        f"{app.url}/auth/admin/sign-out",
        headers={"Content-Type": "application/json", "Accept": "application/json", "x-functions-key": key},
        body=wish if isinstance(wish, bytes) else json.dumps(wish).encode(),
    )


def test_an_administrator_signs_accounts_out(stack: Stack) -> None:
    """By account, by oid and tid, by a list; 0 where there was nothing; a sign-in under way is refused."""
    app = stack.start_app(options=["--function-key", "k", "--master-key", "m"])
    account, agents = devices(app, "administered", 2)
    user = agents[0].fetch(f"{app.url}/auth/me").json()
    assert admin(app, {"account": account}, key="wrong").status == 401
    slow = UserAgent()
    slow.open(f"{app.url}/auth/login")
    assert admin(app, {"account": account.upper()}).json() == {"ended": 2}
    assert not any(signed_in(app, agent) for agent in agents)
    assert slow.choose("administered").status == 409
    assert admin(app, {"account": account}).json() == {"ended": 0}
    _, agents = devices(app, "administered", 1)
    assert admin(app, [{"oid": user["oid"], "tid": user["tid"]}, {"account": "nobody.nowhere"}]).json() == {
        "ended": 1,
        "results": [{"ended": 1}, {"ended": 0}],
    }
    assert not signed_in(app, agents[0])


@pytest.mark.parametrize(
    "wish",
    [
        b"",
        b"x",
        {},
        [],
        {"account": ""},
        {"account": 1},
        {"oid": "x"},
        {"account": "a", "sub": "b"},
        [{"account": "a"}] * 21,
        [{"account": "a"}, {}],
        {"account": "x" * 2000},
        "a",
        {"sub": "a\u0000"},
    ],
    ids=lambda wish: str(wish)[:30],
)
def test_a_malformed_wish_ends_nothing(stack: Stack, app: App, wish: Any) -> None:
    """400 for the whole call, even when one entry of a list is good."""
    page = admin(app, wish)
    assert (page.status, page.json()["code"]) == (400, "invalid_request")


def test_a_guest_is_found_by_oid_and_tid(stack: Stack) -> None:
    """A guest's account is not ``oid.tid``: the index leads to it."""
    app = stack.start_app()
    stack.provider.user(
        "guest",
        uid="11111111-aaaa-4bbb-8ccc-000000000001",
        utid="11111111-aaaa-4bbb-8ccc-00000000home".replace("home", "0002"),
    )
    agent = UserAgent()
    agent.sign_in(app.url, "guest")
    user = agent.fetch(f"{app.url}/auth/me").json()
    assert user["account"] != f"{user['oid']}.{user['tid']}"
    assert admin(app, {"oid": user["oid"].upper(), "tid": user["tid"]}).json() == {"ended": 1}
    assert not signed_in(app, agent)


# -- revocation


def test_refresh_tokens_are_revoked_after_ones_own_sign_out_and_never_from_the_front_channel(stack: Stack) -> None:
    """Where the provider can: after the local deletion, for the user and the administrator; an unsigned request revokes nothing."""
    stack.provider.switch(revocation_endpoint=True, frontchannel=False)
    app = stack.start_app()
    _, agents = devices(app, "revoked", 2)
    with stack.provider.counting() as counted:
        logout(app, agents[0])
    assert counted["revocation"] == 2
    account, agents = devices(app, "revoked-admin", 1)
    with stack.provider.counting() as counted:
        assert admin(app, {"account": account}).json() == {"ended": 1}
    assert counted["revocation"] == 1
    _, agents = devices(app, "revoked-front", 1)
    with stack.provider.counting() as counted:
        assert frame(app, f"?sid={sid_of(app, 'revoked-front', stack)}").status == 200
    assert counted["revocation"] == 0
    assert not signed_in(app, agents[0])


@pytest.mark.parametrize("fault", ["hang", "500", "drop"])
def test_a_failed_revocation_delays_nobody(stack: Stack, fault: str) -> None:
    """Two seconds at most, its failure only logged: the sign-out is done."""
    stack.provider.switch(revocation_endpoint=True, revocation=fault)
    app = stack.start_app()
    _, (agent,) = devices(app, f"unrevoked-{fault}", 1)
    began = time.monotonic()
    assert logout(app, agent).status == 303
    assert time.monotonic() - began < 5
    assert not signed_in(app, agent)
