"""Cookies survive the Functions host, and what is no cookie of ours is nothing."""

import secrets
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.web.cookies import CookieNames, SessionCookie, SetCookie, check_name, read

ACCOUNTS = st.text(alphabet="ABCxyz019._~-", min_size=1, max_size=200)
NAMES = CookieNames(session="__Secure-session", secure=True)
LOCAL = CookieNames(session="session", secure=False)


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


def test_base64url_is_canonical() -> None:
    """One session, one spelling: unused bits set differently are refused."""
    cookie = SessionCookie(account="a", session_id="A" * 21 + "B", secret=secrets.token_urlsafe(32))
    assert SessionCookie.decode(cookie.encode()) is None


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
        for names in (NAMES, LOCAL, CookieNames(session="__Host-session", secure=True))
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
    assert (morsel["path"], bool(morsel["secure"]), bool(morsel["httponly"])) == (cookie.path, cookie.secure, True)
    assert morsel["samesite"] == cookie.same_site
    assert morsel["max-age"] == ("" if cookie.max_age is None else str(cookie.max_age))
    assert morsel["domain"] == ""
    assert len(cookie.header) < 4096


def test_the_session_cookie_is_what_the_contract_says() -> None:
    """HttpOnly, Secure, SameSite=Lax, Path=/, no Max-Age; deletion by Max-Age=0."""
    assert NAMES.session_cookie("v").header == "__Secure-session=v; Path=/; Secure; SameSite=Lax; HttpOnly"
    assert "Max-Age=0" in NAMES.clear_session().header
    assert "Secure" not in LOCAL.session_cookie("v").header


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
    assert check_name(name, https=True)


@pytest.mark.parametrize("name", ["__Secure-session", "__Host-session", "session", "my.app_session-1"])
def test_names_that_survive_are_taken(name: str) -> None:
    """The default names and others of token characters."""
    assert check_name(name, https=True) is None


@pytest.mark.parametrize("value", ["a b", "a;b", "é", 'a"b', "a,b", "a\\b", "{}", "a%20"])
def test_a_value_that_would_not_survive_is_a_fault_of_ours(value: str) -> None:
    """It is raised where it is made, not lost on the way."""
    with pytest.raises(ValueError, match="would not survive"):
        SetCookie(name="a", value=value, path="/", secure=True, same_site="Lax")
