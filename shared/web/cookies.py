"""Cookies: their names, values and attributes.  Pure functions; what a cookie proves is ``store``'s and ``flows``'.

The Functions library parses every cookie that we set and the host writes it again: whatever is not listed here would be lost,
re-encoded or answered with 500.  Values are base64url and dots, so nothing needs decoding on the way back.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Literal

FLOW_PATH = "/auth"
FLOW_SECONDS = 600
_FLOW_PREFIX = "__Secure-signin-"
_VALUE = re.compile(r"[A-Za-z0-9._~-]*")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_RESERVED = frozenset(
    {"path", "domain", "expires", "max-age", "secure", "httponly", "samesite", "version", "comment", "partitioned", "priority"}
)
_LONGEST = 400
"""Characters: an account of 200 takes 267, with id and secret 334."""
_SESSION_ID_BYTES = 16
_SECRET_BYTES = 32
_FLOWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCookie:
    """A ``Set-Cookie`` header, always ``Secure``, that survives the Functions host (RFC 6265, section 4.1).

    Raises:
        ValueError: library, host or browser would change it or drop it: a fault of ours, found where it is made.
    """

    name: str
    value: str = field(repr=False)
    path: str
    same_site: Literal["Lax", "None"]
    http_only: bool = True
    max_age: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.lower() in _RESERVED or not _VALUE.fullmatch(self.value):
            raise ValueError(f"cookie {self.name!r} would not survive")
        if not _PATH.fullmatch(self.path) or (self.max_age is not None and self.max_age < 0):
            raise ValueError(f"cookie {self.name!r} would not survive with its attributes")

    @property
    def header(self) -> str:
        """The header's value; ``Path`` is always there, ``Max-Age`` never negative."""
        parts = [f"{self.name}={self.value}"]
        if self.max_age is not None:
            parts.append(f"Max-Age={self.max_age}")
        parts.append(f"Path={self.path}")
        parts += ["Secure", f"SameSite={self.same_site}"]
        if self.http_only:
            parts.append("HttpOnly")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCookie:
    """Where the session's row is, and the secret that proves it."""

    account: str
    session_id: str
    secret: str = field(repr=False)

    def encode(self) -> str:
        """``base64url(account).session id.secret``."""
        account = base64.urlsafe_b64encode(self.account.encode()).rstrip(b"=").decode()
        return f"{account}.{self.session_id}.{self.secret}"

    @staticmethod
    def decode(value: str) -> "SessionCookie | None":
        """The cookie that ``encode`` wrote; None for anything else, however long."""
        parts = value.split(".") if len(value) <= _LONGEST else []
        if len(parts) != 3:  # noqa: PLR2004 - account, session id, secret
            return None
        account, session_id, secret = map(from_base64url, parts)
        if account is None or session_id is None or secret is None:
            return None
        key = account.decode("latin-1")
        if not _ACCOUNT.fullmatch(key) or (len(session_id), len(secret)) != (_SESSION_ID_BYTES, _SECRET_BYTES):
            return None
        return SessionCookie(account=key, session_id=parts[1], secret=parts[2])


def from_base64url(text: str) -> bytes | None:
    """The bytes of base64url without padding (RFC 4648, section 5); None for any spelling but the canonical one."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else None


def read(header: str | None, name: str) -> tuple[str, ...]:
    """All values of one name in a ``Cookie`` header, in the browser's order (RFC 6265, section 5.4).

    Two of one name come from different paths or domains, and nothing says which is ours: the flows decide what that means.
    One broken pair hides no other, and no number of them does: the host ends the header at 32 KB.
    """
    return tuple(value for found, value in _pairs(header) if found == name)


def _pairs(header: str | None) -> list[tuple[str, str]]:
    pairs = []
    for part in (header or "").split(";"):
        name, separator, value = part.strip(" \t").partition("=")
        if separator:
            pairs.append((name.strip(" \t"), value.strip(" \t")))
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieNames:
    """The cookies of one app: ``session`` is the session cookie's name.

    All are ``Secure``: browsers take such cookies over http on localhost, too, and nowhere else is http allowed.
    """

    session: str

    def session_cookie(self, value: str) -> SetCookie:
        """The session cookie: no ``Max-Age``, the row knows when it ends."""
        return SetCookie(name=self.session, value=value, path="/", same_site="Lax")

    def clear_session(self) -> SetCookie:
        """Takes the session cookie away."""
        return SetCookie(name=self.session, value="", path="/", same_site="Lax", max_age=0)

    def flow_name(self, state: str) -> str:
        """The name of the cookie of one sign-in under way."""
        return _FLOW_PREFIX + state

    def flow_cookie(self, state: str, value: str, *, form_post: bool) -> SetCookie:
        """The sealed state of one sign-in; a cross-site ``form_post`` carries it only with ``SameSite=None; Secure``."""
        return SetCookie(
            name=self.flow_name(state),
            value=value,
            path=FLOW_PATH,
            same_site="None" if form_post else "Lax",
            max_age=FLOW_SECONDS,
        )

    def clear_flow(self, state: str) -> SetCookie:
        """Takes the cookie of a sign-in away."""
        return SetCookie(name=self.flow_name(state), value="", path=FLOW_PATH, same_site="None", max_age=0)

    def flows(self, header: str | None) -> dict[str, str]:
        """The sign-ins under way in this browser: state and sealed value, a bounded number of them."""
        found: dict[str, str] = {}
        for name, value in _pairs(header):
            state = name.removeprefix(_FLOW_PREFIX)
            if state != name and re.fullmatch(r"[A-Za-z0-9_-]{1,43}", state) and len(found) < _FLOWS:
                found.setdefault(state, value)
        return found


def check_name(name: str) -> str | None:
    """What is wrong with a name for the session cookie; None where it will do."""
    if not _NAME.fullmatch(name):
        return "must be letters, digits, dot, hyphen and underscore, at most 64"
    if name.lower() in _RESERVED:
        return "must not be the name of a cookie attribute: the Functions library would drop it"
    if name.lower().startswith(_FLOW_PREFIX.lower()):
        return "must not begin as the cookies of a sign-in do"
    return None
