"""The example's API: a profile, a challenge, or a failure."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import limits
from shared.errors import InteractionRequired, ProviderFailed, ProviderUnavailable
from shared.provider.graph import Graph, challenge
from tests.provider.fake_provider import FakeProvider

CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1"}}}'


def header(claims: str, *, error: str = "insufficient_claims") -> str:
    """A challenge as Graph sends it."""
    encoded = base64.b64encode(claims.encode()).decode()
    return f'Bearer realm="", authorization_uri="https://a/", error="{error}", claims="{encoded}"'


def test_the_profile_is_asked_for_with_the_users_token(op: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bearer, and nothing else of the user's."""
    monkeypatch.setattr(op, "answer", lambda _: (200, {"displayName": "Ada"}))
    assert Graph(op.origin).me("at-1") == {"displayName": "Ada"}
    assert op.requests[0].path == "/me"
    assert op.requests[0].headers["Authorization"] == "Bearer at-1"


def test_a_challenge_becomes_a_new_sign_in(op: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the claims that the API wants to see; without a challenge a new sign-in would be followed by the next."""
    monkeypatch.setattr(op, "answer", lambda _: (401, {}))
    op.headers = {"WWW-Authenticate": header(CLAIMS)}
    with pytest.raises(InteractionRequired) as raised:
        Graph(op.origin).me("at-1")
    assert raised.value.claims == CLAIMS


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, []), (500, {}), (401, {}), (403, {}), (404, b""), (200, b"[" * 100_000)]
)
def test_anything_else_is_a_failure(op: FakeProvider, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """And never a crash."""
    monkeypatch.setattr(op, "answer", lambda _: answer)
    with pytest.raises(ProviderFailed):
        Graph(op.origin).me("at-1")


def test_a_hanging_graph_is_left_alone(op: FakeProvider) -> None:
    """The limit of a call holds for APIs too."""
    op.faults = {"/me": "hang"}
    with pytest.raises(ProviderUnavailable), limits.within(0.2):
        Graph(op.origin).me("at-1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer",
        header(CLAIMS, error="invalid_token"),
        header("[1]"),
        header("x"),
        header("[" * 5000),
        'error="insufficient_claims", claims="A"',
    ],
)
def test_a_challenge_that_is_none(text: str) -> None:
    """Only a JSON object is passed on to the provider."""
    assert challenge(text) is None


@given(text=st.text() | st.text().map(lambda claims: header(claims.encode("utf-8", "replace").decode())))
def test_no_header_makes_it_crash(text: str) -> None:
    """Whatever an API sends."""
    assert (challenge(text) or "{").lstrip().startswith("{")
