"""Audit and silence: one record for each sign-in and sign-out, and nothing in any log that opens anything."""

import json
import secrets

import pytest

from shared.app import build
from shared.settings import load
from shared.store.rows import Claim, secret_hash
from shared.web.cookies import SessionCookie
from tests.support.stack import Stack
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack


def records(logs: str) -> list[dict[str, object]]:
    """The audit's records in a host's log."""
    return [json.loads(line[line.index('{"event"') :]) for line in logs.splitlines() if '{"event"' in line]


def test_one_record_for_each_sign_in_and_sign_out(stack: Stack) -> None:
    """Cause, account as a keyed hash, sessions ended, storage requests, milliseconds."""
    app = stack.start_app(options=["--function-key", "k"])
    first, second = UserAgent(), UserAgent()
    login = f"audited-{secrets.token_hex(3)}"
    first.sign_in(app.url, login)
    second.sign_in(app.url, login)
    account = first.fetch(f"{app.url}/auth/me").json()["account"]
    first.fetch(f"{app.url}/auth/sessions/{second.fetch(f'{app.url}/auth/me').json()['session']['id']}", "DELETE")
    second.sign_in(app.url, login)
    first.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})
    first.sign_in(app.url, login)
    body = json.dumps({"account": account}).encode()
    first.request(
        "POST",
        f"{app.url}/auth/admin/sign-out",
        headers={"Content-Type": "application/json", "x-functions-key": "k"},
        body=body,
    )
    found = records(app.logs())
    assert [(record["event"], record["cause"], record["sessions_ended"]) for record in found] == [
        ("sign_in", "callback", 0),
        ("sign_in", "callback", 0),
        ("sign_out", "device", 1),
        ("sign_in", "callback", 0),
        ("sign_out", "user", 2),
        ("sign_in", "callback", 0),
        ("sign_out", "administrator", 1),
    ]
    assert len({record["account"] for record in found}) == 1
    assert account not in app.logs()
    assert found[0]["storage_requests"] == 4
    assert all(isinstance(record["milliseconds"], int) for record in found)


def test_nothing_in_the_logs_opens_anything(stack: Stack) -> None:
    """After good and bad days of a session: no cookie, token, code, state, ``sid`` or secret in any process's log."""
    app = stack.start_app(backchannel=True)
    provider = stack.provider
    agent, login = UserAgent(), f"silent-{secrets.token_hex(3)}"
    provider.switch(access_token_ttl=60, backchannel_logout_supported=True, frontchannel=False)
    start = agent.open(f"{app.url}/auth/login", follow=False)
    agent.sign_in(app.url, login)
    value = next(cookie.value for cookie in agent.cookies.live() if cookie.name == "session")
    cookie = SessionCookie.decode(value)
    assert cookie is not None
    built = build(load(app.settings))
    row = built.sessions.read(
        Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))
    )
    assert row is not None
    cache = json.loads(row.cache)
    tokens = [entry["secret"] for kind in ("AccessToken", "RefreshToken", "IdToken") for entry in cache.get(kind, {}).values()]
    assert len(tokens) >= 2
    agent.fetch(f"{app.url}/api/profile")
    for fault in ("500", "html", "400"):
        provider.switch(token_refresh=fault)
        agent.fetch(f"{app.url}/api/profile")
    provider.switch(token_refresh="ok")
    agent.sign_in(app.url, login)
    sid = [session["clients"][app.client_id] for session in provider.sessions(login)][-1]
    for query in (f"?sid={sid}&iss=https://evil.example", f"?sid={sid}&sid={sid}", f"?sid={sid}"):
        agent.frame(f"{app.url}/auth/frontchannel-logout{query}", inside="http://127.0.0.1:1/")
    agent.request(
        "POST",
        f"{app.url}/auth/callback",
        form={"state": "A" * 22, "code": "the-code-of-a-stranger", "error_description": "x"},
    )
    agent.request("POST", f"{app.url}/auth/backchannel-logout", form={"logout_token": "the.logout.token"})
    logs = app.logs()
    hidden = [
        cookie.secret,
        cookie.session_id,
        cookie.account,
        value,
        sid,
        *tokens,
        "the-code-of-a-stranger",
        "the.logout.token",
        app.settings["CLIENT_SECRET"],
    ]
    hidden += [part for part in (start.header("location") or "").split("state=")[-1:] if part]
    for secret in hidden:
        assert secret not in logs
