"""Requests are parsed strictly; answers hold nothing that the host would choke on."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import AppError, BadRequest, BodyTooLarge, CrossSite, LengthRequired, NotSignedIn, StorageUnavailable
from shared.web.cookies import SetCookie
from shared.web.messages import Params, Request, Response

ORIGIN = "https://app.example"
HEADERS = [
    "Accept",
    "Content-Type",
    "Origin",
    "Purpose",
    "Sec-Fetch-Dest",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Transfer-Encoding",
]


def request(method: str = "GET", url: str = "http://x/", body: bytes = b"", **headers: str) -> Request:
    return Request.of(method, url, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def form(body: bytes, **headers: str) -> Params:
    return request("POST", body=body, **{"content_type": "application/x-www-form-urlencoded", **headers}).form()


def test_repeats_and_blanks_are_seen() -> None:
    """The host joins repeats and drops blanks; we read the URL itself."""
    params = request(url="http://x/?a=1&a=2&b=&c&%61=3").params()
    assert params.all("a") == ("1", "2", "3")
    assert params.one("b") == ""
    assert params.one("c") == ""
    assert params.one("d") is None
    with pytest.raises(BadRequest):
        params.one("a")


@pytest.mark.parametrize("host", ["[", "[::1", "a\u2100b", "x y", "", "@", "a:b:c", "::"])
def test_a_host_that_is_none_is_no_error(host: str) -> None:
    """Only path and query of the URL are looked at; the host in it is the client's word."""
    asked = request(url=f"http://{host}/auth/me//x;y?a=1&b=?/#f")
    assert (asked.path, asked.params().one("a"), asked.params().one("b")) == ("/auth/me//x;y", "1", "?/")


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=40)))
def test_any_request_is_read_without_error(url: str, headers: dict[str, str]) -> None:
    """Whatever address and headers come: only the error tree comes out, and a doubtful request is no navigation of ours."""
    asked = Request.of("get", url, headers, b"")
    assert asked.method == "GET"
    assert not (asked.wants_html and "html" not in headers.get("Accept", "").lower())
    assert not (asked.is_same_origin_navigation and headers.get("Sec-Fetch-Site") != "same-origin")
    for read in (asked.params, asked.form, lambda: asked.require_same_origin(ORIGIN)):
        with contextlib.suppress(AppError):
            read()


def test_percent_and_plus_are_decoded_once() -> None:
    """``%2525`` is ``%25``, ``+`` a space, broken UTF-8 a replacement character."""
    params = request(url="http://x/?a=%2525&b=x+y&c=%FF").params()
    assert (params.one("a"), params.one("b"), params.one("c")) == ("%25", "x y", "\ufffd")


@given(st.binary(max_size=300))
def test_any_body_is_a_form_or_an_error_of_ours(body: bytes) -> None:
    """Nothing but the error tree comes out of a form."""
    try:
        form(body)
    except AppError as error:
        assert error.status in (400, 413)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_body_is_json_or_an_error_of_ours(body: bytes) -> None:
    """Nothing but the error tree comes out of JSON."""
    try:
        request("POST", body=body).json()
    except AppError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b"NaN",
        b"[" * 100_00,
        b"[" * 20 + b"]" * 20,
        b"\xff",
        b"",
        b"{'a':1}",
        b"1e999",
        b'[{"a":-1e999}]',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b"\xef\xbb\xbf{}",
        b"9" * 5000,
    ],
)
def test_json_that_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    """Members twice, NaN, numbers past all bounds, half a character, deep nesting, not UTF-8, a byte order mark."""
    with pytest.raises(BadRequest):
        request("POST", body=body).json()


def test_forms_are_bounded() -> None:
    """64 KB and 100 fields; not a byte or field more."""
    assert form(b"a=" + b"x" * (64 * 1024 - 2)).one("a")
    with pytest.raises(BodyTooLarge):
        form(b"a=" + b"x" * (64 * 1024 - 1))
    assert form(b"&".join([b"a=1"] * 100)).all("a")
    with pytest.raises(BadRequest):
        form(b"&".join([b"a=1"] * 101))


def test_blank_fields_count_too() -> None:
    """Thousands of ``&`` are no way around the limit, and hide no field."""
    assert form(b"&" * 98 + b"a=1").one("a") == "1"
    assert form(b"a&&b=").names == {"a", "b"}
    with pytest.raises(BadRequest):
        form(b"&" * 200 + b"a=1")
    with pytest.raises(BadRequest):
        request(url="http://x/?" + "&" * 200).params()


def test_nothing_secret_is_in_a_repr() -> None:
    """A request or an answer that is logged by mistake tells no code, cookie or token."""
    asked = request("POST", url="http://x/auth/callback?code=hush", body=b"hush", cookie="hush")
    answer = Response.redirect(303, "https://idp.example/?id_token_hint=hush")
    assert "hush" not in repr(asked) + repr(answer)
    assert "/auth/callback" in repr(asked)


def test_only_forms_are_forms() -> None:
    """JSON or multipart in a form's place is refused."""
    for media_type in ("application/json", "multipart/form-data; boundary=b", "text/plain", ""):
        with pytest.raises(BadRequest):
            form(b"a=1", content_type=media_type)
    assert form(b"a=1", content_type="Application/X-WWW-Form-URLencoded; charset=UTF-8").one("a") == "1"


def test_a_chunked_body_gets_a_clear_answer() -> None:
    """The host drops it: 411, not a puzzling 400."""
    with pytest.raises(LengthRequired):
        form(b"", transfer_encoding="chunked")


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"origin": "null"}, {"origin": "https://evil.example"}, {"origin": ORIGIN + ".evil.example"}, {"origin": ORIGIN + ":8443"}, {"origin": "http://app.example"},
        {"sec_fetch_site": "cross-site", "origin": ORIGIN}, {"sec_fetch_site": "same-site", "origin": ORIGIN}, {"sec_fetch_site": "none"},
        {"sec_fetch_site": ""}, {"sec_fetch_site": "same-origin,cross-site"}, {"origin": ORIGIN + "," + ORIGIN}, {"referer": ORIGIN + "/"},
    ],
)  # fmt: skip
def test_changes_from_elsewhere_are_refused(headers: dict[str, str]) -> None:
    """Another origin, ``null``, none at all, or a doubtful one: 403."""
    with pytest.raises(CrossSite):
        request("POST", **headers).require_same_origin(ORIGIN)


@pytest.mark.parametrize(
    "headers", [{"sec_fetch_site": "same-origin"}, {"origin": ORIGIN}, {"sec_fetch_site": "same-origin", "origin": ORIGIN}]
)
def test_changes_from_here_go_through(headers: dict[str, str]) -> None:
    """``Sec-Fetch-Site`` where the browser sends it, else ``Origin``."""
    request("POST", **headers).require_same_origin(ORIGIN)


def test_host_and_forwarded_headers_change_nothing() -> None:
    """The origin is the configured one, whatever a proxy or an attacker says."""
    with pytest.raises(CrossSite):
        request(
            "POST", host="evil.example", origin="https://evil.example", x_forwarded_host="evil.example"
        ).require_same_origin(ORIGIN)


NAVIGATION = {"sec_fetch_site": "same-origin", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.mark.parametrize(
    ("headers", "top_level", "same_origin"),
    [
        ({}, True, False),
        (NAVIGATION, True, True),
        ({**NAVIGATION, "sec_purpose": "prefetch"}, False, False),
        ({**NAVIGATION, "purpose": "prefetch"}, False, False),
        ({**NAVIGATION, "sec_fetch_site": "cross-site"}, True, False),
        ({**NAVIGATION, "sec_fetch_dest": "iframe"}, False, False),
        ({**NAVIGATION, "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, False, False),
        ({"sec_fetch_dest": "image"}, False, False),
    ],
)
def test_navigations_are_told_from_everything_else(headers: dict[str, str], top_level: bool, same_origin: bool) -> None:
    """Images, frames, scripts and prefetches are no navigations; other sites' are not our own."""
    asked = request(**headers)
    assert (asked.is_top_level_navigation, asked.is_same_origin_navigation) == (top_level, same_origin)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("application/json, text/html;q=0.5", False), ("text/html;q=0", False), ("TEXT/HTML ; q=0.8, application/json;q=0.1", True),
        ("text/html;q=1e9, application/json", False), ("text/html;q=nan", False), ("text/html;level=1;q=0.3", True), ("text/html,application/json", True),
        ("text/html;q=0.1;q=1, application/problem+json;q=0.5", False), ("text/htmlx", False), (";;,;q=", False), ("application/xhtml+xml", True),
    ],
)  # fmt: skip
def test_what_is_preferred_counts(accept: str, html: bool) -> None:
    """A client that would rather have JSON gets it; a weight that is none counts as none."""
    assert request(accept=accept).wants_html is html


def test_people_get_pages_and_scripts_get_json() -> None:
    """By ``Accept``."""
    assert request(accept="text/html,application/xhtml+xml,*/*;q=0.8").wants_html
    assert not request(accept="*/*").wants_html
    assert not request(accept="application/json").wants_html
    assert not request().wants_html


@pytest.mark.parametrize(
    "header", [("Location", "/a\r\nSet-Cookie: x=1"), ("Location", "/é"), ("Lo cation", "/"), ("X", "a\0")]
)
def test_headers_that_the_host_would_choke_on_are_a_fault_of_ours(header: tuple[str, str]) -> None:
    """CR, LF, NUL and non-ASCII never reach the wire."""
    with pytest.raises(ValueError, match="would not survive"):
        Response.json(200, {}).with_header(*header)


@pytest.mark.parametrize("error", [NotSignedIn("secret detail"), StorageUnavailable("secret detail")])
def test_problems_say_what_is_public(error: AppError) -> None:
    """Status, stable code and public text; what is for the log stays there."""
    response = Response.problem(error)
    body: dict[str, Any] = json.loads(response.body)
    assert response.content_type == "application/problem+json"
    assert (body["status"], body["code"], body["title"]) == (error.status, error.code, error.public)
    assert b"secret" not in response.body


def test_an_answer_grows_without_losing_anything() -> None:
    """Several cookies and headers stay, in their order; the answer they were added to stays as it was."""
    first, second = (SetCookie(name=name, value="v", path="/", same_site="Lax") for name in "ab")
    bare = Response.redirect(303, "https://idp.example/logout?x=1")
    full = bare.with_cookie(first).with_header("Retry-After", "5").with_cookie(second)
    assert (bare.cookies, bare.headers) == ((), (("Location", "https://idp.example/logout?x=1"),))
    assert full.cookies == (first, second)
    assert full.headers == (*bare.headers, ("Retry-After", "5"))
    assert (full.status, full.body) == (303, b"")


def test_a_page_with_half_a_character_is_still_a_page() -> None:
    """A name as a provider's JSON may hold it is no 500 on every visit."""
    assert Response.html(200, "a\ud800b").body == b"a?b"
