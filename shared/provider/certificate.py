"""The app's certificate as client credential (RFC 7523): a signed assertion for each token request.

Owns reading PEM and PFX, and the assertion's form.  MSAL could do it, but would want a PFX as a file and parse the key again
for every request, which costs 50 ms; here it is parsed once.
"""

import base64
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs12

from shared.errors import SettingsInvalid
from shared.provider import keys

_LIFE = timedelta(minutes=5)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_Key = RSAPrivateKey | EllipticCurvePrivateKey


def assertions(
    certificate: bytes | str, password: str | None, *, client_id: str, pss: bool, sha1: bool
) -> Callable[[str], str]:
    """Reads the certificate once; the result makes an assertion for an audience, the token endpoint.

    ``pss``: sign as Entra ID wants it today, with PS256; other providers know RS256 for sure.  ``sha1``: AD FS finds the
    certificate by its SHA-1 thumbprint alone.

    Raises:
        SettingsInvalid: the certificate or its key cannot be read, or they do not belong together.
    """
    try:
        key, own = _read(certificate.encode() if isinstance(certificate, str) else certificate, password)
        algorithm = _algorithm(key, pss=pss)
    except (ValueError, TypeError):
        raise SettingsInvalid(("CLIENT_CERTIFICATE cannot be opened with CLIENT_CERTIFICATE_PASSWORD",)) from None
    headers = {
        "x5t#S256": _base64url(own.fingerprint(hashes.SHA256())),
        "x5c": [base64.b64encode(own.public_bytes(Encoding.DER)).decode()],
    }
    if sha1:
        headers["x5t"] = _base64url(own.fingerprint(hashes.SHA1()))  # noqa: S303 -- a name for the certificate, not its seal

    def assertion(audience: str) -> str:
        now = datetime.now(UTC)
        # Each has its own jti: a provider may take the second use of an assertion for a replay.
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": str(uuid.uuid4()),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + _LIFE).timestamp()),
        }
        return keys.sign(claims, key, algorithm=algorithm, headers=headers)

    return assertion


def _read(data: bytes, password: str | None) -> tuple[_Key, x509.Certificate]:
    secret = password.encode() if password else None
    if b"-----BEGIN" in data:
        # App settings hold a line; people write the line ends as \n.
        pem = data.replace(b"\\n", b"\n")
        return _pair(load_pem_private_key(pem, secret), x509.load_pem_x509_certificates(pem))
    key, own, others = pkcs12.load_key_and_certificates(base64.b64decode(data, validate=False), secret)
    return _pair(key, [*([own] if own else []), *others])


def _algorithm(key: _Key, *, pss: bool) -> str:
    if isinstance(key, RSAPrivateKey):
        return "PS256" if pss else "RS256"
    if key.curve.name not in _CURVES:
        raise ValueError("a curve that no provider takes")
    return _CURVES[key.curve.name]


def _pair(key: object, certificates: list[x509.Certificate]) -> tuple[_Key, x509.Certificate]:
    """The key and its certificate; a chain may come in any order."""
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise TypeError("neither an RSA nor an EC key")
    own = next((each for each in certificates if each.public_key() == key.public_key()), None)
    if own is None:
        raise ValueError("no certificate of this key")
    return key, own


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
