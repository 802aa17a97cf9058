"""The whole product in real processes: Azurite, the provider, and hosts that serve the app.

Take the fixtures ``azurite``, ``provider``, ``stack`` and ``app`` (``conftest.py``), not this module's constructors:

    def test_something(stack):
        app = stack.start_app({"SIGN_OUT_SCOPE": "session"})           # settings over the usual ones; None leaves one out
        agent = UserAgent()
        agent.sign_in(app.url, "alice")
        assert agent.fetch(f"{app.url}/auth/me").status == 200
        stack.provider.switch(token_refresh="500")                     # see dev/provider/switches.mjs
        with stack.provider.counting() as counted: ...                 # counted["token"]["refresh_token"] afterwards
        assert app.entities("sessions") == []                          # what the tables hold of this app

Each app has a client registration, a table prefix and a sealing key of its own, so that apps on the one Azurite never meet.
"""

import contextlib
import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.data.tables import TableEntity, TableServiceClient

from dev import ports
from dev import stack as local
from dev.processes import Child, stop
from dev.stack import ROOT, Azurite
from tests.support import silence

_numbers = itertools.count(1)
_START = 60.0


class Provider:
    """The running provider, and what a test may turn and ask (``dev/provider/control.mjs``)."""

    def __init__(self, provider: local.Provider) -> None:
        self.process = provider.child
        self.browser = provider.browser
        """Where browsers go: ``http://127.0.0.1:PORT``."""
        self.issuer = provider.issuer
        """``https://127.0.0.1:PORT/{tid}/v2.0``: the issuer, and ``OIDC_AUTHORITY``."""
        self.graph = provider.graph
        self.another_app = provider.another_app
        """The demo app: ``/sign-in`` and ``/sign-out`` below it do what they say."""
        self.bundle = provider.bundle
        """Authorities to trust for https: ``REQUESTS_CA_BUNDLE``."""
        self.local = provider
        self._control = provider.control

    def switch(self, **values: Any) -> None:
        """Turns switches (``dev/provider/switches.mjs``); all are turned back after the test."""
        self._control("switch", values)

    def reset(self) -> None:
        """Switches and counters as at the start; sessions, users and clients stay."""
        self._control("reset", {})

    def register(self, registration: Mapping[str, Any]) -> None:
        """Registers a client, or changes it: ``client_id``, ``redirect_uris``, ``frontchannel_logout_uri`` and so on."""
        self._control("clients", registration)

    def user(self, login: str, **claims: Any) -> dict[str, Any]:
        """Describes a user, who then can sign in by that name: sub, oid, tid, uid, utid, name, username, login_hint, claims."""
        user: dict[str, Any] = self._control("users", {"login": login, **claims})
        return user

    def rotate_keys(self) -> str:
        """A new signing key; the one before stays published.  Returns the new ``kid``."""
        kid: str = self._control("rotate-keys", {})["kid"]
        return kid

    def logout_token(self, **parts: Any) -> str:
        """A logout token: ``client_id``, ``sub``, ``sid``, changes in ``claims`` and ``header`` (None takes one away), ``key``.

        ``key``: current, previous, unknown, none (alg none), hmac (HS256 with the public key).
        """
        token: str = self._control("logout-token", parts)["logout_token"]
        return token

    def counters(self) -> dict[str, Any]:
        """How often each endpoint was asked since the test began."""
        counters: dict[str, Any] = self._control("counters")
        return counters

    @contextlib.contextmanager
    def counting(self) -> Iterator[dict[str, Any]]:
        """Counts what is asked inside; the numbers are there afterwards."""
        before = self.counters()
        counted: dict[str, Any] = {}
        yield counted
        counted.update(_difference(self.counters(), before))

    def issued(self) -> list[str]:
        """Every code, access token and refresh token that it gave, and every ``sid``."""
        issued: list[str] = self._control("issued")
        return issued

    def sessions(self, login: str | None = None) -> list[dict[str, Any]]:
        """The provider's own sessions: ``login``, ``sub``, ``clients`` (client_id → sid)."""
        sessions: list[dict[str, Any]] = self._control("sessions")
        return [session for session in sessions if login is None or session["login"] == login]


def _difference(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _difference(value, before[name]) if isinstance(value, dict) else value - before[name]
        for name, value in after.items()
    }


@dataclass(slots=True, kw_only=True)
class App:
    """A running app: one host process, or several that share the settings (``urls``)."""

    url: str
    """The app's origin, as browsers know it: ``http://localhost:PORT``."""
    urls: list[str]
    """One for each host process; cookies do not tell ports apart, so that an agent's session is good at all of them."""
    client_id: str
    settings: dict[str, str] = field(repr=False)
    processes: list[Child] = field(repr=False)

    def logs(self) -> str:
        """All that its processes have said."""
        return "".join(process.log() for process in self.processes)

    def tables(self) -> TableServiceClient:
        """Its storage, over the SDK."""
        return TableServiceClient.from_connection_string(self.settings["TOKEN_STORE"])

    def entities(self, table: str) -> list[TableEntity]:
        """Every entity of its table ``sessions`` or ``index``; none where there is no such table."""
        name = f"{self.settings.get('TOKEN_STORE_TABLE_PREFIX', 'signin')}{table}"
        with self.tables() as service:
            if not any(found.name == name for found in service.list_tables()):
                return []
            with service.get_table_client(name) as client:
                return list(client.list_entities())

    def stop(self) -> None:
        """Ends its processes; SIGTERM, so that running requests finish."""
        stop(self.processes)


class Stack:
    """Starts apps on the shared Azurite and provider, and ends them with the test."""

    def __init__(self, azurite: Azurite, provider: Provider, folder: Path) -> None:
        self.azurite = azurite
        self.provider = provider
        self._folder = folder
        self._apps: list[App] = []

    def start_app(
        self,
        env: Mapping[str, str | None] | None = None,
        *,
        folder: Path = ROOT,
        port: int | None = None,
        processes: int = 1,
        frontchannel: bool = True,
        backchannel: bool = False,
        ready: str = "/health",
        statuses: Sequence[int] = (200,),
        options: Sequence[str] = (),
    ) -> App:
        """Starts an app and waits until ``ready`` answers with one of ``statuses``.

        Args:
            env: settings over the usual ones; None leaves one out.
            folder: the function app to serve.
            port: of its first process; by default a free one.
            processes: how many host processes share the settings.
            frontchannel: register its front-channel logout address at the provider.
            backchannel: register its back-channel logout address, and have the metadata say that there is such a thing.
            ready: what is asked; ``/health`` asks the provider, ``/auth/me`` (401) leaves it alone.
            statuses: 503 for settings with faults.
            options: for the host, such as ``--function-key``.

        Raises:
            ChildFailed: with the end of the log.
        """
        number = next(_numbers)
        chosen = [port or ports.free(), *(ports.free() for _ in range(processes - 1))]
        urls = [f"http://localhost:{one}" for one in chosen]
        client_id = f"app-{number}-{secrets.token_hex(4)}"
        self.provider.register(local.client(urls[0], client_id=client_id, frontchannel=frontchannel, backchannel=backchannel))
        if backchannel:
            self.provider.switch(backchannel_logout_supported=True)
        settings: dict[str, str | None] = {
            **local.settings(self.azurite, self.provider.local, origin=urls[0], client_id=client_id),
            "TOKEN_STORE_TABLE_PREFIX": f"t{number}x{secrets.token_hex(4)}",
            **(env or {}),
        }
        given = {name: value for name, value in settings.items() if value is not None}
        environment = local.environment(given)
        for name in settings.keys() - given.keys():
            environment[name] = " "
        app = App(url=urls[0], urls=urls, client_id=client_id, settings=given, processes=[])
        self._apps.append(app)
        for index, one in enumerate(chosen):
            app.processes.append(
                Child(
                    f"Host {index} of app {number}",
                    local.host_command(folder, one, *options),
                    log=self._folder / f"app-{number}-{index}.log",
                    env=environment,
                    cwd=ROOT,
                )
            )
        for one, process in zip(chosen, app.processes, strict=True):
            local.wait_until_healthy(process, f"http://127.0.0.1:{one}{ready}", seconds=_START, statuses=statuses)
        return app

    def stop(self) -> None:
        """Ends every app that is still running, and looks through all that their hosts have said.

        Raises:
            AssertionError: something secret is in a log.
        """
        stop([process for app in self._apps for process in app.processes])
        for app in self._apps:
            silence.saw([app.settings.get("CLIENT_SECRET", ""), app.settings.get("SEALING_KEYS", "")])
        with contextlib.suppress(OSError):  # a provider that a test has ended
            silence.saw(self.provider.issued())
        self._apps.clear()
        logs = sorted({*self._folder.glob("app-*.log"), *self._folder.glob("again-*.log")})
        said = [line for log in logs for line in silence.leaks(log.read_text("utf-8", "replace"))]
        assert said == [], "secrets in the logs"
