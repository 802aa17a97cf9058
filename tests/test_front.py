"""The front door for those who write functions: who gets in, what becomes of their errors, and which headers their answers get.

What our own routes answer is ``test_function_app.py``.
"""

import inspect
import json
import logging
import typing
from collections.abc import Callable, Mapping
from typing import Any

import azure.functions as func
import pytest

from shared.errors import AppError, InteractionRequired, NotSignedIn, RefreshTokenDead, StorageUnavailable
from shared.flows.access import Session
from shared.provider.values import AccessToken
from tests.support.front_door import CHALLENGE, HTML, HTTPS, JSON, LOCALHOST, LOGIN, OURS, THEIRS, FrontDoor, asked, query

PAGE = "/reports/7?from=2026-01-01&q=a%20b&q=c"
FETCH = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Accept": "*/*"}
NAVIGATION = {**HTML, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Protected:
    """A function behind ``login_required``; it does what the test says and remembers who called."""

    def __init__(self, door: FrontDoor, act: Callable[[Session], Any] | None = None, scopes: tuple[str, ...] = ()) -> None:
        self.door = door
        self.calls: list[tuple[func.HttpRequest, Session]] = []

        def reports(req: func.HttpRequest, session: Session) -> Any:
            """A user's reports."""
            self.calls.append((req, session))
            return act(session) if act is not None else func.HttpResponse("done")

        self.function = door.front.login_required(scopes)(reports)

    def send(self, method: str, *headers: Mapping[str, str], path: str = PAGE) -> func.HttpResponse:
        return self.function(asked(method, path, *headers))


def problem(answer: func.HttpResponse) -> str:
    """The code of an error in JSON."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = json.loads(answer.get_body())
    assert body["status"] == answer.status_code
    return str(body["code"])


def raising(error: Exception) -> Callable[[Session], Any]:
    def act(session: Session) -> Any:
        raise error

    return act


# -- who gets in


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "said",
    [
        THEIRS,
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "cross-site", "Origin": HTTPS},
        {"Origin": "https://evil.example"},
        {"Origin": "https://app.example.evil.example"},
        {"Origin": "http://app.example"},
        {"Origin": "https://app.example:8443"},
        {"Origin": "null"},
        {"Origin": ""},
        {},
        {"Referer": HTTPS + "/", "Host": "app.example", "X-Forwarded-Host": "app.example"},
    ],
    ids=str,
)
def test_a_change_from_elsewhere_is_refused(method: str, said: dict[str, str]) -> None:
    """403 whoever is signed in, and the function is not called."""
    protected = Protected(FrontDoor())
    mine = protected.door.sign_in()
    answer = protected.send(method, mine, JSON, said)
    assert (answer.status_code, problem(answer)) == (403, "cross_site_request")
    assert protected.send(method, mine, HTML, said).status_code == 403
    assert protected.calls == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("said", [OURS, {**OURS, "Origin": HTTPS}, {**OURS, "Origin": "null"}, {"Origin": HTTPS}], ids=str)
def test_a_change_from_here_reaches_the_function(method: str, said: dict[str, str]) -> None:
    """With the request as it came, and the session of whoever sent it."""
    protected = Protected(FrontDoor())
    answer = protected.send(method, protected.door.sign_in("bob.t"), said)
    assert (answer.status_code, answer.get_body()) == (200, b"done")
    [(req, session)] = protected.calls
    assert (req.method, req.url) == (method, f"http://localhost:7071{PAGE}")
    assert session.user.account == "bob.t"


@pytest.mark.parametrize("said", [OURS, {"Origin": HTTPS}], ids=str)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_change_without_a_session_is_401(method: str, said: dict[str, str]) -> None:
    """A form is not sent to sign in: what it held would be lost on the way."""
    protected = Protected(FrontDoor())
    assert problem(protected.send(method, JSON, said)) == "not_signed_in"
    page = protected.send(method, HTML, said)
    assert (page.status_code, page.headers.get("Location")) == (401, None)
    assert protected.calls == []


@pytest.mark.parametrize("said", [{}, THEIRS, {"Origin": "null"}, NAVIGATION], ids=str)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_needs_no_origin(method: str, said: dict[str, str]) -> None:
    """A link from another site works; what it changes nothing may say nothing of where it comes from."""
    protected = Protected(FrontDoor())
    assert protected.send(method, protected.door.sign_in(), said).status_code == 200
    assert len(protected.calls) == 1


# -- nobody is signed in


@pytest.mark.parametrize("said", [HTML, NAVIGATION, {**NAVIGATION, "Sec-Fetch-Site": "none"}], ids=str)
def test_a_navigation_is_sent_to_sign_in_and_comes_back(said: dict[str, str]) -> None:
    """302 to the provider, and behind it to the very page, path and query."""
    protected = Protected(FrontDoor(), scopes=("Reports.Read",))
    sent = protected.send("GET", said)
    assert sent.status_code == 302
    assert sent.headers["Location"].startswith(f"{LOGIN}/authorize?")
    assert {"Reports.Read", "User.Read"} <= set(query(sent)["scope"].split())
    assert "claims" not in query(sent)
    back = protected.door.come_back(sent)
    assert (back.status_code, back.headers["Location"]) == (303, PAGE)
    cookie = back.headers.getlist("Set-Cookie")[0].partition(";")[0]
    assert protected.calls == []
    assert protected.send("GET", said, {"Cookie": cookie}).status_code == 200
    assert protected.calls[0][1].user.account == "somebody.t"


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "/auth/login?return_to=/", "/x/../..//evil.example"])
def test_nobody_comes_back_elsewhere(path: str) -> None:
    """A path that a browser would take for another origin's is not returned to."""
    protected = Protected(FrontDoor())
    assert protected.door.come_back(protected.send("GET", HTML, path=path)).headers["Location"] == "/"


@pytest.mark.parametrize(
    "said", [JSON, {}, FETCH, {**FETCH, **JSON}, {"Accept": "application/problem+json, text/html;q=0.5"}], ids=str
)
def test_an_api_call_gets_401(said: dict[str, str]) -> None:
    """As a problem in JSON: nobody is sent anywhere, no sign-in begins, the function is not called."""
    protected = Protected(FrontDoor())
    answer = protected.send("GET", said)
    assert (answer.status_code, problem(answer)) == (401, "not_signed_in")
    assert answer.headers.getlist("Set-Cookie") == []
    assert "Location" not in answer.headers
    assert protected.calls == []


@pytest.mark.parametrize(
    "said",
    [
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Dest": "image"},
        {"Sec-Purpose": "prefetch"},
    ],
    ids=str,
)
def test_only_a_navigation_of_a_tab_begins_a_sign_in(said: dict[str, str]) -> None:
    """A frame, a script or a prefetch that asks for a page gets 401, and no cookie."""
    protected = Protected(FrontDoor())
    answer = protected.send("GET", HTML, said)
    assert (answer.status_code, answer.headers.getlist("Set-Cookie")) == (401, [])
    assert protected.calls == []


def test_no_session_at_all_costs_no_look_at_storage() -> None:
    """Refusals and redirects of strangers work while storage is down; a cookie that might be true is 503."""
    protected = Protected(FrontDoor())
    mine = protected.door.sign_in()
    protected.door.down = True
    assert protected.send("POST", mine, JSON, THEIRS).status_code == 403
    assert protected.send("GET", HTML).status_code == 302
    answer = protected.send("GET", mine, JSON)
    assert (answer.status_code, problem(answer)) == (503, "storage_unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert protected.calls == []


# -- what the function may be, and what it gets


def test_the_worker_sees_req_alone() -> None:
    """It passes arguments by the signature, and looks through ``__wrapped__``."""
    shown: Any = Protected(FrontDoor()).function
    signature = inspect.signature(shown)
    assert list(signature.parameters) == ["req"]
    assert signature.parameters["req"].annotation is func.HttpRequest
    assert typing.get_type_hints(shown) == {"req": func.HttpRequest}
    assert not hasattr(shown, "__wrapped__")
    assert (shown.__name__, shown.__doc__, shown.__module__) == ("reports", "A user's reports.", __name__)
    assert not inspect.iscoroutinefunction(shown)


def test_an_async_function_is_awaited() -> None:
    """Its answer goes out, and its errors are answered as a plain function's are."""
    door = FrontDoor()

    async def reports(req: func.HttpRequest, session: Session) -> func.HttpResponse:
        if req.method == "POST":
            raise InteractionRequired("consent", scopes=("Reports.Write",))
        return func.HttpResponse(session.user.account, status_code=201)

    function = door.front.login_required()(reports)
    assert list(inspect.signature(function).parameters) == ["req"]
    assert not inspect.iscoroutinefunction(function)  # the worker would run it in the event loop, which storage would block
    answer = function(asked("GET", PAGE, door.sign_in("bob.t")))
    assert (answer.status_code, answer.get_body()) == (201, b"bob.t")
    assert answer.headers["Cache-Control"] == "no-store"
    assert problem(function(asked("POST", PAGE, door.sign_in(), OURS))) == "interaction_required"
    assert function(asked("GET", PAGE, HTML)).status_code == 302


@pytest.mark.parametrize(
    ("decorated", "asks", "wanted"),
    [
        (("Reports.Read", "Mail.Read"), None, ("Reports.Read", "Mail.Read")),
        ((), None, ("User.Read",)),
        (("Reports.Read",), ["Files.Read"], ("Files.Read",)),
    ],
)
def test_the_decorators_scopes_are_what_the_token_is_for(
    monkeypatch: pytest.MonkeyPatch, decorated: tuple[str, ...], asks: list[str] | None, wanted: tuple[str, ...]
) -> None:
    """``session.token()`` asks for them, or for the settings' where there are none; what the function names itself counts."""
    door = FrontDoor()
    found: list[tuple[str, ...]] = []

    def token_from_cache(*, scopes: tuple[str, ...], now: Any, **_: Any) -> AccessToken:
        found.append(scopes)
        return AccessToken(value="for " + " ".join(scopes), expires_at=now)

    monkeypatch.setattr(door.app.provider, "token_from_cache", token_from_cache)
    protected = Protected(door, lambda session: func.HttpResponse(session.token(asks)), decorated)
    answer = protected.send("GET", door.sign_in())
    assert answer.get_body().decode() == "for " + " ".join(wanted)
    assert found == [wanted]


# -- the provider, or the API, wants to see the user


def test_a_challenge_becomes_a_sign_in_for_a_navigation() -> None:
    """With its claims and scopes beside the usual ones, for the same user; the session stays, and they come back to the page."""
    error = InteractionRequired("step up", claims=CHALLENGE, scopes=("Reports.Write",))
    protected = Protected(FrontDoor(), raising(error), ("Reports.Read",))
    mine = protected.door.sign_in(username="ada@example.com")
    before = protected.door.rows()
    sent = protected.send("GET", NAVIGATION, mine)
    assert (sent.status_code, len(protected.calls)) == (302, 1)
    wish = query(sent)
    assert json.loads(wish["claims"]) == json.loads(CHALLENGE)
    assert {"User.Read", "Reports.Read", "Reports.Write"} <= set(wish["scope"].split())
    assert wish["login_hint"] == "ada@example.com"
    assert [cookie.partition("-")[0] for cookie in sent.headers.getlist("Set-Cookie")] == ["__Secure"]
    assert all(cookie.startswith("__Secure-signin-") for cookie in sent.headers.getlist("Set-Cookie"))
    assert protected.door.rows() == before
    assert protected.door.come_back(sent).headers["Location"] == PAGE


@pytest.mark.parametrize(
    ("method", "said"), [("GET", FETCH), ("GET", JSON), ("POST", {**OURS, **JSON}), ("HEAD", {})], ids=str
)
def test_a_challenge_is_401_for_an_api_call(method: str, said: dict[str, str]) -> None:
    """The session stays: the caller decides when to send the user to sign in."""
    protected = Protected(FrontDoor(), raising(InteractionRequired("step up", claims=CHALLENGE)))
    mine = protected.door.sign_in()
    before = protected.door.rows()
    answer = protected.send(method, said, mine)
    assert (answer.status_code, problem(answer), len(protected.calls)) == (401, "interaction_required", 1)
    assert (answer.headers.getlist("Set-Cookie"), answer.headers.get("Location")) == ([], None)
    assert protected.door.rows() == before


@pytest.mark.parametrize("error", [NotSignedIn("signed out meanwhile"), RefreshTokenDead("revoked")], ids=lambda e: e.code)
def test_a_session_that_ends_inside_the_function_is_as_none(error: AppError) -> None:
    """A navigation signs in again, without hints or claims of the session that is over; an API call gets 401."""
    protected = Protected(FrontDoor(), raising(error))
    mine = protected.door.sign_in()
    sent = protected.send("GET", NAVIGATION, mine)
    assert sent.status_code == 302
    assert not {"claims", "login_hint"} & set(query(sent))
    answer = protected.send("GET", FETCH, mine)
    assert (answer.status_code, problem(answer)) == (401, error.code)


def test_an_error_of_ours_inside_the_function_is_answered_as_ours() -> None:
    """503 with ``Retry-After`` where storage or provider fail under it, as a page for people."""
    protected = Protected(FrontDoor(), raising(StorageUnavailable("slow")))
    mine = protected.door.sign_in()
    page = protected.send("GET", NAVIGATION, mine)
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert b"storage_unavailable" in page.get_body()
    assert problem(protected.send("GET", FETCH, mine)) == "storage_unavailable"


# -- headers

OURS_TOO = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


@pytest.mark.parametrize(("origin", "added"), [(HTTPS, {**OURS_TOO, **HSTS}), (LOCALHOST, OURS_TOO)])
@pytest.mark.parametrize("status", [200, 404])
def test_the_functions_answer_gets_our_headers(origin: str, added: dict[str, str], status: int) -> None:
    """No store, no sniffing, no frame, no referrer to others, TLS where there is TLS; what its page may load it says itself."""
    protected = Protected(
        FrontDoor(origin), lambda session: func.HttpResponse("x", status_code=status, headers={"X-Mine": "1"})
    )
    answer = protected.send("GET", protected.door.sign_in())
    assert (answer.status_code, answer.get_body(), answer.mimetype) == (status, b"x", "text/plain")
    assert dict(answer.headers) == {"X-Mine": "1", **added}
    assert len(list(answer.headers)) == len(added) + 1


@pytest.mark.parametrize("spelled", [str, str.lower, str.upper], ids=["as we do", "lower", "upper"])
def test_what_the_function_says_itself_counts(spelled: Callable[[str], str]) -> None:
    """Each of our headers gives way to the function's own, however it is spelled; none is there twice."""
    theirs = {
        "Cache-Control": "public, max-age=60",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "theirs",
        "X-Frame-Options": "SAMEORIGIN",
        "Strict-Transport-Security": "max-age=1",
    }
    said = {spelled(name): value for name, value in theirs.items()}
    protected = Protected(FrontDoor(), lambda session: func.HttpResponse("x", headers=said))
    answer = protected.send("GET", protected.door.sign_in())
    assert {name: answer.headers.getlist(name) for name in theirs} == {name: [value] for name, value in theirs.items()}
    for name, value in theirs.items():  # one alone keeps no other of ours away
        one = Protected(protected.door, lambda session, said={name: value}: func.HttpResponse("x", headers=said))
        answer = one.send("GET", protected.door.sign_in())
        assert dict(answer.headers) == {**OURS_TOO, **HSTS, name: value}


# -- functions that fail


async def _none() -> None:
    pass


@pytest.mark.parametrize(
    "act",
    [
        lambda session: "a text",
        lambda session: None,
        lambda session: b"bytes",
        lambda session: {"a": 1},
        lambda session: _none(),
        raising(ValueError("of their own")),
    ],
    ids=["str", "None", "bytes", "dict", "coroutine of None", "exception"],
)
def test_a_function_that_fails_is_our_500(caplog: pytest.LogCaptureFixture, act: Callable[[Session], Any]) -> None:
    """Its fault is in the log, with its name and what went wrong; nothing but an answer with our headers leaves the door."""
    protected = Protected(FrontDoor(), act)
    mine = protected.door.sign_in()
    answer = protected.send("GET", mine, JSON)
    assert (answer.status_code, problem(answer)) == (500, "internal_error")
    page = protected.send("GET", mine, HTML)
    assert page.status_code == 500
    assert b"internal_error" in page.get_body()
    assert b"their own" not in page.get_body() + answer.get_body()
    for sent in (answer, page):
        assert {**OURS_TOO, **HSTS}.items() <= dict(sent.headers).items()
        assert sent.headers["Content-Security-Policy"].startswith("default-src 'none'")
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.name, record.getMessage()) for record in faults] == [("shared.front", "reports failed")] * 2
    assert all(record.exc_info and str(record.exc_info[1]) for record in faults)
