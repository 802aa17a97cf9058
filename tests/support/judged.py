"""Whether a token is true, as the specifications say it: written down a second time, with nothing of ``shared``.

Signatures are checked with ``cryptography`` itself.  ``Refused`` is what must be answered with 400; ``KeyUnknown`` is a token
that may wait for keys which the provider has not published yet, so that 503 is as good an answer.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

EVENT = "http://schemas.openid.net/event/backchannel-logout"
GUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
LEEWAY = 300
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


class Refused(Exception):
    """The token is not true."""


class KeyUnknown(Refused):
    """No published key is the one it names."""


def must(condition: object, what: str) -> None:
    """A rule that the token has to keep."""
    if not condition:
        raise Refused(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Knows the app's configuration, the published keys and the time."""

    issuer: str
    client: str
    published: list[dict[str, Any]]
    algs: tuple[str, ...]
    time: int

    def logout_token(self, token: str) -> dict[str, Any]:
        """The claims of a true logout token (Back-Channel Logout 1.0, sections 2.4 and 2.6)."""
        must(len(token) <= 16 * 1024, "size")
        header, claims, key = self._signed(token)
        typ = header.get("typ")
        must(typ is None or (isinstance(typ, str) and typ.lower() in ("jwt", "logout+jwt", "application/logout+jwt")), "typ")
        self._common(claims, key)
        events = claims.get("events")
        must(isinstance(events, dict) and isinstance(events.get(EVENT), dict), "events")
        must("nonce" not in claims, "nonce")
        must([name for name in ("sub", "sid") if text(claims, name)], "sub, sid")
        must(text(claims, "jti"), "jti")
        return claims

    def id_token(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of a true ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""
        must(len(token) <= 256 * 1024, "size")
        _, claims, key = self._signed(token)
        self._common(claims, key)
        must(isinstance(claims["aud"], str) or len(claims["aud"]) == 1 or claims.get("azp") is not None, "azp")
        must(claims.get("nonce") == nonce, "nonce")
        must(text(claims, "sub"), "sub")
        for name in ("oid", "tid", "sid", "login_hint"):
            text(claims, name)
        must(claims.get("auth_time") is None or number(claims, "auth_time") is not None, "auth_time")
        must("{" not in self.issuer or claims.get("tid") is not None, "tid")
        return claims

    def _common(self, claims: Mapping[str, Any], key: Mapping[str, Any]) -> None:
        iss = text(claims, "iss") or ""
        tenant = self.tenant(iss)
        must(tenant is not None, "iss")
        tid = text(claims, "tid")
        must("{" not in self.issuer or tid is None or tid == tenant, "tid")
        must("issuer" not in key or key["issuer"].replace("{tenantid}", tenant or "") == iss, "a key of another issuer")
        audiences = [claims["aud"]] if isinstance(claims.get("aud"), str) else claims.get("aud")
        must(isinstance(audiences, list) and all(isinstance(each, str) for each in audiences), "aud")
        must(self.client in (audiences or ()), "aud")
        must(claims.get("azp") is None or claims["azp"] == self.client, "azp")
        must(number(claims, "exp") + LEEWAY > self.time, "exp")
        must(number(claims, "iat") <= self.time + LEEWAY, "iat")
        must(claims.get("nbf") is None or number(claims, "nbf") <= self.time + LEEWAY, "nbf")

    def tenant(self, iss: str) -> str | None:
        """The tenant that an issuer names, "" where there are none; None for another issuer."""
        if "{" not in self.issuer:
            return "" if iss == self.issuer else None
        before, _, after = self.issuer.partition("{tenantid}")
        found = re.fullmatch(f"{re.escape(before)}({GUID}){re.escape(after)}", iss)
        return found[1] if found else None

    def _signed(self, token: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Header, claims and key (RFC 7515, section 5.2)."""
        must(re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token, re.ASCII), "three parts")
        signed, _, signature = token.rpartition(".")
        header = members(signed.partition(".")[0])
        alg, kid = header.get("alg"), header.get("kid")
        must(isinstance(alg, str), "alg")
        kty = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}.get(str(alg)[:2])
        must(re.fullmatch(r"(RS|PS|ES)(256|384|512)|EdDSA", str(alg)), "alg")
        must(not self.algs or alg in self.algs, "alg")
        must("crit" not in header and "b64" not in header, "crit")
        must(kid is None or isinstance(kid, str), "kid")
        keys = [key for key in self.published if key["kty"] == kty and key.get("alg", alg) == alg and key.get("use") != "enc"]
        keys = [key for key in keys if kid is None or key["kid"] == kid]
        if len(keys) != 1 or ("kid" in header and kid is None):
            raise KeyUnknown("kid")
        try:
            verify(keys[0], str(alg), octets(signature), signed.encode())
        except (InvalidSignature, ValueError):
            raise Refused("signature") from None
        return header, members(signed.partition(".")[2]), keys[0]


def verify(key: Mapping[str, Any], alg: str, signature: bytes, signed: bytes) -> None:
    """Checks a signature (RFC 7518, section 3; RFC 8037)."""
    if key["kty"] == "OKP":
        ed25519.Ed25519PublicKey.from_public_bytes(octets(key["x"])).verify(signature, signed)
        return
    digest = HASHES[alg[2:]]
    if key["kty"] == "EC":
        if alg != "ES256" or len(signature) != 64:
            raise InvalidSignature
        point = ec.EllipticCurvePublicNumbers(number_of(key["x"]), number_of(key["y"]), ec.SECP256R1())
        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        point.public_key().verify(der, signed, ec.ECDSA(digest))
        return
    scheme = padding.PKCS1v15() if alg.startswith("RS") else padding.PSS(padding.MGF1(digest), digest.digest_size)
    rsa.RSAPublicNumbers(number_of(key["e"]), number_of(key["n"])).public_key().verify(signature, signed, scheme, digest)


def number_of(value: str) -> int:
    """A number as a JWK holds it."""
    return int.from_bytes(octets(value))


def octets(value: str) -> bytes:
    """The octets of base64url without padding, whose unused bits are zero (RFC 4648, section 3.5)."""
    data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    must(base64.urlsafe_b64encode(data).rstrip(b"=").decode() == value, "base64url")
    return data


def members(value: str) -> dict[str, Any]:
    """A JSON object that every reader understands alike (RFC 7493): UTF-8, no member twice, no ``NaN``."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        must(len({name for name, _ in pairs}) == len(pairs), "a member twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise Refused(constant)

    try:
        found = json.loads(octets(value).decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Refused("no JSON") from None
    must(isinstance(found, dict), "no object")
    return found  # type: ignore[no-any-return]


def text(claims: Mapping[str, Any], name: str) -> str | None:
    """A claim that is a text where it is there; ``null`` is not there."""
    value = claims.get(name)
    must(value is None or (isinstance(value, str) and value), name)
    must(value is None or not re.search("[\ud800-\udfff]", value), name)
    return value


def number(claims: Mapping[str, Any], name: str) -> float:
    """A claim that is a NumericDate before the year 10000."""
    value = claims.get(name)
    must(type(value) in (int, float), name)
    must(0 <= value < 253_402_300_800, name)  # type: ignore[operator]
    return value  # type: ignore[return-value]
