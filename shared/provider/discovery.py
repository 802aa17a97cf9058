"""The provider's metadata (OpenID Connect Discovery 1.0), and which issuers are the configured one.

Owns the metadata's address, its checks, and the forms of issuers.  Pure but for ``fetch``, which gets its ``get`` from the
caller; ``kept`` decides when, ``client`` brings it together.

Section 4.3 wants the metadata's issuer to be the address that it was asked from.  ``OIDC_AUTHORITY`` keeps to that.  With
``AUTHORITY`` the issuer names the tenant by its id while the setting may name it by domain, as ``common``, or as a user flow:

  workforce     https://login.microsoftonline.com/{domain, id or common}    same host, /{id}/v2.0
  user flow     https://contoso.b2clogin.com/{domain}/{flow}                same host, /{id}/v2.0/ or /tfp/{id}/{flow}/v2.0/
  External ID   https://contoso.ciamlogin.com/{domain or id}                https://{id}.ciamlogin.com/{id}/v2.0
  AD FS         https://adfs.contoso.com/adfs                               the same

where ``common`` and ``organizations`` give a template, with ``{tenantid}`` for the id.
"""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from shared.errors import ProviderFailed
from shared.provider.values import ProviderMetadata, ProviderSettings

TENANT = "{tenantid}"
"""Stands for the tenant's id in the issuer of a multi-tenant authority."""
_SEVERAL_TENANTS = frozenset({"common", "organizations"})
_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant id of all personal Microsoft accounts."""
_CIAM = ".ciamlogin.com"
_ALIASES = (
    frozenset({"login.microsoftonline.com", "login.microsoft.com", "login.windows.net"}),
    frozenset({"login.microsoftonline.us", "login.usgovcloudapi.net"}),
    frozenset({"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"}),
)
"""Hosts of one cloud: whichever is configured, the issuer names the first one."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def trimmed(authority: str) -> str:
    """The authority as everything here uses it: without a slash at the end, and without the version that people paste."""
    return authority.rstrip("/").removesuffix("/v2.0").rstrip("/")


def configured_issuer(settings: ProviderSettings) -> str:
    """The issuer's name for the index, from the settings alone.

    ``OIDC_AUTHORITY``: itself.  ``AUTHORITY``: with ``/v2.0``, and ``common`` and ``organizations`` as ``{tenantid}``.  Either
    without a slash at the end, so that writing one or not names the same provider.
    """
    if settings.oidc:
        return settings.authority.rstrip("/")
    authority = trimmed(settings.authority)
    base, _, tenant = authority.rpartition("/")
    return f"{base}/{TENANT}/v2.0" if tenant.lower() in _SEVERAL_TENANTS else f"{authority}/v2.0"


def address(settings: ProviderSettings) -> str:
    """Where the metadata is."""
    if settings.oidc:
        return f"{settings.authority.rstrip('/')}/.well-known/openid-configuration"
    authority = trimmed(settings.authority)
    version = "" if is_adfs(authority) else "/v2.0"
    return f"{authority}{version}/.well-known/openid-configuration"


def is_configured(iss: str, settings: ProviderSettings) -> bool:
    """Whether ``iss`` can be the issuer of the configured authority, as far as its form tells."""
    if settings.oidc:
        return iss.removesuffix("/") == settings.authority.removesuffix("/")
    return any(re.fullmatch(form, iss) for form in _forms(trimmed(settings.authority)))


def admits(tid: str | None, settings: ProviderSettings) -> bool:
    """Whether the authority is for that tenant: ``organizations`` has the template of ``common``, and no personal accounts."""
    return tid != _CONSUMERS or settings.oidc or trimmed(settings.authority).rpartition("/")[2].lower() != "organizations"


def is_issuer(iss: str, metadata: ProviderMetadata) -> bool:
    """Whether ``iss`` is the metadata's issuer, or fits it where that is a template."""
    if TENANT not in metadata.issuer:
        return iss == metadata.issuer
    return re.fullmatch(re.escape(metadata.issuer).replace(re.escape(TENANT), _GUID), iss) is not None


def fetch(settings: ProviderSettings, get: Callable[[str], Any]) -> ProviderMetadata:
    """Fetches and checks the metadata; ``get`` is ``Http.get``.

    Raises:
        ProviderUnavailable: the provider does not answer.
        ProviderFailed: the answer is no metadata, or another issuer's.
    """
    url = address(settings)
    answer = get(url)
    if answer.status_code != 200:  # noqa: PLR2004 -- HTTP's OK
        raise ProviderFailed(f"metadata: {url} answered {answer.status_code}")
    try:
        document = json.loads(answer.text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ProviderFailed(f"metadata: {url} is no JSON object")
    return _checked(document, settings)


def _checked(document: dict[str, Any], settings: ProviderSettings) -> ProviderMetadata:
    issuer = document.get("issuer")
    if not isinstance(issuer, str) or not is_configured(issuer, settings):
        raise ProviderFailed(f"metadata: issuer {issuer!r} is not that of the authority")
    algs = document.get("id_token_signing_alg_values_supported")
    return ProviderMetadata(
        issuer=issuer,
        authorization_endpoint=_endpoint(document, "authorization_endpoint", browser=True),
        token_endpoint=_endpoint(document, "token_endpoint"),
        jwks_uri=_endpoint(document, "jwks_uri"),
        end_session_endpoint=_optional(document, "end_session_endpoint", browser=True),
        revocation_endpoint=_optional(document, "revocation_endpoint"),
        backchannel_logout=document.get("backchannel_logout_supported") is True,
        iss_parameter=document.get("authorization_response_iss_parameter_supported") is True,
        id_token_algs=tuple(alg for alg in algs if isinstance(alg, str)) if isinstance(algs, list) else (),
    )


def _optional(document: dict[str, Any], name: str, *, browser: bool = False) -> str | None:
    return None if document.get(name) is None else _endpoint(document, name, browser=browser)


def _endpoint(document: dict[str, Any], name: str, *, browser: bool = False) -> str:
    """An address from the metadata: https, or where only a browser goes also http on this machine."""
    value = document.get(name)
    try:
        # urlsplit drops line ends, which the value would still hold.
        url = urlsplit(value) if isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]+", value) else None
        fits = (
            url is not None
            and bool(url.hostname)
            and (url.scheme == "https" or (browser and url.scheme == "http" and url.hostname in _LOOPBACK))
            # MSAL names its cache after the first segment of the token endpoint's path.
            and (name != "token_endpoint" or bool(url.path.strip("/")))
        )
    except ValueError:
        fits = False
    if not fits:
        raise ProviderFailed(f"metadata: {name} is missing or no https address")
    return str(value)


def is_adfs(authority: str) -> bool:
    """Whether an ``AUTHORITY`` is AD FS, by the path that it always has."""
    return urlsplit(authority).path.strip("/").lower() == "adfs"


def _forms(authority: str) -> list[str]:
    """Regular expressions of the issuers that an ``AUTHORITY`` may have."""
    if is_adfs(authority):
        return [re.escape(authority)]
    url = urlsplit(authority)
    host, port = url.hostname or "", "" if url.port is None else f":{url.port}"
    tenant, *flow = url.path.strip("/").split("/")
    ids = _tenant_ids(tenant)
    hosts = next((group for group in _ALIASES if host in group), frozenset({f"[{host}]" if ":" in host else host}))
    origin = "https://(?:" + "|".join(map(re.escape, sorted(hosts))) + ")" + re.escape(port)
    forms = [f"{origin}/{ids}/v2\\.0/?"]
    if flow:
        forms.append(f"{origin}/tfp/{ids}/(?i:{re.escape(flow[-1])})/v2\\.0/?")
    if host.endswith(_CIAM):
        forms.append(f"https://(?P<id>{ids}){re.escape(_CIAM)}/(?P=id)/v2\\.0/?")
    # A tenant's name that is no domain at all: providers shaped like Entra ID, and emulators, use it in the issuer as it is.
    forms.append(re.escape(f"{authority}/v2.0") + "/?")
    return forms


def _tenant_ids(tenant: str) -> str:
    if tenant.lower() in _SEVERAL_TENANTS:
        return f"(?:{re.escape(TENANT)}|{_GUID})"
    if tenant.lower() == "consumers":
        return f"(?:{re.escape(TENANT)}|{_CONSUMERS})"
    if re.fullmatch(_GUID, tenant):
        return f"(?i:{tenant})"
    return _GUID
