"""The user's own sign-out, here, everywhere and device by device: what ends, what stays, and what is claimed."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared import limits
from shared.errors import BadRequest, NotFound, NotSignedIn, ProviderUnavailable, StorageUnavailable
from shared.store.table import Insert, Merge, Row
from tests.proof.provider import END_SESSION, ISSUER
from tests.support.small_app import Browser, SmallApp, get, header
from tests.support.small_store import NEW, START, Store, raising

MINUTE = timedelta(minutes=1)
LOGGED_OUT = "https://app.example/auth/logged-out"


def cleared(response: Any) -> bool:
    """Whether the answer takes the session cookie away, and nothing else."""
    (cookie,) = response.cookies
    return (cookie.name, cookie.value, cookie.max_age) == ("session", "", 0)


def crowded(scope: str, **changes: Any) -> tuple[SmallApp, Browser, Browser, Browser]:
    """Ann in two browsers, Ben in one."""
    app = SmallApp(scope=scope, **changes)
    return app, app.browser(), app.browser(), app.browser("b.t")


# -- here


@pytest.mark.parametrize(("scope", "ended"), [("account", 2), ("session", 1)])
def test_a_sign_out_ends_the_account_or_the_session(scope: str, ended: int) -> None:
    """``SIGN_OUT_SCOPE``; others stay, the cookie goes, the browser goes on to the provider, and it is on record."""
    app, one, two, ben = crowded(scope)
    response = app.sign_out.logout(get("/auth/logout", one), START)
    assert (response.status, header(response, "Location")) == (303, END_SESSION)
    assert cleared(response)
    assert not app.lives(one)
    assert app.lives(two) is (scope == "session")
    assert app.lives(ben)
    assert app.records.written == [("sign_out", "user", "a.t", ended)]


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_cookie_that_proves_nothing_ends_nothing(scope: str) -> None:
    """No row, or a wrong secret: this browser is signed out, and no more is claimed."""
    app, one, two, _ = crowded(scope)
    forged = get("/auth/logout", headers={"cookie": f"session={one.forged}"})
    app.store.sessions.end_session("a.t", two.row.id, now=START)
    for request in (forged, get("/auth/logout"), get("/auth/logout", two)):
        response = app.sign_out.logout(request, START)
        assert (response.status, header(response, "Location")) == (303, LOGGED_OUT)
        assert cleared(response)
    assert app.lives(one)
    assert app.records.written == []
    assert app.provider.end_session is None


@pytest.mark.parametrize("scope", ["account", "session"])
def test_an_expired_session_still_authorises_its_owners_sign_out(scope: str) -> None:
    """Whoever comes back after the weekend and signs out has signed out."""
    app, one, two, _ = crowded(scope)
    response = app.sign_out.logout(get("/auth/logout", one), START + timedelta(days=3))
    assert header(response, "Location") == END_SESSION
    assert app.lives(two) is (scope == "session")


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_session_whose_key_is_not_here_ends_all_the_same(scope: str) -> None:
    """In the middle of a rotation the cookie still works elsewhere: its owner's sign-out must hold there too."""
    app, one, two, ben = crowded(scope)
    other = app.beside(Store(tables=app.store.tables, keys=(NEW,), issuer=ISSUER))
    assert not other.lives(one)
    assert other.sign_out.is_signed_in(get("/auth/logged-out", one), START)
    response = other.sign_out.logout(get("/auth/logout", one), START)
    assert (cleared(response), header(response, "Location")) == (True, END_SESSION)
    assert (app.lives(one), app.lives(two), app.lives(ben)) == (False, scope == "session", True)
    assert not other.sign_out.is_signed_in(get("/auth/logged-out", one), START)
    forged = get("/auth/logout", headers={"cookie": f"session={ben.forged}"})
    other.sign_out.logout(forged, START)
    assert app.lives(ben)


@pytest.mark.parametrize("scope", ["account", "session"])
def test_every_session_that_a_cookie_proves_ends(scope: str) -> None:
    """Two cookies of one name: one may be planted, both go as far as they are proven."""
    app, one, two, ben = crowded(scope)
    request = get("/auth/logout", headers={"cookie": f"session={two.forged}; session={one.cookie}; session={ben.cookie}"})
    app.sign_out.logout(request, START)
    assert not app.lives(one)
    assert not app.lives(ben)
    assert app.lives(two) is (scope == "session")


@pytest.mark.parametrize("scope", ["account", "session"])
def test_planted_cookies_hide_no_session_from_its_sign_out(scope: str) -> None:
    """Rubbish and forgeries before the real one, as a neighbouring subdomain can plant them; of more than 32 none is claimed."""
    app, one, _, _ = crowded(scope)
    rubbish = [f"session=x{n}" for n in range(60)]
    planted = [*rubbish, *(f"session={one.forged}" for _ in range(31)), f"session={one.cookie}"]
    with pytest.raises(BadRequest):
        many = [*planted, *(f"session={one.forged}" for _ in range(2))]
        app.sign_out.logout(get("/auth/logout", headers={"cookie": "; ".join(many)}), START)
    assert app.lives(one)
    app.sign_out.logout(get("/auth/logout", headers={"cookie": "; ".join(planted)}), START)
    assert not app.lives(one)


def test_of_two_proven_cookies_the_provider_is_told_neither() -> None:
    """One of them was planted, and nobody knows which: no hint is better than somebody else's."""
    app = SmallApp()
    one, two = app.browser(login_hint="one"), app.browser("b.t", login_hint="two")
    app.sign_out.logout(get("/auth/logout", one, two), START)
    assert app.provider.end_session is not None
    assert (app.provider.end_session["logout_hint"], app.provider.end_session["id_token_hint"]) == (None, None)


@pytest.mark.parametrize("live", [True, False], ids=["with a session", "without"])
def test_sign_ins_under_way_in_this_browser_end_with_the_sign_out(live: bool) -> None:
    """Their cookies are taken away: a tab that was left at the provider signs nobody in behind the sign-out."""
    app = SmallApp(scope="session")
    flows = [app.sign_in.begin(get("/auth/login"), START, return_to="/").cookies[-1] for _ in range(2)]
    session = [f"session={app.browser().cookie}"] if live else []
    header_value = "; ".join([*session, *(f"{flow.name}={flow.value}" for flow in flows)])
    response = app.sign_out.logout(get("/auth/logout", headers={"cookie": header_value}), START)
    assert {(cookie.name, cookie.max_age) for cookie in response.cookies} == {
        ("session", 0), *((flow.name, 0) for flow in flows)
    }  # fmt: skip


def test_the_provider_is_told_who_and_where_to() -> None:
    """``login_hint`` and the ID token of the session that was ended, and a ``state`` that is new each time."""
    states = set()
    for _ in range(2):
        app = SmallApp()
        one = app.browser(login_hint="hint", id_token="a.b.c")
        app.sign_out.logout(get("/auth/logout", one), START)
        asked = dict(app.provider.end_session or {})
        states.add(asked.pop("state"))
        assert asked == {"post_logout_redirect_uri": LOGGED_OUT, "logout_hint": "hint", "id_token_hint": "a.b.c"}
    assert len(states) == 2
    assert {len(state) for state in states} == {22}


def test_without_the_providers_page_it_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata cannot be had, or it has no such page: signed out here, and it takes two seconds at most."""
    for changes in ({"fails": ProviderUnavailable("down")}, {"end_session_url": lambda **_: None}):
        app = SmallApp()
        one = app.browser()
        for name, value in changes.items():
            monkeypatch.setattr(app.provider, name, value)
        response = app.sign_out.logout(get("/auth/logout", one), START)
        assert header(response, "Location") == LOGGED_OUT
        assert cleared(response)
        assert not app.lives(one)
    app = SmallApp()
    left: list[float] = []
    monkeypatch.setattr(app.provider, "end_session_url", lambda **_: left.append(limits.left(60)))
    app.sign_out.logout(get("/auth/logout", app.browser()), START)
    assert 0 < left[0] <= 2


@pytest.mark.parametrize("scope", ["account", "session"])
def test_storage_that_fails_keeps_the_cookie(scope: str) -> None:
    """It is not done: no answer that takes the cookie away, so that a retry can finish."""
    app, one, _, _ = crowded(scope)
    down = app.beside(app.store.meddled(before=[raising(StorageUnavailable("down"))]))
    with pytest.raises(StorageUnavailable):
        down.sign_out.logout(get("/auth/logout", one), START)
    assert app.lives(one)
    app.sign_out.logout(get("/auth/logout", one), START)
    assert not app.lives(one)


def test_logged_out_claims_nothing_that_did_not_happen() -> None:
    """A live session in this browser is seen; an expired, ended or forged one is none."""
    app, one, two, _ = crowded("account")
    signed_in = app.sign_out.is_signed_in
    assert signed_in(get("/", one), START)
    assert signed_in(get("/", headers={"cookie": f"session={two.forged}; session={one.cookie}"}), START)
    assert not signed_in(get("/"), START)
    assert not signed_in(get("/", headers={"cookie": f"session={one.forged}"}), START)
    assert not signed_in(get("/", one), START + 60 * MINUTE)
    app.sign_out.logout(get("/auth/logout", one), START)
    assert not signed_in(get("/", one, two), START)


# -- revocation at the provider


@pytest.mark.parametrize(("scope", "revoked"), [("account", {"grant0:1", "grant1:1"}), ("session", {"grant0:1"})])
def test_refresh_tokens_that_went_are_revoked(scope: str, revoked: set[str]) -> None:
    """Where the provider has an endpoint for it, and of the sessions that ended only."""
    app, one, _, _ = crowded(scope, revocation=True)
    app.sign_out.logout(get("/auth/logout", one), START)
    assert set(app.provider.revoked) == revoked


def test_revocation_needs_an_endpoint() -> None:
    """Where there is none no tokens are read; a process that does not know it yet reads them, and asks when they are gone."""
    for revocation, known in ((False, True), (True, False)):
        app, one, _, _ = crowded("account", revocation=revocation)
        app.provider.known = known
        app.sign_out.logout(get("/auth/logout", one), START)
        assert set(app.provider.revoked) == ({"grant0:1", "grant1:1"} if revocation else set())
        assert not app.lives(one)


def test_a_revocation_that_fails_or_takes_long_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The local deletion is the sign-out; two seconds for all tokens together."""
    app, one, _, _ = crowded("account", revocation=True)
    app.provider.fails = ProviderUnavailable("down")
    assert cleared(app.sign_out.logout(get("/auth/logout", one), START))
    assert not app.lives(one)
    assert "not revoked" in caplog.text
    caplog.clear()
    app, one, _, _ = crowded("account", revocation=True)
    slow: list[float] = []
    app.provider.revoke = lambda _: slow.append(limits.left(limits.PROVIDER)) or 0  # type: ignore[method-assign, func-returns-value]
    app.sign_out.logout(get("/auth/logout", one), START)
    assert 0 < slow[0] <= limits.REVOCATION


def test_tokens_that_cannot_be_read_keep_nobody_signed_in(caplog: pytest.LogCaptureFixture) -> None:
    """They are read before the rows go, for a second at most; what storage does not give is not revoked."""
    app, one, two, _ = crowded("account", revocation=True)
    read, left = app.store.tables[0].read, []

    def failing(partition: str, key: str) -> Row | None:
        left.append(limits.left(limits.STORAGE))
        if key == two.row.id:
            raise StorageUnavailable("down")
        return read(partition, key)

    app.store.tables[0].read = failing  # type: ignore[method-assign]
    assert cleared(app.sign_out.logout(get("/auth/logout", one), START))
    app.store.tables[0].read = read  # type: ignore[method-assign]
    assert app.store.rows()[0].count("!") == len(app.store.rows()[0]) - 1  # Ben's is there still
    assert not app.lives(one)
    assert app.provider.revoked == ["grant0:1"]
    assert "will not be revoked" in caplog.text
    assert max(left) <= 1


def test_ones_own_tokens_are_read_first() -> None:
    """And no more than needed: rows that come whole are not read again."""
    app, one, _, _ = crowded("session", revocation=True)
    reads: list[str] = []
    read = app.store.tables[0].read
    app.store.tables[0].read = lambda partition, key: reads.append(key) or read(partition, key)  # type: ignore[method-assign, func-returns-value]
    app.sign_out.logout(get("/auth/logout", one), START)
    assert reads == [one.row.id]
    app, one, two, _ = crowded("account", revocation=True)
    app.sign_out.logout(get("/auth/logout", two), START)
    assert app.provider.revoked == ["grant1:1", "grant0:1"]


def test_many_claims_of_one_account_are_one_list() -> None:
    """Guessed cookies cost no more than one: what each of them proves is looked up in the same list."""
    app, one, two, _ = crowded("account")
    lists: list[str] = []
    listed = app.store.tables[0].list
    app.store.tables[0].list = lambda partition, **kwargs: lists.append(partition) or listed(partition, **kwargs)  # type: ignore[method-assign, func-returns-value]
    guesses = [replace(one, cookie=one.forged) for _ in range(29)]
    app.sign_out.logout(get("/auth/logout", *guesses), START)
    assert lists == ["a.t"]
    assert app.lives(one)
    app.sign_out.logout(get("/auth/logout", *guesses, two, one), START)
    assert lists == ["a.t"] * 2
    assert not app.lives(one)


def test_only_what_holds_tokens_is_revoked() -> None:
    """A session whose cache is empty or whose row does not open is passed over."""
    app = SmallApp(revocation=True)
    one, empty, broken = app.browser(), app.browser(cache=b""), app.browser()
    etag = app.store.tables[0].read("a.t", broken.row.id).etag  # type: ignore[union-attr]
    app.store.tables[0].write("a.t", Merge(key=broken.row.id, values={"Identity": b"x"}, etag=etag))
    app.sign_out.logout(get("/auth/logout", one), START)
    assert app.provider.revoked == ["grant0:1"]
    assert not app.lives(empty)


# -- the user's devices


def test_devices_are_the_users_own_this_one_first_then_the_latest() -> None:
    """Live ones only, with times and browser; nobody else's."""
    app = SmallApp()
    this = app.browser(user_agent="Firefox")
    later = app.browser(now=START + 10 * MINUTE)
    used = app.browser(now=START + 5 * MINUTE)
    app.browser("b.t")
    gone = app.browser(now=START - 59 * MINUTE)
    app.access.authenticate(get("/", used), START + 30 * MINUTE)
    now = START + 31 * MINUTE
    first, second, third = app.sign_out.devices(get("/auth/sessions", this), now)
    assert [first.id, second.id, third.id] == [this.row.id, used.row.id, later.row.id]
    assert gone.row.id not in {first.id, second.id, third.id}
    assert (first.this, second.this, third.this) == (True, False, False)
    assert (first.user_agent, first.signed_in_at, first.last_used_at) == ("Firefox", START, START)
    assert (second.signed_in_at, second.last_used_at) == (START + 5 * MINUTE, START + 30 * MINUTE)
    assert second.expires_at == START + 90 * MINUTE
    assert third.last_used_at == START + 10 * MINUTE


def test_a_devices_end_is_whichever_limit_comes_first() -> None:
    """The idle limit or the session's own end; the last use is never before the sign-in."""
    app = SmallApp(Store(issuer="issuer", absolute=30 * MINUTE))
    one = app.browser()
    (device,) = app.sign_out.devices(get("/", one), START)
    assert device.expires_at == START + 30 * MINUTE
    assert device.last_used_at == START


def test_devices_need_a_live_session_of_ones_own() -> None:
    """No cookie, a forged, an expired or an ended one: 401 for all three routes, and nothing ends."""
    app, one, two, _ = crowded("account")
    forged = get("/", headers={"cookie": f"session={one.forged}"})
    for request, now in (
        (get("/"), START),
        (forged, START),
        (get("/", one), START + 60 * MINUTE),
        (get("/", one, two), START),
    ):
        with pytest.raises(NotSignedIn):
            app.sign_out.devices(request, now)
        with pytest.raises(NotSignedIn):
            app.sign_out.end_device(request, two.row.id, now)
        with pytest.raises(NotSignedIn):
            app.sign_out.end_everywhere(request, now)
    assert app.lives(one)
    assert app.lives(two)
    assert app.records.written == []


def test_one_device_ends_whatever_the_scope_says() -> None:
    """Another one, or this one; somebody else's looks as if it were not there."""
    app, one, two, ben = crowded("account", revocation=True)
    for other in (ben.row.id, "x", "!"):
        with pytest.raises(NotFound):
            app.sign_out.end_device(get("/", one), other, START)
    assert not app.sign_out.end_device(get("/", one), two.row.id, START)
    assert app.lives(one)
    assert app.lives(ben)
    assert not app.lives(two)
    assert app.sign_out.end_device(get("/", one), one.row.id, START)
    assert not app.lives(one)
    assert app.records.written == [("sign_out", "device", "a.t", 1)] * 2
    assert app.provider.revoked == ["grant1:1", "grant0:1"]


def test_a_device_that_vanishes_meanwhile_is_no_fault() -> None:
    """Somebody else ended it: nothing more ended, nothing is revoked."""
    app, one, two, _ = crowded("account", revocation=True)
    listing = app.store.sessions.listing("a.t")
    app.store.sessions.end_session("a.t", two.row.id, now=START)
    app.store.sessions.listing = lambda *_, **__: listing  # type: ignore[method-assign]
    assert not app.sign_out.end_device(get("/", one), two.row.id, START)
    assert app.records.written == [("sign_out", "device", "a.t", 0)]
    assert app.provider.revoked == []


@pytest.mark.parametrize("revocation", [False, True])
@pytest.mark.parametrize("scope", ["account", "session"])
def test_everywhere_is_the_account_whatever_the_scope_says(scope: str, revocation: bool) -> None:
    """All of the user's sessions, nobody else's; their tokens are revoked where that can be."""
    app, one, two, ben = crowded(scope, revocation=revocation)
    assert app.sign_out.end_everywhere(get("/", one), START) == 2
    assert not app.lives(one)
    assert not app.lives(two)
    assert app.lives(ben)
    assert app.records.written == [("sign_out", "everywhere", "a.t", 2)]
    assert set(app.provider.revoked) == ({"grant0:1", "grant1:1"} if revocation else set())


def test_the_requesters_own_session_goes_last() -> None:
    """So that a sign-out that was cut short can be repeated by the same cookie."""
    for act in ("logout", "end_everywhere"):
        app = SmallApp()
        one = app.browser()
        values = app.store.tables[0].read("a.t", one.row.id).values  # type: ignore[union-attr]
        for n in range(120):
            app.store.tables[0].write("a.t", Insert(key=f"~{n}", values=values))
        down = app.beside(app.store.meddled(before=[lambda: None, raising(StorageUnavailable("down"))]))
        with pytest.raises(StorageUnavailable):
            getattr(down.sign_out, act)(get("/", one), START)
        assert app.lives(one)
        getattr(app.sign_out, act)(get("/", one), START)
        assert app.store.rows()[0] == ["!"]
