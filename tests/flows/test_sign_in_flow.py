"""Sign-in: what is asked of the provider, what its answer must prove, and what becomes of it."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from shared.errors import BadRequest, CodeRefused, MethodNotAllowed, SignedOutMeanwhile, SignInStateInvalid, StorageUnavailable
from shared.flows.pending import Pending
from shared.store.index import sid_key, sub_key
from shared.store.rows import hashed_account_key
from shared.web.messages import Request, Response
from tests.proof.provider import ISSUER, SCOPES
from tests.support.small_app import COOKIES, Browser, SmallApp, code, get, header, post
from tests.support.small_store import START, raising

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def flow_of(response: Response) -> tuple[str, str]:
    """State and cookie pair of the sign-in that an answer starts."""
    cookie = response.cookies[-1]
    return cookie.name.removeprefix(COOKIES.flow_name("")), f"{cookie.name}={cookie.value}"


def begin(app: SmallApp, *browsers: Browser, now: Any = START, return_to: str = "/back") -> tuple[str, str]:
    return flow_of(app.sign_in.begin(get("/auth/login", *browsers), now, return_to=return_to))


def callback(app: SmallApp, flow: tuple[str, str], *, now: Any = START, answer: Any = None, **said: Any) -> Response:
    """The provider's answer comes back."""
    form = {"state": flow[0], "code": code(now=now, **said)} if answer is None else answer
    return app.sign_in.callback(post("/auth/callback", form, cookie=flow[1]), now)


# -- to the provider


def test_a_start_asks_for_what_was_asked_and_writes_nothing() -> None:
    """The app's scopes first, others once; hints as they came; the cookie is for ``form_post``."""
    app = SmallApp()
    response = app.sign_in.begin(
        get("/auth/login"), START, return_to="/x", scopes=("Mail.Read", *SCOPES), claims="{}", prompt="login",
        login_hint="ann", domain_hint="example",
    )  # fmt: skip
    assert (response.status, header(response, "Location")) == (302, "https://login.example/authorize")
    assert app.provider.asked == {
        "scopes": (*SCOPES, "Mail.Read"), "prompt": "login", "login_hint": "ann", "domain_hint": "example", "claims": "{}",
    }  # fmt: skip
    (cookie,) = response.cookies
    assert (cookie.same_site, cookie.path, cookie.max_age) == ("None", "/auth", 600)
    state, _ = flow_of(response)
    assert len(state) == 22
    assert app.seal.open(state, cookie.value) == Pending(
        state=state, flow={"state": state}, return_to="/x", started_at=START, had=()
    )
    assert app.store.empty()
    query = SmallApp(response_mode="query")
    assert query.sign_in.begin(get("/auth/login"), START, return_to="/").cookies[0].same_site == "Lax"


def test_the_routes_parameters() -> None:
    """``return_to``, ``prompt``, ``login_hint``, ``domain_hint``; empty ones do not count."""
    app = SmallApp()
    long = "h" * 320
    response = app.sign_in.login(
        get(f"/auth/login?return_to=/x&prompt=select_account&login_hint={long}&domain_hint=example"), START
    )
    state, pair = flow_of(response)
    pending = app.seal.open(state, pair.partition("=")[2])
    assert pending is not None
    assert pending.return_to == "/x"
    assert app.provider.asked["prompt"] == "select_account"
    assert (app.provider.asked["login_hint"], app.provider.asked["domain_hint"]) == (long, "example")
    for query in ("", "?prompt=&login_hint=&return_to=//evil.example", "?return_to=/x&return_to=/y"):
        response = app.sign_in.login(get(f"/auth/login{query}"), START)
        state, pair = flow_of(response)
        pending = app.seal.open(state, pair.partition("=")[2])
        assert pending is not None
        assert pending.return_to == "/"
        assert {app.provider.asked[name] for name in ("prompt", "login_hint", "domain_hint", "claims")} == {None}


@pytest.mark.parametrize(
    "query",
    ["prompt=often", "prompt=login&prompt=login", "login_hint=" + "h" * 321, "domain_hint=a%0Ab", "login_hint=a&login_hint=b"],
)
def test_parameters_that_make_no_sense_are_refused(query: str) -> None:
    """400, and nobody is sent anywhere."""
    with pytest.raises(BadRequest):
        SmallApp().sign_in.login(get(f"/auth/login?{query}"), START)


def test_only_a_navigation_of_a_tab_starts_a_sign_in() -> None:
    """Not a frame, an image or a prefetch."""
    app = SmallApp()
    for headers in ({"sec-fetch-dest": "iframe"}, {"sec-fetch-dest": "image"}, {"sec-purpose": "prefetch"}):
        with pytest.raises(BadRequest):
            app.sign_in.login(get("/auth/login", headers=headers), START)
    assert app.sign_in.login(get("/auth/login", headers={"sec-fetch-dest": "document"}), START).status == 302


def test_a_state_that_no_cookie_holds_is_refused() -> None:
    """400, not a cookie that the browser drops."""
    with pytest.raises(BadRequest, match="cookie"):
        SmallApp().sign_in.begin(get("/auth/login"), START, return_to="/" + os.urandom(3000).hex())


def test_four_sign_ins_at_a_time() -> None:
    """The oldest over the limit goes, and whatever is over or not ours."""
    app = SmallApp()
    flows = [begin(app, now=START + n * SECOND) for n in range(4)]
    old = begin(app, now=START - 11 * MINUTE)
    cookies = "; ".join([flows[1][1], flows[0][1], old[1], flows[3][1], flows[2][1], "__Secure-signin-x=broken"])
    request = get("/auth/login", headers={"cookie": cookies})
    response = app.sign_in.begin(request, START + 5 * SECOND, return_to="/")
    *cleared, new = response.cookies
    names = {cookie.name.removeprefix("__Secure-signin-") for cookie in cleared}
    assert names == {flows[0][0], old[0], "x"}
    assert all(cookie.max_age == 0 for cookie in cleared)
    assert new.max_age == 600


# -- and back


def test_an_answer_becomes_a_session() -> None:
    """Where the user wanted to go, with a cookie that proves the row; the sign-in's own cookie goes; on record."""
    app = SmallApp()
    flow = begin(app)
    response = callback(app, flow, now=START + MINUTE, oid="o", tid="t", session_state="s")
    assert (response.status, header(response, "Location")) == (303, "/back")
    session, gone = response.cookies
    assert (gone.name, gone.max_age) == (COOKIES.flow_name(flow[0]), 0)
    found = app.access.authenticate(get("/", headers={"cookie": f"session={session.value}"}), START + MINUTE)
    assert found is not None
    identity = found.identity
    assert (found.account, identity.sub, identity.oid, identity.tid, identity.sid) == ("a.t", "a.t", "o", "t", "i")
    assert (identity.issuer, identity.name, identity.username, identity.login_hint) == (ISSUER, "a.t", "a.t", None)
    assert (identity.home_account_id, identity.id_token, identity.user_agent) == ("a.t", "id token", "")
    assert identity.issued_at == (START + MINUTE).timestamp()
    assert (found.created_at, found.auth_time) == (START + MINUTE, START + MINUTE)
    assert app.access.token(found, SCOPES).value.endswith(":1")
    assert app.records.written == [("sign_in", "callback", "a.t", 0)]
    for key in (sid_key(ISSUER, "i"), sid_key(ISSUER, "s"), sub_key(ISSUER, "a.t")):
        assert [pointer.session_id for pointer in app.store.index.find(key)] == [found.id]


def test_without_back_channel_there_are_no_rows_for_it() -> None:
    """By the metadata as they are known."""
    for backchannel, known in ((False, True), (True, False)):
        app = SmallApp(backchannel=backchannel)
        app.provider.known = known
        callback(app, begin(app))
        assert not app.store.keys("sub:")


def test_an_account_that_can_be_no_key_is_hashed() -> None:
    """From the configured issuer and ``sub``."""
    app = SmallApp()
    callback(app, begin(app), account="-x", sub="s")
    assert app.records.written[0][2] == hashed_account_key(ISSUER, "s")


def test_long_things_are_cut_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user agent at 512 characters; an ID token over 6 KB is not kept: no address could carry it."""
    for size, kept in ((6 * 1024, True), (6 * 1024 + 1, False)):
        app = SmallApp()
        real = app.provider.redeem

        def redeem(real: Any = real, size: int = size, **k: Any) -> Any:
            return replace(real(**k), id_token="t" * size, login_hint="hint")

        monkeypatch.setattr(app.provider, "redeem", redeem)
        state, cookie = begin(app)
        request = post("/auth/callback", {"state": state, "code": code()}, cookie=cookie)
        agent = {**request.headers, "user-agent": "u" * 600}
        response = app.sign_in.callback(replace(request, headers=agent), START)
        row = app.access.authenticate(get("/", headers={"cookie": f"session={response.cookies[0].value}"}), START)
        assert row is not None
        assert row.identity.user_agent == "u" * 512
        assert row.identity.login_hint == "hint"
        assert (row.identity.id_token is not None) is kept


@pytest.mark.parametrize(("mode", "method"), [("form_post", "GET"), ("query", "POST")])
def test_the_other_method_is_refused(mode: str, method: str) -> None:
    """405: ``RESPONSE_MODE`` says which one it is."""
    app = SmallApp(response_mode=mode)
    state, cookie = begin(app)
    request = (
        post("/auth/callback", {"state": state, "code": code()}, cookie=cookie)
        if method == "POST"
        else get(f"/auth/callback?state={state}&code=x", headers={"cookie": cookie})
    )
    with pytest.raises(MethodNotAllowed):
        app.sign_in.callback(request, START)


def test_an_answer_in_the_query() -> None:
    """``RESPONSE_MODE=query``: the same by GET."""
    app = SmallApp(response_mode="query")
    state, cookie = begin(app)
    query = urlencode({"state": state, "code": code()})
    response = app.sign_in.callback(get(f"/auth/callback?{query}", headers={"cookie": cookie}), START)
    assert header(response, "Location") == "/back"


def test_whose_answer_it_is_must_be_clear() -> None:
    """No state, a strange one, another browser's, two cookies, one that does not open, or one that is over."""
    app = SmallApp()
    flow = begin(app)
    other = begin(app)
    state, pair = flow
    answer = {"code": code()}
    for answered, cookie in (
        (answer, pair),
        ({**answer, "state": "short"}, pair),
        ({**answer, "state": state + "x"}, pair),
        ({**answer, "state": state}, ""),
        ({**answer, "state": state}, other[1]),
        ({**answer, "state": state}, f"{pair}; {pair}"),
        ({**answer, "state": state}, f"__Secure-signin-{state}={other[1].partition('=')[2]}"),
    ):
        with pytest.raises(SignInStateInvalid):
            callback(app, ("", cookie), answer=answered)
    for late in (10 * MINUTE + SECOND, -5 * MINUTE - SECOND):
        with pytest.raises(SignInStateInvalid, match="long"):
            callback(app, flow, now=START + late)
    assert app.store.empty()
    assert app.records.written == []
    callback(app, flow, now=START + 10 * MINUTE)


def test_an_answer_says_each_thing_once() -> None:
    """``code`` and ``error`` together, or anything twice: refused before the provider is asked."""
    app = SmallApp()
    state, cookie = begin(app)
    with pytest.raises(BadRequest, match="exclude"):
        callback(app, ("", cookie), answer={"state": state, "code": "c", "error": "e"})
    for name in (
        "code",
        "state",
        "iss",
        "session_state",
        "client_info",
        "error",
        "error_description",
        "error_uri",
        "error_codes",
    ):
        body = f"state={state}&{name}=1&{name}=2".encode()
        request = Request.of("POST", "/", {"content-type": "application/x-www-form-urlencoded", "cookie": cookie}, body)
        with pytest.raises(BadRequest, match="more than once"):
            app.sign_in.callback(request, START)


def test_the_provider_gets_the_whole_answer_and_nothing_else() -> None:
    """Known fields only, with the flow that was sealed."""
    app = SmallApp()
    state, cookie = begin(app)
    asked: list[Any] = []

    def redeem(**k: Any) -> Any:
        asked.append(k)
        raise CodeRefused("no")

    app.provider.redeem = redeem  # type: ignore[method-assign]
    answer = {"state": state, "error": "e", "error_description": "d", "iss": "i", "other": "x"}
    with pytest.raises(CodeRefused):
        callback(app, ("", cookie), answer=answer, now=START + MINUTE)
    answer.pop("other")
    assert asked == [{"flow": {"state": state}, "answer": answer, "now": START + MINUTE}]
    assert app.store.empty()


def test_a_sign_in_that_a_sign_out_overtook_is_refused() -> None:
    """By the start of the flow, which the cookie holds."""
    app = SmallApp()
    flow = begin(app)
    app.store.sessions.end_account("a.t", now=START + SECOND)
    with pytest.raises(SignedOutMeanwhile):
        callback(app, flow, now=START + MINUTE)
    assert app.records.written == []


def test_a_browser_has_one_session() -> None:
    """The one it had ends: of the same account with the insertion, of another one after it."""
    app = SmallApp()
    same = app.browser()
    callback(app, begin(app, same), sid="x")
    assert not app.lives(same)
    ben, other = app.browser("b.t"), app.browser("b.t")
    callback(app, begin(app, ben), sid="y")
    assert not app.lives(ben)
    assert app.lives(other)
    assert app.records.written == [
        ("sign_in", "callback", "a.t", 1),
        ("sign_in", "callback", "a.t", 0),
        ("sign_out", "another_account", "b.t", 1),
    ]


def test_a_planted_cookie_does_not_keep_the_browsers_own_session_alive() -> None:
    """Of two session cookies both are claimed at the start, and what they prove ends."""
    app = SmallApp()
    mine, planted, bens = app.browser(), app.browser("m.t"), app.browser("b.t")
    flow = flow_of(app.sign_in.begin(get("/auth/login", planted, mine, bens), START, return_to="/"))
    callback(app, flow, sid="x")
    assert not any(map(app.lives, (mine, planted, bens)))


def test_only_the_browsers_own_session_of_another_account_ends() -> None:
    """Its secret must fit; gone already is no fault; where storage fails it is left to expire."""
    for case in ("forged", "gone", "down"):
        app = SmallApp()
        ben = app.browser("b.t")
        request = get("/auth/login", headers={"cookie": f"session={ben.forged if case == 'forged' else ben.cookie}"})
        flow = flow_of(app.sign_in.begin(request, START, return_to="/"))
        if case == "gone":
            app.store.sessions.end_account("b.t", now=START)
        store = app.store.meddled(before=[lambda: None, raising(StorageUnavailable("down"))]) if case == "down" else app.store
        beside = app.beside(store)
        callback(beside, flow, sid="y")
        assert app.lives(ben) is (case != "gone")
        assert beside.records.written == [("sign_in", "callback", "a.t", 0)]


def test_the_state_of_an_answer_that_failed() -> None:
    """So that its cookie can be cleared: from form or query, if it is one of ours."""
    app = SmallApp()
    state, _ = begin(app)
    assert app.sign_in.state_of(post("/", {"state": state})) == state
    assert app.sign_in.state_of(get(f"/?state={state}")) == state
    for request in (post("/", {"state": "x"}), get("/"), get(f"/?state={state}&state={state}"), post("/?state=" + state)):
        assert app.sign_in.state_of(request) is None
    assert app.sign_in.state_of(Request.of("POST", "/", {}, b"x")) is None
