"""Promises that no other journey keeps whole: what stays unchanged, what comes late, and what comes all at once.

Sign-in and session first, then the ways to sign out.  Where a promise has its main test elsewhere, this one looks at what
that one leaves open.
"""

import http.client
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from azure.data.tables import UpdateMode

from shared.app import App as Built
from shared.app import app_hash, build
from shared.flows.pending import Pending, PendingSeal
from shared.settings import load
from shared.store.rows import Claim, SessionRow, secret_hash
from shared.store.sealing import KeyRing
from shared.web.cookies import SessionCookie
from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import Cookie, Page, UserAgent

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_frames(provider: Provider) -> None:
    """Where the provider signs somebody out, no frame of its page does our work."""
    provider.switch(frontchannel=False)


# -- what the tests look at


def rows(app: App) -> list[tuple[str, str, str]]:
    """Every stored entity with its ETag: equal lists mean that nothing changed."""
    return [
        (e["PartitionKey"], e["RowKey"], e.metadata["etag"]) for table in ("sessions", "index") for e in app.entities(table)
    ]


def left(app: App, account: str) -> tuple[list[str], list[str]]:
    """What the tables still hold of an account: rows of its partition, and kinds of index rows that name it."""
    sessions = [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account]
    return sessions, [e["PartitionKey"].partition(":")[0] for e in app.entities("index") if e.get("Account") == account]


EMPTY = (["!"], ["exp"])
"""What is left of an account that was signed out."""


def name() -> str:
    return f"promised-{secrets.token_hex(4)}"


def signed_in(app: App, login: str | None = None, **parameters: str) -> UserAgent:
    agent = UserAgent()
    agent.sign_in(app.url, login or name(), **parameters)
    assert "session" in agent.cookies
    return agent


def live(app: App, agent: UserAgent) -> bool:
    return agent.fetch(f"{app.url}/auth/me").status == 200


def cookie_of(agent: UserAgent) -> SessionCookie:
    cookie = SessionCookie.decode(agent.cookies["session"].value)
    assert cookie is not None
    return cookie


def account_of(agent: UserAgent) -> str:
    return cookie_of(agent).account


def logout(app: App, agent: UserAgent) -> Page:
    return agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})


def built(app: App, **settings: str) -> Built:
    """The same app in this process, to look into its rows."""
    return build(load({**app.settings, **settings}))


def row_of(app: App, agent: UserAgent) -> SessionRow | None:
    """The stored session, opened."""
    cookie = cookie_of(agent)
    return built(app).sessions.read(
        Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))
    )


def edit(app: App, agent: UserAgent, **values: Any) -> None:
    """Changes the stored session behind the app's back."""
    cookie = cookie_of(agent)
    with app.tables() as service, service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + "sessions") as table:
        table.update_entity({"PartitionKey": cookie.account, "RowKey": cookie.session_id, **values}, mode=UpdateMode.MERGE)


def answer(agent: UserAgent, app: App, user: str, **parameters: str) -> dict[str, str]:
    """Signs in at the provider and keeps its answer: the fields of the form that it would post to the callback."""
    page = agent.open(f"{app.url}/auth/login?{urlencode(parameters)}", follow=False)
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
    return agent.request("POST", f"{app.url}/auth/callback", initiator="http://127.0.0.1:1/", form=fields, headers=headers)


def flow_cookie(agent: UserAgent) -> Cookie:
    return next(cookie for cookie in agent.cookies.live() if "signin-" in cookie.name)


def sets_a_session(page: Page) -> bool:
    return any(
        cookie.startswith(("session=", "__Secure-session=")) and "max-age=0" not in cookie.lower()
        for cookie in page.set_cookies
    )


def pending_seal(app: App) -> PendingSeal:
    settings = load(app.settings)
    return PendingSeal(KeyRing(settings.sealing_keys), app_hash(settings))


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """All of them, begun together."""
    barrier = threading.Barrier(len(acts))

    def begin(act: Callable[[], Any]) -> Any:
        barrier.wait()
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(begin, acts))


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
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("promises"))
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


# -- starting a sign-in

TRICKS = [
    "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example", "\r\n//evil.example", "/\n/evil.example", "/a\0", "https:evil.example",
    "https:/evil.example", "https://evil.example/", "javascript:alert(1)", "user@evil.example", "//user@evil.example", "／／evil.example", "/∕evil.example",
    "/%2Fevil.example", "/%252Fevil.example", "/%25252Fevil.example", "/%5Cevil.example", "/%09/evil.example", "/.//evil.example", "", "auth/me", "/auth/logout",
]  # fmt: skip


def test_no_return_address_leads_away(app: App) -> None:
    """What the start seals into the browser's cookie is a path of ours, whatever was asked for; 20 KB gets an answer, too."""
    seal = pending_seal(app)
    agent = UserAgent()
    queries = [urlencode({"return_to": trick}) for trick in TRICKS]
    queries += ["return_to=/a&return_to=/b", "return_to=/a&return_to=//evil.example", "return_to", "return_to=%FF%FE"]
    for query in queries:
        page = agent.open(f"{app.url}/auth/login?{query}", follow=False)
        (state,) = parse_qs(urlsplit(page.header("location") or "").query)["state"]
        value = next(cookie.value for cookie in agent.cookies.live() if cookie.name.endswith(state))
        pending = seal.open(state, value)
        assert pending is not None
        assert (page.status, pending.return_to) == (302, "/"), query
    page = agent.open(f"{app.url}/auth/login?return_to=/{'x' * 20_000}", follow=False)
    assert (page.status, page.set_cookies) == (414, [])


def raw(app: App, method: str, path: str, headers: Mapping[str, str], body: str = "") -> tuple[int, dict[str, str], str]:
    """A request with a ``Host`` of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(app.url).port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
    finally:
        connection.close()


def test_a_spoofed_host_is_no_origin_of_ours(app: App) -> None:
    """A change that says it comes from the spoofed host is refused; one from our origin is carried out and leads back to it."""
    agent = signed_in(app)
    evil = {
        "Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Original-Host": "evil.example",
        "Forwarded": "host=evil.example;proto=https", "Cookie": f"session={agent.cookies['session'].value}",
        "Content-Type": "application/x-www-form-urlencoded",
    }  # fmt: skip
    before = rows(app)
    for origin in ("http://evil.example", "https://evil.example"):
        status, headers, _ = raw(app, "POST", "/auth/logout", {**evil, "Origin": origin}, "a=b")
        assert (status, headers.get("set-cookie"), headers["cache-control"]) == (403, None, "no-store")
    assert rows(app) == before
    status, headers, page = raw(app, "GET", "/", {**evil, "Accept": "text/html"})
    assert (status, "evil" in page + str(headers)) == (200, False)
    status, headers, _ = raw(app, "POST", "/auth/logout", {**evil, "Origin": app.url}, "a=b")
    assert status == 303
    assert parse_qs(urlsplit(headers["location"]).query)["post_logout_redirect_uri"] == [f"{app.url}/auth/logged-out"]
    assert not live(app, agent)


# -- the callback


def test_a_refused_answer_leaves_everything_as_it_was(app: App, provider: Provider) -> None:
    """Whoever is signed in stays so: no row changes, no session cookie comes or goes, nobody asks for tokens."""
    victim = signed_in(app)
    session = victim.cookies["session"].value
    attacker, login = UserAgent(), name()
    theirs = answer(attacker, app, login)
    own = answer(victim, app, login)
    cookie = flow_cookie(victim)
    pair = f"session={session}; {cookie.name}={cookie.value}"
    other = f"session={session}; {cookie.name}={flow_cookie(attacker).value}"
    markup = "<img src=x onerror=alert(1)>"
    bad: list[tuple[Any, str]] = [
        ({k: v for k, v in own.items() if k != "state"}, pair),
        ({**own, "state": secrets.token_urlsafe(16)}, pair),
        (theirs, pair),
        (own, other),
        (own, f"session={session}"),
        (own, f"session={session}; {cookie.name}={cookie.value[:-2]}AA"),
        (own, f"{pair}; {cookie.name}={cookie.value}"),
        *(([*own.items(), (twice, own[twice])], pair) for twice in ("state", "code", "iss")),
        ({**own, "error": "access_denied"}, pair),
        ({"state": own["state"], "iss": own["iss"], "error": "access_denied", "error_description": markup}, pair),
        ({**own, "iss": "https://evil.example"}, pair),
        ({k: v for k, v in own.items() if k != "iss"}, pair),
    ]  # fmt: skip
    before = rows(app)
    with provider.counting() as counted:
        for fields, cookies in bad:
            page = post(UserAgent(), app, fields, Cookie=cookies)
            assert page.status == 400, (fields, page.text)
            assert page.header("cache-control") == "no-store"
            assert not any(header.startswith("session=") for header in page.set_cookies)
            assert not any(secret in page.text for secret in (own["code"], theirs["code"], own["state"], session, markup))
            assert rows(app) == before, fields
    assert counted["token"] == {"authorization_code": 0, "refresh_token": 0}
    assert live(app, victim)
    assert post(victim, app, own).status == 303  # and the sign-in that was meant still works


def test_each_claim_of_an_id_token_counts(app: App, provider: Provider) -> None:
    """Through the running product: another's ``azp``, a claim that is missing, a key that is not the one it names."""
    metadata = json.loads(
        UserAgent(bundle=str(provider.bundle)).open(f"{provider.issuer}/.well-known/openid-configuration").text
    )
    jwks = UserAgent(bundle=str(provider.bundle)).open(metadata["jwks_uri"]).json()
    current = jwks["keys"][0]["kid"]
    changes: list[dict[str, Any]] = [
        {"claims": {"azp": "somebody-else"}},
        {"claims": {"aud": ["somebody-else", "another"]}},
        *({"claims": {claim: None}} for claim in ("iss", "aud", "exp", "iat", "nonce")),
        {"key": "unknown", "header": {"kid": current}},
        {"key": "previous", "header": {"kid": current}},
    ]
    before = rows(app)
    for change in changes:
        agent = UserAgent()
        fields = answer(agent, app, "claimed")
        provider.switch(id_token=change)
        page = post(agent, app, fields)
        provider.switch(id_token=None)
        assert (page.status, "token_invalid" in page.text, sets_a_session(page)) == (400, True, False), change
        assert not any(value in page.text for value in (fields["code"], fields["state"]))
    assert rows(app) == before


def test_clocks_may_differ_by_five_minutes(app: App, provider: Provider) -> None:
    """The provider's clock and ours, and those of two instances between the start of a sign-in and its end."""
    now = int(time.time())
    for claims in ({"iat": now + 270}, {"nbf": now + 270}, {"exp": now - 270}):
        provider.switch(id_token={"claims": claims})
        assert live(app, signed_in(app))
    provider.switch(id_token=None)
    for age in (timedelta(minutes=-4, seconds=-30), timedelta(minutes=9, seconds=30)):
        agent = UserAgent()
        fields = answer(agent, app, name())
        seal, cookie = pending_seal(app), flow_cookie(agent)
        pending = seal.open(fields["state"], cookie.value)
        assert pending is not None
        moved = Pending(state=pending.state, flow=pending.flow, return_to="/", started_at=datetime.now(UTC) - age, had=None)
        cookie.value = seal.seal(moved)
        assert post(agent, app, fields).status == 303
        assert live(app, agent)


@pytest.mark.parametrize("kind", ["upsert", "list", "transaction"])
def test_storage_that_fails_after_the_exchange_leaves_nothing_half_written(back: App, proxy: StorageProxy, kind: str) -> None:
    """The code is spent, the session is not there: no cookie, no row that could be used, and the page says what to do."""
    agent, login = UserAgent(), name()
    fields = answer(agent, back, login)
    before = {e["RowKey"] for e in back.entities("sessions")}
    proxy.fail("503", kind=kind, times=None)
    page = post(agent, back, fields)
    proxy.reset()
    assert (page.status, page.header("retry-after"), page.header("cache-control")) == (503, "5", "no-store")
    assert page.set_cookies == []
    assert "Please try again" in page.document.text
    assert any(href.startswith("/") for _, href, _ in page.document.links), page.text
    new = [e for e in back.entities("sessions") if e["RowKey"] not in before]
    assert all("Tombstone" in e and "Identity" not in e for e in new)
    assert live(back, signed_in(back, login))


def test_two_callbacks_at_once_leave_one_session(app: App) -> None:
    """One answer sent twice at once, and two tabs of one browser that finish together: one row, one live cookie."""
    agent, login = UserAgent(), name()
    fields = answer(agent, app, login)
    cookie = flow_cookie(agent)
    doubled = at_once(*[lambda: post(UserAgent(), app, fields, Cookie=f"{cookie.name}={cookie.value}")] * 3)
    assert sorted(page.status for page in doubled) == [303, 400, 400]
    agent = UserAgent()
    for _ in range(5):
        tabs = [answer(agent, app, login, return_to=f"/?tab={n}") for n in range(2)]
        header = agent.cookies.header(f"{app.url}/auth/callback", cross_site=True, top_level_get=False) or ""
        pages = at_once(*(lambda tab=tab, header=header: post(UserAgent(), app, tab, Cookie=header) for tab in tabs))
        assert [page.status for page in pages] == [303, 303]
        values = [page.set_cookies[0].partition(";")[0] for page in pages]
        alive = [UserAgent().request("GET", f"{app.url}/auth/me", headers={"Cookie": value}).status for value in values]
        assert sorted(alive) == [200, 401]
        winner = SessionCookie.decode(values[alive.index(200)].removeprefix("session="))
        assert winner is not None
        agent.cookies.put(app.url, "session", winner.encode())
        # The doubled answer's session is of another browser, as the provider sees it.
        assert len([key for key in left(app, winner.account)[0] if key != "!"]) == 2
