"""Storage requests per operation are contract: counted on the wire, with one other account and with two thousand."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from azure.data.tables import TableServiceClient

from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.storage_proxy import StorageProxy
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def proxy(azurite: Azurite) -> Iterator[StorageProxy]:
    """Counts what the apps of this module ask."""
    with StorageProxy(azurite.connection_string) as proxy:
        yield proxy


def counted(proxy: StorageProxy, work: Any) -> dict[str, int]:
    proxy.reset()
    work()
    return proxy.counts()


def fill(app: App, accounts: int) -> None:
    """Other people's sessions, in the shape of ours."""
    with TableServiceClient.from_connection_string(app.settings["TOKEN_STORE"]) as service:
        prefix = app.settings["TOKEN_STORE_TABLE_PREFIX"]
        for name in ("sessions", "index"):
            service.create_table_if_not_exists(prefix + name)
        table = service.get_table_client(prefix + "sessions")
        for number in range(accounts):
            table.create_entity({"PartitionKey": f"other-{number}.tenant", "RowKey": "A" * 22, "App": "x", "V": 1})


@pytest.mark.parametrize("others", [1, 2000])
def test_requests_per_operation(stack: Stack, proxy: StorageProxy, others: int) -> None:
    """Start 0; callback 4; ``/auth/me`` 1; profile 1, and 2 more at a refresh; sign-out 2 and its rows; front-channel 1 more."""
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
    fill(app, others)
    warm = UserAgent()
    warm.sign_in(app.url, "warm")
    agent, login = UserAgent(), f"counted-{others}"
    page: list[Any] = []
    assert counted(proxy, lambda: page.append(agent.open(f"{app.url}/auth/login?return_to=/health"))) == {}
    provider: Provider = stack.provider
    provider.switch(access_token_ttl=60)
    agent.choose(login, follow=False)
    proxy.reset()
    agent.sign_in(app.url, login, return_to="/auth/logged-out-not")
    assert proxy.counts() == {"upsert index": 2, "list sessions": 1, "transaction sessions": 1}
    assert counted(proxy, lambda: agent.fetch(f"{app.url}/auth/me")) == {"read sessions": 1}
    provider.switch(access_token_ttl=3600)
    assert counted(proxy, lambda: agent.fetch(f"{app.url}/api/profile")) == {
        "read sessions": 1,
        "merge sessions": 1,
        "replace sessions": 1,
    }
    assert counted(proxy, lambda: agent.fetch(f"{app.url}/api/profile")) == {"read sessions": 1}
    own = {"list sessions": 1, "transaction sessions": 1, "upsert index": 1, "delete index": 2}
    assert counted(proxy, lambda: agent.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})) == own
    agent.sign_in(app.url, login, return_to="/auth/logged-out-not")
    sid = [session["clients"][app.client_id] for session in provider.sessions(login)][-1]
    frame = lambda: UserAgent().frame(f"{app.url}/auth/frontchannel-logout?sid={sid}", inside="http://127.0.0.1:1/")  # noqa: E731
    assert counted(proxy, frame) == {**own, "list index": 1}
    assert counted(proxy, frame) == {"list index": 1}
    assert counted(proxy, lambda: UserAgent().fetch(f"{app.url}/auth/me")) == {}
    cookie = {"Cookie": "session=" + "A" * 100}
    assert counted(proxy, lambda: UserAgent().request("GET", f"{app.url}/auth/me", headers=cookie)) == {}


def test_a_callback_with_back_channel_is_seven(stack: Stack, proxy: StorageProxy) -> None:
    """One row more (``sub:``) and the two ``end:`` reads."""
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string}, backchannel=True)
    UserAgent().sign_in(app.url, "warm")
    proxy.reset()
    UserAgent().sign_in(app.url, "seven", return_to="/auth/logged-out-not")
    assert proxy.counts() == {"upsert index": 3, "list sessions": 1, "read index": 2, "transaction sessions": 1}


def test_what_else_a_guest_and_a_revocation_cost(stack: Stack, proxy: StorageProxy) -> None:
    """A guest: the ``oid:`` row and a look at the mark of that name; a revocation: a point read for each session that goes."""
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
    UserAgent().sign_in(app.url, "warm")
    stack.provider.user(
        "counted-guest", uid="11111111-aaaa-4bbb-8ccc-000000000001", utid="99999999-2222-4333-8444-555555555555"
    )
    agent = UserAgent()
    signed_in = counted(proxy, lambda: agent.sign_in(app.url, "counted-guest", return_to="/auth/logged-out-not"))
    assert signed_in == {"upsert index": 3, "list sessions": 1, "read sessions": 1, "transaction sessions": 1}
    stack.provider.switch(revocation_endpoint=True)
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
    agents = [UserAgent() for _ in range(2)]
    for agent in agents:
        agent.sign_in(app.url, "counted-revoked")
    leave = lambda: agents[0].request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})  # noqa: E731
    own = {"list sessions": 1, "read sessions": 2, "transaction sessions": 1, "upsert index": 1, "delete index": 4}
    assert counted(proxy, leave) == own


def test_ten_thousand_guesses_are_ten_thousand_reads(stack: Stack, proxy: StorageProxy) -> None:
    """A guess at front-channel costs one index read and writes nothing (shown with 300, in parallel connections of 50)."""
    app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
    UserAgent().sign_in(app.url, "warm")
    proxy.reset()
    statuses: list[int] = []

    def guess(start: int) -> None:
        statuses.extend(
            UserAgent().frame(f"{app.url}/auth/frontchannel-logout?sid=guess-{start}-{n}", inside="http://127.0.0.1:1/").status
            for n in range(6)
        )

    threads = [threading.Thread(target=guess, args=(start,)) for start in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 300
    assert proxy.counts() == {"list index": 300}
