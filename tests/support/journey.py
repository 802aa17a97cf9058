"""What journeys do over and over: people who sign in and out, providers' requests, and looks into the tables."""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode, urljoin

from azure.data.tables import UpdateMode

from shared.app import App as Built
from shared.app import build
from shared.settings import load
from shared.store.rows import Claim, SessionRow, secret_hash
from shared.web.cookies import SessionCookie
from tests.support.stack import App
from tests.support.user_agent import Page, UserAgent

EMPTY = (["!"], ["exp"])
"""What ``left`` finds of an account that was signed out."""


def rows(app: App) -> list[tuple[str, str, str]]:
    """Every stored entity with its ETag: equal lists mean that nothing changed."""
    return [
        (e["PartitionKey"], e["RowKey"], str(e.metadata["etag"]))
        for table in ("sessions", "index")
        for e in app.entities(table)
    ]


def left(app: App, account: str) -> tuple[list[str], list[str]]:
    """What the tables still hold of an account: rows of its partition, and kinds of index rows that name it."""
    sessions = [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account]
    return sessions, [e["PartitionKey"].partition(":")[0] for e in app.entities("index") if e.get("Account") == account]


def name() -> str:
    """A login that nobody else has."""
    return f"promised-{secrets.token_hex(4)}"


def signed_in(app: App, login: str | None = None, **parameters: str) -> UserAgent:
    """A browser in which somebody has just signed in."""
    agent = UserAgent()
    agent.sign_in(app.url, login or name(), **parameters)
    assert "session" in agent.cookies
    return agent


def live(app: App, agent: UserAgent) -> bool:
    """Whether the browser is signed in at the app."""
    return agent.fetch(f"{app.url}/auth/me").status == 200


def cookie_of(agent: UserAgent) -> SessionCookie:
    """The session cookie, decoded."""
    cookie = SessionCookie.decode(agent.cookies["session"].value)
    assert cookie is not None
    return cookie


def account_of(agent: UserAgent) -> str:
    """The account key, as the cookie has it."""
    return cookie_of(agent).account


def logout(app: App, agent: UserAgent) -> Page:
    """The form of our own page, without following it to the provider."""
    return agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})


def built(app: App, **settings: str) -> Built:
    """The same app in this process, to look into its rows."""
    return build(load({**app.settings, **settings}))


def row_of(app: App, agent: UserAgent) -> SessionRow | None:
    """The stored session, opened."""
    cookie = cookie_of(agent)
    return built(app).sessions.read(
        Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))
    )


def sid_of(app: App, agent: UserAgent) -> str:
    """What the provider calls the session."""
    row = row_of(app, agent)
    assert row is not None
    assert row.identity.sid is not None
    return row.identity.sid


def edit(app: App, agent: UserAgent, **values: Any) -> None:
    """Changes the stored session behind the app's back."""
    cookie = cookie_of(agent)
    with app.tables() as service, service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + "sessions") as table:
        table.update_entity({"PartitionKey": cookie.account, "RowKey": cookie.session_id, **values}, mode=UpdateMode.MERGE)


def answer(agent: UserAgent, app: App, user: str, **parameters: str) -> dict[str, str]:
    """Signs in at the provider and keeps its answer: the fields of the form that it would post to the callback."""
    page = agent.open(f"{app.url}/auth/login?{urlencode(parameters)}", follow=False)
    for _ in range(10):
        forms = [form for form in page.document.forms if form.action.endswith("/auth/callback")]
        if forms:
            return dict(forms[0].fields)
        if page.status in (302, 303):
            page = agent.open(urljoin(page.url, page.header("location") or ""), follow=False)
        else:
            page = agent.choose(user, follow=False)
    raise AssertionError(page.text)


def post(agent: UserAgent, app: App, fields: Any, **headers: str) -> Page:
    """Posts to the callback as the provider's page would: from another site."""
    return agent.request("POST", f"{app.url}/auth/callback", initiator="http://127.0.0.1:1/", form=fields, headers=headers)


def sets_a_session(page: Page) -> bool:
    """Whether an answer signs the browser in."""
    return any(
        cookie.startswith(("session=", "__Secure-session=")) and "max-age=0" not in cookie.lower()
        for cookie in page.set_cookies
    )


def frame(app: App, query: str, method: str = "GET") -> Page:
    """The front-channel address in a frame on the provider's page."""
    return UserAgent().request(
        method, f"{app.url}/auth/frontchannel-logout{query}", initiator="http://127.0.0.1:1/", dest="iframe"
    )


def send(app: App, token: str) -> Page:
    """The provider's own request: no browser, no cookies."""
    headers = {"Accept": "", "Sec-Fetch-Mode": "", "Sec-Fetch-Dest": "", "Sec-Fetch-Site": ""}
    return UserAgent().request("POST", f"{app.url}/auth/backchannel-logout", headers=headers, form={"logout_token": token})


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """All of them, begun together."""
    barrier = threading.Barrier(len(acts))

    def begin(act: Callable[[], Any]) -> Any:
        barrier.wait()
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(begin, acts))


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    """Waits for it to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)
