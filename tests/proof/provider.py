"""An identity provider that keeps the interface of ``shared.provider.client.Provider``, and is not what is under proof.

It rotates refresh tokens: each works once, and one that is used again kills its grant, as a provider does that takes it for
theft.  It counts token requests.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from shared.errors import ProviderUnavailable, RefreshTokenDead
from shared.provider import token_cache
from shared.provider.values import AccessToken, AuthorizationRequest, LogoutToken, ProviderMetadata, Refreshed, SignedIn
from tests.proof.explorer import Call, Run

ISSUER = "https://login.example/v2.0"
CLIENT = "client"
SCOPES = ("User.Read",)
TOKEN_TIME = timedelta(minutes=10)
END_SESSION = "https://login.example/logout"
_METADATA = ProviderMetadata(
    issuer=ISSUER,
    authorization_endpoint="https://login.example/authorize",
    token_endpoint="https://login.example/token",
    jwks_uri="https://login.example/keys",
    end_session_endpoint=END_SESSION,
)


class ModelProvider:
    """``grants`` holds for each grant the number of the refresh token that works (0: none does), and the requests made."""

    def __init__(self, run: Run, grants: Mapping[str, tuple[int, int]] = MappingProxyType({}), *, backchannel: bool) -> None:
        self._run = run
        self.grants = dict(grants)
        self._metadata = ProviderMetadata(
            issuer=_METADATA.issuer,
            authorization_endpoint=_METADATA.authorization_endpoint,
            token_endpoint=_METADATA.token_endpoint,
            jwks_uri=_METADATA.jwks_uri,
            end_session_endpoint=END_SESSION,
            backchannel_logout=backchannel,
        )

    def state(self) -> object:
        """What has become of the grants."""
        return frozenset(self.grants.items())

    # -- the interface

    def configured_issuer(self) -> str:
        return ISSUER

    def issuer_matches(self, iss: str, *, concrete: str | None = None) -> bool:
        return iss == (concrete or ISSUER)

    def metadata(self) -> ProviderMetadata:
        return self._metadata

    def metadata_if_known(self) -> ProviderMetadata | None:
        return self._metadata

    def authorization_request(self, *, state: str, **_: object) -> AuthorizationRequest:
        return AuthorizationRequest(url=_METADATA.authorization_endpoint, flow={"state": state})

    def redeem(self, *, flow: Mapping[str, Any], answer: Mapping[str, str], now: datetime) -> SignedIn:
        """The code says who signs in: ``{"account", "sub", "oid", "tid", "sid", "session_state", "iat"}``."""
        said = json.loads(answer["code"])
        grant = flow["state"]
        self.grants[grant] = (1, 0)
        issued_at = datetime.fromtimestamp(said["iat"], UTC)
        return SignedIn(
            issuer=ISSUER,
            sub=said["sub"],
            oid=said["oid"],
            tid=said["tid"],
            sid=said["sid"],
            session_state=said["session_state"],
            name=said["sub"],
            username=said["sub"],
            login_hint=None,
            auth_time=issued_at,
            issued_at=issued_at,
            home_account_id=said["account"],
            id_token="id token",
            cache=_cache(grant, 1, said["account"], issued_at),
        )

    def token_from_cache(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], now: datetime
    ) -> AccessToken | None:
        return token_cache.access_token(cache, home_account_id=home_account_id, client_id=CLIENT, scopes=scopes, now=now)

    def refresh(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], claims: str | None = None, now: datetime
    ) -> Refreshed:
        """One token request: a step of its own."""
        grant, number = token_cache.refresh_tokens(cache)[0].split(":")
        if self._run.step(Call("provider: token request", ("lost",), rows=frozenset({f"provider|{grant}"}))):
            self._run.note("provider: token request -> no answer")
            self._run.saw("no answer")
            raise ProviderUnavailable("no answer")
        good, requests = self.grants[grant]
        self._run.note(
            f"provider: token request with refresh token {number} -> {'done' if good == int(number) else 'refused'}"
        )
        if good != int(number):
            self.grants[grant] = (0, requests + 1)
            self._run.saw("refused")
            raise RefreshTokenDead("used twice")
        self.grants[grant] = (good + 1, requests + 1)
        self._run.saw(("tokens", good + 1))
        fresh = _cache(grant, good + 1, home_account_id, now)
        return Refreshed(token=AccessToken(value=f"{grant}:{good + 1}", expires_at=now + TOKEN_TIME), cache=fresh)

    def logout_token(self, token: str, *, now: datetime) -> LogoutToken:
        """The token is JSON: ``{"sub", "sid", "jti", "iat"}``."""
        said = json.loads(token)
        issued_at = datetime.fromtimestamp(said["iat"], UTC)
        return LogoutToken(
            issuer=ISSUER,
            sub=said["sub"],
            sid=said["sid"],
            jti=said["jti"],
            issued_at=issued_at,
            expires_at=issued_at + timedelta(minutes=2),
        )

    def end_session_url(self, **_: object) -> str | None:
        return END_SESSION

    def revoke(self, cache: bytes) -> int:
        raise AssertionError("this provider has no revocation endpoint")


def _cache(grant: str, number: int, account: str, now: datetime) -> bytes:
    """MSAL's token cache with one access token and one refresh token."""
    times = {"cached_at": str(int(now.timestamp())), "expires_on": str(int((now + TOKEN_TIME).timestamp()))}
    access = {"home_account_id": account, "client_id": CLIENT, "target": " ".join(SCOPES), "secret": f"{grant}:{number}"}
    refresh = {"home_account_id": account, "secret": f"{grant}:{number}", "last_modification_time": times["cached_at"]}
    return token_cache.dump({"AccessToken": {"a": {**access, **times}}, "RefreshToken": {"r": refresh}})
