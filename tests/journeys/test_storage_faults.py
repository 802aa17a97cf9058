"""Storage that throttles, hangs, drops or answers too late.

Nobody is signed in by mistake, no sign-out is claimed that did not happen, and a retry ends clean.  ``FAULTS=full`` in the
environment tries every fault everywhere; without it those that differ most.
"""

import contextlib
import http.client
import os
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.app import build
from shared.settings import load
from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack

FULL = os.environ.get("FAULTS") == "full"
FAULTS = ["429", "500", "503", "drop_before", "drop_after", "503_after"] if FULL else ["503", "drop_after", "503_after"]
LOST = {"drop_after", "503_after"}


@pytest.fixture(scope="module")
def proxy(azurite: Azurite) -> Iterator[StorageProxy]:
    """Fails what the apps of this module ask."""
    with StorageProxy(azurite.connection_string) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["account", "session"])
def faulty(
    request: pytest.FixtureRequest,
    azurite: Azurite,
    provider: Provider,
    proxy: StorageProxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """An app whose storage can be failed."""
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("faulty"))
    yield stack.start_app({"TOKEN_STORE": proxy.connection_string, "SIGN_OUT_SCOPE": request.param})
    stack.stop()


@pytest.fixture(autouse=True)
def _healthy_again(proxy: StorageProxy, provider: Provider) -> Iterator[None]:
    provider.switch(frontchannel=False)
    proxy.reset()
    yield
    proxy.reset()


def signed_in_agent(app: App) -> tuple[UserAgent, str]:
    agent, login = UserAgent(), f"fault-{secrets.token_hex(4)}"
    agent.sign_in(app.url, login)
    return agent, login


def cookie_of(agent: UserAgent) -> str:
    return next(cookie.value for cookie in agent.cookies.live() if cookie.name == "session")


def alive(app: App, cookie: str) -> bool:
    return UserAgent().request("GET", f"{app.url}/auth/me", headers={"Cookie": f"session={cookie}"}).status == 200


def account_of(app: App, agent: UserAgent) -> str:
    return str(agent.fetch(f"{app.url}/auth/me").json()["account"])


def sessions(app: App, account: str) -> list[str]:
    return [
        e["RowKey"]
        for e in app.entities("sessions")
        if e["PartitionKey"] == account and e["RowKey"] != "!" and "Tombstone" not in e
    ]


def after_the_sweep(app: App, account: str) -> None:
    """Nothing of the account is left when everything is long over."""
    app_ = build(load({**app.settings, "TOKEN_STORE": app.settings["AzureWebJobsStorage"]}))
    for hours in (20, 24, 28):
        app_.sweep.run(datetime.now(UTC) + timedelta(hours=hours))
    assert [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account] == []
    assert [e["PartitionKey"] for e in app.entities("index") if e.get("Account") == account] == []


def logout(app: App, agent: UserAgent) -> Page:
    return agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_one_fault_anywhere_in_a_sign_out_is_survived(faulty: App, proxy: StorageProxy, fault: str, nth: int) -> None:
    """One failure at any of its storage calls: the SDK's repetition gets through, and signed out means signed out."""
    agent, _ = signed_in_agent(faulty)
    account, cookie = account_of(faulty, agent), cookie_of(agent)
    proxy.reset()
    proxy.fail(fault, nth=nth)
    page = logout(faulty, agent)
    assert page.status == 303
    assert not alive(faulty, cookie)
    assert sessions(faulty, account) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_one_fault_anywhere_in_a_callback_is_survived(faulty: App, proxy: StorageProxy, fault: str, nth: int) -> None:
    """The user is signed in once, and signs out again to nothing."""
    agent, login = UserAgent(), f"fault-{secrets.token_hex(4)}"
    agent.open(f"{faulty.url}/auth/login?return_to=/auth/logged-out-not")
    proxy.reset()
    proxy.fail(fault, nth=nth)
    agent.choose(login)
    proxy.reset()
    account = account_of(faulty, agent)
    assert len(sessions(faulty, account)) == 1
    logout(faulty, agent)
    assert sessions(faulty, account) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["list", "read", "transaction", "delete"])
def test_a_sign_out_that_cannot_be_done_says_so_and_can_be_repeated(
    faulty: App, proxy: StorageProxy, fault: str, kind: str
) -> None:
    """503 with ``Retry-After``, the cookie kept, no success claimed - or, where what failed comes after the deletion, success."""
    agent, _ = signed_in_agent(faulty)
    account, cookie = account_of(faulty, agent), cookie_of(agent)
    proxy.reset()
    proxy.fail(fault, kind=kind, times=None)
    page = logout(faulty, agent)
    proxy.reset()
    if page.status == 303:
        assert not alive(faulty, cookie)
        assert sessions(faulty, account) == []
    else:
        assert page.status == 503
        assert page.header("retry-after")
        assert "not signed out yet" in page.text
        assert page.set_cookies == []
        if fault not in LOST:
            assert alive(faulty, cookie)
    assert (
        UserAgent()
        .request(
            "POST", f"{faulty.url}/auth/logout", initiator=f"{faulty.url}/", form={}, headers={"Cookie": f"session={cookie}"}
        )
        .status
        == 303
    )
    assert not alive(faulty, cookie)
    assert sessions(faulty, account) == []
    after_the_sweep(faulty, account)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["upsert", "list", "transaction"])
def test_a_callback_that_cannot_be_done_signs_nobody_in(faulty: App, proxy: StorageProxy, fault: str, kind: str) -> None:
    """503, no session cookie; whatever was written has no cookie, and the sweep finds it."""
    agent, login = UserAgent(), f"fault-{secrets.token_hex(4)}"
    agent.open(f"{faulty.url}/auth/login?return_to=/auth/logged-out-not")
    proxy.reset()
    proxy.fail(fault, kind=kind, times=None)
    page = agent.choose(login)
    proxy.reset()
    if page.status == 503:
        assert "storage_unavailable" in page.text
        assert page.header("retry-after")
        assert agent.fetch(f"{faulty.url}/auth/me").status == 401
    else:
        assert fault in LOST  # carried out at the first try, and found by its mark
    agent.sign_in(faulty.url, login)
    account = account_of(faulty, agent)
    logout(faulty, agent)
    after_the_sweep(faulty, account)


@pytest.mark.parametrize("fault", ["429", "500", "503", "drop_before"] if FULL else ["429", "drop_before"])
@pytest.mark.parametrize("path", ["/auth/me", "/api/profile", "/auth/sessions", "/"])
def test_a_session_in_use_is_neither_signed_in_nor_out_by_guess(
    faulty: App, proxy: StorageProxy, fault: str, path: str
) -> None:
    """503 with ``Retry-After`` while storage is down; as before when it is back."""
    agent, _ = signed_in_agent(faulty)
    proxy.reset()
    proxy.fail(fault, times=None)
    page = agent.fetch(f"{faulty.url}{path}")
    assert (page.status, page.header("retry-after")) == (503, "5")
    assert page.set_cookies == []
    proxy.reset()
    assert agent.fetch(f"{faulty.url}{path}").status == 200


@pytest.mark.parametrize("kind", ["list", "transaction", "read", "delete", "insert"])
@pytest.mark.parametrize("fault", FAULTS)
def test_front_channel_claims_nothing_that_failed(
    faulty: App, proxy: StorageProxy, provider: Provider, fault: str, kind: str
) -> None:
    """200 only when the session is gone, else 503; the provider's next call ends it."""
    agent, login = signed_in_agent(faulty)
    cookie = cookie_of(agent)
    sid = next(s["clients"][faulty.client_id] for s in provider.sessions(login))

    def frame() -> int:
        return UserAgent().frame(f"{faulty.url}/auth/frontchannel-logout?sid={sid}", inside="http://127.0.0.1:1/").status

    proxy.reset()
    proxy.fail(fault, kind=kind, times=None)
    status = frame()
    proxy.reset()
    assert status in (200, 503)
    if status == 200:
        assert not alive(faulty, cookie)
    assert frame() == 200
    assert not alive(faulty, cookie)


@pytest.mark.parametrize("kind", ["merge", "replace"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_refresh_that_cannot_be_written_keeps_the_session_or_ends_it_cleanly(
    faulty: App, proxy: StorageProxy, provider: Provider, fault: str, kind: str
) -> None:
    """200 or 503, never anonymous; afterwards the user is signed in, or has been asked to sign in again."""
    provider.switch(access_token_ttl=60)
    agent, _ = signed_in_agent(faulty)
    provider.switch(access_token_ttl=3600)
    proxy.reset()
    proxy.fail(fault, kind=kind, times=None)
    page = agent.fetch(f"{faulty.url}/api/profile")
    proxy.reset()
    assert page.status in (200, 503), page.text
    assert agent.fetch(f"{faulty.url}/auth/me").status == 200
    page = agent.fetch(f"{faulty.url}/api/profile")
    assert page.status in (200, 401, 503), page.text


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_body"] if FULL else ["hang", "drip"])
def test_storage_that_hangs_or_drips_is_given_up_in_time(faulty: App, proxy: StorageProxy, fault: str) -> None:
    """Five seconds an operation, fifteen a request, whether nothing comes or a byte now and then."""
    agent, _ = signed_in_agent(faulty)
    proxy.reset()
    proxy.fail(fault, times=None)
    began = time.monotonic()
    page = agent.fetch(f"{faulty.url}/auth/me")
    assert page.status == 503
    assert time.monotonic() - began < 8
    began = time.monotonic()
    page = logout(faulty, agent)
    assert page.status == 503
    assert time.monotonic() - began < 16
    proxy.reset()
    assert logout(faulty, agent).status == 303


def test_health_says_that_storage_is_down(faulty: App, proxy: StorageProxy) -> None:
    """503 with the name of what fails, and nothing secret."""
    assert UserAgent().fetch(f"{faulty.url}/health").status == 200
    proxy.fail("503", times=None)
    page = UserAgent().fetch(f"{faulty.url}/health")
    assert page.status == 503
    assert page.json()["storage"] == "storage_unavailable"


@pytest.mark.parametrize("count", [1, 99, 100, 101, 350])
def test_any_number_of_sessions_ends(stack: Stack, count: int) -> None:
    """More than a transaction holds: all of them go."""
    app = stack.start_app({"SESSIONS_PER_ACCOUNT": "1000"})
    agent = UserAgent()
    agent.sign_in(app.url)
    account = account_of(app, agent)
    _copies(app, account, count - 1)
    assert len(sessions(app, account)) == count
    assert logout(app, agent).status == 303
    assert sessions(app, account) == []


def test_a_sign_out_killed_between_two_batches_is_finished_by_the_next(stack: Stack, proxy: StorageProxy) -> None:
    """The requester's own row goes in the last batch: the cookie still authorises the second try."""
    app = stack.start_app({"SESSIONS_PER_ACCOUNT": "1000", "TOKEN_STORE": proxy.connection_string})
    agent = UserAgent()
    agent.sign_in(app.url)
    account = account_of(app, agent)
    _copies(app, account, 249)
    proxy.fail("hang", kind="transaction", nth=2, times=None)
    cookie = cookie_of(agent)

    def cut_short() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            logout(app, agent)

    thread = threading.Thread(target=cut_short)
    thread.start()
    while len(sessions(app, account)) == 250:
        time.sleep(0.05)
    for process in app.processes:
        process.kill()
    thread.join()
    proxy.reset()
    assert 0 < len(sessions(app, account)) < 250
    again = stack.start_app(
        {
            name: app.settings[name]
            for name in ("TOKEN_STORE", "TOKEN_STORE_TABLE_PREFIX", "SEALING_KEYS", "CLIENT_ID", "SESSIONS_PER_ACCOUNT")
        }
    )
    page = UserAgent().request(
        "POST", f"{again.url}/auth/logout", initiator=f"{again.url}/", form={}, headers={"Cookie": f"session={cookie}"}
    )
    assert page.status == 303
    assert sessions(again, account) == []


def _copies(app: App, account: str, count: int) -> None:
    """More sessions of the account, as other devices would have made them."""
    with app.tables() as service, service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + "sessions") as table:
        one = next(dict(e) for e in app.entities("sessions") if e["PartitionKey"] == account and e["RowKey"] != "!")
        for start in range(0, count, 90):
            table.submit_transaction(
                [("create", {**one, "RowKey": secrets.token_urlsafe(16)}) for _ in range(start, min(start + 90, count))]
            )
