"""No log of any journey holds a token, a code, a ``sid`` or a cookie: each stack looks when it stops, and here it is shown to see."""

import json
import secrets
from pathlib import Path

import pytest

from dev.stack import Azurite
from shared.app import build
from shared.settings import load
from shared.store.rows import Claim, secret_hash
from shared.web.cookies import SessionCookie
from tests.support import silence
from tests.support.stack import App, Provider, Stack
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack

GOSSIP = """
import logging

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route("say", methods=["GET", "POST"])
def say(req: func.HttpRequest) -> func.HttpResponse:
    logging.info("somebody said <%s>", req.get_body().decode())
    return func.HttpResponse("")
"""


def test_a_secret_in_a_log_fails_the_journey(app: App, azurite: Azurite, provider: Provider, tmp_path: Path) -> None:
    """An app that says what it is told: each of a session's secrets in its log alone is seen, and what is none is not."""
    agent, login = UserAgent(), f"silent-{secrets.token_hex(4)}"
    agent.sign_in(app.url, login)
    value = agent.cookies["session"].value
    cookie = SessionCookie.decode(value)
    assert cookie is not None
    claim = Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))
    row = build(load(app.settings)).sessions.read(claim)
    assert row is not None
    cache = json.loads(row.cache)
    hidden = [
        value,
        cookie.secret,
        cookie.session_id,
        *(entry["secret"] for kind in ("AccessToken", "RefreshToken") for entry in cache[kind].values()),
        row.identity.id_token or "",
        row.identity.sid or "",
        app.settings["SEALING_KEYS"],
    ]
    (tmp_path / "function_app.py").write_text(GOSSIP)
    (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}))
    stack = Stack(azurite, provider, tmp_path)
    try:
        gossip = stack.start_app({"SEALING_KEYS": app.settings["SEALING_KEYS"]}, folder=tmp_path, ready="/say")
        for secret in (*hidden, "nothing that opens anything"):
            assert UserAgent().request("POST", f"{gossip.url}/say", body=f"it is {secret}!".encode()).status == 200
    finally:
        with pytest.raises(AssertionError, match="secrets in the logs"):
            stack.stop()
    said = [line for line in gossip.logs().splitlines() if "somebody said <it is " in line]
    assert len(said) == len(hidden) + 1
    assert silence.leaks(gossip.logs()) == said[:-1]
