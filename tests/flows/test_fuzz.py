"""Whatever is sent: an answer of ours, nothing stored, nobody signed in.  ``FUZZ=n`` multiplies the examples (a minute of them in CI)."""

import base64
import os
import secrets
from typing import Any
from urllib.parse import quote, urlencode

import azure.functions as func
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import routes
from shared.app import assemble
from shared.front import Front
from shared.settings import Settings
from shared.store.memory_table import MemoryTable

EXAMPLES = 150 * int(os.environ.get("FUZZ", "25" if os.environ.get("CI") else "1"))
ENVIRON = {
    "OIDC_AUTHORITY": "https://127.0.0.1:1/tenant/v2.0",  # nobody listens: the provider is down throughout
    "CLIENT_ID": "client",
    "CLIENT_SECRET": "secret",
    "REDIRECT_URI": "https://app.example/auth/callback",
    "TOKEN_STORE": "UseDevelopmentStorage=true",
    "SEALING_KEYS": "k:" + base64.b64encode(os.urandom(32)).decode(),
}
TEXT = (
    st.text(max_size=60)
    | st.text(alphabet="%20&=;+/\\.'\"\0\r\n\té<>{}[]", max_size=40)
    | st.binary(max_size=40).map(lambda data: data.decode("latin-1"))
)
LOOSE = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


class Fuzzed:
    """The front door over tables in memory."""

    def __init__(self) -> None:
        self.tables = (MemoryTable(), MemoryTable())
        self.front = Front(ENVIRON, builder=self._build)

    def _build(self, values: Settings) -> Any:
        return assemble(values, sessions_table=self.tables[0], index_table=self.tables[1], check_storage=lambda: None)

    def send(
        self, route: routes.Route, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> func.HttpResponse:
        request = func.HttpRequest(method, f"http://localhost{path}", headers=headers or {}, body=body)
        return self.front.serve(request, route)

    def rows(self) -> int:
        return sum(1 for table in self.tables for _ in table.scan(first="", before="\uffff"))


@pytest.fixture(scope="module")
def fuzzed() -> Fuzzed:
    """One app for all examples: what one of them left behind would show."""
    return Fuzzed()


def nothing_happened(fuzzed: Fuzzed, answer: func.HttpResponse, *statuses: int) -> None:
    assert answer.status_code in statuses
    assert fuzzed.rows() == 0
    assert answer.headers.get("Cache-Control") == "no-store"
    assert not any(
        cookie.startswith("__Secure-session=") and "Max-Age=0" not in cookie for cookie in answer.headers.getlist("Set-Cookie")
    )


@LOOSE
@given(value=TEXT, again=st.booleans())
def test_any_cookie_is_401(fuzzed: Fuzzed, value: str, again: bool) -> None:
    """No session, no scan, no error."""
    header = f"__Secure-session={value}" + (f"; __Secure-session={value}x" if again else "")
    nothing_happened(fuzzed, fuzzed.send(routes.me, "GET", "/auth/me", headers={"cookie": header}), 401)


@LOOSE
@given(
    parts=st.lists(
        st.sampled_from(["YQ", "A" * 22, "B" * 43, secrets.token_urlsafe(16), secrets.token_urlsafe(32), "", "=", "'"]),
        max_size=5,
    )
)
def test_any_cookie_of_our_shape_is_401(fuzzed: Fuzzed, parts: list[str]) -> None:
    """Well-formed pieces in any order prove nothing either."""
    nothing_happened(
        fuzzed, fuzzed.send(routes.me, "GET", "/auth/me", headers={"cookie": "__Secure-session=" + ".".join(parts)}), 401
    )


@LOOSE
@given(
    query=st.lists(st.tuples(st.sampled_from(["sid", "iss", "SID", "sid[]", "x"]), TEXT), max_size=4),
    raw=TEXT,
    plain=st.booleans(),
)
def test_any_front_channel_query_is_the_same_200(fuzzed: Fuzzed, query: list[tuple[str, str]], raw: str, plain: bool) -> None:
    """Byte for byte, whatever it names."""
    text = quote(raw, safe="&=%+;") if plain else urlencode(query)
    answer = fuzzed.send(routes.frontchannel_logout, "GET", f"/auth/frontchannel-logout?{text}")
    nothing_happened(fuzzed, answer, 200)
    assert answer.get_body() == fuzzed.send(routes.frontchannel_logout, "GET", "/auth/frontchannel-logout").get_body()


@LOOSE
@given(
    fields=st.lists(
        st.tuples(st.sampled_from(["state", "code", "iss", "error", "session_state", "x"]), TEXT | st.just("A" * 22)),
        max_size=6,
    ),
    raw=st.binary(max_size=100),
    plain=st.booleans(),
    cookie=TEXT,
)
def test_any_callback_is_refused(fuzzed: Fuzzed, fields: list[tuple[str, str]], raw: bytes, plain: bool, cookie: str) -> None:
    """Nobody is signed in by a form that we did not ask for."""
    headers = {"content-type": "application/x-www-form-urlencoded", "cookie": f"__Secure-signin-{'A' * 22}={cookie}"}
    body = raw if plain else urlencode(fields).encode()
    nothing_happened(fuzzed, fuzzed.send(routes.callback, "POST", "/auth/callback", headers=headers, body=body), 400, 411, 413)


SEGMENT = st.text(alphabet="ABCabc019-_=.", max_size=20) | st.sampled_from(
    [
        base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
        for text in (
            '{"alg":"none"}',
            '{"alg":"HS256","typ":"logout+jwt"}',
            '{"alg":"RS256","kid":"x"}',
            "{}",
            "[]",
            '{"iss":1}',
            "null",
        )
    ]
)


@LOOSE
@given(token=st.lists(SEGMENT, max_size=5).map(".".join) | TEXT)
def test_any_logout_token_ends_nothing(fuzzed: Fuzzed, token: str) -> None:
    """400, or 503 where it might be true and the provider's keys cannot be had."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"logout_token": token}).encode()
    nothing_happened(
        fuzzed,
        fuzzed.send(routes.backchannel_logout, "POST", "/auth/backchannel-logout", headers=headers, body=body),
        400,
        503,
    )


@LOOSE
@given(
    return_to=TEXT,
    other=st.lists(st.tuples(st.sampled_from(["prompt", "login_hint", "domain_hint", "return_to"]), TEXT), max_size=3),
)
def test_any_start_writes_nothing(fuzzed: Fuzzed, return_to: str, other: list[tuple[str, str]]) -> None:
    """The provider is down: 503, or 400 for what makes no sense."""
    nothing_happened(
        fuzzed, fuzzed.send(routes.login, "GET", f"/auth/login?{urlencode([('return_to', return_to), *other])}"), 400, 503
    )


@LOOSE
@given(body=st.binary(max_size=100) | TEXT.map(lambda text: ('{"account": "' + text + '"}').encode("utf-8", "replace")))
def test_any_administrators_wish_is_answered(fuzzed: Fuzzed, body: bytes) -> None:
    """200 or 400; the rows that a good wish leaves are its account's mark."""
    answer = Fuzzed().send(routes.admin_sign_out, "POST", "/auth/admin/sign-out", body=body)
    assert answer.status_code in (200, 400)
