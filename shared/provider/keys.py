"""The provider's keys, and whether one of them signed a token (RFC 7515, RFC 7517).  The only importer of ``jwt``.

Owns algorithms, key selection and the refetch for an unknown ``kid``.  What the claims must say is ``tokens``.  Of a token's
header ``alg``, ``kid`` and ``typ`` are read and no more: ``jku``, ``x5u`` and ``jwk`` are never looked at, so no token makes
us fetch an address or brings its own key.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from shared import limits
from shared.errors import ProviderFailed, TokenInvalid
from shared.provider.kept import Kept
from shared.provider.values import Verified

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric only: ``none`` proves nothing, and with HMAC a public key would do to forge a token."""
LARGEST_TOKEN = 256 * 1024
"""Characters of an ID token; one with 200 groups has some 12,000."""
MAX_AGE = 3600.0
"""Seconds that keys serve before they are fetched anew: a key that the provider withdrew is gone after that."""
REFETCH_PAUSE = 30.0
"""Seconds between two fetches for an unknown ``kid``: a flood of forged tokens costs the provider one request each."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

Jwk = Mapping[str, Any]


class Keys:
    """The keys at ``jwks_uri``, fetched by ``get`` (``Http.get``) in one of the ``places``, and kept; safe for threads."""

    def __init__(self, jwks_uri: str, get: Callable[[str], Any], *, places: limits.Places = limits.PLENTY) -> None:
        self._kept = Kept(lambda: _fetch(jwks_uri, get), max_age=MAX_AGE, pause=REFETCH_PAUSE, places=places)
        self._jws = jwt.PyJWS(algorithms=ALGORITHMS, options={"enforce_minimum_key_length": True, "verify_signature": True})

    def verify(self, token: str, *, algorithms: tuple[str, ...] = (), largest: int = LARGEST_TOKEN) -> Verified:
        """Checks the signature.  ``algorithms`` are those the provider says it uses; empty: any asymmetric one.

        Raises:
            TokenInvalid: no well-formed token, or none that a key of the provider signed.
            ProviderUnavailable: its key is unknown and the keys cannot be fetched just now.
            ProviderFailed: the keys are no keys.
            Busy: too many wait for them already.
        """
        if len(token) > largest:
            raise TokenInvalid(f"token: over {largest} characters")
        if not _COMPACT.fullmatch(token):
            raise TokenInvalid("token: not three base64url parts")
        header = _object(token.split(".", 1)[0], "header")
        alg = header.get("alg")
        if not isinstance(alg, str) or alg not in ALGORITHMS or (algorithms and alg not in algorithms):
            raise TokenInvalid("alg: not one of the provider's asymmetric algorithms")
        if "crit" in header or "b64" in header:
            raise TokenInvalid("crit: an extension that we do not know")
        jwk = self._key(header.get("kid"), alg)
        try:
            payload = self._jws.decode(token, jwt.PyJWK(dict(jwk), algorithm=alg), algorithms=[alg])
        except jwt.PyJWTError as error:
            raise TokenInvalid(f"signature: {type(error).__name__}") from None
        key_issuer = jwk.get("issuer")
        return Verified(
            header=header,
            claims=_json_object(payload, "claims"),
            key_issuer=key_issuer if isinstance(key_issuer, str) else None,
        )

    def _key(self, kid: object, alg: str) -> Jwk:
        if kid is not None and not isinstance(kid, str):
            raise TokenInvalid("kid: not a string")
        before = self._kept.peek()
        keys = self._kept.get()
        key = _select(keys, kid, alg)
        if key is None and keys is before:
            key = _select(self._kept.newer(keys), kid, alg)
        if key is None:
            raise TokenInvalid("kid: not one of the provider's keys")
        return key


def _fetch(jwks_uri: str, get: Callable[[str], Any]) -> tuple[Jwk, ...]:
    answer = get(jwks_uri)
    try:
        document = json.loads(answer.text) if answer.status_code == 200 else None  # noqa: PLR2004 -- HTTP's OK
    except (ValueError, RecursionError):
        document = None
    listed = document.get("keys") if isinstance(document, dict) else None
    keys = tuple(key for key in listed if isinstance(key, dict)) if isinstance(listed, list) else ()
    if not keys:
        raise ProviderFailed(f"keys: {jwks_uri} answered {answer.status_code} without keys")
    return keys


def _select(keys: tuple[Jwk, ...], kid: str | None, alg: str) -> Jwk | None:
    """The key of that ``kid``; without ``kid`` the only one that fits (OpenID Connect Core, 10.1)."""
    kty = "RSA" if alg[:2] in ("RS", "PS") else "EC" if alg[:2] == "ES" else "OKP"
    fitting = [
        key
        for key in keys
        if key.get("kty") == kty
        and key.get("use", "sig") == "sig"
        and key.get("alg", alg) == alg
        and (kid is None or key.get("kid") == kid)
    ]
    return fitting[0] if fitting and (kid is not None or len(fitting) == 1) else None


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        return _json_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), what)
    except ValueError:
        raise TokenInvalid(f"{what}: not base64url") from None


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object whose members have one meaning: none twice, no ``NaN``, which readers understand differently."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise TokenInvalid(f"{what}: not a JSON object with distinct members") from None
    if not isinstance(value, dict):
        raise TokenInvalid(f"{what}: not a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def sign(claims: Mapping[str, Any], key: Any, *, algorithm: str, headers: Mapping[str, Any]) -> str:
    """Signs a client assertion (RFC 7523) with the app's own private key."""
    return jwt.encode(dict(claims), key, algorithm=algorithm, headers=dict(headers))
