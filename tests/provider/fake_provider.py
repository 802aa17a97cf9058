"""A small real HTTPS server that is the provider, with its own keys, and every fault that a provider can have.

It answers with what a test puts into it and remembers what it was asked; the certificate is of a throw-away CA.
"""

import base64
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "app-1"
SECRET = "s3cret"
ALGS = {"rsa": "RS256", "rsa-next": "RS256", "ec": "ES256", "ec384": "ES384", "ed": "EdDSA"}


def make_keys() -> dict[str, Any]:
    """One private key for each ``kid``."""
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "rsa-next": rsa.generate_private_key(65537, 2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ec384": ec.generate_private_key(ec.SECP384R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


def jwk(kid: str, key: Any, **members: Any) -> dict[str, Any]:
    """The public JWK of a private key."""
    public = jwt.get_algorithm_by_name(ALGS.get(kid, "RS256")).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "use": "sig", **members}


def sign(claims: Mapping[str, Any], key: Any, *, alg: str = "RS256", **header: Any) -> str:
    """A compact JWS with these claims and header members; a member that is None is left out."""
    headers = {"typ": "JWT", **header}
    return jwt.encode(dict(claims), key, algorithm=alg, headers={k: v for k, v in headers.items() if v is not None})


def part(value: Any) -> str:
    """One part of a JWS: bytes as they are, else as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign_raw(header: Any, payload: Any, key: Any, alg: str = "RS256") -> str:
    """A JWS over header and payload exactly as given."""
    signed = f"{part(header)}.{part(payload)}"
    algorithm = jwt.get_algorithm_by_name(alg)
    return f"{signed}.{part(algorithm.sign(signed.encode(), algorithm.prepare_key(key)))}"


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """A CA's certificate, and key and certificate for localhost; their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away CA")])
    now = datetime.now(UTC)
    ca = _certificate(name, name, key.public_key(), key, now, ca=True)
    own = ec.generate_private_key(ec.SECP256R1())
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    leaf = _certificate(leaf_name, name, own.public_key(), key, now, ca=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "localhost.pem").write_bytes(
        own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + leaf.public_bytes(pem)
    )
    return folder / "ca.pem", folder / "localhost.pem"


def _certificate(
    subject: x509.Name, issuer: x509.Name, public: Any, signer: Any, now: datetime, *, ca: bool
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not ca:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


@dataclass
class Request:
    """What the provider was asked."""

    method: str
    path: str
    form: dict[str, str]
    headers: dict[str, str]


@dataclass
class FakeProvider:
    """The provider's state; a test changes it as it likes."""

    origin: str
    keys: dict[str, Any]
    base: str = f"/{TENANT}"
    metadata: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=lambda: ["rsa"])
    token_answer: Callable[[dict[str, str]], tuple[int, Any]] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def authority(self) -> str:
        """The configured authority."""
        return f"{self.origin}{self.base}"

    @property
    def issuer(self) -> str:
        """The issuer of a tenant."""
        return f"{self.authority}/v2.0"

    def asked(self, path_end: str) -> list[Request]:
        """The requests to a path that ends so."""
        return [request for request in self.requests if request.path.endswith(path_end)]

    def document(self) -> dict[str, Any]:
        """The metadata; a member that is None is left out."""
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.authority}/authorize",
            "token_endpoint": f"{self.authority}/token",
            "jwks_uri": f"{self.authority}/keys",
            "end_session_endpoint": f"{self.authority}/logout",
            **self.metadata,
        }
        return {name: value for name, value in document.items() if value is not None}

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and body for a request."""
        if request.path.endswith("/.well-known/openid-configuration"):
            return 200, self.document()
        if request.path.endswith("/keys"):
            return 200, {"keys": [jwk(kid, self.keys[kid]) for kid in self.published]}
        if request.path.endswith("/token") and self.token_answer is not None:
            return self.token_answer(request.form)
        if request.path.endswith("/revoke"):
            return 200, b""
        return 404, {"error": "not_found"}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good ID token; a claim that is None is left out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "user-1",
            "iat": now,
            "exp": now + 3600,
            "name": "Ada",
            "preferred_username": "ada@example.com",
            "tid": TENANT,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def id_token(self, kid: str = "rsa", **changes: Any) -> str:
        """A good ID token but for the changes."""
        return sign(self.claims(**changes), self.keys[kid], alg=ALGS[kid], kid=kid)

    def tokens(self, id_token: str | None, **changes: Any) -> dict[str, Any]:
        """A token endpoint's good answer; a member that is None is left out."""
        answer = {
            "token_type": "Bearer",
            "access_token": "at-1",
            "expires_in": 3600,
            "refresh_token": "rt-1",
            "scope": "User.Read openid profile offline_access",
            "id_token": id_token,
            "client_info": part({"uid": "uid-1", "utid": TENANT}),
            **changes,
        }
        return {name: value for name, value in answer.items() if value is not None}


def serve(certificate: Path, keys: dict[str, Any]) -> tuple[ThreadingHTTPServer, FakeProvider]:
    """Starts the server on a free port; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self._serve(dict(parse_qsl(body, keep_blank_values=True)))

        def _serve(self, form: dict[str, str]) -> None:
            provider: FakeProvider = self.server.provider  # type: ignore[attr-defined]
            path = self.path.partition("?")[0]
            request = Request(method=self.command, path=path, form=form, headers=dict(self.headers))
            provider.requests.append(request)
            fault = next((fault for end, fault in provider.faults.items() if path.endswith(end)), None)
            try:
                if fault is None:
                    status, body = provider.answer(request)
                    self._send(status, body, provider.headers)
                else:
                    self._fail(fault, provider)
            except OSError:
                self.close_connection = True

        def _send(self, status: int, body: Any, headers: Mapping[str, str] = {}) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _fail(self, fault: str, provider: FakeProvider) -> None:
            if fault == "500":
                self._send(500, {"error": "server_error"})
            elif fault == "429":
                self._send(429, b"slow down", {"Retry-After": "7"})
            elif fault == "html":
                self._send(200, b"<html>It works!</html>")
            elif fault == "array":
                self._send(200, [])
            elif fault == "redirect":
                self._send(302, b"", {"Location": f"{provider.authority}/elsewhere"})
            elif fault == "huge":
                self._send(200, b" " * (1024 * 1024 + 1))
            elif fault == "close":
                self.close_connection = True
            elif fault == "hang":
                provider.released.wait(20)
                self.close_connection = True
            elif fault == "drip body":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self._drip(provider)
            elif fault == "drip headers":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                self._drip(provider)
            else:
                raise AssertionError(fault)

        def _drip(self, provider: FakeProvider) -> None:
            """A byte now and then: each read of a client is answered in time."""
            self.close_connection = True
            for _ in range(400):
                self.wfile.write(b" ")
                self.wfile.flush()
                if provider.released.wait(0.05):
                    break

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is no news."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(("127.0.0.1", 0), Handler)
    # The handshake in the handler's thread: a client that hangs up must not stop the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    provider = FakeProvider(origin=f"https://localhost:{server.server_port}", keys=keys)
    server.provider = provider  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, provider
