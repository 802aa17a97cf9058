"""What holds for every function of the route table: the headers of its answers, and the bodies that it does not take.

The table itself says which functions there are, so a new one is held to the same.
"""

import html.parser
import itertools
import json
import logging
import re
from dataclasses import dataclass, field

import azure.functions as func
import pytest

from tests.support.front_door import (
    HTML,
    HTTPS,
    JSON,
    LOCALHOST,
    LOGIN,
    LOGOUT,
    OURS,
    THEIRS,
    FrontDoor,
    HttpFunction,
    logout_token,
)

ROUTES = [
    pytest.param(function, method, id=f"{method} /{function.route.strip('/')}")
    for function in FrontDoor().functions
    for method in function.methods
]
ORIGINS = pytest.mark.parametrize("origin", [HTTPS, LOCALHOST], ids=["https", "localhost"])
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NAVIGATION = {**HTML, **OURS, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
AGAIN = "A" * 22
"""A session id, or a state, of nobody."""


def path_of(function: HttpFunction) -> str:
    return "/" + re.sub(r"\{\w+\}", AGAIN, function.route.strip("/"))


# -- headers


class Page(html.parser.HTMLParser):
    """What a page loads or runs, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def check(self) -> None:
        """Nothing that the policy would have to allow; every link and form stays here."""
        assert not self.tags & {
            "script",
            "style",
            "link",
            "base",
            "iframe",
            "frame",
            "object",
            "embed",
            "img",
            "svg",
            "applet",
        }
        for name, value in self.attributes:
            assert not name.startswith("on"), name
            assert name not in ("style", "src", "srcdoc", "formaction", "http-equiv"), name
            assert name not in ("href", "action") or re.fullmatch(r"/(?!/)[\w/-]*", value), value


def checked(answer: func.HttpResponse, *, https: bool, framable: bool = False, configured: bool = True) -> func.HttpResponse:
    """An answer with all its security headers, each of them once."""
    said = {name.lower(): answer.headers.getlist(name) for name in answer.headers.keys()}  # noqa: SIM118 - the pairs else
    assert said["cache-control"] == ["no-store"]
    assert said["referrer-policy"] == ["same-origin"]
    assert said["x-content-type-options"] == ["nosniff"]
    assert said.get("strict-transport-security", []) == (["max-age=31536000"] if https and configured else [])
    [text] = said["content-security-policy"]
    policy = {name: values for name, *values in (part.split() for part in text.split(";"))}
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}  # nothing takes anything back
    assert policy["default-src"] == policy["base-uri"] == ["'none'"]
    assert "unsafe" not in text
    page = answer.get_body().decode() if said["content-type"][0].startswith("text/html") else ""
    if framable and page and configured:
        assert set(policy["frame-ancestors"]) == {LOGIN, LOGOUT}
        assert "x-frame-options" not in said
    else:
        assert policy["frame-ancestors"] == ["'none'"]
        assert said["x-frame-options"] == ["DENY"]
    assert policy["form-action"][0] == "'self'"
    assert set(policy["form-action"]) <= {"'self'", LOGIN, LOGOUT}
    Page(page).check()
    if "<form" in page:
        assert LOGOUT in policy["form-action"]  # the redirect behind the form counts, and it goes there
    return answer


@ORIGINS
@pytest.mark.parametrize(("function", "method"), ROUTES)
def test_every_answer_has_the_security_headers(function: HttpFunction, method: str, origin: str) -> None:
    """Whoever asks, in whatever way, whether storage is there or not: each function of the table, as it is."""
    door = FrontDoor(origin)
    everything = itertools.product((False, True), (HTML, JSON, {}), (OURS, NAVIGATION, THEIRS, {}), (False, True))
    for n, (signed_in, accept, site, down) in enumerate(everything):
        door.down = False
        mine = door.sign_in(f"user{n}.t") if signed_in else {}
        door.down = down
        answer = door.send(method, path_of(function), {**site, **accept}, mine, FORM)
        checked(answer, https=door.https, framable=function.is_framable)


@pytest.mark.parametrize("accept", [HTML, JSON], ids=["page", "JSON"])
@pytest.mark.parametrize(("function", "method"), ROUTES)
def test_an_app_that_is_not_configured_sends_them_too(function: HttpFunction, method: str, accept: dict[str, str]) -> None:
    """503 everywhere, framable by nobody, and no promise about TLS while nobody knows the origin."""
    answer = FrontDoor(CLIENT_ID="", SIGN_OUT_SCOPE="all").send(method, path_of(function), accept, OURS, FORM)
    assert answer.status_code == 503
    assert checked(answer, https=True, framable=function.is_framable, configured=False).headers.getlist("Set-Cookie") == []


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and the status of its answer."""

    method: str
    path: str
    status: int
    headers: dict[str, str] = field(default_factory=lambda: HTML)
    signed_in: bool = True
    form: dict[str, str] | None = None
    body: bytes = b""
    down: bool = False
    challenge: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


ANSWERS = [
    Asked(method="GET", path="/", status=200),
    Asked(method="GET", path="/", status=200, signed_in=False),
    Asked(method="GET", path="/", status=503, down=True),
    Asked(method="GET", path="/auth/login", status=302),
    Asked(method="GET", path="/auth/login?prompt=nonsense", status=400),
    Asked(method="GET", path="/auth/callback?code=x", status=405),
    Asked(method="POST", path="/auth/callback", status=400, form={"state": AGAIN, "code": "x"}),
    Asked(method="POST", path="/auth/callback", status=400, body=b"{}"),
    Asked(method="GET", path="/auth/logout", status=200),
    Asked(method="GET", path="/auth/logout", status=303, headers=NAVIGATION),
    Asked(method="GET", path="/auth/logout", status=303, headers=NAVIGATION, signed_in=False),
    Asked(method="GET", path="/auth/logout", status=503, headers=NAVIGATION, down=True),
    Asked(method="POST", path="/auth/logout", status=303, headers={**HTML, **OURS}, form={}),
    Asked(method="POST", path="/auth/logout", status=403, headers={**HTML, **THEIRS}, form={}),
    Asked(method="POST", path="/auth/logout", status=403, headers=JSON, form={}),
    Asked(method="POST", path="/auth/logout", status=503, headers={**HTML, **OURS}, form={}, down=True),
    Asked(method="POST", path="/auth/logout", status=503, headers={**JSON, **OURS}, form={}, down=True),
    Asked(method="GET", path="/auth/logged-out", status=200),
    Asked(method="GET", path="/auth/logged-out", status=200, signed_in=False),
    Asked(method="GET", path="/auth/logged-out", status=503, down=True),
    Asked(method="GET", path="/auth/frontchannel-logout?sid=mine", status=200),
    Asked(method="GET", path="/auth/frontchannel-logout?sid=nobody", status=200),
    Asked(method="GET", path="/auth/frontchannel-logout", status=200),
    Asked(method="GET", path="/auth/frontchannel-logout?sid=mine", status=503, down=True),
    Asked(method="GET", path="/auth/frontchannel-logout?sid=mine", status=503, headers=JSON, down=True),
    Asked(method="POST", path="/auth/backchannel-logout", status=200, form=logout_token(sid="mine")),
    Asked(method="POST", path="/auth/backchannel-logout", status=400, form={}),
    Asked(method="POST", path="/auth/backchannel-logout", status=503, form=logout_token(sid="mine"), down=True),
    Asked(method="GET", path="/auth/me", status=200),
    Asked(method="GET", path="/auth/me", status=401, signed_in=False),
    Asked(method="GET", path="/auth/me", status=503, down=True),
    Asked(method="GET", path="/auth/sessions", status=200),
    Asked(method="GET", path="/auth/sessions", status=401, signed_in=False),
    Asked(method="DELETE", path="/auth/sessions", status=200, headers={**JSON, **OURS}),
    Asked(method="DELETE", path="/auth/sessions", status=401, headers={**JSON, **OURS}, signed_in=False),
    Asked(method="DELETE", path="/auth/sessions", status=403, headers={**JSON, **THEIRS}),
    Asked(method="DELETE", path=f"/auth/sessions/{AGAIN}", status=404, headers={**JSON, **OURS}),
    Asked(method="DELETE", path=f"/auth/sessions/{AGAIN}", status=401, headers={**JSON, **OURS}, signed_in=False),
    Asked(method="DELETE", path=f"/auth/sessions/{AGAIN}", status=403, headers={**JSON, **THEIRS}),
    Asked(method="POST", path="/auth/sessions/end", status=303, headers={**HTML, **OURS}, form={"all": "all"}),
    Asked(method="POST", path="/auth/sessions/end", status=303, headers={**HTML, **OURS}, form={"id": AGAIN}),
    Asked(method="POST", path="/auth/sessions/end", status=400, headers={**HTML, **OURS}, form={}),
    Asked(
        method="POST", path="/auth/sessions/end", status=401, headers={**HTML, **OURS}, form={"all": "all"}, signed_in=False
    ),
    Asked(method="POST", path="/auth/sessions/end", status=403, headers={**HTML, **THEIRS}, form={"all": "all"}),
    Asked(method="POST", path="/auth/admin/sign-out", status=200, headers=JSON, body=b'{"account": "a.t"}'),
    Asked(method="POST", path="/auth/admin/sign-out", status=400, headers=JSON, body=b"{}"),
    Asked(method="POST", path="/auth/admin/sign-out", status=503, headers=JSON, body=b'{"account": "a.t"}', down=True),
    Asked(method="GET", path="/api/profile", status=200),
    Asked(method="GET", path="/api/profile", status=200, headers=JSON),
    Asked(method="GET", path="/api/profile", status=302, signed_in=False),
    Asked(method="GET", path="/api/profile", status=302, challenge=True),
    Asked(method="GET", path="/api/profile", status=401, headers=JSON, signed_in=False),
    Asked(method="GET", path="/api/profile", status=401, headers=JSON, challenge=True),
    Asked(method="GET", path="/api/profile", status=503, down=True),
    Asked(method="GET", path="/health", status=200, headers=JSON),
    Asked(method="GET", path="/health", status=503, headers=JSON, down=True),
]


@ORIGINS
@pytest.mark.parametrize("asked", ANSWERS, ids=str)
def test_each_kind_of_answer_has_them(asked: Asked, origin: str) -> None:
    """Done, refused or failed, with and without a session: the statuses that the routes are known for."""
    door = FrontDoor(origin)
    mine = door.sign_in(sid="mine") if asked.signed_in else {}
    door.down, door.challenge = asked.down, asked.challenge
    answer = door.send(asked.method, asked.path, asked.headers, mine, form=asked.form, body=asked.body)
    assert answer.status_code == asked.status, answer.get_body()
    checked(answer, https=door.https, framable=door.find(asked.method, asked.path).is_framable)


@ORIGINS
def test_the_way_through_the_provider_has_them(origin: str) -> None:
    """There, back, and back with an error."""
    door = FrontDoor(origin)
    sent = checked(door.send("GET", "/auth/login?return_to=/auth/me", HTML), https=door.https)
    assert checked(door.come_back(sent), https=door.https).status_code == 303
    sent = door.send("GET", "/auth/login", HTML)
    assert checked(door.come_back(sent, error="access_denied"), https=door.https).status_code == 400


# -- bodies

TAKING = [param for param in ROUTES if param.values[1] == "POST"]
LARGE = 64 * 1024


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "gzip, chunked"])
@pytest.mark.parametrize(("function", "method"), TAKING)
def test_a_chunked_body_that_the_host_dropped_is_411(
    caplog: pytest.LogCaptureFixture, function: HttpFunction, method: str, coding: str
) -> None:
    """Wherever something is posted: the log says why, and nothing has changed."""
    caplog.set_level(logging.INFO)
    door = FrontDoor()
    mine = door.sign_in()
    before = door.rows()
    answer = door.send(method, path_of(function), JSON, OURS, mine, FORM, {"Transfer-Encoding": coding})
    assert answer.status_code == 411
    assert json.loads(answer.get_body())["code"] == "length_required"
    assert any("chunked" in record.getMessage() and "411" in record.getMessage() for record in caplog.records)
    assert (door.rows(), answer.headers.getlist("Set-Cookie")) == (before, [])
    checked(answer, https=True)


@pytest.mark.parametrize(("function", "method"), TAKING)
def test_a_body_over_64_kb_is_refused(caplog: pytest.LogCaptureFixture, function: HttpFunction, method: str) -> None:
    """413 before it is read, and 400 for a logout token, as its specification wants it; nothing has changed."""
    caplog.set_level(logging.INFO)
    door = FrontDoor()
    mine = door.sign_in()
    before = door.rows()
    body = b"all=all&" + b"x=" + b"y" * (LARGE - 9)
    answer = door.send(method, path_of(function), JSON, OURS, mine, FORM, body=body)
    said = json.loads(answer.get_body())
    if function.route == "auth/backchannel-logout":
        assert (answer.status_code, said["error"]) == (400, "invalid_request")
    else:
        assert (answer.status_code, said["code"]) == (413, "body_too_large")
    assert any(f"{LARGE + 1} bytes" in record.getMessage() for record in caplog.records)
    assert (door.rows(), answer.headers.getlist("Set-Cookie")) == (before, [])
    checked(answer, https=True)


@pytest.mark.parametrize("headers", [{"Transfer-Encoding": "chunked"}, {}], ids=["chunked", "64 KB"])
def test_a_body_that_arrived_is_taken(headers: dict[str, str]) -> None:
    """Chunked or not, up to 64 KB: the form signs its user out everywhere."""
    door = FrontDoor()
    mine = door.sign_in()
    body = b"all=all&x=" + b"y" * (LARGE - 10)
    answer = door.send("POST", "/auth/sessions/end", HTML, OURS, mine, FORM, headers, body=body)
    assert answer.status_code == 303
    assert door.send("GET", "/auth/me", JSON, mine).status_code == 401
