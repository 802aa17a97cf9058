"""What the token endpoint's answers mean (RFC 6749, section 5; Entra ID's additions).  Pure.

Owns what of an answer goes on to MSAL, and which error of ours an error of the provider is.  An answer is cut to the members
that we act on: descriptions name people, and MSAL keeps answers in memory and counts errors in headers.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from shared.errors import AppError, CodeRefused, InteractionRequired, ProviderFailed, ProviderUnavailable, RefreshTokenDead

_LONGEST_LIFE = 366 * 24 * 3600
_LONGEST_CLAIMS = 4096
"""Characters of a claims challenge: it travels in an address and in a cookie."""

# The provider wants to see the user.  OpenID Connect Core, 3.1.2.6; Entra ID uses the first three at its token endpoint.
_INTERACTION = frozenset({"interaction_required", "consent_required", "login_required", "account_selection_required"})
# Entra ID says invalid_grant for much, and which it is in suberror: the classes that MSAL calls "UI required".
_INTERACTION_SUBERRORS = frozenset(
    {
        "basic_action",
        "additional_action",
        "message_only",
        "consent_required",
        "user_password_expired",
        "protection_policy_required",
        "device_authentication_failed",
    }
)
_DEAD_SUBERRORS = frozenset({"bad_token", "token_expired", "client_mismatch"})
# Numbers of AADSTS errors, where suberror is missing.  The documentation warns that numbers change: they only ever turn the
# end of a session into a new sign-in, never the other way round.  Consent, MFA (required, expired, to be set up), password,
# device and Conditional Access.
_INTERACTION_CODES = frozenset(
    {65001, 65004, 50072, 50074, 50076, 50078, 50079, 50125, 50158, 50055, 50144, 50097, 50129, 53000, 53001, 53003, 53004}
)


def success(document: Mapping[str, Any]) -> dict[str, Any]:
    """A successful answer's members, checked.

    Raises:
        ProviderFailed: it is no token answer.
    """
    token_type = document.get("token_type", "Bearer")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise ProviderFailed("token endpoint: token_type is not Bearer")
    access_token = _text(document, "access_token")
    if access_token is None:
        raise ProviderFailed("token endpoint: no access token")
    kept: dict[str, Any] = {"access_token": access_token, "token_type": "Bearer", "expires_in": _seconds(document)}
    for name in ("refresh_token", "id_token", "scope", "client_info"):
        value = _text(document, name)
        if value is not None:
            kept[name] = value
    if "client_info" in kept:
        account_of(kept["client_info"])
    return kept


def account_of(client_info: str) -> str:
    """``uid.utid`` of a ``client_info``: the ``home_account_id``.

    Raises:
        ProviderFailed: it holds no account.
    """
    try:
        document = json.loads(base64.urlsafe_b64decode(client_info + "=" * (-len(client_info) % 4)))
    except (ValueError, RecursionError):
        document = None
    uid, utid = (document.get("uid"), document.get("utid")) if isinstance(document, dict) else (None, None)
    if not isinstance(uid, str) or not isinstance(utid, str) or not _encodable(uid + utid):
        raise ProviderFailed("token endpoint: client_info without uid and utid")
    return f"{uid}.{utid}"


def failure(document: Mapping[str, Any]) -> dict[str, Any]:
    """An error answer's members, cut to what ``redemption_error`` and ``refresh_error`` read."""
    error, suberror, codes, claims = (document.get(name) for name in ("error", "suberror", "error_codes", "claims"))
    kept: dict[str, Any] = {"error": error if _is_code(error) else "unknown_error"}
    if _is_code(suberror):
        kept["suberror"] = suberror
    if isinstance(codes, list):
        kept["error_codes"] = [code for code in codes[:10] if isinstance(code, int) and not isinstance(code, bool)]
    if isinstance(claims, str) and 0 < len(claims) <= _LONGEST_CLAIMS and _is_object(claims):
        kept["claims"] = claims
    return kept


def redemption_error(answer: Mapping[str, Any]) -> AppError:
    """Our error for an error answer to an authorization code."""
    error = answer.get("error")
    if error == "invalid_grant" or error in _INTERACTION:
        return CodeRefused(_detail(answer))
    return _other(answer)


def refresh_error(answer: Mapping[str, Any], scopes: tuple[str, ...]) -> AppError:
    """Our error for an error answer to a refresh token: is the user wanted, the token dead, or the provider in trouble?"""
    error, suberror = answer.get("error"), answer.get("suberror")
    if error != "invalid_grant" and error not in _INTERACTION:
        return _other(answer)
    # Sign-in frequency (AADSTS70043) comes as interaction_required or invalid_grant with token_expired: the token is dead.
    if suberror in _DEAD_SUBERRORS:
        return RefreshTokenDead(_detail(answer))
    if (
        error in _INTERACTION
        or "claims" in answer
        or suberror in _INTERACTION_SUBERRORS
        or (suberror is None and _INTERACTION_CODES.intersection(answer.get("error_codes", ())))
    ):
        return InteractionRequired(_detail(answer), claims=answer.get("claims"), scopes=scopes)
    return RefreshTokenDead(_detail(answer))


def _other(answer: Mapping[str, Any]) -> AppError:
    """Our credential, our scopes, or the provider's own trouble: the user can do nothing about it."""
    kind = ProviderUnavailable if answer.get("error") == "temporarily_unavailable" else ProviderFailed
    return kind(_detail(answer))


def _detail(answer: Mapping[str, Any]) -> str:
    """The codes of an error answer, for the log."""
    parts = [str(answer[name]) for name in ("error", "suberror", "error_codes") if answer.get(name)]
    return "token endpoint: " + " ".join(parts)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _encodable(value):
        raise ProviderFailed(f"token endpoint: {name} is not a text")
    return value


def _seconds(document: Mapping[str, Any]) -> int:
    """``expires_in``; AD FS and old Entra ID send it as text, and where it is missing we count on ten minutes."""
    value = document.get("expires_in", 600)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ProviderFailed("token endpoint: expires_in is not a number of seconds")
    return int(min(value, _LONGEST_LIFE))


def _is_code(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) is not None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
