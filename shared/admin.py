"""The operator's command: signs accounts out and lists their sessions, straight from storage, also when the app is down.

    python -m shared.admin sign-out FILE        one account a line; "-" reads standard input
    python -m shared.admin sessions ACCOUNT     the account's sessions

An account, and a line, is a ``home_account_id`` (or PartitionKey), ``oid,tid``, ``sub:…``, or a JSON object as the
administrator's route takes it; empty lines and those that begin with # do not count.  Settings come from the environment, or
from the ``Values`` of a file named with ``--settings``; storage by identity works with the operator's own sign-in (``az
login``).  Which app it is (authority, ``CLIENT_ID``) and where its tables are is all that is needed: no key, no secret, and
nothing else that may be wrong with the settings of an app that is down.  With its keys and its secret, refresh tokens are
revoked at the provider, too.
"""

import argparse
import base64
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.app import App, build, now
from shared.errors import AppError, SettingsInvalid
from shared.settings import CREDENTIALS, REFERENCES, load

_WIDTH = 30
_NEEDED = (
    "AUTHORITY",
    "OIDC_AUTHORITY",
    "CLIENT_",
    "TOKEN_STORE",
    "AzureWebJobsStorage",
    "SEALING_KEYS",
    "SESSIONS_NOT_BEFORE",
)
"""How the settings begin that say which app it is, where its tables are, and which sessions are dead anyway."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when all was done, 1 when something was not, 2 when it could not begin."""
    parser = argparse.ArgumentParser(prog="python -m shared.admin", description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=Path, help="a local.settings.json whose Values are used before the environment")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sign-out", help="sign out every account of a file").add_argument("file")
    commands.add_parser("sessions", help="list an account's sessions").add_argument("account")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        app = build(load(_environment(options.settings)))
        if options.command == "sessions":
            return show_sessions(app, _wish(options.account))
        lines = sys.stdin.read() if options.file == "-" else Path(options.file).read_text("utf-8-sig")
    except SettingsInvalid as error:
        print("The settings have faults:", *error.faults, sep="\n  ", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except AppError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return sign_out(app, lines.splitlines())


def sign_out(app: App, lines: Iterable[str]) -> int:
    """Signs out every account, whatever happens to the others; says what became of each.  Can be repeated at will."""
    wishes = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    failed = ended = 0
    for number, line in enumerate(wishes, start=1):
        try:
            gone = app.channels.administrator(_wish(line), now())["ended"]
        except AppError as error:
            failed += 1
            _say(f"{line}: {error.code}: {error}")
        else:
            ended += gone
            _say(f"{line}: {gone} ended")
        _progress(number, len(wishes))
    print(f"{len(wishes) - failed} accounts signed out, {ended} sessions ended, {failed} accounts failed", file=sys.stderr)
    return 1 if failed else 0


def show_sessions(app: App, wish: object) -> int:
    """Lists the sessions of the accounts that a wish names: when they began and end, and what used them; no tokens."""
    rows = [row for account in app.channels.accounts(wish) for row in app.sessions.listing(account).rows]
    if not rows:
        print("no sessions", file=sys.stderr)
    for row in rows:
        session = app.sessions.open(row)
        state = "live" if app.sessions.is_standing(row, now()) else "expired"
        times = "  ".join(_time(row.values.get(name)) for name in ("CreatedAt", "IdleExpiresAt", "ExpiresAt"))
        used_by = session.identity.user_agent if session is not None else "(does not open with these keys)"
        _say(f"{row.key}  {state:7}  {times}  {_printable(used_by)}")
    return 0


def _wish(line: str) -> Any:
    if line.startswith("{"):
        try:
            return json.loads(line)
        except ValueError:
            return None  # refused as malformed, like anything else that is no account
    if line.startswith("sub:"):
        return {"sub": line.removeprefix("sub:")}
    oid, comma, tid = (part.strip() for part in line.partition(","))
    return {"oid": oid, "tid": tid} if comma else {"account": line}


def _environment(file: Path | None) -> Mapping[str, str]:
    values = json.loads(file.read_text("utf-8-sig")).get("Values", {}) if file is not None else {}
    given = {**os.environ, **{name: str(value) for name, value in values.items()}}
    needed = {name: value for name, value in given.items() if name.startswith(_NEEDED)}
    return {**needed, **_not_needed(needed)}


def _not_needed(given: Mapping[str, str]) -> dict[str, str]:
    """Stand-ins for what a sign-out straight from storage does without; only Functions resolves Key Vault references."""

    def usable(name: str) -> bool:
        return bool(given.get(name)) and not given[name].startswith(REFERENCES)

    instead = {"REDIRECT_URI": "https://operator.invalid/auth/callback"}
    if not usable("SEALING_KEYS"):
        instead["SEALING_KEYS"] = f"operator:{base64.b64encode(os.urandom(32)).decode()}"
    if not any(map(usable, CREDENTIALS)):
        instead |= {**dict.fromkeys((*CREDENTIALS, "CLIENT_CERTIFICATE_PASSWORD"), ""), "CLIENT_SECRET": "none"}
    return instead


def _time(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%SZ}" if isinstance(value, datetime) else "(no time)"


def _printable(text: str) -> str:
    """A browser says what it likes; a terminal obeys some of it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(text, flush=True)


def _progress(done: int, total: int) -> None:
    """A bar on a terminal, nothing in a log."""
    if sys.stderr.isatty():
        filled = _WIDTH * done // total
        print(
            f"\r[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{total}",
            end="\n" if done == total else "",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
