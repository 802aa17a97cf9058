"""The app's own credential: secret, certificate in every form, managed identity."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, pkcs12
from cryptography.x509.oid import NameOID

from shared.errors import AppError, ProviderFailed, ProviderUnavailable, SettingsInvalid
from shared.provider import certificate, token_cache
from shared.provider.client import Provider
from tests.provider.fake_provider import CLIENT_ID, FakeProvider

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PEM, PKCS8 = Encoding.PEM, PrivateFormat.PKCS8


def certified(key: Any, name: str = "app") -> x509.Certificate:
    """A self-signed certificate of this key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def forms(key: Any, other: Any) -> dict[str, tuple[bytes | str, str | None]]:
    """The same certificate and key in every form that an app setting may hold."""
    own, chain = certified(key), certified(other, "CA")
    plain = key.private_bytes(PEM, PKCS8, NoEncryption())
    sealed = key.private_bytes(PEM, PKCS8, BestAvailableEncryption(b"pass"))
    text = own.public_bytes(PEM)
    return {
        "PEM": (plain + text, None),
        "PEM, certificate first": ((text + plain).decode(), None),
        "PEM, encrypted": (sealed + text, "pass"),
        "PEM on one line": ((plain + text).decode().replace("\n", "\\n"), None),
        "PEM with a chain": (plain + chain.public_bytes(PEM) + text, None),
        "PFX": (base64.b64encode(pkcs12.serialize_key_and_certificates(b"app", key, own, [chain], NoEncryption())), None),
        "PFX with password": (
            base64.b64encode(
                pkcs12.serialize_key_and_certificates(b"app", key, own, None, BestAvailableEncryption(b"pass"))
            ).decode(),
            "pass",
        ),
    }


FORMS = ["PEM", "PEM, certificate first", "PEM, encrypted", "PEM on one line", "PEM with a chain", "PFX", "PFX with password"]


@pytest.mark.parametrize("form", FORMS)
def test_a_certificate_of_any_form_signs_an_assertion(keys: dict[str, Any], form: str) -> None:
    """RFC 7523: issuer and subject are the app, the audience is the token endpoint, and the certificate can be found."""
    data, password = forms(keys["rsa"], keys["rsa-next"])[form]
    make = certificate.assertions(data, password, client_id=CLIENT_ID, pss=True, sha1=False)
    first, second = make("https://op.example/token"), make("https://op.example/token")
    claims = jwt.decode(first, keys["rsa"].public_key(), algorithms=["PS256"], audience="https://op.example/token")
    assert claims["iss"] == claims["sub"] == CLIENT_ID
    assert claims["exp"] - claims["iat"] == 300
    assert jwt.decode(second, options={"verify_signature": False})["jti"] != claims["jti"]
    header = jwt.get_unverified_header(first)
    own = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0]))
    assert own.public_key() == keys["rsa"].public_key()
    assert base64.urlsafe_b64decode(header["x5t#S256"] + "=") == own.fingerprint(hashes.SHA256())
    assert "x5t" not in header


def test_the_algorithm_is_one_that_the_provider_knows(keys: dict[str, Any]) -> None:
    """PS256 for Entra ID, RS256 elsewhere, and for EC keys that of their curve; AD FS gets the old thumbprint too."""
    data, _ = forms(keys["rsa"], keys["rsa-next"])["PEM"]
    header = jwt.get_unverified_header(certificate.assertions(data, None, client_id="c", pss=False, sha1=True)("a"))
    assert header["alg"] == "RS256"
    assert len(base64.urlsafe_b64decode(header["x5t"] + "=")) == 20
    for key, alg in ((keys["ec"], "ES256"), (keys["ec384"], "ES384")):
        data, _ = forms(key, keys["rsa"])["PEM"]
        assert (
            jwt.get_unverified_header(certificate.assertions(data, None, client_id="c", pss=True, sha1=False)("a"))["alg"]
            == alg
        )


def bad_certificates(keys: dict[str, Any]) -> dict[str, tuple[bytes | str, str | None]]:
    """What can be wrong with it."""
    good = forms(keys["rsa"], keys["rsa-next"])
    stranger = keys["rsa-next"].private_bytes(PEM, PKCS8, NoEncryption()) + certified(keys["rsa"]).public_bytes(PEM)
    ed = keys["ed"]
    return {
        "empty": ("", None),
        "no base64": ("%%%", None),
        "no PFX": ("AAAA", None),
        "wrong password": (good["PFX with password"][0], "wrong"),
        "password missing": (good["PEM, encrypted"][0], None),
        "password for nothing": (good["PEM"][0], "pass"),
        "key without certificate": (keys["rsa"].private_bytes(PEM, PKCS8, NoEncryption()), None),
        "certificate without key": (certified(keys["rsa"]).public_bytes(PEM), None),
        "another key's certificate": (stranger, None),
        "a key that no provider takes": (ed.private_bytes(PEM, PKCS8, NoEncryption()) + certified(ed).public_bytes(PEM), None),
        "a curve that JOSE has not": (
            (k := ec.generate_private_key(ec.SECP224R1())).private_bytes(PEM, PKCS8, NoEncryption())
            + certified(k).public_bytes(PEM),
            None,
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "empty",
        "no base64",
        "no PFX",
        "wrong password",
        "password missing",
        "password for nothing",
        "key without certificate",
        "certificate without key",
        "another key's certificate",
        "a key that no provider takes",
        "a curve that JOSE has not",
    ],
)
def test_a_certificate_that_cannot_be_used_is_a_fault_by_name(keys: dict[str, Any], case: str) -> None:
    """The setting is named, its value is not."""
    data, password = bad_certificates(keys)[case]
    with pytest.raises(SettingsInvalid) as raised:
        certificate.assertions(data, password, client_id="c", pss=True, sha1=False)
    assert raised.value.faults[0].startswith("CLIENT_CERTIFICATE")
    assert "BEGIN" not in str(raised.value)


def test_msal_signs_in_and_refreshes_with_the_certificate(
    op: FakeProvider, keys: dict[str, Any], client: Callable[..., Provider]
) -> None:
    """One assertion for each request, none twice, no secret; health sees a certificate that cannot be read."""
    data, _ = forms(keys["ec"], keys["rsa"])["PEM"]
    provider = client(client_secret=None, client_certificate=data)
    provider.healthy()
    asked = provider.authorization_request(state="s", scopes=("User.Read",))
    nonce = parse_qs(urlsplit(asked.url).query)["nonce"][0]
    op.token_answer = lambda _: (200, op.tokens(op.id_token(nonce=nonce)))
    now = datetime.now(UTC)
    signed_in = provider.redeem(flow=asked.flow, answer={"state": "s", "code": "c"}, now=now)
    provider.refresh(cache=signed_in.cache, home_account_id=signed_in.home_account_id, scopes=("User.Read",), now=now)
    op.metadata = {"revocation_endpoint": f"{op.authority}/revoke"}
    other = client(client_secret=None, client_certificate=data)
    assert other.revoke(token_cache.refresh_tokens(signed_in.cache)) == 1
    sent = [request.form for request in op.requests if request.form]
    assert len(sent) == 3
    assert all(form["client_assertion_type"] == ASSERTION and "client_secret" not in form for form in sent)
    audiences = [jwt.decode(form["client_assertion"], options={"verify_signature": False})["aud"] for form in sent]
    assert audiences == [f"{op.authority}/token", f"{op.authority}/token", f"{op.authority}/revoke"]
    assert len({form["client_assertion"] for form in sent}) == 3
    with pytest.raises(SettingsInvalid):
        client(client_secret=None, client_certificate="AAAA").healthy()


class ManagedIdentity:
    """The endpoint that App Service gives an app with an identity."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.answer: Any = {
            "access_token": "mi-token",
            "expires_on": str(int(datetime.now(UTC).timestamp()) + 3600),
            "token_type": "Bearer",
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(parse_qs(urlsplit(self.path).query))
                body = outer.answer if isinstance(outer.answer, bytes) else json.dumps(outer.answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{self.server.server_port}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManagedIdentity]:
    """A managed identity."""
    identity = ManagedIdentity(monkeypatch)
    yield identity
    identity.server.shutdown()
    identity.server.server_close()


def redeemed(provider: Provider) -> None:
    """Asks for a sign-in and redeems a code."""
    asked = provider.authorization_request(state="s", scopes=())
    provider.redeem(flow=asked.flow, answer={"state": "s", "code": "c"}, now=datetime.now(UTC))


def test_a_managed_identity_stands_in_for_a_secret(
    op: FakeProvider, client: Callable[..., Provider], identity: ManagedIdentity
) -> None:
    """Its token for the exchange is the client assertion; it is asked for once while it lasts."""
    provider = client(client_secret=None, client_managed_identity="mi-client")
    op.token_answer = lambda _: (400, {"error": "invalid_grant"})
    for _ in range(2):
        with pytest.raises(AppError):
            redeemed(provider)
    assert identity.asked == [
        {"api-version": ["2019-08-01"], "resource": ["api://AzureADTokenExchange"], "client_id": ["mi-client"]}
    ]
    form = op.asked("/token")[0].form
    assert (form["client_assertion"], form["client_assertion_type"]) == ("mi-token", ASSERTION)
    assert "client_secret" not in form


@pytest.mark.parametrize("answer", [{"statusCode": 400, "message": "no identity"}, b"<html>", [], b""])
def test_a_managed_identity_that_gives_no_token_is_a_failure(
    op: FakeProvider, client: Callable[..., Provider], identity: ManagedIdentity, answer: Any
) -> None:
    """One of our errors, and the provider is not asked."""
    identity.answer = answer
    with pytest.raises((ProviderFailed, ProviderUnavailable)):
        redeemed(client(client_secret=None, client_managed_identity="mi-client"))
    assert op.asked("/token") == []
