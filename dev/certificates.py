"""The throw-away certificate authority of a developer's machine, and the certificate of its provider.

MSAL refuses http even on localhost, so the provider's machine endpoints speak https.  Only processes that are given the
bundle trust the authority: it is never put into a system's or browser's trust store.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=90)
_RENEW = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files: the server's ``certificate`` and ``key``, and the ``bundle`` that a client has to trust."""

    certificate: Path
    key: Path
    bundle: Path


def ensure(folder: Path, *, now: datetime) -> Certificates:
    """Makes the files in ``folder`` where they are missing or run out within a week; the authority's key is not kept."""
    made = files(folder)
    if not _fresh(made, now):
        folder.mkdir(parents=True, exist_ok=True)
        authority, certificate, key = _issue(now)
        _write(made.key, key)
        _write(made.bundle, _public_roots() + authority)
        _write(made.certificate, certificate)
    return made


def files(folder: Path) -> Certificates:
    """Where they are, or will be."""
    return Certificates(
        certificate=folder / "provider.pem", key=folder / "provider.key.pem", bundle=folder / "trusted-by-the-app.pem"
    )


def _fresh(made: Certificates, now: datetime) -> bool:
    if not all(path.exists() for path in (made.certificate, made.key, made.bundle)):
        return False
    return x509.load_pem_x509_certificate(made.certificate.read_bytes()).not_valid_after_utc > now + _RENEW


def _write(path: Path, content: bytes) -> None:
    """Replaces the file at once, readable by its owner alone: another start may be reading it."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def _public_roots() -> bytes:
    """What this machine trusts already: the app may call other addresses, and a company's proxy may have its own root."""
    configured = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or ""
    bundles = {Path(certifi.where())}
    bundles.update(path for path in (Path(configured), Path(ssl.get_default_verify_paths().cafile or "")) if path.is_file())
    blocks: dict[bytes, None] = {}
    for bundle in sorted(bundles):
        for block in bundle.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[1:]:
            blocks[block.partition(b"-----END CERTIFICATE-----")[0].strip()] = None
    return b"".join(b"-----BEGIN CERTIFICATE-----\n" + block + b"\n-----END CERTIFICATE-----\n" for block in blocks)


def _issue(now: datetime) -> tuple[bytes, bytes, bytes]:
    """The authority's certificate, the server's, and the server's key, all PEM."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _builder("Throw-away authority of this machine", None, authority_key.public_key(), now)
    authority = (
        authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
    )
    issuer = authority.sign(authority_key, hashes.SHA256())
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        _builder("localhost", issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return (
        issuer.public_bytes(serialization.Encoding.PEM),
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _builder(name: str, issuer: x509.Name | None, key: ec.EllipticCurvePublicKey, now: datetime) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - timedelta(hours=1))
        .not_valid_after(now.astimezone(UTC) + _LIFETIME)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
