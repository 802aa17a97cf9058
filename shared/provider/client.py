"""The wing's front door: ``Provider`` is all that the flows see of the identity provider.

One per process and safe for threads.  Building it does no I/O and imports nothing heavy: a front-channel logout on a cold
instance must not pay for MSAL.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from shared import limits
from shared.errors import (
    BadRequest,
    Busy,
    ProviderFailed,
    ProviderUnavailable,
    SignInRefused,
    SignInStateInvalid,
    TokenInvalid,
)
from shared.provider import discovery, token_cache, tokens
from shared.provider.first_use import FirstUse
from shared.provider.kept import Kept
from shared.provider.values import (
    AccessToken,
    AuthorizationRequest,
    LogoutToken,
    ProviderMetadata,
    ProviderSettings,
    Refreshed,
    SignedIn,
)

if TYPE_CHECKING:
    from shared.provider.http import Http
    from shared.provider.keys import Keys
    from shared.provider.msal_client import MsalClient

METADATA_AGE = 3600.0
"""Seconds that the metadata serves before it is fetched anew."""
_HEALTH_AGE = 60.0
"""Seconds that an answer counts as a sign of health."""
_END_SESSION = 2.0
"""Seconds for the metadata while a user waits to be signed out; everything local is done by then."""
_LONGEST_HINT = 6 * 1024
"""Characters of a hint in an address: servers refuse requests whose line is over 8 KB."""
_LONGEST_SESSION_STATE = 512


class Provider:
    """The configured OpenID Provider.

    ``places`` are for threads that wait for it, ``revocations`` for those that only revoke: ``Busy`` where all are taken.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        *,
        places: limits.Places = limits.PLENTY,
        revocations: limits.Places = limits.PLENTY,
    ) -> None:
        self._settings = settings
        self._places = places
        self._revocations = revocations
        self._metadata = Kept(self._fetch_metadata, max_age=METADATA_AGE, pause=30.0, places=places)
        self._http = FirstUse(_http)
        self._msal = FirstUse(lambda: _msal(settings, self._http()))
        self._keys: tuple[str, Keys] | None = None

    # -- what is known about the provider

    def metadata(self) -> ProviderMetadata:
        """The provider's metadata, fetched at most once an hour; the old one is kept while the provider is down.

        Raises:
            ProviderUnavailable, ProviderFailed, Busy: nothing is known yet and the provider does not tell.
        """
        return self._metadata.get()

    def metadata_if_known(self) -> ProviderMetadata | None:
        """The metadata if this process has it, without I/O: for a sign-out while the provider hangs."""
        return self._metadata.peek()

    def healthy(self) -> None:
        """Returns if the provider answered within the last minute, and the app's own certificate can be read.

        Raises:
            ProviderUnavailable, ProviderFailed: the metadata cannot be had.
            SettingsInvalid: the certificate cannot be opened.
        """
        self._metadata.confirm(_HEALTH_AGE)
        if self._settings.client_certificate is not None:
            self._msal()

    def configured_issuer(self) -> str:
        """The configured issuer for the hashes of the index: from the settings alone, the same in every process.

        ``OIDC_AUTHORITY`` itself, or ``AUTHORITY`` with ``/v2.0`` and with ``{tenantid}`` for ``common`` and
        ``organizations``; a slash at the end does not count.
        """
        return discovery.configured_issuer(self._settings)

    def issuer_matches(self, iss: str, *, concrete: str | None = None) -> bool:
        """Whether ``iss`` is the configured issuer, and ``concrete`` where that one is known.  No I/O."""
        if concrete is not None:
            return iss == concrete
        known = self._metadata.peek()
        if known is not None:
            return discovery.is_issuer(iss, known)
        return discovery.TENANT not in iss and discovery.is_configured(iss, self._settings)

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
            ProviderUnavailable, ProviderFailed, Busy: the metadata cannot be had.
        """
        metadata = self.metadata()
        return self._msal().authorization_request(
            metadata,
            state=state,
            scopes=scopes,
            prompt=prompt,
            login_hint=login_hint,
            domain_hint=domain_hint,
            claims=claims,
        )

    def redeem(self, *, flow: Mapping[str, Any], answer: Mapping[str, str], now: datetime) -> SignedIn:
        """Turns the callback's parameters into a signed-in user; the caller has found ``flow`` by its ``state``.

        1. the answer is to this flow and from this provider (RFC 9207), before anything is sent;
        2. it holds a code and no error;
        3. the code is redeemed, and the ID token that comes with it passes every check;
        4. the answer's ``iss`` is the ID token's too, where the authority has many tenants.

        Raises:
            SignInStateInvalid: the state is not the flow's.
            TokenInvalid: ``iss`` parameter or ID token failed a check.
            SignInRefused: the provider answered with an error.
            BadRequest: neither code nor error.
            CodeRefused: the token endpoint refused the code.
            ProviderUnavailable, ProviderFailed: it did not answer, or not properly.
            Busy: too many wait for it; nothing was sent.
        """
        if not hmac.compare_digest(str(flow.get("state")).encode(), answer.get("state", "").encode("utf-8", "replace")):
            raise SignInStateInvalid("state: not the one of this flow")
        metadata = self.metadata()
        iss = answer.get("iss")
        if iss is not None and not discovery.is_issuer(iss, metadata):
            raise TokenInvalid("iss: the answer is another provider's")
        if "error" in answer:
            raise SignInRefused("the provider answered the authorization request with an error")
        if iss is None and metadata.iss_parameter:
            raise TokenInvalid("iss: missing from the answer though the provider promises it")
        if not answer.get("code"):
            raise BadRequest("the answer holds neither code nor error")
        # MSAL sends the nonce's SHA-256 and keeps the nonce.
        nonce = hashlib.sha256(str(flow.get("nonce")).encode()).hexdigest()

        def verify(token: str) -> tokens.IdToken:
            verified = self._keys_of(metadata).verify(token, algorithms=metadata.id_token_algs)
            claims = tokens.id_token(verified, metadata=metadata, client_id=self._settings.client_id, nonce=nonce, now=now)
            if not discovery.admits(claims.tid, self._settings):
                raise TokenInvalid("tid: a personal account, and the authority is for organizations")
            return claims

        with self._places.one():
            redeemed = self._msal().redeem(metadata, flow=flow, code=answer["code"], verify=verify, now=now)
        claims = redeemed.claims
        if iss is not None and iss != claims.issuer:
            raise TokenInvalid("iss: the answer's and the ID token's differ")
        session_state = answer.get("session_state")
        return SignedIn(
            issuer=claims.issuer,
            sub=claims.sub,
            oid=claims.oid,
            tid=claims.tid,
            sid=claims.sid,
            session_state=session_state if session_state and len(session_state) <= _LONGEST_SESSION_STATE else None,
            name=claims.name,
            username=claims.username,
            login_hint=claims.login_hint,
            auth_time=claims.auth_time,
            issued_at=claims.issued_at,
            home_account_id=redeemed.home_account_id,
            id_token=redeemed.id_token,
            cache=redeemed.cache,
        )

    # -- tokens for APIs

    def token_from_cache(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], now: datetime
    ) -> AccessToken | None:
        """An access token for ``scopes`` with at least five minutes left, or None.  No I/O.

        No scopes: no token, because it would be one for any API.
        """
        return token_cache.access_token(
            cache, home_account_id=home_account_id, client_id=self._settings.client_id, scopes=scopes, now=now
        )

    def refresh(
        self, *, cache: bytes, home_account_id: str, scopes: tuple[str, ...], claims: str | None = None, now: datetime
    ) -> Refreshed:
        """Redeems the refresh token: one token request.

        Raises:
            InteractionRequired: the provider wants to see the user.
            RefreshTokenDead: there is no refresh token, or the provider refused it for good.
            ProviderUnavailable, ProviderFailed: it did not answer, or not properly; the refresh token may still work.
            Busy: too many wait for it; nothing was sent.
        """
        with self._places.one():
            return self._msal().refresh(
                self.metadata(), cache=cache, home_account_id=home_account_id, scopes=scopes, claims=claims, now=now
            )

    # -- signing out

    def logout_token(self, token: str, *, now: datetime) -> LogoutToken:
        """Checks a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6).

        Raises:
            TokenInvalid: a check failed.
            ProviderUnavailable: its key is unknown and may not be fetched just now: the provider should try again.
            ProviderFailed: the provider's metadata or keys are none.
            Busy: too many wait for them already.
        """
        if len(token) > tokens.LARGEST_LOGOUT_TOKEN:
            raise TokenInvalid("token: over 16 KB")
        metadata = self.metadata()
        verified = self._keys_of(metadata).verify(token, algorithms=metadata.id_token_algs)
        return tokens.logout_token(verified, metadata=metadata, client_id=self._settings.client_id, now=now)

    def end_session_url(
        self, *, post_logout_redirect_uri: str, state: str, logout_hint: str | None, id_token_hint: str | None
    ) -> str | None:
        """Where to send the browser to sign out at the provider, or None where that is not known within 2 s.

        OpenID Connect RP-Initiated Logout 1.0, section 2.  Entra ID takes ``logout_hint``, others ``id_token_hint``; one of
        them is sent, and none over 6 KB.
        """
        metadata = self._metadata.peek()
        if metadata is None:
            try:
                with limits.within(_END_SESSION):
                    metadata = self.metadata()
            except (ProviderUnavailable, ProviderFailed, Busy):
                return None
        if metadata.end_session_endpoint is None:
            return None
        hints = [("logout_hint", logout_hint), ("id_token_hint", id_token_hint)]
        if self._settings.oidc:
            hints.reverse()
        hint = next(((name, value) for name, value in hints if value and len(value) <= _LONGEST_HINT), None)
        query = urlencode(
            [
                ("post_logout_redirect_uri", post_logout_redirect_uri),
                ("client_id", self._settings.client_id),
                ("state", state),
                *([hint] if hint else []),
            ]
        )
        return f"{metadata.end_session_endpoint}{'&' if urlsplit(metadata.end_session_endpoint).query else '?'}{query}"

    def revoke(self, refresh_tokens: Sequence[str]) -> int:
        """Revokes refresh tokens (RFC 7009) where the provider can, all of them within ``limits.REVOCATION``.

        Returns how many it revoked.

        Raises:
            ProviderUnavailable, ProviderFailed: it did not answer in time, or refused; a courtesy, so the caller only logs it.
            Busy: too many revoke already, and sign-outs need the threads.
        """
        with self._revocations.one(), limits.within(limits.REVOCATION):
            endpoint = self.metadata().revocation_endpoint
            if endpoint is None:
                return 0
            refused: list[int] = []
            for token in refresh_tokens:
                form = {"token": token, "token_type_hint": "refresh_token", **self._msal().client_authentication(endpoint)}
                answer = self._http().post(endpoint, data=form)
                if answer.status_code != 200:  # noqa: PLR2004 -- HTTP's OK
                    refused.append(answer.status_code)
        if refused:
            raise ProviderFailed(f"revocation: {len(refused)} of {len(refresh_tokens)} refused, the first with {refused[0]}")
        return len(refresh_tokens)

    # -- what is made when it is needed

    def _fetch_metadata(self) -> ProviderMetadata:
        return discovery.fetch(self._settings, self._http().get)

    def _keys_of(self, metadata: ProviderMetadata) -> "Keys":
        kept = self._keys
        if kept is None or kept[0] != metadata.jwks_uri:
            from shared.provider.keys import Keys  # noqa: PLC0415 -- 120 ms, for the first token

            kept = self._keys = (metadata.jwks_uri, Keys(metadata.jwks_uri, self._http().get, places=self._places))
        return kept[1]


def _http() -> "Http":
    from shared.provider.http import Http  # noqa: PLC0415 -- 130 ms, for the first call

    return Http()


def _msal(settings: ProviderSettings, http: "Http") -> "MsalClient":
    from shared.provider.msal_client import MsalClient  # noqa: PLC0415 -- 230 ms, for the first token request

    return MsalClient(settings, http)
