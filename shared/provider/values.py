"""What goes into the provider's wing and comes out of it: plain values, imported in no time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """The part of the settings that concerns the provider; secrets stay out of ``repr``.

    ``oidc`` says which of ``OIDC_AUTHORITY`` (true) and ``AUTHORITY`` the ``authority`` came from.  One of ``client_secret``,
    ``client_certificate`` (PEM text with key and certificate, or a PFX in base64) and ``client_managed_identity`` (the client
    id of a user-assigned identity that the app registration trusts) is given.
    """

    authority: str
    oidc: bool
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    response_mode: Literal["form_post", "query"]
    client_secret: str | None = field(default=None, repr=False)
    client_certificate: bytes | str | None = field(default=None, repr=False)
    client_certificate_password: str | None = field(default=None, repr=False)
    client_managed_identity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMetadata:
    """What we use of the provider's metadata (OpenID Connect Discovery 1.0, section 3).

    ``iss_parameter``: it promises ``iss`` in authorization responses (RFC 9207, section 3).  ``id_token_algs`` is empty where
    the provider does not say.  For multi-tenant authorities of Entra ID ``issuer`` holds ``{tenantid}``.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str | None = None
    revocation_endpoint: str | None = None
    backchannel_logout: bool = False
    iss_parameter: bool = False
    id_token_algs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """Where to send the browser, and what has to be at hand when it comes back.

    ``flow`` is small and JSON; it holds the nonce and the PKCE verifier, so the caller seals it.
    """

    url: str
    flow: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """Who signed in, from an ID token that passed every check, and the tokens that came with it.

    ``issuer`` is the concrete one; ``issued_at`` is the ID token's ``iat`` and ``auth_time`` falls back to it.  ``cache`` is
    MSAL's token cache, compact JSON of this account alone.
    """

    issuer: str
    sub: str
    oid: str | None
    tid: str | None
    sid: str | None
    session_state: str | None
    name: str
    username: str
    login_hint: str | None
    auth_time: datetime
    issued_at: datetime
    home_account_id: str
    id_token: str = field(repr=False)
    cache: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A bearer token for an API."""

    value: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """A new access token, and the cache to keep: the refresh token in it may have been rotated."""

    token: AccessToken
    cache: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutToken:
    """A logout token that passed every check but one (OpenID Connect Back-Channel Logout 1.0, section 2.6).

    ``issuer`` is the concrete one; at least one of ``sub`` and ``sid`` is there.  Whether ``jti`` was seen before is the
    caller's to check.
    """

    issuer: str
    sub: str | None
    sid: str | None
    jti: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A token that a key of the provider signed.  ``key_issuer`` is the issuer that Entra ID binds some keys to."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)
    key_issuer: str | None
