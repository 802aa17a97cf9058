"""Every setting, read and checked once: names follow Microsoft's Python samples and the Functions connection convention.

``load`` reports all faults together, by name and never with a secret's value.  What the settings are used for is ``app.py``.
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from shared.errors import SettingsInvalid
from shared.web.cookies import check_name

CALLBACK_PATH = "/auth/callback"
REFERENCES = ("@Microsoft.KeyVault(", "@Microsoft.AppConfiguration(")
"""How a setting begins that the platform should have replaced by what it refers to."""
CREDENTIALS = ("CLIENT_SECRET", "CLIENT_CERTIFICATE", "CLIENT_MANAGED_IDENTITY")
# The account, key and port of every Azurite and storage emulator: public, and what UseDevelopmentStorage=true stands for.
_DEVELOPMENT_STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "TableEndpoint=http://127.0.0.1:10002/devstoreaccount1;"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where the tables are: a connection string, or an address and an identity."""

    connection_string: str | None = field(default=None, repr=False)
    table_service_uri: str | None = None
    client_id: str | None = None
    managed_identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The checked settings.  Secrets are kept out of ``repr``."""

    authority: str
    oidc: bool
    client_id: str
    client_secret: str | None = field(repr=False)
    client_certificate: str | None = field(repr=False)
    client_certificate_password: str | None = field(repr=False)
    client_managed_identity: str | None
    redirect_uri: str
    scopes: tuple[str, ...]
    storage: StorageSettings
    table_prefix: str
    sealing_keys: tuple[tuple[str, bytes], ...] = field(repr=False)
    sign_out_scope: Literal["account", "session"]
    idle: timedelta
    absolute: timedelta
    sessions_per_account: int
    cookie_name: str
    response_mode: Literal["form_post", "query"]
    not_before: datetime | None
    graph_endpoint: str
    threads: int

    @property
    def origin(self) -> str:
        """The app's public origin: that of ``REDIRECT_URI``, whatever ``Host`` or ``X-Forwarded-*`` say.

        As browsers write it in ``Origin``: in lower case, without the scheme's own port (RFC 6454, section 6.2).
        """
        url = urlsplit(self.redirect_uri.lower())
        own_port = {"https": ":443", "http": ":80"}[url.scheme]
        return f"{url.scheme}://{url.netloc.removesuffix(own_port)}"

    @property
    def https(self) -> bool:
        """Whether browsers reach the app over TLS."""
        return self.redirect_uri.lower().startswith("https:")


def load(environ: Mapping[str, str]) -> Settings:
    """Reads the settings.

    Raises:
        SettingsInvalid: with every fault, each beginning with the setting's name.
    """
    reader = _Reader(environ)
    settings = reader.read()
    if settings is None:
        raise SettingsInvalid(tuple(reader.faults))
    return settings


class _Reader:
    """Reads one environment and remembers all that is wrong with it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def read(self) -> Settings | None:
        redirect_uri = self._redirect_uri()
        https = redirect_uri.lower().startswith("https:")
        authority, oidc = self._authority()
        secret, certificate, password, identity = self._credential()
        idle = self._number("SESSION_IDLE_MINUTES", 60, 1, 60 * 24 * 30)
        absolute = self._number("SESSION_ABSOLUTE_MINUTES", 720, 1, 60 * 24 * 365)
        if absolute < idle:
            self._fault("SESSION_ABSOLUTE_MINUTES", "must not be less than SESSION_IDLE_MINUTES")
        settings = Settings(
            authority=authority,
            oidc=oidc,
            client_id=self._required("CLIENT_ID", r"[\x21-\x7e]{1,200}", "printable characters without spaces"),
            client_secret=secret,
            client_certificate=certificate,
            client_certificate_password=password,
            client_managed_identity=identity,
            redirect_uri=redirect_uri,
            scopes=self._scopes(),
            storage=self._storage(),
            table_prefix=self._matching(
                "TOKEN_STORE_TABLE_PREFIX", "signin", r"[A-Za-z][A-Za-z0-9]{0,50}", "letters and digits"
            ),
            sealing_keys=self._sealing_keys(),
            sign_out_scope="session" if self._choice("SIGN_OUT_SCOPE", ("account", "session")) == "session" else "account",
            idle=timedelta(minutes=idle),
            absolute=timedelta(minutes=absolute),
            sessions_per_account=self._number("SESSIONS_PER_ACCOUNT", 50, 1, 1000),
            cookie_name=self._cookie_name(https=https),
            response_mode="query" if self._choice("RESPONSE_MODE", ("form_post", "query")) == "query" else "form_post",
            not_before=self._time("SESSIONS_NOT_BEFORE"),
            graph_endpoint=self._graph_endpoint(),
            threads=self._number("PYTHON_THREADPOOL_THREAD_COUNT", min(32, (os.cpu_count() or 1) + 4), 1, 10_000),
        )
        return None if self.faults else settings

    # -- one setting each

    def _authority(self) -> tuple[str, bool]:
        entra, oidc = self._get("AUTHORITY"), self._get("OIDC_AUTHORITY")
        if (entra is None) == (oidc is None):
            self._fault(
                "AUTHORITY", "or OIDC_AUTHORITY must be set" if entra is None else "and OIDC_AUTHORITY exclude each other"
            )
            return "", False
        name, value = ("AUTHORITY", entra) if entra is not None else ("OIDC_AUTHORITY", oidc or "")
        url = self._url(name, value or "")
        if url is not None and (url.scheme != "https" or (entra is not None and not url.path.strip("/"))):
            self._fault(name, "must be an https address" + (" that names the tenant" if entra is not None else ""))
        return (value or "").rstrip("/") if entra is not None else (value or ""), entra is None

    def _credential(self) -> tuple[str | None, str | None, str | None, str | None]:
        secret, certificate, identity = (self._get(name) for name in CREDENTIALS)
        password = self._get("CLIENT_CERTIFICATE_PASSWORD")
        given = [name for name in CREDENTIALS if self._environ.get(name, "").strip()]
        if len(given) != 1:
            self._fault("CLIENT_SECRET", "or CLIENT_CERTIFICATE or CLIENT_MANAGED_IDENTITY must be set, one of them alone")
        if password and not certificate:
            self._fault("CLIENT_CERTIFICATE_PASSWORD", "goes with CLIENT_CERTIFICATE")
        if certificate and "-----BEGIN" not in certificate and _decoded(certificate) is None:
            self._fault("CLIENT_CERTIFICATE", "must be PEM text or a PFX file in base64")
        return secret, certificate, password, identity

    def _redirect_uri(self) -> str:
        value = self._required("REDIRECT_URI", r"[\x21-\x7e]{1,500}", "a full address")
        url = self._url("REDIRECT_URI", value) if value else None
        if url is not None:
            if url.path != CALLBACK_PATH or url.query or url.fragment or url.username is not None:
                self._fault("REDIRECT_URI", f"must end with {CALLBACK_PATH}")
            if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
                self._fault("REDIRECT_URI", "must be https, or http on localhost")
        return value

    def _scopes(self) -> tuple[str, ...]:
        scopes = tuple(dict.fromkeys((self._get("SCOPES") or "User.Read").split()))
        if not all(re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope) for scope in scopes):
            self._fault("SCOPES", "must be scope names separated by spaces (RFC 6749, 3.3)")
        return scopes

    def _storage(self) -> StorageSettings:
        for name in ("TOKEN_STORE", "AzureWebJobsStorage"):
            connection = self._get(name)
            uri, account = self._get(f"{name}__tableServiceUri"), self._get(f"{name}__accountName")
            if connection is None and uri is None and account is None:
                continue
            if connection is not None:
                if uri is not None or account is not None:
                    self._fault(name, "and its __tableServiceUri or __accountName exclude each other")
                return StorageSettings(connection_string=self._connection_string(name, connection))
            if uri is None and not re.fullmatch(r"[a-z0-9]{3,24}", account or ""):
                self._fault(f"{name}__accountName", "must be a storage account's name")
            uri = uri or f"https://{account}.table.core.windows.net"
            url = self._url(f"{name}__tableServiceUri", uri)
            if url is not None and url.scheme != "https":
                self._fault(f"{name}__tableServiceUri", "must be an https address")
            credential = self._get(f"{name}__credential")
            if credential not in (None, "managedidentity"):
                self._fault(f"{name}__credential", "must be managedidentity")
            return StorageSettings(
                table_service_uri=uri,
                client_id=self._get(f"{name}__clientId"),
                managed_identity=credential is not None,
            )
        self._fault("TOKEN_STORE", "or TOKEN_STORE__tableServiceUri or AzureWebJobsStorage must be set")
        return StorageSettings()

    def _connection_string(self, name: str, value: str) -> str:
        if value.replace(" ", "").rstrip(";").lower() == "usedevelopmentstorage=true":
            return _DEVELOPMENT_STORAGE
        pairs = [part.strip().partition("=") for part in value.split(";") if part.strip()]
        parts = {key.strip().lower(): text.strip() for key, _, text in pairs}
        signed = "sharedaccesssignature" in parts or {"accountname", "accountkey"} <= parts.keys()
        whole = all(key.strip() and text.strip() for key, _, text in pairs) and len(parts) == len(pairs)
        if not whole or not signed or not ({"accountname", "tableendpoint"} & parts.keys()):
            self._fault(name, "must be a storage connection string")
        elif _decoded(parts.get("accountkey", "AA==")) is None:
            self._fault(name, "must have an AccountKey in base64")
        elif "tableendpoint" in parts and not _is_http(parts["tableendpoint"]):
            self._fault(name, "must have a TableEndpoint that is an http or https address")
        return value

    def _sealing_keys(self) -> tuple[tuple[str, bytes], ...]:
        keys: dict[str, bytes] = {}
        value = self._get("SEALING_KEYS")
        if value is None:
            self._missing("SEALING_KEYS")
            return ()
        for place, entry in enumerate((part.strip() for part in value.split(",")), start=1):
            identifier, _, text = entry.partition(":")
            key = _decoded(text)
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,32}", identifier) or key is None or len(key) != 32:  # noqa: PLR2004 - AES-256
                self._fault("SEALING_KEYS", f"entry {place} must be id:base64 of 32 bytes")
            elif identifier in keys:
                self._fault("SEALING_KEYS", f"entry {place} repeats an id")
            elif len(set(key)) == 1:
                self._fault("SEALING_KEYS", f"entry {place} is not random")
            else:
                keys[identifier] = key
        return tuple(keys.items())

    def _cookie_name(self, *, https: bool) -> str:
        name = self._get("SESSION_COOKIE_NAME") or ("__Secure-session" if https else "session")
        fault = check_name(name)
        if fault:
            self._fault("SESSION_COOKIE_NAME", fault)
        return name

    def _graph_endpoint(self) -> str:
        value = (self._get("GRAPH_ENDPOINT") or "https://graph.microsoft.com/v1.0").rstrip("/")
        url = self._url("GRAPH_ENDPOINT", value)
        if url is not None and url.scheme != "https" and url.hostname not in _LOOPBACK:
            self._fault("GRAPH_ENDPOINT", "must be https, or http on localhost: the user's token goes there")
        return value

    # -- kinds of settings

    def _get(self, name: str) -> str | None:
        """The value without the blanks around it; empty means unset; a reference that did not resolve is a fault."""
        value = self._environ.get(name, "").strip()
        if value.startswith(REFERENCES):
            self._fault(name, "is a reference that did not resolve")
        return value or None

    def _required(self, name: str, pattern: str, form: str) -> str:
        value = self._get(name)
        if value is None:
            self._missing(name)
        elif not re.fullmatch(pattern, value):
            self._fault(name, f"must be {form}")
        return value or ""

    def _matching(self, name: str, default: str, pattern: str, form: str) -> str:
        value = self._get(name) or default
        if not re.fullmatch(pattern, value):
            self._fault(name, f"must be {form}")
        return value

    def _choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._get(name) or choices[0]
        if value not in choices:
            self._fault(name, "must be " + " or ".join(choices))
        return value

    def _number(self, name: str, default: int, least: int, most: int) -> int:
        value = self._get(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            self._fault(name, f"must be a whole number from {least} to {most}")
            return default
        return int(value)

    def _time(self, name: str) -> datetime | None:
        value = self._get(name)
        if value is None:
            return None
        try:
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            self._fault(name, "must be a time in ISO 8601, such as 2026-11-23T08:00:00Z")
            return None

    def _url(self, name: str, value: str) -> SplitResult | None:
        try:
            url = urlsplit(value)
            valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.username is None and (url.port or 1) > 0
            valid = valid and not url.query and not url.fragment and re.fullmatch(r"[\x21-\x7e]+", value) is not None
        except ValueError:
            valid = False
        if not valid:
            if not any(fault.startswith(f"{name} ") for fault in self.faults):
                self._fault(name, "must be an address such as https://example.org/path")
            return None
        return url

    def _missing(self, name: str) -> None:
        self._fault(name, "must be set")

    def _fault(self, name: str, text: str) -> None:
        fault = f"{name} {text}"
        if fault not in self.faults:
            self.faults.append(fault)


def _is_http(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        return False


def _decoded(text: str) -> bytes | None:
    """Standard or URL-safe base64, padded or not; None for anything else."""
    plain = re.sub(r"\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True) if plain else None
    except (binascii.Error, ValueError):
        return None
