"""What ID tokens and logout tokens must claim.  Pure: no I/O, no clock, no signatures (those are ``keys``).

MSAL checks none of it.  Every fault is ``TokenInvalid`` whose message names claim and reason, never a value.  Types are taken
strictly: a provider that sends ``exp`` as text is broken or not the provider.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.errors import TokenInvalid
from shared.provider.discovery import TENANT, is_issuer
from shared.provider.values import LogoutToken, ProviderMetadata, Verified

LEEWAY = timedelta(minutes=5)
"""How far clocks may differ."""
LARGEST_LOGOUT_TOKEN = 16 * 1024
BACKCHANNEL_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_TYPES = frozenset({"logout+jwt", "application/logout+jwt", "jwt"})
_LONGEST_NAME = 256
"""Characters of what is only shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdToken:
    """The claims of an ID token that passed."""

    issuer: str
    sub: str
    oid: str | None
    tid: str | None
    sid: str | None
    name: str
    username: str
    login_hint: str | None
    auth_time: datetime
    issued_at: datetime


def id_token(token: Verified, *, metadata: ProviderMetadata, client_id: str, nonce: str, now: datetime) -> IdToken:
    """Checks an ID token (OpenID Connect Core 1.0, section 3.1.3.7).

    Raises:
        TokenInvalid: a claim is missing or wrong.
    """
    claims = token.claims
    issuer = _issuer(token, metadata)
    if TENANT in metadata.issuer and _optional(claims, "tid") is None:
        raise TokenInvalid("tid: missing")
    if len(_audience(claims, client_id)) > 1 and claims.get("azp") is None:
        raise TokenInvalid("azp: missing though there are several audiences")
    _expires(claims, now)
    issued_at = _issued(claims, now)
    if not hmac.compare_digest(_text(claims, "nonce").encode(), nonce.encode()):
        raise TokenInvalid("nonce: not the one of this sign-in")
    auth_time = _time(claims, "auth_time") if claims.get("auth_time") is not None else issued_at
    username = next((text for name in ("preferred_username", "upn", "email") if (text := _shown(claims, name))), "")
    return IdToken(
        issuer=issuer,
        sub=_text(claims, "sub"),
        oid=_optional(claims, "oid"),
        tid=_optional(claims, "tid"),
        sid=_optional(claims, "sid"),
        name=_shown(claims, "name") or username,
        username=username,
        login_hint=_optional(claims, "login_hint"),
        auth_time=auth_time,
        issued_at=issued_at,
    )


def logout_token(token: Verified, *, metadata: ProviderMetadata, client_id: str, now: datetime) -> LogoutToken:
    """Checks a logout token (OpenID Connect Back-Channel Logout 1.0, sections 2.4 to 2.6).

    ``typ`` is ``logout+jwt``, or absent or ``JWT`` as providers sent it before the specification was final.

    Raises:
        TokenInvalid: a claim is missing or wrong, or it is another kind of token.
    """
    claims = token.claims
    typ = token.header.get("typ")
    if typ is not None and (not isinstance(typ, str) or typ.lower() not in _LOGOUT_TYPES):
        raise TokenInvalid("typ: not a logout token")
    issuer = _issuer(token, metadata)
    _audience(claims, client_id)
    expires_at = _expires(claims, now)
    issued_at = _issued(claims, now)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(BACKCHANNEL_LOGOUT), dict):
        raise TokenInvalid("events: no back-channel logout")
    # Section 2.4: so that an ID token never passes for a logout token, nor the other way round.
    if "nonce" in claims:
        raise TokenInvalid("nonce: a logout token has none")
    sub, sid = _optional(claims, "sub"), _optional(claims, "sid")
    if sub is None and sid is None:
        raise TokenInvalid("sub: neither sub nor sid")
    return LogoutToken(issuer=issuer, sub=sub, sid=sid, jti=_text(claims, "jti"), issued_at=issued_at, expires_at=expires_at)


# -- one claim each


def _issuer(token: Verified, metadata: ProviderMetadata) -> str:
    """``iss``; with a multi-tenant authority it must name the tenant of ``tid``, and the key must be one for that issuer."""
    iss = _text(token.claims, "iss")
    if not is_issuer(iss, metadata):
        raise TokenInvalid("iss: not the configured provider")
    tid = _optional(token.claims, "tid")
    if TENANT in metadata.issuer and tid is not None and iss != metadata.issuer.replace(TENANT, tid):
        raise TokenInvalid("iss: names another tenant than tid")
    if token.key_issuer is not None and not _fits(iss, token.key_issuer):
        raise TokenInvalid("kid: a key of another issuer")
    return iss


def _fits(iss: str, key_issuer: str) -> bool:
    return re.fullmatch(re.escape(key_issuer).replace(re.escape(TENANT), r"[^/]+"), iss) is not None


def _audience(claims: Mapping[str, Any], client_id: str) -> list[str]:
    """``aud``, which names this app, as ``azp`` does where it is there; logout tokens need none for several audiences."""
    aud = claims.get("aud")
    audiences = [aud] if isinstance(aud, str) else aud
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences) or client_id not in audiences:
        raise TokenInvalid("aud: not this app")
    azp = claims.get("azp")
    if azp is not None and azp != client_id:
        raise TokenInvalid("azp: not this app")
    return audiences


def _expires(claims: Mapping[str, Any], now: datetime) -> datetime:
    expires_at = _time(claims, "exp")
    if expires_at <= now - LEEWAY:
        raise TokenInvalid("exp: expired")
    if claims.get("nbf") is not None and _time(claims, "nbf") > now + LEEWAY:
        raise TokenInvalid("nbf: not valid yet")
    return expires_at


def _issued(claims: Mapping[str, Any], now: datetime) -> datetime:
    issued_at = _time(claims, "iat")
    if issued_at > now + LEEWAY:
        raise TokenInvalid("iat: in the future")
    return issued_at


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    """A NumericDate (RFC 7519, section 2): a JSON number between the years 1970 and 9999."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:  # noqa: PLR2004
        raise TokenInvalid(f"{name}: missing or not a time")
    return datetime.fromtimestamp(value, UTC)


def _text(claims: Mapping[str, Any], name: str) -> str:
    text = _optional(claims, name)
    if text is None:
        raise TokenInvalid(f"{name}: missing")
    return text


def _optional(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or not _encodable(value):
        raise TokenInvalid(f"{name}: not a text")
    return value


def _shown(claims: Mapping[str, Any], name: str) -> str:
    """What is only shown: anything but a text counts as absent."""
    value = claims.get(name)
    return value[:_LONGEST_NAME] if isinstance(value, str) and _encodable(value) else ""


def _encodable(text: str) -> bool:
    """JSON can hold half of a surrogate pair, which no UTF-8 can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
