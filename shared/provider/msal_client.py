"""Token requests by MSAL.  The only importer of ``msal``, and itself imported when the first request is made.

Owns how MSAL is called and what it gets to see.  MSAL never reaches the network by itself: its ``http_client`` is a ``_Wire``.
That answers MSAL's discovery from the metadata which ``discovery`` has checked (so root issuers work, which MSAL refuses, and
nothing is fetched twice), and hands it the token endpoint's answers, cut and checked by ``answers``, with an ID token that is
verified already.  What MSAL raises is for developers and repeats state and claims: its text never leaves here.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msal  # type: ignore[import-untyped]

from shared.errors import ProviderFailed, ProviderUnavailable, RefreshTokenDead
from shared.provider import answers, certificate, discovery, token_cache
from shared.provider.http import Answer, Http
from shared.provider.tokens import IdToken
from shared.provider.values import AccessToken, AuthorizationRequest, ProviderMetadata, ProviderSettings, Refreshed

_RESERVED = frozenset({"openid", "profile", "offline_access"})
"""MSAL adds these by itself and refuses them as arguments."""
_EXCHANGE = "api://AzureADTokenExchange"
"""What a managed identity's token has to be for, to stand in for a secret; other clouds append their name."""
_CLOUDS = {"login.microsoftonline.us": "USGov", "login.partner.microsoftonline.cn": "China", "login.chinacloudapi.cn": "China"}
# What MSAL and the code under it raise when an answer is not as they expect it.
_TRIPPED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_MSAL_ERRORS = (*_TRIPPED, msal.exceptions.MsalError, msal.ManagedIdentityError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeemed:
    """What an authorization code was good for."""

    id_token: str
    claims: IdToken
    home_account_id: str
    cache: bytes


class MsalClient:
    """MSAL for one app registration.

    Each request has an application object of its own, 0.08 ms, with no ``http_cache``: shared, it would keep answers (for a
    minute those with status 400, with ``Retry-After`` even tokens), and its lock belongs to one application object.
    """

    def __init__(self, settings: ProviderSettings, http: Http) -> None:
        self._settings = settings
        self._http = http
        self._assertion = self._assertions()
        # At DEBUG it logs requests with their codes and assertions.
        logging.getLogger("msal").setLevel(logging.INFO)

    def authorization_request(
        self,
        metadata: ProviderMetadata,
        *,
        state: str,
        scopes: tuple[str, ...],
        prompt: str | None,
        login_hint: str | None,
        domain_hint: str | None,
        claims: str | None,
    ) -> AuthorizationRequest:
        """Builds the address; no I/O."""
        flow = self._app(_Wire(self._http, metadata), _Cache(None)).initiate_auth_code_flow(
            _unreserved(scopes),
            redirect_uri=self._settings.redirect_uri,
            state=state,
            prompt=prompt,
            login_hint=login_hint,
            domain_hint=domain_hint,
            claims_challenge=claims,
            response_mode="form_post",
        )
        url: str = flow.pop("auth_uri")
        if self._settings.response_mode == "query":
            # Asked for directly, MSAL warns on every request, and silencing a warning is not safe for threads.
            url = url.replace("response_mode=form_post", "response_mode=query")
        return AuthorizationRequest(url=url, flow={**flow, "scope": sorted(flow["scope"])})

    def redeem(
        self,
        metadata: ProviderMetadata,
        *,
        flow: Mapping[str, Any],
        code: str,
        verify: Callable[[str], IdToken],
        now: datetime,
    ) -> Redeemed:
        """Redeems a code; ``verify`` checks the ID token before MSAL sees it.

        Raises:
            CodeRefused, ProviderUnavailable, ProviderFailed; and what ``verify`` raises.
        """
        verified: list[tuple[str, IdToken]] = []

        def accept(answer: dict[str, Any], _: Mapping[str, str]) -> None:
            if "id_token" not in answer:
                raise ProviderFailed("token endpoint: no ID token")
            verified.append((answer["id_token"], verify(answer["id_token"])))

        cache = _Cache(now)
        app = self._app(_Wire(self._http, metadata, accept), cache)
        # Of the callback only what is needed: MSAL would decode the browser's client_info into a header.
        result = _called(lambda: app.acquire_token_by_auth_code_flow(dict(flow), {"state": flow.get("state"), "code": code}))
        if "error" in result or not verified:
            raise answers.redemption_error(result)
        data = cache.serialize().encode()
        accounts = token_cache.load(data).get(token_cache.ACCOUNT, {})
        home_account_id = next(entry["home_account_id"] for entry in accounts.values())
        id_token, claims = verified[-1]
        return Redeemed(
            id_token=id_token,
            claims=claims,
            home_account_id=home_account_id,
            cache=token_cache.compact(data, home_account_id=home_account_id, now=now),
        )

    def refresh(
        self,
        metadata: ProviderMetadata,
        *,
        cache: bytes,
        home_account_id: str,
        scopes: tuple[str, ...],
        claims: str | None,
        now: datetime,
    ) -> Refreshed:
        """Redeems the refresh token: one request.

        Raises:
            InteractionRequired, RefreshTokenDead, ProviderUnavailable, ProviderFailed
        """

        def accept(answer: dict[str, Any], data: Mapping[str, str]) -> None:
            _same_account(answer, home_account_id)
            # A provider may answer with other names for the scopes, or fewer.  Kept under those alone, the token would not be
            # found when the same is asked for again, and every request would be a token request.
            wanted = {*str(answer.get("scope", "")).split(), *str(data.get("scope", "")).split()}
            answer["scope"] = " ".join(sorted(wanted))
            for name in ("id_token", "client_info"):
                answer.pop(name, None)

        tokens = _Cache(now, home_account_id)
        # One account and one refresh token: MSAL would send all that it finds, one after the other.
        tokens.deserialize(token_cache.compact(cache, home_account_id=home_account_id, now=now).decode())
        app = self._app(_Wire(self._http, metadata, accept), tokens)
        result = _called(
            lambda: app.acquire_token_silent_with_error(
                _unreserved(scopes),
                {"home_account_id": home_account_id},
                force_refresh=True,
                claims_challenge=claims,
            )
        )
        if result is None:
            raise RefreshTokenDead("no refresh token")
        if "error" in result:
            raise answers.refresh_error(result, scopes)
        return Refreshed(
            token=AccessToken(value=result["access_token"], expires_at=now + timedelta(seconds=result["expires_in"])),
            cache=token_cache.compact(tokens.serialize().encode(), home_account_id=home_account_id, now=now),
        )

    def client_authentication(self, endpoint: str) -> dict[str, str]:
        """The form's members that prove who we are, for requests that MSAL does not make (RFC 7521, section 4.2)."""
        form = {"client_id": self._settings.client_id}
        if self._assertion is None:
            return {**form, "client_secret": self._settings.client_secret or ""}
        return {
            **form,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": self._assertion(endpoint),
        }

    def _app(self, wire: "_Wire", cache: "_Cache") -> Any:
        assertion = self._assertion

        def for_endpoint(context: Mapping[str, str]) -> str:
            assert assertion is not None  # noqa: S101 -- for the type checker
            return assertion(context["token_endpoint"])

        return _called(
            lambda: msal.ConfidentialClientApplication(
                self._settings.client_id,
                client_credential=self._settings.client_secret if assertion is None else {"client_assertion": for_endpoint},
                # The real host, which MSAL names its cache entries after; the path is never asked for.
                authority=f"https://{urlsplit(self._settings.authority).netloc}/authority",
                http_client=wire,
                token_cache=cache,
                instance_discovery=False,
                azure_region=False,
            )
        )

    def _assertions(self) -> Callable[[str], str] | None:
        """What makes client assertions, or None where there is a secret."""
        settings = self._settings
        host = urlsplit(settings.authority).hostname or ""
        if settings.client_certificate is not None:
            adfs = not settings.oidc and discovery.is_adfs(settings.authority)
            return certificate.assertions(
                settings.client_certificate,
                settings.client_certificate_password,
                client_id=settings.client_id,
                pss=not settings.oidc and not adfs,
                sha1=adfs,
            )
        if settings.client_managed_identity is None:
            return None
        identity = msal.ManagedIdentityClient(
            msal.UserAssignedManagedIdentity(client_id=settings.client_managed_identity), http_client=self._http
        )
        resource = _EXCHANGE + _CLOUDS.get(host, "")

        def assertion(_: str) -> str:
            result = _called(lambda: identity.acquire_token_for_client(resource=resource))
            if not result or "access_token" not in result:
                raise ProviderFailed("managed identity: no token")
            return str(result["access_token"])

        return assertion


class _Cache(msal.SerializableTokenCache):  # type: ignore[misc]
    """MSAL's cache, which takes its time from us and its account too where an answer does not name it."""

    def __init__(self, now: datetime | None, home_account_id: str | None = None) -> None:
        super().__init__()
        self._now = None if now is None else int(now.timestamp())
        self._account = home_account_id

    def add(self, event: Any, **_: Any) -> None:
        super().add(event, now=self._now)

    def modify(self, credential_type: str, old_entry: Any, new_key_value_pairs: Any = None) -> None:
        # A refresh is often answered without ID token and client_info; MSAL would store such a token under no account.
        if self._account is not None and old_entry.get("home_account_id", "") is None:
            old_entry = {**old_entry, "home_account_id": self._account}
            new_key_value_pairs = new_key_value_pairs and {**new_key_value_pairs, "home_account_id": self._account}
        super().modify(credential_type, old_entry, new_key_value_pairs)

    def update_rt(self, rt_item: Any, new_rt: str) -> None:
        written = {"secret": new_rt, "last_modification_time": str(self._now)}
        self.modify(self.CredentialType.REFRESH_TOKEN, rt_item, written)


class _Wire:
    """MSAL's ``http_client`` for one request."""

    def __init__(
        self,
        http: Http,
        metadata: ProviderMetadata,
        accept: Callable[[dict[str, Any], Mapping[str, str]], None] = lambda _answer, _data: None,
    ) -> None:
        self._http = http
        self._accept = accept
        self._discovery = json.dumps(
            {
                "issuer": metadata.issuer,
                "authorization_endpoint": metadata.authorization_endpoint,
                "token_endpoint": metadata.token_endpoint,
            }
        )

    def get(self, url: str, **_: Any) -> Answer:  # noqa: ARG002 -- MSAL asks for nothing but the metadata
        """The metadata that we have checked."""
        return Answer(status_code=200, text=self._discovery, headers={})

    def post(self, url: str, *, headers: Mapping[str, str], data: Mapping[str, Any], params: Any = None, **_: Any) -> Answer:
        """A token request."""
        answer = self._http.post(url, headers=_ascii(headers), data=data, params=params)
        if answer.status_code == 429:  # noqa: PLR2004 -- Too Many Requests
            raise ProviderUnavailable("token endpoint: answered 429")
        if answer.status_code >= 500:  # noqa: PLR2004 -- HTTP's server errors
            raise ProviderFailed(f"token endpoint: answered {answer.status_code}")
        try:
            document = json.loads(answer.text)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ProviderFailed(f"token endpoint: answered {answer.status_code} without a JSON object")
        if "error" in document:
            return Answer(status_code=answer.status_code, text=json.dumps(answers.failure(document)), headers=answer.headers)
        if answer.status_code != 200:  # noqa: PLR2004 -- HTTP's OK
            raise ProviderFailed(f"token endpoint: answered {answer.status_code}")
        kept = answers.success(document)
        self._accept(kept, data)
        return Answer(status_code=200, text=json.dumps(kept), headers={})


def _called(call: Callable[[], Any]) -> Any:
    """Calls MSAL; what it trips over becomes an error of ours that names no more than the kind."""
    try:
        return call()
    except _MSAL_ERRORS as error:
        raise ProviderFailed(f"token endpoint: {type(error).__name__}") from None


def _unreserved(scopes: tuple[str, ...]) -> list[str]:
    return [scope for scope in scopes if scope not in _RESERVED]


def _ascii(headers: Mapping[str, str]) -> dict[str, str]:
    """Without headers that HTTP cannot carry: MSAL writes a ``sub`` of any characters into one, as a hint for routing."""
    return {name: value for name, value in headers.items() if re.fullmatch(r"[\x20-\x7e]*", value)}


def _same_account(answer: Mapping[str, Any], home_account_id: str) -> None:
    """A refreshed token must be the same user's (OpenID Connect Core 1.0, section 12.2)."""
    if "client_info" in answer and answers.account_of(answer["client_info"]) != home_account_id:
        raise ProviderFailed("token endpoint: the answer is for another account")
