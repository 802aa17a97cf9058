"""The front door, with MSAL, PyJWT and requests for real, against a real HTTPS provider."""

import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from shared import limits
from shared.errors import (
    AppError,
    BadRequest,
    CodeRefused,
    InteractionRequired,
    ProviderFailed,
    ProviderUnavailable,
    RefreshTokenDead,
    SignInRefused,
    SignInStateInvalid,
    TokenInvalid,
)
from shared.provider import (
    msal_client,  # noqa: F401 -- imported now, so that no test's time limit pays for it
    token_cache,
)
from shared.provider.client import Provider
from shared.provider.values import SignedIn
from tests.provider.fake_provider import CLIENT_ID, SECRET, TENANT, FakeProvider, part, sign, sign_raw

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _time_goes_on() -> None:
    """The provider of these tests lives by the clock: a run of many minutes must not fall behind it."""
    global NOW  # noqa: PLW0603
    NOW = datetime.now(UTC)


HOME = f"uid-1.{TENANT}"
Make = Callable[..., Provider]


def sign_in(
    provider: Provider,
    op: FakeProvider,
    *,
    claims: dict[str, Any] | None = None,
    members: dict[str, Any] | None = None,
    answer: dict[str, str] | None = None,
    id_token: Callable[[dict[str, Any]], str] | None = None,
) -> SignedIn:
    """A whole sign-in, with claims, members of the token answer and callback parameters changed as given."""
    asked = provider.authorization_request(state="state-1", scopes=("User.Read",))
    nonce = parse_qs(urlsplit(asked.url).query)["nonce"][0]
    wanted = op.claims(**{"nonce": nonce, **(claims or {})})
    token = id_token(wanted) if id_token else sign(wanted, op.keys["rsa"], kid="rsa")
    op.token_answer = lambda _: (200, op.tokens(token, **(members or {})))
    flow = json.loads(json.dumps(dict(asked.flow)))
    return provider.redeem(flow=flow, answer={"state": "state-1", "code": "code-1", **(answer or {})}, now=NOW)


# -- laziness


def test_importing_and_building_the_front_door_loads_nothing_heavy() -> None:
    """A cold front-channel logout does not pay for MSAL, PyJWT, requests or cryptography, nor does the issuer need I/O."""
    code = """
import sys
from shared.provider.client import Provider
from shared.provider.values import ProviderSettings
provider = Provider(ProviderSettings(authority="https://login.microsoftonline.com/common", oidc=False, client_id="c",
    client_secret="s", redirect_uri="https://a/auth/callback", scopes=(), response_mode="form_post"))
provider.configured_issuer(), provider.metadata_if_known()
provider.issuer_matches("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0")
print([name for name in ("msal", "jwt", "requests", "urllib3", "cryptography", "ssl") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# -- starting


def test_the_authorization_request_has_pkce_nonce_and_the_answers_form(op: FakeProvider, client: Make) -> None:
    """The browser is sent with everything that later proves that the answer is ours."""
    asked = client().authorization_request(
        state="state-1",
        scopes=("User.Read", "openid"),
        prompt="login",
        login_hint="ada",
        domain_hint="example.com",
        claims='{"a":1}',
    )
    url = urlsplit(asked.url)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{op.authority}/authorize"
    assert query["client_id"] == CLIENT_ID
    assert query["redirect_uri"] == "https://app.example/auth/callback"
    assert query["response_type"] == "code"
    assert query["response_mode"] == "form_post"
    assert query["state"] == "state-1"
    assert query["code_challenge_method"] == "S256"
    assert query["nonce"] == hashlib.sha256(asked.flow["nonce"].encode()).hexdigest()
    assert set(query["scope"].split()) == {"User.Read", "openid", "profile", "offline_access"}
    assert (query["prompt"], query["login_hint"], query["domain_hint"], query["claims"]) == (
        "login",
        "ada",
        "example.com",
        '{"a":1}',
    )
    assert len(json.dumps(dict(asked.flow))) < 700
    assert "auth_uri" not in asked.flow


def test_response_mode_query_is_asked_for_without_a_warning(op: FakeProvider, client: Make) -> None:
    """MSAL warns about ``query``; a warning for every sign-in would bury the log."""
    url = client(response_mode="query").authorization_request(state="response_mode=form_post", scopes=()).url
    query = parse_qs(urlsplit(url).query)
    assert query["response_mode"] == ["query"]
    assert query["state"] == ["response_mode=form_post"]


# -- the callback


def test_a_sign_in_gives_who_it_is_and_the_cache(op: FakeProvider, client: Make) -> None:
    """Code, verifier and secret go to the token endpoint; what comes back is read, verified and kept compact."""
    provider = client()
    signed_in = sign_in(
        provider,
        op,
        claims={"oid": "oid-1", "sid": "sid-1", "login_hint": "hint-1", "auth_time": int(time.time()) - 60},
        answer={"session_state": "ss-1", "client_info": "%%%"},
    )
    form = op.asked("/token")[0].form
    assert (form["grant_type"], form["code"], form["client_id"], form["client_secret"]) == (
        "authorization_code",
        "code-1",
        CLIENT_ID,
        SECRET,
    )
    assert form["code_verifier"]
    assert signed_in.issuer == op.issuer
    assert (signed_in.sub, signed_in.oid, signed_in.tid, signed_in.sid) == ("user-1", "oid-1", TENANT, "sid-1")
    assert (signed_in.name, signed_in.username, signed_in.login_hint) == ("Ada", "ada@example.com", "hint-1")
    assert signed_in.session_state == "ss-1"
    assert signed_in.home_account_id == HOME
    assert signed_in.issued_at - signed_in.auth_time == timedelta(seconds=60)
    assert set(json.loads(signed_in.cache)) == {"AccessToken", "RefreshToken", "Account"}
    assert token_cache.refresh_tokens(signed_in.cache) == ["rt-1"]
    token = provider.token_from_cache(cache=signed_in.cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert token is not None
    assert token.value == "at-1"
    for secret in ("at-1", "rt-1", signed_in.id_token):
        assert secret not in repr(signed_in) + repr(token)


def test_auth_time_falls_back_to_the_time_of_issue(op: FakeProvider, client: Make) -> None:
    """Not every provider tells when the user signed in."""
    signed_in = sign_in(client(), op)
    assert signed_in.auth_time == signed_in.issued_at


def test_no_refresh_token_is_no_error(op: FakeProvider, client: Make) -> None:
    """A provider that gives none still signs people in."""
    provider = client()
    assert token_cache.refresh_tokens(sign_in(provider, op, members={"refresh_token": None}).cache) == []


SUBJECTS = [
    "a/b\\c#d?e",
    "\x00\x01\x1f\r\nX: y",
    "Ж语🙂",
    "AbC",
    "x" * 500,
    "with.dots.in.it",
    " ",
]


@pytest.mark.parametrize("sub", SUBJECTS, ids=range(len(SUBJECTS)))
def test_any_subject_signs_in_and_refreshes(op: FakeProvider, client: Make, sub: str) -> None:
    """Without ``client_info`` the account is the raw ``sub``, whatever its characters; MSAL alone would crash on some."""
    provider = client()
    signed_in = sign_in(provider, op, claims={"sub": sub}, members={"client_info": None})
    assert signed_in.home_account_id == sub
    op.token_answer = lambda _: (200, {"token_type": "bearer", "access_token": "at-2", "expires_in": "3600"})
    refreshed = provider.refresh(cache=signed_in.cache, home_account_id=sub, scopes=("User.Read",), now=NOW)
    assert refreshed.token.value == "at-2"
    found = provider.token_from_cache(cache=refreshed.cache, home_account_id=sub, scopes=("User.Read",), now=NOW)
    assert found is not None
    assert found.value == "at-2"
    assert (
        provider.token_from_cache(cache=refreshed.cache, home_account_id=sub.swapcase() + "'", scopes=("User.Read",), now=NOW)
        is None
    )


def test_a_large_sign_in_survives(op: FakeProvider, client: Make) -> None:
    """200 groups in the ID token and a long access token are nothing unusual."""
    groups = [f"00000000-0000-0000-0000-{n:012}" for n in range(200)]
    signed_in = sign_in(client(), op, claims={"groups": groups}, members={"access_token": "a" * 100_000})
    assert len(signed_in.id_token) > 8000


BAD_ID_TOKENS: dict[str, Callable[[FakeProvider, dict[str, Any]], str]] = {
    "alg none": lambda _, c: f"{part({'alg': 'none', 'kid': 'rsa'})}.{part(c)}.",
    "alg none with a signature": lambda _, c: f"{part({'alg': 'none', 'kid': 'rsa'})}.{part(c)}.c2ln",
    "HS256 with the public key": lambda op, c: sign_raw(
        {"alg": "HS256", "kid": "rsa"}, c, op.keys["rsa"].public_key().public_numbers().n.to_bytes(256, "big"), "HS256"
    ),
    "HS256 with the client secret": lambda _, c: sign(c, SECRET.ljust(32, "x"), alg="HS256", kid="rsa"),
    "wrong key": lambda op, c: sign(c, op.keys["rsa-next"], kid="rsa"),
    "wrong kid": lambda op, c: sign(c, op.keys["rsa-next"], kid="unknown"),
    "kid of another kind": lambda op, c: sign_raw({"alg": "RS256", "kid": 7}, c, op.keys["rsa"]),
    "an algorithm that the key is not for": lambda op, c: sign(c, op.keys["ec"], alg="ES256", kid="rsa"),
    "changed claims": lambda op, c: ".".join(
        [(t := sign(c, op.keys["rsa"], kid="rsa").split("."))[0], part({**c, "sub": "other"}), t[2]]
    ),
    "its own key in the header": lambda op, c: sign(
        c, op.keys["rsa-next"], kid="rsa-next", jwk={"kty": "RSA", "n": "x", "e": "AQAB"}
    ),
    "a critical extension": lambda op, c: sign_raw({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}, c, op.keys["rsa"]),
    "a claim twice": lambda op, c: sign_raw(
        {"alg": "RS256", "kid": "rsa"}, json.dumps(c)[:-1].encode() + b', "sub": "other"}', op.keys["rsa"]
    ),
    "a header member twice": lambda op, c: sign_raw(b'{"alg":"RS256","alg":"RS256","kid":"rsa"}', c, op.keys["rsa"]),
    "NaN": lambda op, c: sign_raw(
        {"alg": "RS256", "kid": "rsa"}, json.dumps({**c, "exp": float("nan")}).encode(), op.keys["rsa"]
    ),
    "not an object": lambda op, c: sign_raw({"alg": "RS256", "kid": "rsa"}, [c], op.keys["rsa"]),
    "not JSON": lambda op, _c: sign_raw({"alg": "RS256", "kid": "rsa"}, b"\xff", op.keys["rsa"]),
    "nested without end": lambda op, _c: sign_raw({"alg": "RS256", "kid": "rsa"}, b"[" * 100_000, op.keys["rsa"]),
    "two parts": lambda _, c: f"{part({'alg': 'RS256'})}.{part(c)}",
    "five parts": lambda op, c: sign(c, op.keys["rsa"], kid="rsa") + ".a.b",
    "padding": lambda op, c: sign(c, op.keys["rsa"], kid="rsa") + "==",
    "over the limit": lambda op, c: sign({**c, "x": "x" * 300_000}, op.keys["rsa"], kid="rsa"),
    "iss": lambda op, c: sign({**c, "iss": "https://evil.example"}, op.keys["rsa"], kid="rsa"),
    "aud": lambda op, c: sign({**c, "aud": "other"}, op.keys["rsa"], kid="rsa"),
    "azp": lambda op, c: sign({**c, "azp": "other"}, op.keys["rsa"], kid="rsa"),
    "nonce": lambda op, c: sign({**c, "nonce": "other"}, op.keys["rsa"], kid="rsa"),
    "expired": lambda op, c: sign({**c, "exp": int(time.time()) - 400}, op.keys["rsa"], kid="rsa"),
    "not yet valid": lambda op, c: sign({**c, "nbf": int(time.time()) + 400}, op.keys["rsa"], kid="rsa"),
    "issued in the future": lambda op, c: sign({**c, "iat": int(time.time()) + 400}, op.keys["rsa"], kid="rsa"),
    **{
        f"no {name}": lambda op, c, name=name: sign({k: v for k, v in c.items() if k != name}, op.keys["rsa"], kid="rsa")
        for name in ("iss", "aud", "exp", "iat", "nonce", "sub")
    },
}


@pytest.mark.parametrize("fault", BAD_ID_TOKENS)
def test_an_id_token_with_a_fault_signs_nobody_in(
    op: FakeProvider, client: Make, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it, the answer is one error, and nothing of the token is in it or in the log."""
    caplog.set_level(logging.DEBUG)
    minted: list[str] = []

    def mint(claims: dict[str, Any]) -> str:
        minted.append(BAD_ID_TOKENS[fault](op, claims))
        return minted[0]

    with pytest.raises(TokenInvalid) as raised:
        sign_in(client(), op, id_token=mint)
    told = str(raised.value) + caplog.text
    assert "state-1" not in str(raised.value)
    for secret in (minted[0], "code-1", "rt-1", SECRET):
        assert secret not in told


@pytest.mark.parametrize("kid", ["ec", "ec384", "ed"])
def test_other_asymmetric_algorithms_work(op: FakeProvider, client: Make, kid: str) -> None:
    """RS256 is the default of the specification, not the only way."""
    op.published = ["rsa", kid]
    alg = {"ec": "ES256", "ec384": "ES384", "ed": "EdDSA"}[kid]
    assert sign_in(client(), op, id_token=lambda c: sign(c, op.keys[kid], alg=alg, kid=kid)).sub == "user-1"


def test_only_the_providers_own_algorithms_count(op: FakeProvider, client: Make) -> None:
    """What the metadata does not list is refused, even if a published key signed it."""
    op.published = ["rsa", "ec"]
    op.metadata = {"id_token_signing_alg_values_supported": ["RS256", "HS256"]}
    provider = client()
    assert sign_in(provider, op).sub == "user-1"
    with pytest.raises(TokenInvalid, match="alg"):
        sign_in(provider, op, id_token=lambda c: sign(c, op.keys["ec"], alg="ES256", kid="ec"))
    with pytest.raises(TokenInvalid, match="alg"):
        sign_in(provider, op, id_token=lambda c: sign(c, "x" * 32, alg="HS256", kid="rsa"))


def test_a_new_key_of_the_provider_is_found(op: FakeProvider, client: Make) -> None:
    """Rotation: an unknown ``kid`` makes us fetch the keys at once, and then at most every 30 seconds."""
    provider = client()
    sign_in(provider, op)
    op.published = ["rsa-next"]
    assert sign_in(provider, op, id_token=lambda c: sign(c, op.keys["rsa-next"], kid="rsa-next")).sub == "user-1"
    with pytest.raises(ProviderUnavailable):
        sign_in(provider, op, id_token=lambda c: sign(c, op.keys["rsa"], kid="rsa-after-next"))
    assert len(op.asked("/keys")) == 2


@pytest.mark.parametrize("iss", ["https://evil.example", "", "https://localhost"])
def test_a_wrong_iss_parameter_stops_before_the_token_request(op: FakeProvider, client: Make, iss: str) -> None:
    """RFC 9207: a code of another provider is not even sent to ours."""
    with pytest.raises(TokenInvalid, match="iss"):
        sign_in(client(), op, answer={"iss": iss})
    assert op.asked("/token") == []


def test_a_promised_iss_parameter_must_be_there(op: FakeProvider, client: Make) -> None:
    """RFC 9207, 2.4: a provider that says it sends ``iss`` is held to it."""
    op.metadata = {"authorization_response_iss_parameter_supported": True}
    provider = client()
    with pytest.raises(TokenInvalid, match="iss"):
        sign_in(provider, op)
    assert op.asked("/token") == []
    assert sign_in(provider, op, answer={"iss": op.issuer}).sub == "user-1"


def test_an_error_answer_is_a_refusal(op: FakeProvider, client: Make) -> None:
    """With or without a code beside it, and nothing of it in the message."""
    for answer in ({"error": "access_denied", "error_description": "<b>Ada</b>"}, {"error": "", "code": ""}):
        with pytest.raises(SignInRefused) as raised:
            sign_in(client(), op, answer=answer)
        assert "Ada" not in str(raised.value)
    assert op.asked("/token") == []


def test_neither_code_nor_error_is_a_bad_request(op: FakeProvider, client: Make) -> None:
    """Nothing to redeem, nothing sent."""
    with pytest.raises(BadRequest):
        sign_in(client(), op, answer={"code": ""})
    assert op.asked("/token") == []


@pytest.mark.parametrize("state", ["", "other", "\ud800", "state-1 "])
def test_an_answer_to_another_flow_is_refused(op: FakeProvider, client: Make, state: str) -> None:
    """The caller matches state and flow; should it err, nothing is redeemed, and the state is not repeated."""
    with pytest.raises(SignInStateInvalid) as raised:
        sign_in(client(), op, answer={"state": state})
    assert op.asked("/token") == []
    assert "state-1" not in str(raised.value)


def error(status: int, **members: Any) -> Callable[[dict[str, str]], tuple[int, Any]]:
    """A token endpoint that always answers so."""
    return lambda _: (status, members)


TOKEN_ANSWERS: dict[str, tuple[Callable[[dict[str, str]], tuple[int, Any]], type[AppError]]] = {
    "code refused": (error(400, error="invalid_grant", error_description="Ada's code was used"), CodeRefused),
    "interaction required": (error(400, error="interaction_required", claims="{}"), CodeRefused),
    "wrong secret": (error(401, error="invalid_client"), ProviderFailed),
    "overloaded": (error(400, error="temporarily_unavailable"), ProviderUnavailable),
    "error of another kind": (error(400, error=["invalid_grant"]), ProviderFailed),
    "error with status 200": (error(200, error="invalid_grant"), CodeRefused),
    "not found": (error(404, detail="nothing here"), ProviderFailed),
    "no ID token": (error(200, access_token="at", token_type="Bearer"), ProviderFailed),
    "no access token": (error(200, id_token="x", token_type="Bearer"), ProviderFailed),
    "mac token": (error(200, access_token="at", token_type="mac"), ProviderFailed),
    "expires_in in words": (error(200, access_token="at", token_type="Bearer", expires_in="soon"), ProviderFailed),
    "expires_in without end": (error(200, access_token="at", token_type="Bearer", expires_in=float("inf")), ProviderFailed),
    "scope as list": (error(200, access_token="at", token_type="Bearer", scope=["a"]), ProviderFailed),
    "client_info is no base64": (error(200, access_token="at", token_type="Bearer", client_info="%"), ProviderFailed),
    "client_info without uid": (
        error(200, access_token="at", token_type="Bearer", client_info=part({"uid": 1})),
        ProviderFailed,
    ),
    "ID token of another kind": (error(200, access_token="at", token_type="Bearer", id_token={"a": 1}), ProviderFailed),
    "ID token that is none": (error(200, access_token="at", token_type="Bearer", id_token="x"), TokenInvalid),
}


@pytest.mark.parametrize("case", TOKEN_ANSWERS)
def test_token_answers_that_sign_nobody_in(
    op: FakeProvider, client: Make, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has its error, and descriptions, which name people, stay out of message and log."""
    caplog.set_level(logging.DEBUG)
    answer, expected = TOKEN_ANSWERS[case]
    provider = client()
    asked = provider.authorization_request(state="s", scopes=("User.Read",))
    op.token_answer = answer
    with pytest.raises(expected) as raised:
        provider.redeem(flow=asked.flow, answer={"state": "s", "code": "code-1"}, now=NOW)
    assert type(raised.value) is expected
    assert "Ada" not in str(raised.value) + caplog.text


FAULTS: dict[str, type[AppError]] = {
    "500": ProviderFailed,
    "429": ProviderUnavailable,
    "html": ProviderFailed,
    "array": ProviderFailed,
    "redirect": ProviderFailed,
    "huge": ProviderFailed,
    "close": ProviderUnavailable,
    "hang": ProviderUnavailable,
    "drip body": ProviderUnavailable,
    "drip headers": ProviderUnavailable,
}

SLOW = frozenset({"hang", "drip body", "drip headers"})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["/token", "/keys", "/.well-known/openid-configuration"])
def test_a_broken_provider_is_one_of_two_errors_in_time(op: FakeProvider, client: Make, fault: str, place: str) -> None:
    """500, HTML, 1 MB, hanging, dripping: at the token endpoint, the keys and the metadata, never longer than the limit."""
    provider = client()
    if place != "/.well-known/openid-configuration":
        provider.metadata()
    op.faults = {place: fault}
    expected = (
        ProviderFailed if (fault, place) == ("429", "/keys") or (fault == "429" and place.startswith("/.")) else FAULTS[fault]
    )
    started = time.monotonic()
    with pytest.raises(expected) as raised, limits.within(0.4 if fault in SLOW else 10):
        sign_in(provider, op)
    assert type(raised.value) is expected
    assert time.monotonic() - started < 5
    assert len(op.asked(place)) <= 1 if fault in SLOW else len(op.asked(place)) == 1


# -- tokens


@pytest.fixture
def cache(op: FakeProvider, client: Make) -> bytes:
    """The cache of a user who has signed in."""
    return sign_in(client(), op).cache


def test_a_refresh_is_one_request_and_keeps_the_rotated_token(op: FakeProvider, client: Make, cache: bytes) -> None:
    """The new refresh token replaces the old one, the new access token is found for the same scopes."""
    provider = client()
    op.requests.clear()
    op.token_answer = lambda _: (200, op.tokens(None, access_token="at-2", refresh_token="rt-2", expires_in=1800))
    refreshed = provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert [request.form["refresh_token"] for request in op.asked("/token")] == ["rt-1"]
    assert refreshed.token.value == "at-2"
    assert refreshed.token.expires_at == NOW + timedelta(seconds=1800)
    assert token_cache.refresh_tokens(refreshed.cache) == ["rt-2"]
    found = provider.token_from_cache(cache=refreshed.cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert found is not None
    assert found.value == "at-2"


def test_a_refresh_without_rotation_keeps_the_refresh_token(op: FakeProvider, client: Make, cache: bytes) -> None:
    """Most providers send none; the old one stays."""
    op.token_answer = lambda _: (200, {"token_type": "Bearer", "access_token": "at-2", "expires_in": 60})
    refreshed = client().refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert token_cache.refresh_tokens(refreshed.cache) == ["rt-1"]


def test_a_second_refresh_works_with_the_firsts_cache(op: FakeProvider, client: Make, cache: bytes) -> None:
    """Rotation over rotation."""
    provider = client()
    for step in (2, 3, 4):
        op.token_answer = lambda _, step=step: (200, op.tokens(None, refresh_token=f"rt-{step}"))
        cache = provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW).cache
    assert [request.form.get("refresh_token") for request in op.asked("/token")] == [None, "rt-1", "rt-2", "rt-3"]


@pytest.mark.parametrize("granted", ["", "user.read", "openid"])
def test_a_token_is_found_by_the_scopes_it_was_asked_for(op: FakeProvider, client: Make, cache: bytes, granted: str) -> None:
    """Whatever names the provider gives the scopes, asking again for the same costs no second token request."""
    provider = client()
    op.token_answer = lambda _: (200, op.tokens(None, access_token="at-2", scope=granted or None))
    refreshed = provider.refresh(cache=cache, home_account_id=HOME, scopes=("Files.Read",), now=NOW)
    found = provider.token_from_cache(cache=refreshed.cache, home_account_id=HOME, scopes=("Files.Read",), now=NOW)
    assert found is not None
    assert found.value == "at-2"


def test_claims_go_with_the_refresh(op: FakeProvider, client: Make, cache: bytes) -> None:
    """An API's challenge is passed on."""
    op.token_answer = lambda _: (200, op.tokens(None))
    client().refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), claims='{"access_token":{}}', now=NOW)
    assert json.loads(op.asked("/token")[-1].form["claims"]) == {"access_token": {}}


def test_no_refresh_token_is_a_dead_one(op: FakeProvider, client: Make) -> None:
    """There is nothing to refresh with, and nothing is sent."""
    provider = client()
    cache = sign_in(provider, op, members={"refresh_token": None}).cache
    with pytest.raises(RefreshTokenDead):
        provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    with pytest.raises(RefreshTokenDead):
        provider.refresh(cache=b"{}", home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert len(op.asked("/token")) == 1


def test_another_accounts_refresh_token_is_not_used(op: FakeProvider, client: Make, cache: bytes) -> None:
    """A cache that holds somebody else's tokens gives none of them out."""
    provider = client()
    with pytest.raises(RefreshTokenDead):
        provider.refresh(cache=cache, home_account_id="other.tenant", scopes=("User.Read",), now=NOW)
    assert provider.token_from_cache(cache=cache, home_account_id="other.tenant", scopes=("User.Read",), now=NOW) is None


def test_an_answer_for_another_account_is_refused(op: FakeProvider, client: Make, cache: bytes) -> None:
    """OpenID Connect Core 12.2: a refresh is the same user's, or the provider is broken."""
    op.token_answer = lambda _: (200, op.tokens(None, client_info=part({"uid": "uid-2", "utid": TENANT})))
    with pytest.raises(ProviderFailed):
        client().refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)


def test_an_interaction_keeps_claims_and_scopes(op: FakeProvider, client: Make, cache: bytes) -> None:
    """So that the new sign-in asks for what was missing."""
    op.token_answer = error(
        400, error="invalid_grant", suberror="basic_action", error_codes=[50076], claims='{"access_token":{"a":1}}'
    )
    with pytest.raises(InteractionRequired) as raised:
        client().refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert raised.value.claims == '{"access_token":{"a":1}}'
    assert raised.value.scopes == ("User.Read",)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_provider_at_refresh_says_nothing_about_the_refresh_token(
    op: FakeProvider, client: Make, cache: bytes, fault: str
) -> None:
    """The session stays: it is the provider that failed, and one request was made."""
    provider = client()
    provider.metadata()
    op.requests.clear()
    op.faults = {"/token": fault}
    with pytest.raises(FAULTS[fault]) as raised, limits.within(0.4 if fault in SLOW else 10):
        provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    assert type(raised.value) is FAULTS[fault]
    assert len(op.asked("/token")) <= 1 if fault in SLOW else len(op.asked("/token")) == 1


def test_nothing_of_a_successful_answer_stays_in_the_process(op: FakeProvider, client: Make, cache: bytes) -> None:
    """MSAL would keep an answer with ``Retry-After`` and hand its tokens out again: each refresh asks anew."""
    provider = client()
    op.headers = {"Retry-After": "600"}
    for value in ("at-2", "at-3"):
        op.token_answer = lambda _, value=value: (200, op.tokens(None, access_token=value, refresh_token="rt-9"))
        assert provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW).token.value == value


def test_a_refusal_is_not_remembered(op: FakeProvider, client: Make, cache: bytes) -> None:
    """Consent that was given elsewhere counts at once, and so does a provider that has come back."""
    provider = client()
    op.token_answer = error(400, error="invalid_grant", suberror="consent_required")
    with pytest.raises(InteractionRequired):
        provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    op.faults = {"/token": "500"}
    with pytest.raises(ProviderFailed, match="500"):
        provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW)
    op.faults = {}
    op.token_answer = lambda _: (200, op.tokens(None, access_token="at-2"))
    assert provider.refresh(cache=cache, home_account_id=HOME, scopes=("User.Read",), now=NOW).token.value == "at-2"


def test_no_scope_gets_no_token(op: FakeProvider, client: Make, cache: bytes) -> None:
    """MSAL would answer with any token it has."""
    assert client().token_from_cache(cache=cache, home_account_id=HOME, scopes=(), now=NOW) is None


# -- logout tokens

EVENTS = {"http://schemas.openid.net/event/backchannel-logout": {}}


def logout_claims(op: FakeProvider, **changes: Any) -> dict[str, Any]:
    """The claims of a good logout token; a claim that is None is left out."""
    now = int(time.time())
    claims = {
        "iss": op.issuer,
        "aud": CLIENT_ID,
        "sub": "user-1",
        "sid": "sid-1",
        "iat": now,
        "exp": now + 120,
        "jti": "jti-1",
        "events": EVENTS,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "Logout+JWT", "JWT", None])
def test_a_good_logout_token_is_read(op: FakeProvider, client: Make, typ: str | None) -> None:
    """The final type, and what older providers send."""
    token = client().logout_token(sign(logout_claims(op), op.keys["rsa"], kid="rsa", typ=typ or ""), now=NOW)
    assert (token.issuer, token.sub, token.sid, token.jti) == (op.issuer, "user-1", "sid-1", "jti-1")
    assert token.expires_at - token.issued_at == timedelta(seconds=120)


def test_logout_tokens_keys_come_from_the_provider_alone(op: FakeProvider, client: Make) -> None:
    """``jku``, ``x5u`` and ``jwk`` in the header fetch nothing and prove nothing."""
    provider = client()
    forged = sign(
        logout_claims(op),
        op.keys["rsa-next"],
        kid="rsa",
        jku=f"{op.authority}/evil",
        x5u=f"{op.authority}/evil",
        jwk={"kty": "oct", "k": "AA"},
    )
    with pytest.raises(TokenInvalid):
        provider.logout_token(forged, now=NOW)
    good = sign(logout_claims(op), op.keys["rsa"], kid="rsa", jku=f"{op.authority}/evil")
    assert provider.logout_token(good, now=NOW).sub == "user-1"
    assert op.asked("/evil") == []


def test_a_flood_of_unknown_keys_costs_the_provider_nothing(op: FakeProvider, client: Make) -> None:
    """One fetch for the first; the others are told to come back, and known keys work on meanwhile."""
    provider = client()
    provider.logout_token(sign(logout_claims(op), op.keys["rsa"], kid="rsa"), now=NOW)
    for n in range(50):
        with pytest.raises(ProviderUnavailable if n else TokenInvalid):
            provider.logout_token(sign_raw({"alg": "RS256", "kid": f"k{n}"}, logout_claims(op), op.keys["rsa"]), now=NOW)
    provider.logout_token(sign(logout_claims(op), op.keys["rsa"], kid="rsa"), now=NOW)
    assert len(op.asked("/keys")) == 2


def test_a_huge_logout_token_is_refused_before_it_is_read(op: FakeProvider, client: Make) -> None:
    """Over 16 KB: no parsing, no request."""
    with pytest.raises(TokenInvalid, match="16 KB"):
        client().logout_token("x" * (16 * 1024 + 1), now=NOW)
    assert op.requests == []


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "\ud800.a.b", "a\n.b.c", "a" * 16_000])
def test_text_that_is_no_token_is_refused(op: FakeProvider, client: Make, text: str) -> None:
    """Whatever stands in the form."""
    with pytest.raises(TokenInvalid):
        client().logout_token(text, now=NOW)


def test_an_id_token_is_no_logout_token(op: FakeProvider, client: Make) -> None:
    """Nor is an access token, by its type."""
    provider = client()
    with pytest.raises(TokenInvalid):
        provider.logout_token(op.id_token(nonce="n"), now=NOW)
    with pytest.raises(TokenInvalid, match="typ"):
        provider.logout_token(sign(logout_claims(op), op.keys["rsa"], kid="rsa", typ="at+jwt"), now=NOW)


# -- the end of the session


def test_the_browser_is_sent_to_sign_out_with_the_hint_of_its_kind(op: FakeProvider, client: Make) -> None:
    """Entra ID takes ``logout_hint``, other providers ``id_token_hint``; one is enough, and none is fine."""

    def query(provider: Provider, logout_hint: str | None, id_token_hint: str | None) -> dict[str, list[str]]:
        url = provider.end_session_url(
            post_logout_redirect_uri="https://app.example/auth/logged-out",
            state="s&1",
            logout_hint=logout_hint,
            id_token_hint=id_token_hint,
        )
        assert url is not None
        assert url.startswith(f"{op.authority}/logout?")
        return parse_qs(urlsplit(url).query)

    entra = client()
    assert query(entra, "hint", "token") == {
        "post_logout_redirect_uri": ["https://app.example/auth/logged-out"],
        "client_id": [CLIENT_ID],
        "state": ["s&1"],
        "logout_hint": ["hint"],
    }
    assert query(entra, None, "token")["id_token_hint"] == ["token"]
    assert set(query(entra, None, None)) == {"post_logout_redirect_uri", "client_id", "state"}
    assert query(entra, "h" * 6145, "t" * 6145).keys() == query(entra, None, None).keys()
    op.metadata = {"issuer": op.authority}
    other = client(oidc=True)
    assert set(query(other, "hint", "token")) == {"post_logout_redirect_uri", "client_id", "state", "id_token_hint"}


def test_an_end_session_endpoint_may_have_a_query(op: FakeProvider, client: Make) -> None:
    """User flows of Azure AD B2C name their policy there."""
    op.metadata = {"end_session_endpoint": f"{op.authority}/logout?p=flow"}
    url = client().end_session_url(post_logout_redirect_uri="https://a/", state="s", logout_hint=None, id_token_hint=None)
    assert url is not None
    assert parse_qs(urlsplit(url).query)["p"] == ["flow"]
    assert url.count("?") == 1


@pytest.mark.parametrize("fault", ["hang", "500", "close"])
def test_signing_out_does_not_need_the_provider(op: FakeProvider, client: Make, fault: str) -> None:
    """It hangs or is down: the address is not known, and that is all; once known it stays known."""
    provider = client()
    op.faults = {"openid-configuration": fault}
    arguments: dict[str, Any] = {
        "post_logout_redirect_uri": "https://a/",
        "state": "s",
        "logout_hint": None,
        "id_token_hint": None,
    }
    started = time.monotonic()
    assert provider.metadata_if_known() is None
    assert provider.end_session_url(**arguments) is None
    assert time.monotonic() - started < 6
    known = client()
    op.faults = {}
    known.metadata()
    op.faults = {"openid-configuration": fault}
    assert known.end_session_url(**arguments) is not None


def test_no_end_session_endpoint_no_address(op: FakeProvider, client: Make) -> None:
    """Then the local sign-out is all there is."""
    op.metadata = {"end_session_endpoint": None}
    assert (
        client().end_session_url(post_logout_redirect_uri="https://a/", state="s", logout_hint=None, id_token_hint=None)
        is None
    )


def test_refresh_tokens_are_revoked_where_the_provider_can(op: FakeProvider, client: Make, cache: bytes) -> None:
    """RFC 7009, with the client's own credential."""
    tokens = token_cache.refresh_tokens(cache)
    assert client().revoke(tokens) == 0
    op.metadata = {"revocation_endpoint": f"{op.authority}/revoke"}
    assert client().revoke(tokens) == 1
    assert op.asked("/revoke")[0].form == {
        "token": "rt-1",
        "token_type_hint": "refresh_token",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
    }
    assert client().revoke([]) == 0


def test_one_refresh_token_that_is_refused_keeps_no_other_from_being_revoked(op: FakeProvider, client: Make) -> None:
    """All are tried; then the caller is told."""
    op.metadata = {"revocation_endpoint": f"{op.authority}/revoke"}
    provider = client()
    provider.metadata()
    op.faults = {"/revoke": "500"}
    with pytest.raises(ProviderFailed, match="2 of 2 refused"):
        provider.revoke(["rt-1", "rt-2"])
    assert [request.form["token"] for request in op.asked("/revoke")] == ["rt-1", "rt-2"]


@pytest.mark.parametrize("fault", ["500", "hang", "close"])
def test_a_failed_revocation_is_one_of_ours_and_short(op: FakeProvider, client: Make, cache: bytes, fault: str) -> None:
    """Two seconds at most, and an error that the caller can log."""
    op.metadata = {"revocation_endpoint": f"{op.authority}/revoke"}
    provider = client()
    provider.metadata()
    op.faults = {"/revoke": fault}
    started = time.monotonic()
    with pytest.raises((ProviderFailed, ProviderUnavailable)):
        provider.revoke(token_cache.refresh_tokens(cache))
    assert time.monotonic() - started < 6


# -- health


def test_health_is_what_the_provider_says_now(op: FakeProvider, client: Make) -> None:
    """An old answer serves sign-ins, but is no sign of health."""
    provider = client()
    provider.healthy()
    op.faults = {"openid-configuration": "500"}
    provider.healthy()
    provider._metadata._clock = lambda: time.monotonic() + 61
    with pytest.raises(ProviderFailed):
        provider.healthy()
    assert provider.metadata().issuer == op.issuer
    with pytest.raises(ProviderFailed):
        client().healthy()


# -- other authorities


def test_a_provider_at_the_root_of_its_host_works(op: FakeProvider, client: Make) -> None:
    """MSAL refuses an authority without a path; large providers have none."""
    op.base = ""
    op.metadata = {"issuer": f"{op.origin}/"}
    provider = client(authority=op.origin, oidc=True)
    signed_in = sign_in(provider, op, claims={"iss": f"{op.origin}/", "tid": None}, members={"client_info": None})
    assert signed_in.issuer == f"{op.origin}/"
    op.token_answer = lambda _: (200, op.tokens(None, client_info=None))
    assert (
        provider.refresh(cache=signed_in.cache, home_account_id="user-1", scopes=("User.Read",), now=NOW).token.value == "at-1"
    )


def test_a_multi_tenant_authority_takes_the_tenant_from_the_token(op: FakeProvider, client: Make) -> None:
    """The issuer must be the one of the token's own tenant, in the token and in the ``iss`` parameter."""
    op.base = "/common"
    op.metadata = {"issuer": f"{op.origin}/{{tenantid}}/v2.0"}
    provider = client()
    theirs = f"{op.origin}/{TENANT}/v2.0"
    assert sign_in(provider, op, claims={"iss": theirs}, answer={"iss": theirs}).issuer == theirs
    other = "99999999-2222-3333-4444-555555555555"
    for claims in (
        {"iss": theirs, "tid": other},
        {"iss": theirs, "tid": None},
        {"iss": f"{op.origin}/common/v2.0"},
        {"iss": f"{op.origin}/{{tenantid}}/v2.0", "tid": "{tenantid}"},
    ):
        with pytest.raises(TokenInvalid):
            sign_in(provider, op, claims=claims)
    with pytest.raises(TokenInvalid, match="iss"):
        sign_in(provider, op, claims={"iss": theirs}, answer={"iss": f"{op.origin}/{other}/v2.0"})


def test_the_metadata_may_change_under_a_running_process(op: FakeProvider, client: Make) -> None:
    """The token endpoint of the newest metadata is asked, not one that MSAL remembers."""
    provider = client()
    sign_in(provider, op)
    op.metadata = {"token_endpoint": f"{op.authority}/moved/token"}
    provider._metadata._clock = lambda: time.monotonic() + 3601
    sign_in(provider, op)
    assert [request.path for request in op.asked("/token")] == [f"{op.base}/token", f"{op.base}/moved/token"]
