"""Cookies survive the Functions host, and what is no cookie of ours is nothing."""

import base64
import secrets
from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dev.host_answers import answer_of
from shared.web.cookies import CookieNames, SessionCookie, SetCookie, check_name, from_base64url, read
from shared.web.functions import http_response
from shared.web.messages import Response

ACCOUNTS = st.text(alphabet="ABCxyz019._~-", min_size=1, max_size=200)
NAMES = CookieNames(session="__Secure-session")
LOCAL = CookieNames(session="session")


def fresh(account: str = "uid.utid") -> SessionCookie:
    return SessionCookie(account=account, session_id=secrets.token_urlsafe(16), secret=secrets.token_urlsafe(32))


@given(ACCOUNTS)
def test_what_was_encoded_decodes(account: str) -> None:
    """Any account key comes back, and the value needs no encoding on the wire."""
    cookie = fresh(account)
    assert SessionCookie.decode(cookie.encode()) == cookie
    assert set(cookie.encode()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_anything_else_decodes_to_nothing(value: str) -> None:
    """Random text never becomes a cookie, and never an error."""
    assert SessionCookie.decode(value) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda v: "", lambda v: v + "=", lambda v: v + ".", lambda v: "." + v, lambda v: v[:-1], lambda v: v + "A", lambda v: v.replace(".", "..", 1),
        lambda v: "x" * 10_000, lambda v: v + "é", lambda v: v.upper() + "\n", lambda v: " " + v, lambda v: v.replace(".", "%2E"), lambda v: "'" + v,
    ],
)  # fmt: skip
def test_a_changed_cookie_decodes_to_nothing(change: object) -> None:
    """Longer, shorter, padded, quoted, 10 KB, not ASCII: nothing."""
    assert SessionCookie.decode(change(fresh().encode())) is None  # type: ignore[operator]


@pytest.mark.parametrize("account", ["a/b", "a b", "a'b", "é", "", "a" * 201, "a\x00", "!", "a#b"])
def test_an_account_that_can_be_no_key_decodes_to_nothing(account: str) -> None:
    """What a cookie claims as a partition is only ever a legal key: OData quoting never gets near storage."""
    assert SessionCookie.decode(fresh(account).encode()) is None


@pytest.mark.parametrize(
    "value",
    [
        f"YQ.{'A' * 21}B.{'A' * 43}", f"YQ.{'A' * 22}.{'A' * 42}B", f"YR.{'A' * 22}.{'A' * 43}", f"YQ==.{'A' * 22}.{'A' * 43}",
        f"YQ.+{'A' * 21}.{'A' * 43}", f"YQ.{'A' * 22}./{'A' * 42}", f"Y\nQ.{'A' * 22}.{'A' * 43}", f"YQ.{'A' * 22}.{'A' * 43}.",
        f"YQ.{'A' * 43}.{'A' * 22}", f".{'A' * 22}.{'A' * 43}",
    ],
)  # fmt: skip
def test_base64url_is_canonical(value: str) -> None:
    """One session, one spelling: unused bits, padding, the other alphabet, line ends and swapped parts are refused."""
    assert SessionCookie.decode(f"YQ.{'A' * 22}.{'A' * 43}") is not None
    assert SessionCookie.decode(value) is None


@given(st.binary(max_size=40), st.integers(min_value=0), st.sampled_from("AZaz09-_+/=."))
def test_bytes_have_one_spelling(data: bytes, place: int, other: str) -> None:
    """What was written reads back; with any one character exchanged it is other bytes or none."""
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert from_base64url(text) == data
    place %= len(text) or 1
    changed = text[:place] + other + text[place + 1 :]
    assert changed == text or from_base64url(changed) != data


def test_the_secret_is_in_no_repr() -> None:
    """A cookie that is logged by mistake tells nothing."""
    cookie = fresh()
    assert cookie.secret not in repr(cookie)
    assert cookie.secret not in repr(NAMES.session_cookie(cookie.encode()))


def every_cookie() -> list[SetCookie]:
    value, state = fresh("u" * 200).encode(), secrets.token_urlsafe(16)
    sealed = "key-1." + secrets.token_urlsafe(1800)
    return [
        cookie
        for names in (NAMES, LOCAL, CookieNames(session="__Host-session"))
        for cookie in (
            names.session_cookie(value),
            names.clear_session(),
            names.flow_cookie(state, sealed, form_post=True),
            names.flow_cookie(state, sealed, form_post=False),
            names.clear_flow(state),
        )
    ]


@pytest.mark.parametrize(
    "cookie", every_cookie(), ids=lambda cookie: f"{cookie.name[:20]} {cookie.same_site} {cookie.max_age}"
)
def test_the_functions_library_keeps_every_attribute(cookie: SetCookie) -> None:
    """Parsed by ``SimpleCookie``, as the library does, nothing is lost and the value needs no percent-encoding."""
    parsed = SimpleCookie(cookie.header)
    assert list(parsed) == [cookie.name]
    morsel = parsed[cookie.name]
    assert morsel.value == cookie.value
    assert (morsel["path"], bool(morsel["secure"]), bool(morsel["httponly"])) == (cookie.path, True, True)
    assert morsel["samesite"] == cookie.same_site
    assert morsel["max-age"] == ("" if cookie.max_age is None else str(cookie.max_age))
    assert morsel["domain"] == ""
    assert len(cookie.header) < 4096


def on_the_wire(*cookies: SetCookie) -> list[tuple[str, list[str]]]:
    """Each cookie as the local host writes it after the library's own converters: the pair, and its attributes in order."""
    response = Response.redirect(303, "/")
    for cookie in cookies:
        response = response.with_cookie(cookie)
    headers = answer_of(http_response(response)).headers
    written = [value.split("; ") for name, value in headers if name == "Set-Cookie"]
    return [(pair, sorted(attributes)) for pair, *attributes in written]


def expected(cookie: SetCookie) -> tuple[str, list[str]]:
    """The same, from our own header; the host adds an empty domain and writes attributes in lower case."""
    pair, *attributes = cookie.header.split("; ")
    return pair, sorted(["domain=", *(attribute.lower() for attribute in attributes)])


def test_every_cookie_is_on_the_wire_as_we_wrote_it() -> None:
    """Names and values byte for byte, every attribute, and all cookies of one answer."""
    cookies = every_cookie()
    assert on_the_wire(*cookies) == [expected(cookie) for cookie in cookies]


@given(
    st.text(alphabet="abzABZ019._-", min_size=1, max_size=64) | st.sampled_from(sorted(Morsel._reserved)),  # type: ignore[attr-defined]
    st.text(alphabet="abzABZ019._~-", max_size=80),
    st.sampled_from([None, 0, 600]),
)
def test_whatever_name_the_start_takes_survives(name: str, value: str, max_age: int | None) -> None:
    """No name that ``check_name`` lets through is lost on the way, whatever the value."""
    assume(check_name(name) is None)
    cookie = SetCookie(name=name, value=value, path="/auth", same_site="None", max_age=max_age)
    assert on_the_wire(cookie) == [expected(cookie)]


@pytest.mark.parametrize("name", sorted(Morsel._reserved))  # type: ignore[attr-defined]
def test_the_librarys_own_words_are_no_names(name: str) -> None:
    """Every attribute that this Python's cookie parser knows is refused as a name, and never set."""
    assert check_name(name.upper())
    with pytest.raises(ValueError, match="would not survive"):
        SetCookie(name=name, value="v", path="/", same_site="Lax")


@pytest.mark.parametrize(
    "fault",
    [
        {"path": ""}, {"path": "auth"}, {"path": "/;Domain=x"}, {"path": "/a b"}, {"max_age": -1},
        {"name": ""},
    ],
)  # fmt: skip
def test_attributes_that_would_not_survive_are_a_fault_of_ours(fault: dict[str, Any]) -> None:
    """A browser, the library or the host would drop such a cookie without a word."""
    good: dict[str, Any] = {"name": "a", "value": "v", "path": "/", "same_site": "Lax"}
    assert SetCookie(**good).header
    with pytest.raises(ValueError, match="would not survive"):
        SetCookie(**{**good, **fault})


def test_the_session_cookie_is_what_the_contract_says() -> None:
    """HttpOnly, Secure, SameSite=Lax, Path=/, no Max-Age; deletion by Max-Age=0."""
    assert NAMES.session_cookie("v").header == "__Secure-session=v; Path=/; Secure; SameSite=Lax; HttpOnly"
    assert "Max-Age=0" in NAMES.clear_session().header
    assert LOCAL.session_cookie("v").header == "session=v; Path=/; Secure; SameSite=Lax; HttpOnly"


def test_a_form_post_carries_the_flow_cookie() -> None:
    """A cross-site POST carries only ``SameSite=None; Secure``; a query answer does with Lax."""
    assert "SameSite=None" in NAMES.flow_cookie("s", "v", form_post=True).header
    assert "Secure" in LOCAL.flow_cookie("s", "v", form_post=True).header
    assert "SameSite=Lax" in NAMES.flow_cookie("s", "v", form_post=False).header
    assert "Path=/auth;" in NAMES.flow_cookie("s", "v", form_post=True).header


def test_all_values_of_a_name_are_read_in_order() -> None:
    """Two cookies of one name are both seen, whatever stands around them."""
    header = 'broken; a="x y"; session=1;session=2 ; __Secure-session=3; =; ;session'
    assert read(header, "session") == ("1", "2")
    assert read(None, "session") == ()


@given(st.text(max_size=200))
def test_any_header_is_read_without_error(header: str) -> None:
    """Nothing that a browser or an attacker sends as ``Cookie`` raises."""
    read(header, "session")
    assert len(NAMES.flows(header)) <= 16


def test_a_flood_of_flow_cookies_is_bounded() -> None:
    """A thousand flow cookies are not a thousand decryptions."""
    header = "; ".join(f"{NAMES.flow_name(secrets.token_urlsafe(16))}=x" for _ in range(1000))
    assert len(NAMES.flows(header)) <= 16


@pytest.mark.parametrize(
    "name",
    ["path", "Domain", "max-age", "httponly", "a b", "a=b", "a;b", "", "é", "__Secure-signin-x", "x" * 65, "partitioned"],
)
def test_names_that_would_be_lost_are_refused(name: str) -> None:
    """A session cookie that the library drops would sign nobody in: the start says so."""
    assert check_name(name)


@pytest.mark.parametrize("name", ["__Secure-session", "__Host-session", "session", "my.app_session-1"])
def test_names_that_survive_are_taken(name: str) -> None:
    """The default names and others of token characters."""
    assert check_name(name) is None


@pytest.mark.parametrize("value", ["a b", "a;b", "é", 'a"b', "a,b", "a\\b", "{}", "a%20"])
def test_a_value_that_would_not_survive_is_a_fault_of_ours(value: str) -> None:
    """It is raised where it is made, not lost on the way."""
    with pytest.raises(ValueError, match="would not survive"):
        SetCookie(name="a", value=value, path="/", same_site="Lax")


@pytest.mark.parametrize("before", [0, 199, 200, 3000])
def test_no_number_of_cookies_hides_one(before: int) -> None:
    """Whoever plants cookies before the session's (a neighbouring subdomain) does not make a sign-out overlook it."""
    planted = "".join(f"a{number}=1; " for number in range(before))
    assert read(f"{planted}session=mine", "session") == ("mine",)
