"""What ``python -m dev`` does once everything is installed: ``run``, ``services``, ``test`` and ``check``.

``setup.py`` installs, ``stack.py`` starts the services, ``host.py`` serves.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dev import ports, stack
from dev.processes import Child, ChildFailed, Interrupted, interruptible
from dev.stack import ROOT, STATE

PREFERRED_PORT = 7071
"""The port of ``func start``."""
_HOST_START = 120.0
"""Seconds: Core Tools take their time on a first start."""
_WRITTEN = "Written by python -m dev services, which replaces it; the services have to be running."


def main(name: str, arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    if name in {"test", "check"}:
        return check() or (test(arguments) if name == "test" else 0)
    parser = argparse.ArgumentParser(prog=f"python -m dev {name}")
    parser.add_argument("--port", type=int, help=f"the app's port (default: {PREFERRED_PORT}, or the next free one)")
    if name == "run":
        parser.add_argument(
            "--host", choices=["func", "dev"], help="Core Tools or dev/host.py (default: func where it is on PATH)"
        )
    parser.add_argument("--folder", type=Path, default=ROOT, help="the function app (default: this project)")
    options = parser.parse_args(arguments)
    interruptible()
    try:
        with contextlib.ExitStack() as children:
            if name == "run":
                run(children, port=options.port, host=options.host, folder=options.folder.resolve())
            else:
                services(children, port=options.port, folder=options.folder.resolve())
    except Interrupted:
        print("\nEverything is stopped.", flush=True)
        return 0
    except (ChildFailed, ports.PortTaken) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


# -- run and services


def run(children: contextlib.ExitStack, *, port: int | None, host: str | None, folder: Path) -> None:
    """Starts everything, says where it is, and waits until something ends.

    Raises:
        PortTaken: the port is not free.
        ChildFailed: something did not start, or ended.
    """
    port = ports.reserve(children, STATE / "ports", port, preferred=PREFERRED_PORT)
    origin = f"http://localhost:{port}"
    azurite, provider, logs = _start_services(children, origin)
    settings = stack.settings(azurite, provider, origin=origin)
    if port != PREFERRED_PORT:
        settings["SESSION_COOKIE_NAME"] = f"session-{port}"  # cookies do not tell ports apart, and another run may be up
    core_tools = shutil.which("func")
    if host == "func" and core_tools is None:
        raise ChildFailed("Azure Functions Core Tools (func) are not on PATH.")
    environment = stack.environment(settings)
    if core_tools is not None and host != "dev":
        described = f"Azure Functions Core Tools ({core_tools})"
        command = [core_tools, "start", "--port", str(port)]
        # Core Tools take the first Python on PATH.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment["VIRTUAL_ENV"] = sys.prefix
    else:
        described = "dev/host.py" + ("" if core_tools else " (Azure Functions Core Tools are not installed)")
        command = stack.host_command(folder, port)
    print(f"Starting the app with {described} …", flush=True)
    server = children.enter_context(Child("The host", command, env=environment, cwd=folder if core_tools in command else ROOT))
    stack.wait_until_healthy(server, f"http://127.0.0.1:{port}/health", seconds=_HOST_START)
    print(
        f"""
  Your app      {origin}/
                Click "Sign in" and choose Alice or Bob: there are no passwords.
  Another app   {provider.another_app}
                Sign in there with a click, then sign out there: your app has signed you out, too.

  Host          {described}
  Tables        {azurite.connection_string.rpartition("TableEndpoint=")[2].rstrip(";")}
  Logs          {logs}

Ctrl-C ends all of it.
""",
        flush=True,
    )
    _wait([azurite.child, provider.child, server])


def services(children: contextlib.ExitStack, *, port: int | None, folder: Path) -> None:
    """Starts storage and the provider for a host that somebody starts by hand, and writes its settings.

    Raises:
        ChildFailed: something did not start, or ended.
    """
    port = port or PREFERRED_PORT
    origin = f"http://localhost:{port}"
    azurite, provider, logs = _start_services(children, origin)
    settings = stack.settings(azurite, provider, origin=origin)
    kept = write_settings(folder / "local.settings.json", settings, port=port)
    if kept:
        print(f"Your own local.settings.json is now {kept}.")
    rivals = sorted(name for name, value in settings.items() if os.environ.get(name) not in {None, "", value})
    if rivals:
        print(f"Your shell sets {', '.join(rivals)}, which goes before local.settings.json: unset it before func start.")
    print(
        f"""
  local.settings.json is written. In another terminal:

      func start

  Then open {origin}/ and sign in as Alice or Bob: there are no passwords.
  Another app   {provider.another_app}
  Logs          {logs}

Ctrl-C ends the services.
""",
        flush=True,
    )
    _wait([azurite.child, provider.child])


def write_settings(path: Path, settings: dict[str, str], *, port: int) -> Path | None:
    """Writes ``local.settings.json``; one that was not ours is moved below ``.dev`` first.  Returns where to."""
    kept = None
    if path.exists() and _WRITTEN not in path.read_text(encoding="utf-8-sig"):
        kept = path.parent / ".dev" / f"local.settings.{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
    content = {"//": _WRITTEN, "IsEncrypted": False, "Values": settings, "Host": {"LocalHttpPort": port}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return kept


def _start_services(children: contextlib.ExitStack, origin: str) -> tuple[stack.Azurite, stack.Provider, Path]:
    logs = STATE / "runs" / f"{origin.rpartition(':')[2]}-{os.getpid()}"
    _forget_old_runs(logs.parent)
    print("Starting storage (Azurite) and the identity provider …", flush=True)
    storage = children.enter_context(stack.launch_azurite(logs))
    tenant = children.enter_context(stack.launch_provider(logs, clients=[stack.client(origin)]))
    return stack.azurite_ready(storage), stack.provider_ready(tenant), logs


def _forget_old_runs(folder: Path, *, keep: int = 9) -> None:
    runs = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for run in runs[keep:]:
        shutil.rmtree(run, ignore_errors=True)


def _wait(children: Sequence[Child]) -> None:
    """Until a child ends, which none should, or ``Interrupted``."""
    while True:
        for child in children:
            if not child.running:
                raise child.failure("ended")
        time.sleep(0.2)


# -- test and check


def check() -> int:
    """Lint, format and types: all of them, even when one fails."""
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    results = [_tool(command) for command in commands]
    return 1 if any(results) else 0


def test(arguments: Sequence[str]) -> int:
    """All tests, or those that the arguments name."""
    return _tool(["pytest", *arguments])


def _tool(command: Sequence[str]) -> int:
    print(f"— {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
