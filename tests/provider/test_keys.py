"""Keys and signatures: which key is chosen, and what a key may not be used for."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ProviderFailed, ProviderUnavailable, TokenInvalid
from shared.provider.http import Answer
from shared.provider.keys import Keys
from shared.provider.keys import sign as sign_assertion
from tests.provider.fake_provider import jwk, part, sign, sign_raw

CLAIMS = {"sub": "s"}


def published(*keys: dict[str, Any]) -> Keys:
    """The provider's keys as given."""
    text = json.dumps({"keys": keys})
    return Keys("https://op.example/keys", lambda _: Answer(status_code=200, text=text, headers={}))


def test_a_signature_is_verified_and_the_token_read(keys: dict[str, Any]) -> None:
    """Header and claims come out, and the issuer that the key is bound to."""
    verified = published(jwk("rsa", keys["rsa"], issuer="https://i")).verify(sign(CLAIMS, keys["rsa"], kid="rsa", typ="JWT"))
    assert verified.claims == CLAIMS
    assert verified.header["typ"] == "JWT"
    assert verified.key_issuer == "https://i"
    assert published(jwk("rsa", keys["rsa"], issuer=7)).verify(sign(CLAIMS, keys["rsa"], kid="rsa")).key_issuer is None


@pytest.mark.parametrize(
    ("kid", "alg"),
    [
        ("rsa", "RS256"),
        ("rsa", "RS384"),
        ("rsa", "RS512"),
        ("rsa", "PS256"),
        ("rsa", "PS512"),
        ("ec", "ES256"),
        ("ec384", "ES384"),
        ("ed", "EdDSA"),
    ],
)
def test_the_asymmetric_algorithms(keys: dict[str, Any], kid: str, alg: str) -> None:
    """With the key of their kind among keys of all kinds."""
    everything = published(*(jwk(each, keys[each]) for each in keys))
    assert everything.verify(sign(CLAIMS, keys[kid], alg=alg, kid=kid)).claims == CLAIMS


def test_a_token_without_kid_needs_a_single_fitting_key(keys: dict[str, Any]) -> None:
    """OpenID Connect Core 10.1: with several keys ``kid`` is required."""
    token = sign(CLAIMS, keys["rsa"])
    assert published(jwk("rsa", keys["rsa"]), jwk("ec", keys["ec"])).verify(token).claims == CLAIMS
    with pytest.raises(TokenInvalid, match="kid"):
        published(jwk("rsa", keys["rsa"]), jwk("rsa-next", keys["rsa-next"])).verify(token)


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"kty": "EC"},
        {"kty": "oct", "k": "AA"},
        {"n": "!"},
        {"n": 7},
        {"n": None},
        {"e": "AA"},
    ],
)
def test_a_key_that_is_for_something_else_verifies_nothing(keys: dict[str, Any], members: dict[str, Any]) -> None:
    """Another use, another algorithm, another kind, or no key at all."""
    with pytest.raises(TokenInvalid):
        published({**jwk("rsa", keys["rsa"]), **members}).verify(sign(CLAIMS, keys["rsa"], kid="rsa"))


def test_an_ec_key_is_for_its_own_curve(keys: dict[str, Any]) -> None:
    """RFC 7518, 3.4: ES256 is P-256."""
    with pytest.raises(TokenInvalid):
        published(jwk("ec384", keys["ec384"])).verify(
            sign_raw({"alg": "ES256", "kid": "ec384"}, CLAIMS, keys["ec384"], "ES384")
        )


def test_a_weak_key_is_refused() -> None:
    """RFC 7518, 3.3: 2048 bits or more."""
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- weak on purpose
    token = sign_raw({"alg": "RS256", "kid": "weak"}, CLAIMS, weak)
    with pytest.raises(TokenInvalid):
        published(jwk("weak", weak)).verify(token)


def test_hmac_keys_of_the_provider_are_ignored(keys: dict[str, Any]) -> None:
    """Even one that the provider published by mistake."""
    secret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    everything = published(jwk("rsa", keys["rsa"]), {"kty": "oct", "k": secret, "kid": "h", "alg": "HS256"})
    with pytest.raises(TokenInvalid, match="alg"):
        everything.verify(sign(CLAIMS, b"\0" * 32, alg="HS256", kid="h"))


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"keys": []}', '{"keys": {}}', '{"keys": [7]}', "[" * 100_000])
def test_what_is_no_key_set_is_a_failure(keys: dict[str, Any], text: str) -> None:
    """The provider's fault, not the token's."""
    nothing = Keys("https://op.example/keys", lambda _: Answer(status_code=200, text=text, headers={}))
    with pytest.raises(ProviderFailed):
        nothing.verify(sign(CLAIMS, keys["rsa"], kid="rsa"))


def test_an_unknown_kid_on_a_cold_instance_is_a_bad_token(keys: dict[str, Any]) -> None:
    """The keys are fresh from this very request: there is nothing to come back for.  The third is told to wait."""
    known = published(jwk("rsa", keys["rsa"]))
    token = sign(CLAIMS, keys["rsa"], kid="unknown")
    for _ in range(2):
        with pytest.raises(TokenInvalid, match="kid"):
            known.verify(token)
    with pytest.raises(ProviderUnavailable):
        known.verify(token)


def test_an_extension_that_must_be_understood_is_refused(keys: dict[str, Any]) -> None:
    """RFC 7515, 4.1.11 and RFC 7797: neither of the two, even if a key of the provider signed it."""
    known = published(jwk("rsa", keys["rsa"]))
    for header in ({"crit": ["exp"]}, {"b64": True}):
        with pytest.raises(TokenInvalid, match="crit"):
            known.verify(sign_raw({"alg": "RS256", "kid": "rsa", **header}, CLAIMS, keys["rsa"]))


@pytest.mark.parametrize("text", ['{"sub":"a","sub":"b"}', '{"sub":NaN}', '{"sub":{"a":1,"a":1}}', "[]", "7", "\ufeff{}"])
def test_json_has_one_meaning(keys: dict[str, Any], text: str) -> None:
    """No member twice, no ``NaN``, an object: in claims and header, even if a key of the provider signed them."""
    known = published(jwk("rsa", keys["rsa"]))
    with pytest.raises(TokenInvalid):
        known.verify(sign_raw({"alg": "RS256", "kid": "rsa"}, text.encode(), keys["rsa"]))
    header = text.replace("{", '{"alg":"RS256","kid":"rsa",', 1)
    with pytest.raises(TokenInvalid):
        known.verify(sign_raw(header.encode(), CLAIMS, keys["rsa"]))


def test_the_providers_own_algorithms(keys: dict[str, Any]) -> None:
    """Where its metadata name them, no other counts."""
    known = published(jwk("rsa", keys["rsa"]))
    token = sign(CLAIMS, keys["rsa"], kid="rsa")
    assert known.verify(token, algorithms=("ES256", "RS256")).claims == CLAIMS
    with pytest.raises(TokenInvalid, match="alg"):
        known.verify(token, algorithms=("ES256",))


def test_a_token_has_a_largest_size(keys: dict[str, Any]) -> None:
    """To the character; the caller may set a smaller one."""
    known = published(jwk("rsa", keys["rsa"]))
    token = sign(CLAIMS, keys["rsa"], kid="rsa")
    assert known.verify(token, largest=len(token)).claims == CLAIMS
    with pytest.raises(TokenInvalid, match="over"):
        known.verify(token, largest=len(token) - 1)


def test_keys_come_from_their_address_with_200(keys: dict[str, Any]) -> None:
    """An error page that looks like keys is none."""
    text = json.dumps({"keys": [jwk("rsa", keys["rsa"])]})
    asked: list[str] = []

    def get(url: str) -> Answer:
        asked.append(url)
        return Answer(status_code=200 if len(asked) > 1 else 500, text=text, headers={})

    known = Keys("https://op.example/keys", get)
    token = sign(CLAIMS, keys["rsa"], kid="rsa")
    with pytest.raises(ProviderFailed):
        known.verify(token)
    Keys("https://op.example/others", get).verify(token)
    assert asked == ["https://op.example/keys", "https://op.example/others"]


def test_a_key_says_its_use_or_nothing(keys: dict[str, Any]) -> None:
    """``use`` is optional (RFC 7517, 4.2)."""
    key = {name: value for name, value in jwk("rsa", keys["rsa"]).items() if name not in ("use", "alg")}
    token = sign(CLAIMS, keys["rsa"], kid="rsa")
    assert published(key).verify(token).claims == published({**key, "use": "sig"}).verify(token).claims == CLAIMS


def test_an_assertion_is_signed_for_the_token_endpoint(keys: dict[str, Any]) -> None:
    """RFC 7523: the app's own key, claims and header as given, verified by the public key."""
    token = sign_assertion({"sub": "client"}, keys["rsa"], algorithm="PS256", headers={"kid": "rsa", "x5t#S256": "x"})
    verified = published(jwk("rsa", keys["rsa"])).verify(token)
    assert verified.claims == {"sub": "client"}
    assert verified.header == {"alg": "PS256", "kid": "rsa", "typ": "JWT", "x5t#S256": "x"}


def test_a_forged_token_fetches_no_keys(keys: dict[str, Any]) -> None:
    """What is malformed, unsigned or HMAC is refused before the provider is asked."""

    def never(_: str) -> Answer:
        raise AssertionError

    cold = Keys("https://op.example/keys", never)
    for token in (
        "",
        "a.b.c",
        f"{part({'alg': 'none'})}.{part(CLAIMS)}.c2ln",
        sign(CLAIMS, b"x" * 32, alg="HS256"),
        "x" * 300_000,
    ):
        with pytest.raises(TokenInvalid):
            cold.verify(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5u", "b64", "zip", "enc"]),
        JSON | st.sampled_from(["RS256", "ES256", "rsa", "none"]),
        max_size=5,
    ),
    raw=st.binary(max_size=40) | st.text(max_size=40).map(str.encode),
    alg=st.sampled_from([None, "RS256", "PS256", "ES256", "EdDSA"]),
)
def test_no_header_makes_it_crash(keys: dict[str, Any], header: dict[str, Any], raw: bytes, alg: str | None) -> None:
    """Whatever stands in header and payload, a token that no key signed is ``TokenInvalid`` or has to come back."""
    known = published(jwk("rsa", keys["rsa"]), jwk("ec", keys["ec"]))
    if alg:
        header = {**header, "alg": alg, "kid": "rsa"}
    with pytest.raises((TokenInvalid, ProviderUnavailable)):
        known.verify(f"{part(header)}.{part(raw)}.{part(raw)}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    token=st.text(max_size=60)
    | st.from_regex(r"[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}", fullmatch=True)
)
def test_no_text_makes_it_crash(keys: dict[str, Any], token: str) -> None:
    """The back channel is open to everybody."""
    with pytest.raises((TokenInvalid, ProviderUnavailable)):
        published(jwk("rsa", keys["rsa"])).verify(token)
