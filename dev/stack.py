"""The local stack: Azurite, the provider and a host, each as a child process, and the settings that join them to the app.

``commands.py`` runs it for a developer, ``tests/support/stack.py`` for the tests.  Everything listens on loopback only, on
ports that the system picks; Azurite keeps its tables in memory.
"""

import base64
import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dev import certificates
from dev.processes import Child

ROOT = Path(__file__).resolve().parent.parent
DEV = ROOT / "dev"
STATE = ROOT / ".dev"
TENANT = "11111111-2222-4333-8444-555555555555"
CLIENT_ID = "99999999-8888-4777-8666-555555555555"
CLIENT_SECRET = "a-secret-of-this-machine-only"  # noqa: S105 - known to this machine's own provider only
_AZURITE_ACCOUNT = "devstoreaccount1"
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of every Azurite, from its documentation."""
_SERVICES = ("Blob", "Queue", "Table")
_START = 30.0
"""Seconds that a service has to start; on a busy machine Node takes its time."""

_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Azurite:
    """A running Azurite; ``connection_string`` names those of its services that were started."""

    child: Child
    connection_string: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A running provider: the addresses that it said, and its control routes (``dev/provider/control.mjs``)."""

    child: Child
    browser: str
    issuer: str
    graph: str
    another_app: str
    bundle: Path

    def control(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Asks ``/test/{path}``: POST with a body, GET without.

        Raises:
            ValueError: the provider refused, and why.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.browser}/test/{path}", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with _local.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise ValueError(json.load(refusal)["error"]) from None


def node() -> str:
    """The path of ``node``; ``setup.py`` has checked that there is one."""
    return shutil.which("node") or "node"


def launch_azurite(folder: Path) -> Child:
    """Launches Azurite in memory: tables for the app, blobs and queues for the timer under ``func start``."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    options += [part for service in _SERVICES for part in (f"--{service.lower()}Port", "0")]
    return Child("Azurite", [node(), str(DEV / "azurite.mjs"), *options], log=folder / "azurite.log", cwd=folder)


def azurite_ready(child: Child) -> Azurite:
    """Waits until it listens.

    Raises:
        ChildFailed: it does not start; it is stopped.
    """
    parts = ["DefaultEndpointsProtocol=http", f"AccountName={_AZURITE_ACCOUNT}", f"AccountKey={_AZURITE_KEY}"]
    try:
        for service in _SERVICES:
            said = child.wait_for(rf"{service} service is successfully listening at (http://\S+)", seconds=_START)
            parts.append(f"{service}Endpoint={said[1]}/{_AZURITE_ACCOUNT}")
    except BaseException:
        child.stop()
        raise
    return Azurite(child=child, connection_string=";".join(parts) + ";")


def launch_provider(folder: Path, *, clients: Sequence[Mapping[str, Any]] = (), address: str | None = None) -> Child:
    """Launches the provider with these client registrations; its certificate and keys are kept in ``.dev``.

    ``address`` is the https address that it goes by, where something stands in front of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = certificates.ensure(STATE, now=datetime.now(UTC))
    config = {
        "tenant": TENANT,
        "certificate": str(files.certificate),
        "key": str(files.key),
        "keys_file": str(STATE / "provider-signing-keys.json"),
        "clients": list(clients),
        **({"address": address} if address else {}),
    }
    (folder / "provider.json").write_text(json.dumps(config), encoding="utf-8")
    command = [node(), str(DEV / "provider.mjs"), str(folder / "provider.json")]
    return Child("The provider", command, log=folder / "provider.log")


def provider_ready(child: Child) -> Provider:
    """Waits until it listens.

    Raises:
        ChildFailed: it does not start; it is stopped.
    """
    try:
        said = json.loads(child.wait_for(r'^\{"ready".*\}$', seconds=_START)[0])["ready"]
    except BaseException:
        child.stop()
        raise
    return Provider(child=child, bundle=certificates.files(STATE).bundle, **said)


def client(origin: str, *, client_id: str = CLIENT_ID, frontchannel: bool = True, backchannel: bool = False) -> dict[str, Any]:
    """The registration of the app at ``origin``, as one would make it in the portal.

    ``backchannel`` registers its back-channel address, which Entra has not.
    """
    registration: dict[str, Any] = {
        "client_id": client_id,
        "client_name": "Your app",
        "client_secret": CLIENT_SECRET,
        "redirect_uris": [f"{origin}/auth/callback"],
        "post_logout_redirect_uris": [f"{origin}/auth/logged-out"],
    }
    if frontchannel:
        registration["frontchannel_logout_uri"] = f"{origin}/auth/frontchannel-logout"
    if backchannel:
        # Sent by Node, which may look for localhost on ::1 where nobody listens.
        address = origin.replace("//localhost:", "//127.0.0.1:")
        registration["backchannel_logout_uri"] = f"{address}/auth/backchannel-logout"
    return registration


def sealing_key(identifier: str = "local") -> str:
    """A new entry for ``SEALING_KEYS``."""
    return f"{identifier}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def settings(azurite: Azurite, provider: Provider, *, origin: str, client_id: str = CLIENT_ID) -> dict[str, str]:
    """The app's settings for this stack: what ``local.settings.json`` holds under ``Values``."""
    return {
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "PYTHON_THREADPOOL_THREAD_COUNT": "32",
        "AzureWebJobsStorage": azurite.connection_string,
        "AzureWebJobsDisableHomepage": "true",
        "OIDC_AUTHORITY": provider.issuer,
        "CLIENT_ID": client_id,
        "CLIENT_SECRET": CLIENT_SECRET,
        "REDIRECT_URI": f"{origin}/auth/callback",
        "SCOPES": "User.Read",
        "TOKEN_STORE": azurite.connection_string,
        "SEALING_KEYS": sealing_key(),
        "GRAPH_ENDPOINT": provider.graph,
        "REQUESTS_CA_BUNDLE": str(provider.bundle),
    }


_RIVALS = (
    "AUTHORITY",
    "CLIENT_CERTIFICATE",
    "CLIENT_CERTIFICATE_PASSWORD",
    "CLIENT_MANAGED_IDENTITY",
    "TOKEN_STORE__tableServiceUri",
    "TOKEN_STORE__accountName",
)
"""Settings that contradict those of the local stack."""


def environment(values: Mapping[str, str], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a host: ``base`` (default: ours) with these settings, and nothing that contradicts them.

    What contradicts is set to a blank rather than left out, so that a ``local.settings.json`` beside the app does not bring it
    back: to the app a blank is no setting, and Core Tools replace only what is empty.  Loopback never goes through a proxy.
    """
    base = os.environ if base is None else base
    env = {**base, **dict.fromkeys(_RIVALS, " "), **values}
    if "REQUESTS_CA_BUNDLE" in values:
        env["SSL_CERT_FILE"] = values["REQUESTS_CA_BUNDLE"]
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [base.get(name, ""), "localhost,127.0.0.1"]))
    env |= {"DEV_SETUP_DONE": "1", "DEV_END_WITH_STDIN": "1"}
    return env


def host_command(folder: Path, port: int, *options: str) -> list[str]:
    """The command that serves ``folder`` with ``dev/host.py``."""
    return [sys.executable, "-m", "dev", "host", str(folder), "--port", str(port), *options]


def wait_until_healthy(child: Child, url: str, *, seconds: float, statuses: Container[int] = (200,)) -> None:
    """Asks ``url`` until it answers with one of ``statuses``.

    Raises:
        ChildFailed: the child ended, or the time is over; the message has the last answer and the end of the child's log.
    """
    deadline = time.monotonic() + seconds
    last = "nobody answered"
    while True:
        running = child.running
        try:
            with _local.open(url, timeout=5) as answer:
                status, text = int(answer.status), ""
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read(2000).decode("utf-8", "replace")
        except OSError:
            status, text = 0, ""
        if status in statuses and running:
            return
        if status:
            last = f"{status} {text}".strip()
        if not running:
            raise child.failure("ended")
        if time.monotonic() > deadline:
            raise child.failure(f"was not ready after {seconds:g} s; {url} said: {last}")
        time.sleep(0.02)
