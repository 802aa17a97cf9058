"""Who waits for the provider when every place is taken: those who need it come back later, sign-outs go on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import limits
from shared.errors import Busy, TokenInvalid
from shared.provider.client import Provider
from shared.provider.graph import Graph
from tests.provider.fake_provider import CLIENT_ID, TENANT, FakeProvider, sign

Make = Callable[..., Provider]
FOR_SIGN_OUT: Any = {"post_logout_redirect_uri": "https://a/", "state": "s", "logout_hint": None, "id_token_hint": None}
CACHE = b'{"RefreshToken": {"one": {"secret": "rt-1", "credential_type": "RefreshToken"}}}'


@contextmanager
def taken(places: limits.Places) -> Iterator[None]:
    """Another request has the one place."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with places.one():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_where_nothing_is_known_those_who_need_it_come_back_later(op: FakeProvider, client: Make) -> None:
    """Nobody is asked, nothing is remembered as a failure, and a sign-out goes on without the provider's address."""
    places = limits.Places(1)
    provider = client(places=places)
    with taken(places):
        with pytest.raises(Busy):
            provider.authorization_request(state="s", scopes=("User.Read",))
        with pytest.raises(Busy):
            provider.logout_token("a.b.c", now=datetime.now(UTC))
        assert provider.end_session_url(**FOR_SIGN_OUT) is None
    assert op.requests == []
    assert provider.authorization_request(state="s", scopes=("User.Read",)).url


def test_where_it_is_known_only_token_requests_come_back_later(op: FakeProvider, client: Make) -> None:
    """No code and no refresh token is sent; what needs no answer is done."""
    places = limits.Places(1)
    provider = client(places=places)
    now = datetime.now(UTC)
    logout_token = sign(
        {
            "iss": op.issuer,
            "aud": CLIENT_ID,
            "sub": "user-1",
            "iat": int(time.time()),
            "exp": int(time.time()) + 120,
            "jti": "jti-1",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        },
        op.keys["rsa"],
        kid="rsa",
    )
    provider.logout_token(logout_token, now=now)
    asked = provider.authorization_request(state="s", scopes=("User.Read",))
    op.requests.clear()
    with taken(places):
        with pytest.raises(Busy):
            provider.redeem(flow=asked.flow, answer={"state": "s", "code": "code-1"}, now=now)
        with pytest.raises(Busy):
            provider.refresh(cache=CACHE, home_account_id=f"uid-1.{TENANT}", scopes=("User.Read",), now=now)
        with pytest.raises(Busy):
            Graph(op.origin, places=places).me("at-1")
        assert op.requests == []
        assert provider.logout_token(logout_token, now=now).sub == "user-1"
        assert provider.end_session_url(**FOR_SIGN_OUT) is not None
        assert provider.authorization_request(state="s", scopes=("User.Read",)).url
        provider.healthy()


def test_an_unknown_key_is_not_waited_for(op: FakeProvider, client: Make) -> None:
    """A flood of forged tokens, or a rotation while everybody waits: try again."""
    places = limits.Places(1)
    provider = client(places=places)
    now = datetime.now(UTC)
    forged = sign({"iss": op.issuer}, op.keys["rsa"], kid="unheard-of")
    with pytest.raises(TokenInvalid):
        provider.logout_token(sign({"iss": op.issuer}, op.keys["rsa"], kid="rsa"), now=now)
    op.requests.clear()
    with taken(places), pytest.raises(Busy):
        provider.logout_token(forged, now=now)
    assert op.requests == []


def test_revocations_have_places_of_their_own(op: FakeProvider, client: Make) -> None:
    """Neither do waiting requests keep refresh tokens alive, nor do hanging revocations keep anybody waiting."""
    op.metadata = {"revocation_endpoint": f"{op.authority}/revoke"}
    places, revocations = limits.Places(1), limits.Places(1)
    provider = client(places=places, revocations=revocations)
    provider.metadata()
    with taken(places):
        assert provider.revoke(["rt"]) == 1
    with taken(revocations), pytest.raises(Busy):
        provider.revoke(["rt"])
    assert len(op.asked("/revoke")) == 1


def test_health_is_told_when_every_place_is_taken(op: FakeProvider, client: Make) -> None:
    """Whoever asks how things are does not wait in line, old value or none."""
    places = limits.Places(1)
    provider = client(places=places)
    with taken(places):
        provider.healthy()
    assert len(op.asked("/.well-known/openid-configuration")) == 1
