"""Promises that no other journey keeps whole: what stays unchanged, what comes late, and what comes all at once.

Sign-in and session first, then the ways to sign out.  Where a promise has its main test elsewhere, this one looks at what
that one leaves open.
"""

import base64
import http.client
import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from dev.stack import Azurite
from shared.app import app_hash
from shared.flows.pending import Pending, PendingSeal
from shared.settings import load
from shared.store.rows import CACHE_LIMIT
from shared.store.sealing import KeyRing
from shared.web.cookies import SessionCookie
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
    row_of,
    rows,
    send,
    sets_a_session,
    sid_of,
    signed_in,
    until,
)
from tests.support.stack import App, Provider, Stack
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import Cookie, UserAgent

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_frames(provider: Provider) -> None:
    """Where the provider signs somebody out, no frame of its page does our work."""
    provider.switch(frontchannel=False)


def flow_cookie(agent: UserAgent) -> Cookie:
    return next(cookie for cookie in agent.cookies.live() if "signin-" in cookie.name)


def pending_seal(app: App) -> PendingSeal:
    settings = load(app.settings)
    return PendingSeal(KeyRing(settings.sealing_keys), app_hash(settings))


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
        moved = Pending(state=pending.state, flow=pending.flow, return_to="/", started_at=datetime.now(UTC) - age, had=())
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


# -- a session in use


def test_a_cache_near_a_megabyte_is_kept_and_used(app: App, provider: Provider) -> None:
    """A hundred access tokens up to the cap: read, refreshed, written back without the oldest of them, and gone at last."""
    agent = signed_in(app)
    row = row_of(app, agent)
    assert row is not None
    cache = json.loads(row.cache)
    (key, token), refresh = next(iter(cache["AccessToken"].items())), cache["RefreshToken"]
    entry = {**token, "expires_on": str(int(time.time()) + 3600)}
    each = (CACHE_LIMIT - len(row.cache)) // 100 - len(
        json.dumps({key + "-99": {**entry, "secret": "", "target": "scope-99"}})
    )
    cache["AccessToken"] = {
        f"{key}-{n}": {**entry, "target": f"scope-{n}", "secret": secrets.token_hex(each // 2)} for n in range(100)
    }
    large = json.dumps(cache, separators=(",", ":")).encode()
    assert 0.97 * CACHE_LIMIT < len(large) <= CACHE_LIMIT
    store = built(app).sessions
    leased = store.take_lease(row, now=datetime.now(UTC))
    assert leased is not None
    store.write_tokens(leased, large)
    provider.switch(access_token_bytes=7000)
    with provider.counting() as counted:
        assert [agent.fetch(f"{app.url}/api/profile").status for _ in range(2)] == [200, 200]
    assert counted["token"]["refresh_token"] == 1
    after = row_of(app, agent)
    assert after is not None
    kept = json.loads(after.cache)
    assert len(after.cache) <= CACHE_LIMIT
    assert 90 < len(kept["AccessToken"]) <= 101
    assert len(kept["RefreshToken"]) == len(refresh) == 1
    assert logout(app, agent).status == 303
    assert left(app, after.account) == EMPTY


def test_a_guess_costs_one_point_read_and_learns_nothing(back: App, proxy: StorageProxy) -> None:
    """A wrong secret, an id of nobody, an account of nobody: the same answer for the same one read, never a scan or a write."""
    agent = signed_in(back)
    good = cookie_of(agent)
    guesses = [
        SessionCookie(account=good.account, session_id=good.session_id, secret=secrets.token_urlsafe(32)),
        SessionCookie(account=good.account, session_id=secrets.token_urlsafe(16), secret=good.secret),
        SessionCookie(account="nobody.nowhere", session_id=good.session_id, secret=good.secret),
    ]
    answers = set()
    for guess in guesses:
        proxy.reset()
        page = UserAgent().request("GET", f"{back.url}/auth/me", headers={"Cookie": f"session={guess.encode()}"})
        assert proxy.counts() == {"read sessions": 1}
        headers = sorted((k.lower(), v) for k, v in page.headers if k.lower() != "date")
        answers.add((page.status, page.body, str(headers)))
    assert len(answers) == 1
    proxy.reset()
    for nothing in ("", "x" * 10_000, "a'b", good.encode().upper()):
        UserAgent().request("GET", f"{back.url}/auth/me", headers={"Cookie": f"session={nothing}"})
    assert proxy.counts() == {}
    assert live(back, agent)


@pytest.mark.parametrize("changed", [{"KeyId": "newer"}, {"V": 99}, {"App": "somebody-elses"}], ids=str)
def test_what_a_newer_release_wrote_is_not_touched(app: App, changed: dict[str, Any]) -> None:
    """Byte for byte, on every route that looks at a session; and the cookie stays in the browser."""
    agent = signed_in(app)
    edit(app, agent, **changed)
    before = rows(app)
    for path in ("/auth/me", "/auth/sessions", "/api/profile", "/"):
        page = agent.fetch(f"{app.url}{path}")
        assert (page.status, page.set_cookies) == (200 if path == "/" else 401, [])
    assert agent.fetch(f"{app.url}/auth/sessions/{cookie_of(agent).session_id}", "DELETE").status == 401
    assert rows(app) == before


def test_apps_that_share_tables_share_no_sign_out(stack: Stack) -> None:
    """One's sign-out, by user, by frame or by its administrator, neither ends nor refuses anything of the other's."""
    shared = {"TOKEN_STORE_TABLE_PREFIX": f"both{secrets.token_hex(3)}", "SEALING_KEYS": "k:" + secrets.token_urlsafe(32)}
    one, two = stack.start_app(shared), stack.start_app(shared)
    login = name()
    agent, theirs = signed_in(one, login), signed_in(two, login)
    account = account_of(agent)
    assert account == account_of(theirs)
    under_way = UserAgent()
    fields = answer(under_way, two, login)
    row = row_of(two, theirs)
    assert row is not None
    assert row.identity.sid is not None
    before = [e.metadata["etag"] for e in two.entities("sessions") if e["RowKey"] == row.id]
    UserAgent().frame(f"{one.url}/auth/frontchannel-logout?sid={row.identity.sid}", inside="http://127.0.0.1:1/")
    assert live(one, agent)
    body = json.dumps([{"account": account}, {"oid": "o", "tid": "t"}]).encode()
    ended = UserAgent().request(
        "POST", f"{one.url}/auth/admin/sign-out", headers={"Content-Type": "application/json", "Accept": "application/json"}, body=body
    )  # fmt: skip
    assert ended.json()["ended"] == 1
    assert logout(one, signed_in(one, login)).status == 303
    assert [e.metadata["etag"] for e in two.entities("sessions") if e["RowKey"] == row.id] == before
    assert live(two, theirs)
    assert post(under_way, two, fields).status == 303
    assert len(theirs.fetch(f"{two.url}/auth/sessions").json()["sessions"]) == 2


@pytest.mark.parametrize("missing", [False, True], ids=["refused", "never given"])
def test_without_a_refresh_token_a_session_ends_with_its_access_token(app: App, provider: Provider, missing: bool) -> None:
    """A person is sent to sign in again and comes back; row and index rows are gone before that."""
    provider.switch(access_token_ttl=60, omit_refresh_token=missing)
    agent = signed_in(app)
    account = account_of(agent)
    provider.switch(access_token_ttl=3600, omit_refresh_token=False, token_refresh="400")
    page = agent.open(f"{app.url}/api/profile", follow=False)
    assert page.status == 302
    assert (page.header("location") or "").startswith(provider.browser)
    assert left(app, account) == EMPTY
    page = agent.open(f"{app.url}/api/profile")
    assert (page.status, page.url) == (200, f"{app.url}/api/profile")


def test_slow_storage_is_only_slow(back: App, proxy: StorageProxy) -> None:
    """An answer that comes late signs nobody in or out."""
    agent = signed_in(back)
    proxy.fail("delay", seconds=0.5)
    assert live(back, agent)
    proxy.fail("delay", seconds=0.5, kind="delete")
    assert logout(back, agent).status == 303
    assert not live(back, agent)


# -- signing out while something is under way


def test_a_late_refresh_brings_nothing_back(app: App, provider: Provider) -> None:
    """Tokens that come from the provider after the sign-out are dropped: no row, no cookie, on the answer's way either."""
    provider.switch(access_token_ttl=60)
    agent = signed_in(app)
    account, session = account_of(agent), agent.cookies["session"].value
    provider.switch(token_refresh="slow", slow_seconds=1)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(
            UserAgent().request, "GET", f"{app.url}/api/profile", mode="cors", dest="empty",
            headers={"Accept": "application/json", "Cookie": f"session={session}"},
        )  # fmt: skip
        until(lambda: provider.counters()["token"]["refresh_token"] == 1)
        assert logout(app, agent).status == 303
        assert not late.done()
        page = late.result()
    assert (page.status, page.set_cookies) == (401, [])
    assert left(app, account) == EMPTY


def test_a_late_slide_brings_nothing_back(back: App, proxy: StorageProxy) -> None:
    """The write that moves the idle limit arrives after the deletion: nothing is written, nobody is signed in by it."""
    agent = signed_in(back)
    account, session = account_of(agent), agent.cookies["session"].value
    edit(back, agent, IdleExpiresAt=datetime.now(UTC) + timedelta(minutes=30))
    proxy.reset()
    proxy.fail("delay", kind="merge", table="sessions", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(UserAgent().request, "GET", f"{back.url}/auth/me", headers={"Cookie": f"session={session}"})
        until(lambda: "merge sessions" in proxy.counts())
        assert logout(back, agent).status == 303
        assert not late.done()
        page = late.result()
    assert (page.status, page.set_cookies) == (401, [])
    assert left(back, account) == EMPTY


def test_a_late_callback_brings_nothing_back(app: App, provider: Provider) -> None:
    """The sign-out comes while the code is being redeemed: the sign-in is refused, no cookie, and nothing is left of it."""
    login = name()
    agent, slow = signed_in(app, login), UserAgent()
    account = account_of(agent)
    fields = answer(slow, app, login)
    provider.switch(token_endpoint="slow", slow_seconds=1)
    before = provider.counters()["token"]["authorization_code"]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(post, slow, app, fields)
        until(lambda: provider.counters()["token"]["authorization_code"] == before + 1)
        assert logout(app, agent).status == 303
        assert not late.done()
        page = late.result()
    assert (page.status, "signed_out_meanwhile" in page.text, sets_a_session(page)) == (409, True, False)
    assert left(app, account) == EMPTY


def test_a_hint_that_is_too_long_for_an_address_is_left_out(app: App, provider: Provider) -> None:
    """An ID token of 200 groups is over 6 KB: it is not even kept, and the user is led to the provider without it."""
    groups = [f"{n:08d}-aaaa-4bbb-8ccc-dddddddddddd" for n in range(200)]
    provider.switch(id_token={"claims": {"groups": groups}})
    agent = signed_in(app)
    row = row_of(app, agent)
    assert row is not None
    assert row.identity.id_token is None
    location = logout(app, agent).header("location") or ""
    assert "id_token_hint" not in location
    assert len(location) < 2000
    assert agent.open(location).status == 200
    assert left(app, row.account) == EMPTY


# -- front-channel


def test_fifty_frames_at_once_are_one_sign_out(app: App) -> None:
    """All are told the same; what is left is what one would have left, and one session is recorded."""
    agent = signed_in(app)
    account, sid = account_of(agent), sid_of(app, agent)
    before = len(app.logs())
    pages = at_once(*[lambda: frame(app, f"?sid={sid}")] * 50)
    assert {page.status for page in pages} == {200}
    assert {page.body for page in pages} == {frame(app, "?sid=nobody").body}
    assert left(app, account) == EMPTY
    records = [line for line in app.logs()[before:].splitlines() if '"front_channel"' in line]
    assert sum(json.loads(line[line.index("{") :])["sessions_ended"] for line in records) == 1


def test_what_is_no_front_channel_request_changes_nothing(app: App) -> None:
    """Other methods and endless names, with the ``sid`` of a session that is there."""
    agent = signed_in(app)
    sid = sid_of(app, agent)
    before = rows(app)
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        page = frame(app, f"?sid={sid}", method)
        assert (page.status in (200, 204, 404), page.set_cookies) == (True, [])
    assert frame(app, f"?sid={sid}{'x' * 10_000}").status == 414
    assert frame(app, f"?sid={sid}&iss={'x' * 5000}").status == 200
    assert rows(app) == before
    assert live(app, agent)


# -- back-channel


def test_real_tokens_of_another_kind_end_nothing(back: App, provider: Provider) -> None:
    """The session's own ID, access and refresh token, an ID token with a logout's event in it: 400, everything as it was."""
    agent = signed_in(back)
    row = row_of(back, agent)
    assert row is not None
    assert row.identity.id_token is not None
    cache = json.loads(row.cache)
    others = [entry["secret"] for kind in ("AccessToken", "RefreshToken") for entry in cache[kind].values()]
    claims = json.loads(base64.urlsafe_b64decode(row.identity.id_token.split(".")[1] + "=="))
    events: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
    dressed = provider.logout_token(client_id=back.client_id, claims={**claims, "events": events})
    before = rows(back)
    for token in (row.identity.id_token, *others, dressed):
        page = send(back, token)
        assert (page.status, page.json()["error"], page.header("cache-control")) == (400, "invalid_request", "no-store")
    assert rows(back) == before
    assert live(back, agent)


def test_no_address_in_a_token_is_ever_called(back: App, provider: Provider) -> None:
    """Somebody listens at ``jku`` and ``x5u``, and nobody comes."""
    agent = signed_in(back)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        header = {"jku": url, "x5u": url, "jwk": {"kty": "oct", "k": "AAAA"}, "kid": secrets.token_hex(4)}
        token = provider.logout_token(client_id=back.client_id, sid=sid_of(back, agent), header=header, key="unknown")
        assert send(back, token).status in (400, 503)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert live(back, agent)


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "JWT", None])
def test_older_providers_types_are_taken(back: App, provider: Provider, typ: str | None) -> None:
    """The final type, that of any token, and none."""
    agent = signed_in(back)
    token = provider.logout_token(client_id=back.client_id, sid=sid_of(back, agent), header={"typ": typ})
    assert (send(back, token).status, live(back, agent)) == (200, False)


@pytest.mark.parametrize(
    ("table", "kind", "nth"),
    [
        ("index", "read", 1),  # has it acted?
        ("index", "list", 1),
        ("index", "upsert", 1),
        ("index", "insert", 1),  # its ``end:`` row
        ("index", "insert", 2),  # that it has acted
        ("sessions", "read", 1),
        ("sessions", "delete", 1),
    ],
)
def test_a_logout_that_storage_failed_is_never_a_success(
    back: App, proxy: StorageProxy, provider: Provider, table: str, kind: str, nth: int
) -> None:
    """The store of used tokens among them: 503, and the same token works when storage is back; after that it has acted."""
    agent = signed_in(back)
    token = provider.logout_token(client_id=back.client_id, sid=sid_of(back, agent))
    proxy.fail("503", table=table, kind=kind, nth=nth, times=None)
    page = send(back, token)
    proxy.reset()
    assert (page.status, page.header("retry-after"), page.header("cache-control")) == (503, "5", "no-store")
    assert send(back, token).status == 200
    assert not live(back, agent)
    before = rows(back)
    assert send(back, token).status == 400
    assert rows(back) == before


def test_a_sign_in_under_way_is_refused_by_its_sid(back: App, provider: Provider) -> None:
    """The provider's session is named before ours is there: what comes to the callback afterwards is too old."""
    login = name()
    agent = signed_in(back, login)
    account, sid = account_of(agent), sid_of(back, agent)
    fields = answer(agent, back, login)  # the same session at the provider, hence the same sid
    assert send(back, provider.logout_token(client_id=back.client_id, sid=sid)).status == 200
    page = post(agent, back, fields)
    assert (page.status, "signed_out_meanwhile" in page.text, sets_a_session(page)) == (409, True, False)
    assert [key for key in left(back, account)[0] if key != "!"] == []
    assert live(back, signed_in(back, login))


# -- all of it


AUTH_ROUTES = [
    "login", "callback", "logout", "logged-out", "frontchannel-logout", "backchannel-logout", "me", "sessions", "sessions/x", "sessions/end", "admin/sign-out",
    "nothing-here",
]  # fmt: skip


def test_no_answer_below_auth_is_ever_stored(app: App) -> None:
    """Whatever is asked and by which method, also where the host itself answers."""
    agent = signed_in(app)
    for path in AUTH_ROUTES:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            page = UserAgent().request(
                method,
                f"{app.url}/auth/{path}",
                headers={"Cookie": f"session={agent.cookies['session'].value}"},
                form={"x": "y"} if method in {"POST", "PUT", "PATCH"} else None,
            )
            assert page.header("cache-control") == "no-store", (method, path, page.status)
            assert page.status < 500, (method, path, page.status)
    assert live(app, agent)
