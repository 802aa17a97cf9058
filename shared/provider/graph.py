"""Microsoft Graph, as far as the example needs it: ``/me`` with the user's token."""

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from shared import limits
from shared.errors import InteractionRequired, ProviderFailed
from shared.provider.first_use import FirstUse

if TYPE_CHECKING:
    from shared.provider.http import Http

_CLAIMS = re.compile(r'\bclaims="([A-Za-z0-9+/=_-]{1,8192})"')


class Graph:
    """The Graph API at ``GRAPH_ENDPOINT``."""

    def __init__(self, endpoint: str, *, places: limits.Places = limits.PLENTY) -> None:
        self._endpoint = endpoint
        self._places = places
        self._http = FirstUse(_http)

    def me(self, token: str) -> dict[str, Any]:
        """The signed-in user's profile.

        Raises:
            InteractionRequired: 401 with a claims challenge (Continuous Access Evaluation, Conditional Access, step-up).
            ProviderFailed: any other answer that is no profile.
            ProviderUnavailable: no answer in time.
            Busy: too many wait already.
        """
        with self._places.one():
            answer = self._http().get(f"{self._endpoint}/me", headers={"Authorization": f"Bearer {token}"})
        if answer.status_code == 401:  # noqa: PLR2004 - Unauthorized
            claims = challenge(answer.headers.get("www-authenticate", ""))
            if claims is None:  # a new sign-in would bring the same token again, and the user here, and so on
                raise ProviderFailed("Graph refused the token without a challenge")
            raise InteractionRequired("Graph refused the token", claims=claims)
        try:
            profile = json.loads(answer.text)
        except (ValueError, RecursionError) as error:
            raise ProviderFailed(f"Graph answered {answer.status_code} without JSON") from error
        if answer.status_code != 200 or not isinstance(profile, dict):  # noqa: PLR2004 - OK
            raise ProviderFailed(f"Graph answered {answer.status_code}")
        return profile


def _http() -> "Http":
    from shared.provider.http import Http  # noqa: PLC0415 - imported when the first profile is asked for

    return Http()


def challenge(header: str) -> str | None:
    """The claims of a ``WWW-Authenticate`` header with ``error="insufficient_claims"``, as JSON; None where there are none."""
    found = _CLAIMS.search(header)
    if found is None or "insufficient_claims" not in header:
        return None
    text = found.group(1).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        claims = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
        is_object = isinstance(json.loads(claims), dict)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims if is_object else None
