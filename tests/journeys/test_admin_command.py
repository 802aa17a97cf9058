"""The operator's command works straight from storage, with the app and the provider down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.stack import ROOT
from tests.support.stack import App, Stack
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack


def command(app: App, *arguments: str, text: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **app.settings, **changes}
    return subprocess.run(
        [sys.executable, "-m", "shared.admin", *arguments],
        cwd=ROOT,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_file_of_accounts_is_signed_out(stack: Stack, tmp_path: Path) -> None:
    """By account, by oid and tid, as JSON; malformed lines fail alone; comments do not count; the app need not run."""
    app = stack.start_app()
    agents = [UserAgent() for _ in range(3)]
    users = []
    for n, agent in enumerate(agents):
        agent.sign_in(app.url, f"operated-{n}")
        users.append(agent.fetch(f"{app.url}/auth/me").json())
    listed = command(app, "sessions", users[0]["account"])
    assert listed.returncode == 0
    assert "live" in listed.stdout
    assert users[0]["session"]["id"] in listed.stdout
    for process in app.processes:
        process.kill()
    file = tmp_path / "accounts.txt"
    file.write_text(
        f"# everybody\n\n{users[0]['account']}\n{users[1]['oid'].upper()},{users[1]['tid']}\n"
        f'{{"account": "{users[2]["account"]}"}}\n{{broken\n'
    )
    done = command(app, "sign-out", str(file))
    assert done.returncode == 1
    assert done.stdout.count(": 1 ended") == 3
    assert "{broken: invalid_request" in done.stdout
    assert {e["RowKey"] for e in app.entities("sessions")} == {"!"}
    again = command(app, "sign-out", "-", text=users[0]["account"])
    assert (again.returncode, again.stdout.strip()) == (0, f"{users[0]['account']}: 0 ended")


def test_the_command_says_what_is_wrong_with_its_settings(app: App) -> None:
    """All faults by name, no secret, exit code 2."""
    done = command(app, "sessions", "a.b", SEALING_KEYS="k:short", CLIENT_ID="")
    assert done.returncode == 2
    assert "SEALING_KEYS entry 1 must be" in done.stderr
    assert "CLIENT_ID must be set" in done.stderr


def test_storage_that_is_down_is_said(app: App) -> None:
    """Exit code 1 and the reason; nothing is claimed."""
    down = "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=YQ==;TableEndpoint=http://127.0.0.1:9/devstoreaccount1;"
    done = command(app, "sign-out", "-", text="a.b", TOKEN_STORE=down)
    assert done.returncode == 1
    assert "storage_unavailable" in done.stdout
