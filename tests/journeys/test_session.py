"""A session in use: who is let in, who is not, and that a token is refreshed once."""

import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables import UpdateMode

from shared.web.cookies import SessionCookie
from tests.support.stack import App, Provider, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack


def cookie_of(agent: UserAgent) -> str:
    return next(cookie.value for cookie in agent.cookies.live() if cookie.name == "session")


def me(app: App, cookie: str | None, url: str | None = None) -> Page:
    """``/auth/me`` with exactly this cookie."""
    headers = {} if cookie is None else {"Cookie": f"session={cookie}"}
    return UserAgent().request(
        "GET", f"{url or app.url}/auth/me", mode="cors", dest="empty", headers={"Accept": "application/json", **headers}
    )


def edit(app: App, agent: UserAgent, **values: Any) -> None:
    """Changes the stored session of an agent behind the app's back."""
    cookie = SessionCookie.decode(cookie_of(agent))
    assert cookie is not None
    with app.tables() as service, service.get_table_client(app.settings["TOKEN_STORE_TABLE_PREFIX"] + "sessions") as table:
        table.update_entity({"PartitionKey": cookie.account, "RowKey": cookie.session_id, **values}, mode=UpdateMode.MERGE)


def stored(app: App, agent: UserAgent) -> dict[str, Any] | None:
    cookie = SessionCookie.decode(cookie_of(agent))
    assert cookie is not None
    return next(
        (dict(e) for e in app.entities("sessions") if (e["PartitionKey"], e["RowKey"]) == (cookie.account, cookie.session_id)),
        None,
    )


@pytest.fixture
def alice(app: App) -> UserAgent:
    """Somebody who is signed in."""
    agent = UserAgent()
    agent.sign_in(app.url, f"user-{secrets.token_hex(4)}")
    return agent


@pytest.mark.parametrize(
    "forged",
    [
        lambda good: None,
        lambda good: "",
        lambda good: secrets.token_urlsafe(90),
        lambda good: "x" * 10_000,
        lambda good: good[:-4] + "AAAA",
        lambda good: ".".join((*good.split(".")[:2], secrets.token_urlsafe(32))),
        lambda good: ".".join((good.split(".")[0], secrets.token_urlsafe(16), good.split(".")[2])),
        lambda good: ".".join(("J28nIG9yIDEgZXEgMQ", *good.split(".")[1:])),  # 'o' or 1 eq 1
        lambda good: good.upper(),
        lambda good: f'"{good}"',
        lambda good: good + "%00",
        lambda good: good + "é".encode().decode("latin-1"),
    ],
    ids=[
        "none",
        "empty",
        "random",
        "10 KB",
        "changed",
        "wrong secret",
        "wrong id",
        "quoting",
        "case",
        "quoted",
        "NUL",
        "not ASCII",
    ],
)
def test_what_proves_nothing_gets_401(app: App, alice: UserAgent, forged: Callable[[str], str | None]) -> None:
    """A problem with a stable code, the session untouched."""
    before = stored(app, alice)
    page = me(app, forged(cookie_of(alice)))
    assert page.status == 401
    assert page.json()["code"] == "not_signed_in"
    assert page.header("content-type") == "application/problem+json"
    assert page.header("cache-control") == "no-store"
    assert page.set_cookies == []
    assert stored(app, alice) == before


def test_another_sessions_secret_proves_nothing(app: App, alice: UserAgent) -> None:
    """Neither the same user's nor another's secret opens a session."""
    bob = UserAgent()
    bob.sign_in(app.url, "bob-secret")
    ours, theirs = cookie_of(alice).split("."), cookie_of(bob).split(".")
    assert me(app, ".".join((ours[0], ours[1], theirs[2]))).status == 401
    assert me(app, ".".join((ours[0], theirs[1], theirs[2]))).status == 401


def test_two_cookies_of_the_name_sign_nobody_in(app: App, alice: UserAgent) -> None:
    """Somebody may have planted one: different values are 401, the same one twice is one. A sign-out ends what is proven."""
    bob = UserAgent()
    bob.sign_in(app.url, f"planter-{secrets.token_hex(3)}")
    good, planted = cookie_of(alice), cookie_of(bob)
    assert me(app, f"{good}; session={planted}").status == 401
    assert me(app, f"{good}; session={good}").status == 200
    assert me(app, f"nonsense; session={good}").status == 200
    page = UserAgent().request(
        "POST", f"{app.url}/auth/logout", initiator=app.url, headers={"Cookie": f"session={planted}; session={good}"}, form={}
    )
    assert page.status == 303
    assert me(app, good).status == 401
    assert me(app, planted).status == 401


def test_two_apps_on_one_account_never_meet(stack: Stack) -> None:
    """Same storage, same tables, same user: neither sees, lists or ends the other's sessions."""
    prefix = {"TOKEN_STORE_TABLE_PREFIX": f"shared{secrets.token_hex(3)}", "SEALING_KEYS": "k:" + secrets.token_urlsafe(32)}
    one, two = stack.start_app(prefix), stack.start_app(prefix)
    agent_one, agent_two = UserAgent(), UserAgent()
    agent_one.sign_in(one.url, "both")
    agent_two.sign_in(two.url, "both")
    assert me(two, cookie_of(agent_one)).status == 401
    assert len(agent_two.fetch(f"{two.url}/auth/sessions").json()["sessions"]) == 1
    assert agent_one.fetch(f"{one.url}/auth/sessions", "DELETE").json() == {"ended": 1}
    assert me(two, cookie_of(agent_two)).status == 200
    cookie = SessionCookie.decode(cookie_of(agent_two))
    assert cookie is not None
    assert agent_one.fetch(f"{one.url}/auth/sessions/{cookie.session_id}", "DELETE").status == 401
    agent_one.sign_in(one.url, "both")
    assert agent_one.fetch(f"{one.url}/auth/sessions/{cookie.session_id}", "DELETE").status == 404
    assert me(two, cookie_of(agent_two)).status == 200


@pytest.mark.parametrize("field", ["IdleExpiresAt", "ExpiresAt"])
def test_an_expired_session_counts_as_gone(app: App, alice: UserAgent, field: str) -> None:
    """Idle or absolute, before any sweep; the row is the sweep's business."""
    edit(app, alice, **{field: datetime.now(UTC) - timedelta(seconds=1)})
    assert alice.fetch(f"{app.url}/auth/me").status == 401
    assert stored(app, alice) is not None


def test_an_expired_session_still_authorises_its_owners_sign_out(app: App, alice: UserAgent) -> None:
    """Who comes back late and clicks "sign out" empties the tables, and is signed out at the provider too."""
    edit(app, alice, IdleExpiresAt=datetime.now(UTC) - timedelta(hours=1))
    cookie = SessionCookie.decode(cookie_of(alice))
    assert cookie is not None
    page = alice.request("POST", f"{app.url}/auth/logout", initiator=app.url, form={})
    assert page.status == 303
    assert "id_token_hint=" in (page.header("location") or "")
    assert [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == cookie.account] == ["!"]


def test_the_idle_limit_slides_at_most_once_per_tenth(app: App, alice: UserAgent) -> None:
    """A request soon after another writes nothing; one after a tenth of the idle time moves the limit."""
    before = stored(app, alice)
    assert alice.fetch(f"{app.url}/auth/me").status == 200
    assert stored(app, alice) == before
    earlier = datetime.now(UTC) + timedelta(minutes=50)
    edit(app, alice, IdleExpiresAt=earlier)
    assert alice.fetch(f"{app.url}/auth/me").status == 200
    after = stored(app, alice)
    assert after is not None
    assert after["IdleExpiresAt"] > earlier


def test_a_row_that_does_not_open_is_removed(app: App, alice: UserAgent) -> None:
    """The key is known, the tag fails: it was changed, and nobody is signed in by it."""
    edit(app, alice, Identity=secrets.token_bytes(200))
    assert alice.fetch(f"{app.url}/auth/me").status == 401
    assert stored(app, alice) is None


@pytest.mark.parametrize("changed", [{"KeyId": "newer"}, {"V": 99}, {"App": "somebody-elses"}], ids=str)
def test_a_row_of_a_newer_release_is_left_alone(app: App, alice: UserAgent, changed: dict[str, Any]) -> None:
    """Unknown key id, version or app: 401, row and cookie stay."""
    edit(app, alice, **changed)
    page = alice.fetch(f"{app.url}/auth/me")
    assert page.status == 401
    assert page.set_cookies == []
    assert stored(app, alice) is not None


def test_a_secret_put_into_the_table_opens_nothing(app: App, alice: UserAgent) -> None:
    """Whoever can write the table cannot put a secret of their own before the tokens: its hash is sealed with them."""
    thief = SessionCookie.decode(cookie_of(alice))
    assert thief is not None
    own = SessionCookie(account=thief.account, session_id=thief.session_id, secret=secrets.token_urlsafe(32))
    from shared.store.rows import secret_hash

    edit(app, alice, SecretHash=secret_hash(own.secret))
    assert me(app, own.encode()).status == 401


def test_a_copied_cookie_is_worthless_after_the_sign_out_on_every_instance(stack: Stack) -> None:
    """Nothing is cached in a process: the other instance knows at once."""
    app = stack.start_app(processes=2)
    agent = UserAgent()
    agent.sign_in(app.urls[0])
    copied = cookie_of(agent)
    assert [me(app, copied, url).status for url in app.urls] == [200, 200]
    assert (
        agent.request(
            "POST",
            f"{app.urls[1]}/auth/logout",
            initiator=app.urls[0],
            headers={"Origin": app.urls[0], "Sec-Fetch-Site": "same-origin"},
            form={},
        ).status
        == 303
    )
    assert [me(app, copied, url).status for url in app.urls] == [401, 401]


def test_sessions_not_before_ends_everybody(stack: Stack) -> None:
    """For restores and failovers: older sessions are dead, new ones live."""
    prefix = {"TOKEN_STORE_TABLE_PREFIX": f"nb{secrets.token_hex(3)}", "SEALING_KEYS": "k:" + secrets.token_urlsafe(32)}
    app = stack.start_app(prefix)
    agent = UserAgent()
    agent.sign_in(app.url)
    moment = datetime.now(UTC)
    later = stack.start_app({**prefix, "CLIENT_ID": app.client_id, "SESSIONS_NOT_BEFORE": moment.isoformat()})
    assert me(app, cookie_of(agent)).status == 200
    assert me(later, cookie_of(agent)).status == 401


# -- tokens


def test_parallel_requests_at_expiry_make_one_token_request(stack: Stack) -> None:
    """Twenty requests over two processes: the lease lets one redeem, the others use its token."""
    app = stack.start_app(processes=2)
    stack.provider.switch(access_token_ttl=60)  # under five minutes: always due
    agent = UserAgent()
    agent.sign_in(app.url, "parallel")
    stack.provider.switch(access_token_ttl=3600, token_refresh="slow", slow_seconds=1)
    cookie = cookie_of(agent)
    statuses: list[int] = []

    def ask(url: str) -> None:
        page = UserAgent().request(
            "GET",
            f"{url}/api/profile",
            mode="cors",
            dest="empty",
            headers={"Accept": "application/json", "Cookie": f"session={cookie}"},
        )
        statuses.append(page.status)

    with stack.provider.counting() as counted:
        threads = [threading.Thread(target=ask, args=(app.urls[n % 2],)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 20
    assert counted["token"]["refresh_token"] == 1


def expired(provider: Provider, app: App, login: str) -> UserAgent:
    """Somebody whose access token is due."""
    provider.switch(access_token_ttl=60)
    agent = UserAgent()
    agent.sign_in(app.url, login)
    provider.switch(access_token_ttl=3600)
    return agent


def test_rotated_refresh_tokens_are_kept(app: App, provider: Provider) -> None:
    """Three refreshes in a row, each with the token that the last one gave."""
    agent = expired(provider, app, "rotating")
    provider.switch(access_token_ttl=60)
    with provider.counting() as counted:
        assert [agent.fetch(f"{app.url}/api/profile").status for _ in range(3)] == [200] * 3
    assert counted["token"]["refresh_token"] == 3


@pytest.mark.parametrize(("fault", "status"), [("500", 502), ("503", 502), ("html", 502), ("drop", 503)])
def test_a_provider_that_is_down_keeps_the_session(app: App, provider: Provider, fault: str, status: int) -> None:
    """The refresh fails for now, the user stays signed in, and the next request succeeds at once."""
    agent = expired(provider, app, f"down-{fault}")
    provider.switch(token_refresh=fault)
    page = agent.fetch(f"{app.url}/api/profile")
    assert page.status in (502, 503), page.text
    assert page.status == status
    assert agent.fetch(f"{app.url}/auth/me").status == 200
    provider.switch(token_refresh="ok")
    assert agent.fetch(f"{app.url}/api/profile").status == 200


def test_a_refused_refresh_token_ends_the_session(app: App, provider: Provider) -> None:
    """The provider ended it: so do we, row and index; the user is asked to sign in again."""
    agent = expired(provider, app, "refused")
    provider.switch(token_refresh="400")
    page = agent.fetch(f"{app.url}/api/profile")
    assert (page.status, page.json()["code"]) == (401, "session_ended")
    assert stored(app, agent) is None
    assert agent.fetch(f"{app.url}/auth/me").status == 401


def test_interaction_required_keeps_the_session(app: App, provider: Provider) -> None:
    """Consent or MFA is wanted: a script is told, a navigation goes to the provider, the session stays."""
    agent = expired(provider, app, "interacting")
    provider.switch(token_refresh="interaction_required")
    page = agent.fetch(f"{app.url}/api/profile")
    assert (page.status, page.json()["code"]) == (401, "interaction_required")
    page = agent.open(f"{app.url}/api/profile", follow=False)
    assert page.status == 302
    assert agent.fetch(f"{app.url}/auth/me").status == 200


def test_a_claims_challenge_becomes_a_sign_in_with_those_claims(app: App, provider: Provider) -> None:
    """Graph wants more proof: the user shows it at the provider and comes back to the page they wanted."""
    agent = UserAgent()
    agent.sign_in(app.url, "stepping-up")
    provider.switch(graph="challenge")
    page = agent.fetch(f"{app.url}/api/profile")
    assert (page.status, page.json()["code"]) == (401, "interaction_required")
    page = agent.open(f"{app.url}/api/profile")
    if "/login/" in page.url:
        page = agent.choose("stepping-up")
    assert page.url == f"{app.url}/api/profile"
    assert page.status == 200


def test_a_navigation_without_a_session_signs_in_and_comes_back(app: App) -> None:
    """A person is sent to sign in; a script gets 401."""
    agent = UserAgent()
    agent.open(f"{app.url}/api/profile?a=1")
    page = agent.choose("comes-back")
    assert (page.status, page.url) == (200, f"{app.url}/api/profile?a=1")
    assert UserAgent().fetch(f"{app.url}/api/profile").status == 401
