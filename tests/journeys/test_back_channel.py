"""Back-channel logout (OpenID Connect Back-Channel Logout 1.0): what a verified token ends, and all that must end nothing."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack

EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture(scope="module")
def back(azurite: Azurite, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app with scope ``session`` whose provider has back-channel logout."""
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("back"))
    yield stack.start_app({"SIGN_OUT_SCOPE": "session"}, backchannel=True)
    stack.stop()


@pytest.fixture(autouse=True)
def _no_calls_of_its_own(provider: Provider) -> None:
    """The tests send the tokens; the provider's frames stay away."""
    provider.switch(frontchannel=False, backchannel_logout_supported=True)


class Person:
    """Somebody with some devices."""

    def __init__(self, app: App, provider: Provider, count: int = 1) -> None:
        self.app = app
        self.login = f"back-{secrets.token_hex(4)}"
        self.agents = [UserAgent() for _ in range(count)]
        self.sids: list[str] = []
        for agent in self.agents:
            agent.sign_in(app.url, self.login)
            known = {session["clients"][app.client_id] for session in provider.sessions(self.login)}
            self.sids.append((known - set(self.sids)).pop())
        self.sub = self.agents[0].fetch(f"{app.url}/auth/me").json()["sub"]

    def signed_in(self) -> list[bool]:
        return [agent.fetch(f"{self.app.url}/auth/me").status == 200 for agent in self.agents]


def send(
    app: App,
    token: str | None,
    *,
    body: bytes | None = None,
    query: str = "",
    media_type: str = "application/x-www-form-urlencoded",
    method: str = "POST",
) -> Page:
    """The provider's own request: no browser, no cookies."""
    data = body if body is not None else urlencode({"logout_token": token or ""}).encode()
    headers = {"Content-Type": media_type, "Accept": "", "Sec-Fetch-Mode": "", "Sec-Fetch-Dest": "", "Sec-Fetch-Site": ""}
    return UserAgent().request(
        method, f"{app.url}/auth/backchannel-logout{query}", headers=headers, body=data if method != "GET" else None
    )


def rows(app: App) -> list[tuple[str, str, str]]:
    return [
        (e["PartitionKey"], e["RowKey"], e.metadata["etag"]) for table in ("sessions", "index") for e in app.entities(table)
    ]


# -- what it ends


def test_sid_ends_that_session(back: App, provider: Provider) -> None:
    """Scope ``session``: that one; 200, not to be stored."""
    person = Person(back, provider, 2)
    page = send(back, provider.logout_token(client_id=back.client_id, sid=person.sids[0]))
    assert (page.status, page.header("cache-control")) == (200, "no-store")
    assert person.signed_in() == [False, True]


def test_sub_alone_ends_all_of_that_users_sessions(back: App, provider: Provider) -> None:
    """Whatever the scope; nobody else's."""
    person, other = Person(back, provider, 2), Person(back, provider)
    assert send(back, provider.logout_token(client_id=back.client_id, sub=person.sub)).status == 200
    assert (person.signed_in(), other.signed_in()) == ([False, False], [True])


def test_sid_and_sub_that_agree_end_that_session(back: App, provider: Provider) -> None:
    """That user's sessions with that sid."""
    person = Person(back, provider, 2)
    assert send(back, provider.logout_token(client_id=back.client_id, sid=person.sids[1], sub=person.sub)).status == 200
    assert person.signed_in() == [True, False]


def test_sid_of_one_with_sub_of_another_ends_nothing(back: App, provider: Provider) -> None:
    """400, and both stay, in the tables too."""
    person, other = Person(back, provider), Person(back, provider)
    before = rows(back)
    page = send(back, provider.logout_token(client_id=back.client_id, sid=person.sids[0], sub=other.sub))
    assert (page.status, page.json()["error"]) == (400, "invalid_request")
    assert (person.signed_in(), other.signed_in()) == ([True], [True])
    assert rows(back) == before


def test_sub_alone_is_refused_where_the_metadata_promises_no_such_logout(stack: Stack, provider: Provider) -> None:
    """Nothing leads from a ``sub`` to its sessions there: 400, no 200 for what did not happen; ``sid`` works all the same."""
    provider.switch(backchannel_logout_supported=False)
    app = stack.start_app({"SIGN_OUT_SCOPE": "session"})
    person = Person(app, provider)
    before = rows(app)
    assert send(app, provider.logout_token(client_id=app.client_id, sub=person.sub)).status == 400
    assert (rows(app), person.signed_in()) == (before, [True])
    assert send(app, provider.logout_token(client_id=app.client_id, sid=person.sids[0])).status == 200
    assert person.signed_in() == [False]


def test_scope_account_ends_the_sids_account(stack: Stack) -> None:
    """``SIGN_OUT_SCOPE=account``: a sid leads to its user's every device."""
    app = stack.start_app(backchannel=True)
    person, other = Person(app, stack.provider, 2), Person(app, stack.provider)
    assert send(app, stack.provider.logout_token(client_id=app.client_id, sid=person.sids[0])).status == 200
    assert (person.signed_in(), other.signed_in()) == ([False, False], [True])


def test_an_unknown_sid_or_sub_is_success(back: App, provider: Provider) -> None:
    """There is nothing to end: 200."""
    assert send(back, provider.logout_token(client_id=back.client_id, sid="unknown")).status == 200
    assert send(back, provider.logout_token(client_id=back.client_id, sub="unknown")).status == 200


def test_a_sign_in_that_began_before_the_logout_is_refused(back: App, provider: Provider) -> None:
    """The ``end:`` row waits for it, though there was no session to end."""
    person = Person(back, provider)
    slow = UserAgent()
    slow.open(f"{back.url}/auth/login")
    assert send(back, provider.logout_token(client_id=back.client_id, sub=person.sub)).status == 200
    page = slow.choose(person.login)
    assert (page.status, "signed_out_meanwhile" in page.text) == (409, True)


def test_a_session_younger_than_the_token_stays(back: App, provider: Provider) -> None:
    """A token that was delayed does not end the sign-in after it."""
    token_time = int(time.time()) - 60
    person = Person(back, provider)
    token = provider.logout_token(client_id=back.client_id, sub=person.sub, claims={"iat": token_time})
    assert send(back, token).status == 200
    assert person.signed_in() == [True]


def test_the_providers_own_sign_out_reaches_us(stack: Stack) -> None:
    """End to end: signing out at the provider posts a real token, and the iframe that follows finds nothing left."""
    app = stack.start_app(backchannel=True)
    stack.provider.switch(frontchannel=True, backchannel_logout_supported=True)
    agent = UserAgent()
    agent.sign_in(app.url, "both-channels")
    agent.open(f"{stack.provider.another_app}/sign-in")
    agent.open(f"{stack.provider.another_app}/sign-out")
    assert agent.fetch(f"{app.url}/auth/me").status == 401
    assert stack.provider.counters()["backchannel"]["accepted"] == 1


# -- what ends nothing

BAD: list[tuple[str, dict[str, Any]]] = [
    ("alg none", {"key": "none"}),
    ("hmac with the public key", {"key": "hmac"}),
    ("unknown key", {"key": "unknown"}),
    ("typ of an access token", {"header": {"typ": "at+jwt"}}),
    ("typ of something else", {"header": {"typ": "id_token+jwt"}}),
    ("wrong iss", {"claims": {"iss": "https://evil.example"}}),
    ("wrong aud", {"claims": {"aud": "somebody-else"}}),
    ("aud empty", {"claims": {"aud": []}}),
    *((f"missing {name}", {"claims": {name: None}}) for name in ("iss", "aud", "iat", "exp", "jti", "events")),
    ("expired", {"claims": {"exp": 1}}),
    ("from the future", {"claims": {"iat": 4_000_000_000, "exp": 4_000_000_100}}),
    ("exp a string", {"claims": {"exp": "4000000000"}}),
    ("exp a boolean", {"claims": {"exp": True}}),
    ("exp huge", {"claims": {"exp": 1e300}}),
    ("nonce", {"claims": {"nonce": "x"}}),
    ("nonce empty", {"claims": {"nonce": ""}}),
    ("nonce zero", {"claims": {"nonce": 0}}),
    ("events a string", {"claims": {"events": EVENT}}),
    ("events a list", {"claims": {"events": [EVENT]}}),
    ("events of another kind", {"claims": {"events": {"http://schemas.openid.net/event/other": {}}}}),
    ("event not an object", {"claims": {"events": {EVENT: True}}}),
    ("neither sub nor sid", {"claims": {"sub": None, "sid": None}}),
    ("sub a number", {"claims": {"sub": 1}}),
    ("sid empty", {"claims": {"sid": "", "sub": None}}),
]


@pytest.mark.parametrize(("what", "parts"), BAD, ids=[name for name, _ in BAD])
def test_a_token_with_a_fault_ends_nothing(back: App, provider: Provider, what: str, parts: dict[str, Any]) -> None:
    """400 ``invalid_request`` (503 where the keys may not be asked for just now), the session stays, nothing is written."""
    person = Person(back, provider)
    before = rows(back)
    page = send(back, provider.logout_token(client_id=back.client_id, **{"sub": person.sub, **parts}))
    assert page.status == 400 or (what == "unknown key" and page.status == 503), page.text
    if page.status == 400:
        assert page.json()["error"] == "invalid_request"
    assert person.signed_in() == [True]
    assert rows(back) == before


def test_a_token_names_no_address_that_is_asked(back: App, provider: Provider) -> None:
    """``jku``, ``x5u``, ``jwk`` in the header: never fetched, never trusted."""
    person = Person(back, provider)
    header = {"jku": f"{back.url}/never", "x5u": f"{back.url}/never", "jwk": {"kty": "oct", "k": "AAAA"}}
    token = provider.logout_token(client_id=back.client_id, sub=person.sub, header=header, key="unknown")
    assert send(back, token).status in (400, 503)
    assert person.signed_in() == [True]
    assert "/never" not in back.logs()


def test_a_flood_of_unknown_keys_asks_the_provider_once(back: App, provider: Provider) -> None:
    """At most one fetch of the keys in 30 s, however many tokens come."""
    person = Person(back, provider)
    with provider.counting() as counted:
        statuses = {
            send(
                back,
                provider.logout_token(
                    client_id=back.client_id, sub=person.sub, key="unknown", header={"kid": secrets.token_hex(4)}
                ),
            ).status
            for _ in range(20)
        }
    assert statuses <= {400, 503}
    assert counted["jwks"] <= 1
    assert person.signed_in() == [True]


def test_a_token_acts_once(back: App, provider: Provider) -> None:
    """Replayed after a new sign-in it is refused, and ends nothing."""
    person = Person(back, provider)
    token = provider.logout_token(client_id=back.client_id, sub=person.sub, claims={"iat": int(time.time()) + 30})
    assert send(back, token).status == 200
    assert person.signed_in() == [False]
    person.agents[0].sign_in(back.url, person.login)
    assert send(back, token).status == 400
    assert person.signed_in() == [True]


def test_only_one_logout_token_in_the_form_counts(back: App, provider: Provider) -> None:
    """Twice, in the query, as JSON, by GET, 1 MB, empty: refused, nothing ended."""
    person = Person(back, provider)
    token = provider.logout_token(client_id=back.client_id, sub=person.sub)
    one = urlencode({"logout_token": token}).encode()
    assert send(back, None, body=one + b"&" + one).status == 400
    assert send(back, token, query=f"?{one.decode()}").status == 400
    assert send(back, None, query=f"?{one.decode()}", body=b"").status == 400
    assert send(back, None, body=b'{"logout_token": "' + token.encode() + b'"}', media_type="application/json").status == 400
    assert send(back, None, query=f"?{one.decode()}", method="GET").status == 404
    assert send(back, "x" * 1_000_000).status == 400
    assert send(back, None, body=b"").status == 400
    assert send(back, "a.b.c").status == 400
    assert person.signed_in() == [True]
    assert send(back, token).status == 200


def test_no_token_is_in_any_log(back: App, provider: Provider, tmp_path: Path) -> None:
    """Neither a good one nor a bad one."""
    person = Person(back, provider)
    good = provider.logout_token(client_id=back.client_id, sub=person.sub)
    bad = provider.logout_token(client_id=back.client_id, sub=person.sub, key="none")
    send(back, bad)
    send(back, good)
    logs = back.logs()
    assert good not in logs
    assert bad not in logs
    assert person.sids[0] not in logs
    assert person.sub not in logs


def test_a_rotated_key_is_found(stack: Stack) -> None:
    """The provider's new key is fetched when the first token names it."""
    app = stack.start_app(backchannel=True)
    person = Person(app, stack.provider)
    stack.provider.rotate_keys()
    page = send(app, stack.provider.logout_token(client_id=app.client_id, sub=person.sub))
    assert page.status == 200, page.text
    assert person.signed_in() == [False]
