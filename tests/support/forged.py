"""Tokens as strangers would make them: good ones, changed in up to three places, signed by the right key or another.

Only strategies: what the result is worth is for ``judged.py`` to say, from the finished text.
"""

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import note
from hypothesis import strategies as st

from tests.provider.fake_provider import part
from tests.support.fuzzed import CLIENT, LONG_SID, Fuzzed
from tests.support.fuzzed_provider import BEN, VIC
from tests.support.judged import EVENT

MARK = "<script>fuzzmark</script>"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON, or what is none, as it is written."""

    text: str


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ODD = [
    None, True, False, 0, 1, -1, 0.5, 1e300, float("nan"), float("inf"), "", " ", "x", "null", MARK, [], {}, [[]], [None], {"a": {"a": 1}},
    "\ud800", "\0", "é", "'; --", "x" * 5_000, "x" * 17_000, 10**400, Raw("1e400"), Raw("9" * 5_000), Raw("-0"), Raw("01"), Raw("tru"),
    Raw("[" * 4_000), Raw('{"a":1,"a":1}'), Raw('"\\ud800\\udc00"'), Raw(""),
]  # fmt: skip


TEXT = (
    st.text(max_size=60)
    | st.text(alphabet="%20&=;+/\\.'\"\0\r\n\té<>{}[]", max_size=40)
    | st.binary(max_size=40).map(lambda data: data.decode("latin-1"))
)
"""Any text, and the letters that mean something in headers, addresses and markup."""
DRESSES: list[Callable[[bytes], bytes]] = [
    bytes,
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: b" \r\n" + data + b"\t",
    lambda data: data + b"\0",
    lambda data: data + data,
    lambda data: b"[" + data + b"]",
    lambda data: data[:-1] + b',"x":"\xff"}',
    lambda data: data.decode().encode("utf-16"),
    lambda data: data.decode().encode("utf-16-le"),
]
"""Other ways to write the claims down: some are the same JSON, some are none."""


WAYS = st.sampled_from(["set", "set", "set", "set", "drop", "twice", "rename"])
ANYTHING = st.sampled_from(ODD) | JSON


def values(known: Mapping[str, Sequence[Any]]) -> dict[str, st.SearchStrategy[Any]]:
    """For each name something that nearly fits, something odd, or anything."""
    return {name: st.sampled_from(each) | st.sampled_from(each) | ANYTHING for name, each in known.items()}


@functools.cache
def near(world: Fuzzed) -> dict[str, st.SearchStrategy[Any]]:
    """What nearly fits, for each claim."""
    now = world.time
    issuers = [world.provider.issuer_of(VIC), world.provider.issuer_of(BEN)]
    iss = [*issuers, world.kind.issuer, f"{issuers[0]}/", issuers[0].upper(), "https://evil.example", issuers[0] + "\n"]
    times: list[Any] = [now + step for step in (-86_400, -301, -300, -299, -1, 0.5, 299, 300, 300.5, 301, 86_400)]
    times += [str(now + 60), 253_402_300_799, 253_402_300_800, -1, 0]
    event = {EVENT: {}}
    names = ["vic", "ben", "VIC", "vic ", "nobody"]
    return values({
        "iss": iss,
        "aud": [CLIENT, [CLIENT], [CLIENT, "other"], ["other", CLIENT], ["other"], [CLIENT, 7], "other", CLIENT.upper(), [[CLIENT]]],
        "azp": [CLIENT, "other", [CLIENT]],
        "exp": times,
        "iat": times,
        "nbf": times,
        "auth_time": times,
        "events": [event, {EVENT: {"a": 1}}, {EVENT: []}, {EVENT: None}, {EVENT: "x"}, EVENT, [EVENT], [event], {EVENT + "x": {}}, {**event, "x": 1}],
        "nonce": ["n", "0" * 64],
        "sub": names,
        "sid": ["vic-1", "vic-2", "vic-state", "ben-1", "ben-state", "VIC-1", "nobody", LONG_SID],
        "jti": ["a", "b"],
        "tid": [VIC.tenant, BEN.tenant, BEN.tenant.upper()],
        "oid": names,
    })  # fmt: skip


HEADER = values({
    "alg": ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256", "none", "None", "rs256", "RS256 "],
    "kid": ["rsa", "ec", "ed", "bound", "enc", "unknown", "RSA", "../../keys"],
    "typ": ["JWT", "jwt", "logout+jwt", "Logout+JWT", "application/logout+jwt", "at+jwt", "id+jwt", ["JWT"]],
    "crit": [["exp"], []],
    "b64": [True, False],
    "jku": ["https://evil.example/keys"],
    "x5u": ["https://evil.example/keys"],
    "jwk": [{"kty": "oct", "k": "AA"}],
    "cty": ["JWT"],
    "zip": ["DEF"],
})  # fmt: skip


@st.composite
def changed(
    draw: st.DrawFn, good: Mapping[str, Any], near: Mapping[str, st.SearchStrategy[Any]], at_most: int
) -> list[tuple[str, Any]]:
    """The members with up to ``at_most`` of them replaced, dropped, renamed or there twice."""
    pairs = list(good.items())
    for _ in range(draw(st.integers(0, at_most))):
        way, name = draw(WAYS), draw(st.sampled_from(sorted({*good, *near})))
        if way == "rename":
            pairs = [(found.upper() if found == name else found, value) for found, value in pairs]
            continue
        if way != "twice":
            pairs = [(found, value) for found, value in pairs if found != name]
        if way != "drop":
            pairs.append((name, draw(near.get(name, ANYTHING))))
    return pairs


def written(pairs: Sequence[tuple[str, Any]]) -> bytes:
    """JSON as the pairs say, members twice and all."""
    inner = ",".join(
        f"{json.dumps(name)}:{value.text if isinstance(value, Raw) else json.dumps(value)}" for name, value in pairs
    )
    return f"{{{inner}}}".encode()


@st.composite
def tokens(draw: st.DrawFn, world: Fuzzed, good: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """A token with these claims and this header, perhaps changed, perhaps signed by somebody else, perhaps damaged."""
    places = draw(st.sampled_from(["claims"] * 6 + ["header", "header", "signature", "text", "written", "all", "nothing"]))
    alg, kid = draw(st.sampled_from([("ES256", "ec"), ("ES256", "ec"), ("RS256", "rsa"), ("PS256", "rsa"), ("EdDSA", "ed")]))
    if world.kind.algs and alg not in world.kind.algs:
        alg, kid = "RS256", "bound"
    said = {"alg": alg, "kid": kid, **header}
    headers = (
        draw(changed(said, HEADER, 2 if places == "header" else 1)) if places in ("header", "all") else list(said.items())
    )
    claims = draw(changed(good, near(world), 3)) if places in ("claims", "all") else list(good.items())
    how = draw(st.sampled_from(["own", "other", "foreign", "hmac", "none"])) if places in ("signature", "all") else "own"
    dress = draw(st.sampled_from(DRESSES)) if places in ("written", "all") else bytes
    note(f"header {headers}, claims {claims}, signed by {how}")
    token = signed(world, headers, claims, how, dress)
    return draw(damaged(token)) if places in ("text", "all") else token


def signed(
    world: Fuzzed,
    header: Sequence[tuple[str, Any]],
    claims: Sequence[tuple[str, Any]],
    how: str,
    dress: Callable[[bytes], bytes] = bytes,
) -> str:
    """The token, signed by the key that its header names (``own``) or in a way that proves nothing."""
    said = dict(header)
    alg, kid = said.get("alg"), said.get("kid")
    text = f"{part(written(header))}.{part(dress(written(claims)))}"
    keys = world.provider.foreign if how == "foreign" else world.provider.keys
    key = keys.get(kid) if isinstance(kid, str) else None
    key = key or keys["ec" if str(alg).startswith("ES") else "ed" if alg == "EdDSA" else "rsa"]
    if how == "other":
        key = keys["rsa-next"] if isinstance(key, rsa.RSAPrivateKey) else world.provider.foreign["ec"]
    if how == "none":
        return f"{text}."
    if how == "hmac" or str(alg).startswith("HS"):
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, spki)
        return f"{text}.{part(hmac.digest(pem, text.encode(), hashlib.sha256))}"
    kind = "ES" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS" if isinstance(key, rsa.RSAPrivateKey) else "Ed"
    fits = isinstance(alg, str) and alg in ("RS256", "RS384", "RS512", "PS256", "ES256", "EdDSA")
    fits = fits and (alg[:2] == kind or (kind == "RS" and alg == "PS256"))  # type: ignore[index]
    name = str(alg) if fits else {"ES": "ES256", "RS": "RS256", "Ed": "EdDSA"}[kind]
    algorithm = jwt.get_algorithm_by_name(name)
    return f"{text}.{part(algorithm.sign(text.encode(), algorithm.prepare_key(key)))}"


@st.composite
def damaged(draw: st.DrawFn, token: str) -> str:
    """The text as a bad line, a proxy or a stranger would leave it."""
    at = draw(st.integers(0, max(0, len(token) - 1)))
    header, claims, signature = token.split(".")
    other = part(base64.urlsafe_b64decode(claims + "==").replace(b"vic", b"ben"))
    return draw(
        st.sampled_from(
            [
                token, token[:at], token[at:], token[:at] + draw(st.sampled_from(ALPHABET + ".=+/ \n\0é")) + token[at + 1 :],
                f" {token}", f"{token}\n", f"{token}=", f"{token}.", f"{token}.x", f".{token}", f"{token}.{signature}",
                f"{header}.{claims}.", f"{header}.{claims}", f"{claims}.{header}.{signature}", f"{header}..{signature}",
                f"{header}.{other}.{signature}", token.replace("-", "+").replace("_", "/"), token[:-1] + ALPHABET[(ALPHABET.find(token[-1]) ^ 1)],
                token.swapcase(), f'"{token}"',
            ]
        )
    )  # fmt: skip
