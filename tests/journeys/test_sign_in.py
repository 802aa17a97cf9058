"""Signing in through the running product: what gets in, what does not, and that nothing is left of what did not."""

import http.client
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest

from shared.app import app_hash
from shared.flows.pending import Pending, PendingSeal
from shared.settings import load
from shared.store.sealing import KeyRing
from shared.web.cookies import SessionCookie
from tests.support.stack import App, Provider, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack


def start(agent: UserAgent, app: App, **parameters: str) -> tuple[str, dict[str, list[str]]]:
    """Starts a sign-in without following it: the provider's address and its parameters."""
    page = agent.open(f"{app.url}/auth/login?{urlencode(parameters)}", follow=False)
    assert page.status == 302, page.text
    location = page.header("location") or ""
    return location, parse_qs(urlsplit(location).query)


def answer(agent: UserAgent, app: App, user: str = "alice", **parameters: str) -> dict[str, str]:
    """Signs in at the provider and keeps its answer: the fields of the form that it would post to the callback."""
    location, _ = start(agent, app, **parameters)
    page = agent.open(location, follow=False)
    for _ in range(10):
        forms = [form for form in page.document.forms if form.action.endswith("/auth/callback")]
        if forms:
            return dict(forms[0].fields)
        if page.status in (302, 303):
            page = agent.open(urljoin(page.url, page.header("location") or ""), follow=False)
        else:
            page = agent.choose(user, follow=False)
    raise AssertionError(page.text)


def post(agent: UserAgent, app: App, fields: Any, **headers: str) -> Page:
    """Posts to the callback as the provider's page would: from another site."""
    return agent.request(
        "POST",
        f"{app.url}/auth/callback",
        initiator="http://127.0.0.1:1/",
        form=fields,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def rows(app: App) -> list[tuple[str, str, str]]:
    """Every stored entity with its ETag: equal lists mean that nothing changed."""
    return [
        (e["PartitionKey"], e["RowKey"], e.metadata["etag"]) for table in ("sessions", "index") for e in app.entities(table)
    ]


def sessions_of(app: App, agent: UserAgent) -> list[str]:
    account = agent.fetch(f"{app.url}/auth/me").json()["account"]
    return [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account and e["RowKey"] != "!"]


def refused(page: Page, status: int, code: str) -> None:
    """An error page with that code, no session, nothing stored by caches."""
    assert page.status == status, (page.status, page.text)
    assert code in page.text
    assert not any(
        "session=" in cookie and "Max-Age=0" not in cookie and "max-age=0" not in cookie for cookie in page.set_cookies
    )
    assert page.header("cache-control") == "no-store"


# -- starting


def test_a_thousand_starts_write_no_row(stack: Stack) -> None:
    """What a sign-in needs on its way lives in the browser: strangers cannot fill the tables."""
    app = stack.start_app()

    def starts() -> None:
        for _ in range(250):
            assert UserAgent().open(f"{app.url}/auth/login", follow=False).status == 302

    threads = [threading.Thread(target=starts) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(app) == []


def test_spoofed_hosts_change_nothing(app: App, agent: UserAgent) -> None:
    """Only the configured origin counts, whatever ``Host`` and ``X-Forwarded-*`` say."""
    evil = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example",
        "X-Original-URL": "/evil",
    }
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(app.url).port, timeout=10)
    connection.request("GET", "/auth/login", headers=evil)
    response = connection.getresponse()
    location = response.getheader("location") or ""
    connection.close()
    assert response.status == 302
    assert "evil" not in location + str(response.getheaders())
    assert parse_qs(urlsplit(location).query)["redirect_uri"] == [f"{app.url}/auth/callback"]


@pytest.mark.parametrize(
    ("method", "mode", "dest", "headers"),
    [
        ("HEAD", "navigate", "document", {}),
        ("GET", "navigate", "document", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", "navigate", "document", {"Purpose": "prefetch"}),
        ("GET", "no-cors", "image", {}),
        ("GET", "navigate", "iframe", {}),
        ("GET", "cors", "empty", {}),
    ],
)
def test_only_a_navigation_starts_a_sign_in(
    app: App, agent: UserAgent, method: str, mode: str, dest: str, headers: dict[str, str]
) -> None:
    """HEAD, prefetch, images, frames and scripts have no effect: no redirect, no cookie."""
    page = agent.request(method, f"{app.url}/auth/login", mode=mode, dest=dest, headers=headers)
    assert page.status in (400, 404)
    assert page.set_cookies == []


@pytest.mark.parametrize("return_to", ["/api/profile", "/?a=1&b=%20x#y"])
def test_a_sign_in_returns_to_where_it_began(app: App, return_to: str) -> None:
    """The page asked for, with query and fragment."""
    page = UserAgent().sign_in(app.url, "returning", return_to=return_to)
    assert page.history
    assert page.url == app.url + return_to


@pytest.mark.parametrize(
    "query",
    [
        "return_to=//evil.example",
        "return_to=https:evil.example",
        "return_to=%5C%5Cevil.example",
        "return_to=/%09/evil.example",
        "return_to=/a&return_to=/b",
        "return_to=",
        "return_to=" + "/x" * 2000,
        "return_to=%00",
        "return_to=%FF",
    ],
)
def test_a_sign_in_never_returns_elsewhere(app: App, agent: UserAgent, query: str) -> None:
    """Addresses that might lead away, repeated or endless ones: the start page, never a 500."""
    page = agent.open(f"{app.url}/auth/login?{query}")
    page = agent.choose("wanderer")
    assert page.url == f"{app.url}/"


@pytest.mark.parametrize(
    "query", ["prompt=evil", "prompt=login&prompt=none", "login_hint=" + "x" * 400, "login_hint=a%0d%0ab", "domain_hint=%00"]
)
def test_parameters_that_make_no_sense_are_refused(app: App, agent: UserAgent, query: str) -> None:
    """A clear 400, and no cookie."""
    page = agent.open(f"{app.url}/auth/login?{query}", follow=False)
    refused(page, 400, "invalid_request")


def test_hints_and_prompt_reach_the_provider(app: App, agent: UserAgent) -> None:
    """With PKCE, nonce, state and the app's own redirect URI."""
    _, sent = start(agent, app, prompt="select_account", login_hint="a@example.test", domain_hint="example.test")
    assert (sent["prompt"], sent["login_hint"], sent["domain_hint"]) == (
        ["select_account"],
        ["a@example.test"],
        ["example.test"],
    )
    assert sent["code_challenge_method"] == ["S256"]
    assert sent["response_mode"] == ["form_post"]
    assert {"nonce", "state", "code_challenge"} <= sent.keys()


def test_four_tabs_sign_in_at_once_and_a_fifth_drops_the_oldest(app: App) -> None:
    """Each tab comes back to its own page; the cookies stay small however many tabs there are."""
    agent = UserAgent()
    tabs = [answer(agent, app, "tabs", return_to=f"/?tab={n}") for n in range(5)]
    header = agent.cookies.header(f"{app.url}/auth/callback", cross_site=False, top_level_get=True) or ""
    assert header.count("signin-") == 4
    assert len(header) < 8000
    refused(post(agent, app, tabs[0]), 400, "sign_in_state_invalid")
    for n in (3, 1, 4, 2):
        page = post(agent, app, tabs[n])
        assert (page.status, page.header("location")) == (303, f"/?tab={n}")


# -- the callback: whose answer is it?


@pytest.mark.parametrize(
    "change",
    [{"state": None}, {"state": ""}, {"state": "x"}, {"state": "A" * 22}, {"state": "A" * 10_000}, {"state": "é\0'"}],
    ids=["none", "empty", "short", "unknown", "10 KB", "odd"],
)
def test_an_answer_to_no_sign_in_of_ours_is_refused(
    app: App, agent: UserAgent, provider: Provider, change: dict[str, str | None]
) -> None:
    """No state, an unknown or odd one: refused before the provider is asked, and nothing is stored."""
    before = rows(app)
    fields = {**answer(agent, app), **change}
    with provider.counting() as counted:
        refused(post(agent, app, {k: v for k, v in fields.items() if v is not None}), 400, "sign_in_state_invalid")
    assert counted["token"]["authorization_code"] == 0
    assert rows(app) == before


def test_another_browsers_answer_is_refused(app: App, provider: Provider) -> None:
    """Login CSRF: a victim's browser does not take the attacker's answer."""
    attacker, victim = UserAgent(), UserAgent()
    fields = answer(attacker, app)
    answer(victim, app)
    with provider.counting() as counted:
        refused(post(victim, app, fields), 400, "sign_in_state_invalid")
    assert counted["token"]["authorization_code"] == 0


def test_an_answer_works_once(app: App) -> None:
    """A replayed answer is refused, with and without its cookie; the session stands."""
    agent = UserAgent()
    fields = answer(agent, app, "replayer")
    cookie = flow_cookie(agent)
    kept = f"{cookie.name}={cookie.value}"
    assert post(agent, app, fields).status == 303
    refused(post(agent, app, fields), 400, "sign_in_state_invalid")
    refused(post(agent, app, fields, Cookie=kept), 400, "code_refused")
    assert len(sessions_of(app, agent)) == 1


def flow_cookie(agent: UserAgent) -> Any:
    return next(cookie for cookie in agent.cookies.live() if "signin-" in cookie.name)


@pytest.mark.parametrize(
    "tampered",
    [
        lambda v: v[:-1] + ("A" if v[-1] != "A" else "B"),
        lambda v: v.partition(".")[2],
        lambda v: "other." + v.partition(".")[2],
        lambda v: v[: len(v) // 2],
        lambda v: "x",
    ],
    ids=["bit", "no key id", "other key id", "cut", "nothing"],
)
def test_a_tampered_flow_cookie_is_refused(app: App, tampered: Any) -> None:
    """The seal is checked: state, PKCE verifier, return path and start time are as we wrote them."""
    agent = UserAgent()
    fields = answer(agent, app)
    cookie = flow_cookie(agent)
    cookie.value = tampered(cookie.value)
    refused(post(agent, app, fields), 400, "sign_in_state_invalid")


def test_a_flow_cookie_of_another_sign_in_is_refused(app: App) -> None:
    """A sealed value moved to another state's cookie does not open."""
    agent = UserAgent()
    answer(agent, app)
    other = flow_cookie(agent).value
    fresh = UserAgent()
    fields = answer(fresh, app)
    flow_cookie(fresh).value = other
    refused(post(fresh, app, fields), 400, "sign_in_state_invalid")


def test_two_copies_of_the_flow_cookie_are_refused(app: App) -> None:
    """Which of them is ours cannot be told."""
    agent = UserAgent()
    fields = answer(agent, app)
    cookie = flow_cookie(agent)
    refused(
        post(agent, app, fields, Cookie=f"{cookie.name}={cookie.value}; {cookie.name}={cookie.value}"),
        400,
        "sign_in_state_invalid",
    )


@pytest.mark.parametrize("age", [timedelta(minutes=11), timedelta(minutes=-6)], ids=["too old", "from the future"])
def test_a_sign_in_that_took_too_long_is_refused(app: App, age: timedelta) -> None:
    """Ten minutes, by the time sealed in the cookie."""
    agent = UserAgent()
    fields = answer(agent, app)
    settings = load(app.settings)
    seal = PendingSeal(KeyRing(settings.sealing_keys), app_hash(settings))
    cookie = flow_cookie(agent)
    pending = seal.open(fields["state"], cookie.value)
    assert pending is not None
    moved = Pending(state=pending.state, flow=pending.flow, return_to="/", started_at=datetime.now(UTC) - age, had=())
    cookie.value = seal.seal(moved)
    refused(post(agent, app, fields), 400, "sign_in_state_invalid")


@pytest.mark.parametrize("name", ["state", "code", "iss"])
def test_duplicate_parameters_are_refused(app: App, agent: UserAgent, provider: Provider, name: str) -> None:
    """Two values for one parameter: nobody guesses which."""
    fields = answer(agent, app)
    with provider.counting() as counted:
        refused(post(agent, app, [*fields.items(), (name, fields[name])]), 400, "invalid_request")
    assert counted["token"]["authorization_code"] == 0


def test_code_and_error_together_are_refused(app: App, agent: UserAgent) -> None:
    """An answer is one or the other."""
    refused(post(agent, app, {**answer(agent, app), "error": "access_denied"}), 400, "invalid_request")


def test_the_providers_error_text_is_not_shown(app: App, agent: UserAgent) -> None:
    """``error_description`` comes with the request: markup in it reaches no page and no log."""
    fields = answer(agent, app)
    markup = "<script>alert(1)</script>"
    page = post(
        agent,
        app,
        {"state": fields["state"], "iss": fields["iss"], "error": "access_denied" + markup, "error_description": markup},
    )
    refused(page, 400, "sign_in_refused")
    assert "alert(1)" not in page.text + app.logs()


@pytest.mark.parametrize("iss", ["https://evil.example/v2.0", "", None], ids=["wrong", "empty", "missing though promised"])
def test_a_wrong_iss_is_refused_before_any_token_request(
    app: App, agent: UserAgent, provider: Provider, iss: str | None
) -> None:
    """RFC 9207: a mixed-up provider does not get the code."""
    fields = {**answer(agent, app), "iss": iss}
    with provider.counting() as counted:
        refused(post(agent, app, {k: v for k, v in fields.items() if v is not None}), 400, "token_invalid")
    assert counted["token"]["authorization_code"] == 0


def test_the_other_method_answers_405(app: App, agent: UserAgent) -> None:
    """``form_post`` keeps the code out of URLs: a GET is not taken."""
    fields = answer(agent, app)
    page = agent.open(f"{app.url}/auth/callback?{urlencode(fields)}", follow=False)
    refused(page, 405, "method_not_allowed")
    assert post(agent, app, fields).status == 303


def test_response_mode_query_works_and_refuses_post(stack: Stack) -> None:
    """``RESPONSE_MODE=query``: GET is the callback, POST answers 405."""
    app = stack.start_app({"RESPONSE_MODE": "query"})
    agent = UserAgent()
    page = agent.sign_in(app.url, "alice")
    assert "Alice" in page.text
    assert agent.fetch(f"{app.url}/auth/me").status == 200
    refused(post(UserAgent(), app, {"state": "A" * 22, "code": "x"}), 405, "method_not_allowed")


def test_a_chunked_callback_gets_411(app: App) -> None:
    """The host drops chunked bodies; the answer says so."""
    page = UserAgent().request(
        "POST",
        f"{app.url}/auth/callback",
        headers={"Transfer-Encoding": "chunked", "Content-Type": "application/x-www-form-urlencoded"},
        body=b"5\r\na=b&c\r\n0\r\n\r\n",
    )
    assert page.status == 411, page.text
    assert "length_required" in page.text


# -- the callback: is it true?


@pytest.mark.parametrize(
    ("switches", "status", "code"),
    [
        ({"token_endpoint": "400"}, 400, "code_refused"),
        ({"token_endpoint": "500"}, 502, "provider_failed"),
        ({"token_endpoint": "html"}, 502, "provider_failed"),
        ({"token_endpoint": "drop"}, 503, "provider_unavailable"),
        ({"token_endpoint": "big"}, 502, "provider_failed"),
        ({"omit_id_token": True}, 502, "provider_failed"),
        ({"id_token": {"key": "none"}}, 400, "token_invalid"),
        ({"id_token": {"key": "hmac"}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"aud": "somebody-else"}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"iss": "https://evil.example"}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"nonce": "another"}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"exp": 1}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"nbf": 4_000_000_000}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"iat": 4_000_000_000}}}, 400, "token_invalid"),
        ({"id_token": {"claims": {"sub": None}}}, 400, "token_invalid"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_an_answer_that_is_not_true_signs_nobody_in(
    app: App, provider: Provider, switches: dict[str, Any], status: int, code: str
) -> None:
    """Whatever is wrong at the token endpoint or in the ID token: an error page, no cookie, nothing written."""
    agent = UserAgent()
    before = rows(app)
    fields = answer(agent, app)
    provider.switch(**switches)
    refused(post(agent, app, fields), status, code)
    assert rows(app) == before
    assert agent.fetch(f"{app.url}/auth/me").status == 401


def test_an_unknown_signing_key_signs_nobody_in(app: App, provider: Provider) -> None:
    """Refused, or "try again" while the keys may not be fetched anew; in either case nothing is written."""
    agent = UserAgent()
    before = rows(app)
    fields = answer(agent, app)
    provider.switch(id_token={"key": "unknown"})
    page = post(agent, app, fields)
    assert (page.status, any(code in page.text for code in ("token_invalid", "provider_unavailable"))) in (
        (400, True),
        (503, True),
    )
    assert rows(app) == before
    assert agent.fetch(f"{app.url}/auth/me").status == 401


def test_no_refresh_token_still_signs_in(app: App, provider: Provider) -> None:
    """The session works until its access token ends."""
    provider.switch(omit_refresh_token=True)
    agent = UserAgent()
    agent.sign_in(app.url, "no-refresh")
    assert agent.fetch(f"{app.url}/api/profile").status == 200


# -- what a sign-in makes and ends


def test_a_planted_cookie_is_never_reused(app: App) -> None:
    """The session id is always new: what an attacker put into the browser before is worth nothing after."""
    agent = UserAgent()
    agent.sign_in(app.url, "fixated")
    first = agent.cookies[app.settings.get("SESSION_COOKIE_NAME", "session")].value
    agent.sign_in(app.url, "fixated")
    second = agent.cookies[app.settings.get("SESSION_COOKIE_NAME", "session")].value
    assert first.split(".")[1] != second.split(".")[1]
    thief = UserAgent()
    thief.cookies.put(app.url, "session", first)
    assert thief.fetch(f"{app.url}/auth/me").status == 401
    assert len(sessions_of(app, agent)) == 1


def test_signing_in_as_somebody_else_ends_the_session_before(app: App, provider: Provider) -> None:
    """A browser has one session: the other account's is gone from the tables, its other devices are not."""
    provider.switch(frontchannel=False)  # else the provider's own sign-out of the first user would do it
    agent, device = UserAgent(), UserAgent()
    device.sign_in(app.url, "switcher-1")
    agent.sign_in(app.url, "switcher-1")
    assert len(sessions_of(app, device)) == 2
    agent.open(f"{app.url}/auth/login?prompt=login")
    agent.choose("switcher-2")
    assert agent.fetch(f"{app.url}/auth/me").json()["name"] != device.fetch(f"{app.url}/auth/me").json()["name"]
    assert len(sessions_of(app, device)) == 1


def test_two_callbacks_at_once_make_one_session(app: App) -> None:
    """A double click at the wrong moment: one of them wins."""
    agent = UserAgent()
    fields = answer(agent, app, "doubled")
    cookie = flow_cookie(agent)
    pages: list[Page] = []

    def callback() -> None:
        pages.append(post(UserAgent(), app, fields, Cookie=f"{cookie.name}={cookie.value}"))

    threads = [threading.Thread(target=callback) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(page.status for page in pages)[:1] == [303]
    assert [page.status for page in pages].count(303) == 1


SUBJECTS = [
    "a/b\\c#d?e",
    "x" * 500,
    "Case",
    "cASE",
    "日本語",
    "a'b\"c",
    "-lead",
    ".lead",
    " ",
    "a b",
    "%2F",
    "~",
    "\t",
    "été",
    "🦊",
]


@pytest.mark.parametrize("client_info", [True, False])
def test_any_subject_signs_in_and_out_again(stack: Stack, client_info: bool) -> None:
    """Slashes, control characters, case, length, script: each is one person, and all of theirs goes."""
    app = stack.start_app()
    stack.provider.switch(client_info=client_info)
    accounts = set()
    for number, sub in enumerate(SUBJECTS):
        login = f"odd-{client_info}-{number}"
        stack.provider.user(login, sub=sub, **({} if client_info else {"oid": None, "tid": None}))
        agent = UserAgent()
        agent.sign_in(app.url, login)
        me = agent.fetch(f"{app.url}/auth/me")
        assert me.status == 200, (sub, me.text, app.logs()[-800:])
        accounts.add(me.json()["account"])
        agent.sign_out(app.url)
        assert agent.fetch(f"{app.url}/auth/me").status == 401
    assert len(accounts) == len(SUBJECTS)
    assert {e["RowKey"] for e in app.entities("sessions")} == {"!"}


def test_a_token_with_many_groups_and_a_large_access_token_is_kept(app: App, provider: Provider) -> None:
    """200 groups and an access token of 60 KB: stored in parts, used, and gone after the sign-out, whose URL stays short."""
    groups = [f"{n:08d}-aaaa-4bbb-8ccc-dddddddddddd" for n in range(200)]
    provider.switch(access_token_bytes=60_000, id_token={"claims": {"groups": groups}})
    agent = UserAgent()
    agent.sign_in(app.url, "grouped")
    account = agent.fetch(f"{app.url}/auth/me").json()["account"]
    stored = [e for e in app.entities("sessions") if e["PartitionKey"] == account and e["RowKey"] != "!"]
    assert [name for name in stored[0] if name.startswith("Cache") and name != "CacheParts"] >= ["Cache0", "Cache1"]
    page = agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})
    assert page.status == 303
    assert len(page.header("location") or "") < 2000
    assert [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account] == ["!"]


def test_every_cookie_survives_the_host_byte_for_byte(app: App) -> None:
    """On the wire: the value as we wrote it, nothing percent-encoded, every attribute there."""
    agent = UserAgent()
    page = agent.open(f"{app.url}/auth/login", follow=False)
    (flow,) = page.set_cookies
    unfinished, _, rest = flow.partition("=")
    value, _, attributes = rest.partition("; ")
    assert unfinished.startswith("__Secure-signin-")
    assert "%" not in value
    assert attributes == "max-age=600; domain=; path=/auth; secure; samesite=none; httponly"
    page = post(agent, app, answer(agent, app))
    session, cleared = page.set_cookies
    name, _, rest = session.partition("=")
    value, _, attributes = rest.partition("; ")
    cookie = SessionCookie.decode(value)
    assert cookie is not None
    assert (name, cookie.encode(), attributes) == ("session", value, "domain=; path=/; secure; samesite=lax; httponly")
    assert cleared.partition("; ")[2] == "max-age=0; domain=; path=/auth; secure; samesite=none; httponly"
    page = agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})
    assert page.set_cookies == [
        "session=; max-age=0; domain=; path=/; secure; samesite=lax; httponly",
        f"{unfinished}=; max-age=0; domain=; path=/auth; secure; samesite=none; httponly",
    ]
