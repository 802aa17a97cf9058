"""The provider of ``fuzzed.py``: two kinds of it, and the people whom it knows.

Only the connection is a double: ``requests`` hands its answers out instead of fetching them, so everything of
``shared/provider`` runs, with real keys.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import requests
from requests.adapters import BaseAdapter

from tests.provider.fake_provider import make_keys, part

VIC_TENANT, BEN_TENANT = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
TokenEndpoint = Callable[[Mapping[str, str]], tuple[int, bytes]]
"""Status and body for a form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody whom the provider knows."""

    sub: str
    tenant: str
    uid: str
    name: str = "A"


VIC = Person(sub="vic", tenant=VIC_TENANT, uid="oid-vic")
BEN = Person(sub="ben", tenant=BEN_TENANT, uid="guest-ben")
"""A guest where there are tenants: his account is not what his ``oid`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of provider, and what ``SIGN_OUT_SCOPE`` the app has with it."""

    name: str
    setting: str
    authority: str
    issuer: str
    scope: str
    iss_parameter: bool
    algs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


ONE = Kind(
    name="one issuer",
    setting="OIDC_AUTHORITY",
    authority="https://op.example/op",
    issuer="https://op.example/op",
    scope="account",
    iss_parameter=True,
)
MANY = Kind(
    name="many tenants",
    setting="AUTHORITY",
    authority="https://login.example/common",
    issuer="https://login.example/{tenantid}/v2.0",
    scope="session",
    iss_parameter=False,
    algs=("RS256", "PS256", "ES256"),
)


class Provider(BaseAdapter):
    """The provider at the other end of ``requests``; ``token_answer`` is what its token endpoint says next."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.keys = {**make_keys(), "bound": make_keys()["rsa"], "enc": make_keys()["rsa"]}
        self.foreign = make_keys()
        bound = {"issuer": self.issuer_of(VIC)} if "{" in kind.issuer else {}
        self.published = [
            public("rsa", self.keys["rsa"], **({"issuer": kind.issuer} if bound else {})),
            public("ec", self.keys["ec"], alg="ES256"),
            public("ed", self.keys["ed"]),
            public("bound", self.keys["bound"], **bound),
            {**public("enc", self.keys["enc"]), "use": "enc"},
        ]
        self.token_answer: TokenEndpoint = lambda _: (500, b"")
        self.asked: Counter[str] = Counter()
        base = kind.authority.removesuffix("/common")
        self.document = {
            "issuer": kind.issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/keys",
            "end_session_endpoint": f"{base}/logout",
            "backchannel_logout_supported": True,
            "authorization_response_iss_parameter_supported": kind.iss_parameter,
            **({"id_token_signing_alg_values_supported": list(kind.algs)} if kind.algs else {}),
        }

    def issuer_of(self, person: Person) -> str:
        """The concrete issuer of a person's tokens."""
        return self.kind.issuer.replace("{tenantid}", person.tenant)

    def send(self, request: Any, **_: Any) -> requests.Response:  # type: ignore[override]
        """Answers one request; nobody may be asked but the provider's own addresses."""
        url = request.url.partition("?")[0]
        self.asked[url] += 1
        if url.endswith("/.well-known/openid-configuration"):
            status, body = 200, json.dumps(self.document).encode()
        elif url == self.document["jwks_uri"]:
            status, body = 200, json.dumps({"keys": self.published}).encode()
        else:
            assert url == self.document["token_endpoint"], f"{url} was asked"
            form = {name: values[0] for name, values in parse_qs(request.body, keep_blank_values=True).items()}
            status, body = self.token_answer(form)
        response = requests.Response()
        response.status_code, response.raw, response.url, response.request = status, io.BytesIO(body), request.url, request
        return response

    def close(self) -> None:
        """Nothing is open."""


def public(kid: str, key: Any, **members: Any) -> dict[str, Any]:
    """The public JWK, written down from its numbers."""
    numbers = key.public_key().public_numbers() if hasattr(key.public_key(), "public_numbers") else None
    if numbers is None:
        shape = {"kty": "OKP", "crv": "Ed25519", "x": part(key.public_key().public_bytes_raw())}
    elif hasattr(numbers, "n"):
        shape = {"kty": "RSA", "n": part(numbers.n.to_bytes(256)), "e": "AQAB"}
    else:
        shape = {"kty": "EC", "crv": "P-256", "x": part(numbers.x.to_bytes(32)), "y": part(numbers.y.to_bytes(32))}
    return {**shape, "kid": kid, **members}
