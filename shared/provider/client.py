"""The wing's front door: ``Provider`` is all that the flows see of the identity provider.

One per process and safe for threads.  Building it does no I/O and imports nothing heavy: a front-channel logout on a cold
instance must not pay for MSAL.
"""

from collections.abc import Mapping
from datetime import datetime

from shared.provider.values import (
    AccessToken,
    AuthorizationRequest,
    LogoutToken,
    ProviderMetadata,
    ProviderSettings,
    Refreshed,
    SignedIn,
)


class Provider:
    """The configured OpenID Provider."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings

    # -- what is known about the provider

    def metadata(self) -> ProviderMetadata:
        """The provider's metadata, fetched at most once an hour; the old one is kept while the provider is down.

        Raises:
            ProviderUnavailable, ProviderFailed: nothing is known yet and the provider does not tell.
        """
        raise NotImplementedError

    def metadata_if_known(self) -> ProviderMetadata | None:
        """The metadata if this process has it, without I/O: for a sign-out while the provider hangs."""
        raise NotImplementedError

    def healthy(self) -> None:
        """Returns if the metadata can be had.

        Raises:
            ProviderUnavailable, ProviderFailed: it cannot.
        """
        raise NotImplementedError

    def configured_issuer(self) -> str:
        """The configured issuer for the hashes of the index: from the settings alone, the same in every process."""
        raise NotImplementedError

    def issuer_matches(self, iss: str, *, concrete: str | None = None) -> bool:
        """Whether ``iss`` is the configured issuer, and ``concrete`` where that one is known.  No I/O."""
        raise NotImplementedError

    # -- signing in

    def authorization_request(
        self,
        *,
        state: str,
        scopes: tuple[str, ...],
        prompt: str | None = None,
        login_hint: str | None = None,
        domain_hint: str | None = None,
        claims: str | None = None,
    ) -> AuthorizationRequest:
        """Starts a code flow with PKCE and a nonce.

        Raises:
            ProviderUnavailable, ProviderFailed: the metadata cannot be had.
        """
        raise NotImplementedError

    def redeem(self, *, flow: Mapping[str, object], answer: Mapping[str, str], now: datetime) -> SignedIn:
        """Turns the callback's parameters into a signed-in user; the caller has matched ``state`` to ``flow``.

        Raises:
            SignInRefused: the provider answered with an error.
            TokenInvalid: ``iss`` parameter or ID token failed a check.
            CodeRefused: the token endpoint refused the code.
            ProviderUnavailable, ProviderFailed: it did not answer, or not properly.
        """
        raise NotImplementedError

    # -- tokens for APIs

    def token_from_cache(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], now: datetime
    ) -> AccessToken | None:
        """An access token for ``scopes`` with at least five minutes left, or None.  No I/O."""
        raise NotImplementedError

    def has_refresh_token(self, cache: bytes) -> bool:
        """Whether the cache holds a refresh token.  No I/O."""
        raise NotImplementedError

    def refresh(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], claims: str | None = None, now: datetime
    ) -> Refreshed:
        """Redeems the refresh token: one token request.

        Raises:
            InteractionRequired: the provider wants to see the user.
            RefreshTokenDead: there is no refresh token, or the provider refused it for good.
            ProviderUnavailable, ProviderFailed: it did not answer, or not properly; the refresh token may still work.
        """
        raise NotImplementedError

    # -- signing out

    def logout_token(self, token: str, *, now: datetime) -> LogoutToken:
        """Checks a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6).

        Raises:
            TokenInvalid: a check failed.
            ProviderUnavailable: its key is unknown and may not be fetched just now: the provider should try again.
        """
        raise NotImplementedError

    def end_session_url(
        self, *, post_logout_redirect_uri: str, state: str, logout_hint: str | None, id_token_hint: str | None
    ) -> str | None:
        """Where to send the browser to sign out at the provider, or None where that is not known within 2 s."""
        raise NotImplementedError

    def revoke(self, cache: bytes) -> int:
        """Revokes the cache's refresh tokens (RFC 7009) where the provider can, within ``limits.REVOCATION``.

        Returns how many it revoked.

        Raises:
            ProviderUnavailable, ProviderFailed: it did not answer, or refused; a courtesy, so the caller only logs it.
        """
        raise NotImplementedError
