"""Access: who is signed in, and that a token is refreshed once, used only when its row took it, and never after a sign-out."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared import limits
from shared.errors import Busy, InteractionRequired, NotSignedIn, ProviderUnavailable, RefreshTokenDead, StorageUnavailable
from shared.flows import access as module
from shared.flows.access import Session
from shared.store.table import Delete, Merge
from tests.proof.provider import SCOPES
from tests.support.small_app import Browser, SmallApp, get
from tests.support.small_store import START, Store, raising

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
LATER = START + 20 * MINUTE
"""The access token has expired, the session lives."""


def session(app: SmallApp, browser: Browser, now: datetime = LATER) -> Session:
    app.now = now
    found = app.access.session(get("/", browser), now)
    assert found is not None
    return found


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What happens while a request waits for another one's lease, nap by nap; nobody waits longer than that."""
    acts: list[Callable[[], object]] = []

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            assert seconds == module.POLL == 0.1
            acts.pop(0)()

    monkeypatch.setattr(module, "time", Clock)
    yield acts
    assert not acts


def lease(app: SmallApp, browser: Browser, now: datetime = LATER) -> Any:
    """Another process takes the lease of the session as it is now."""
    row = app.store.sessions.read(browser.claim)
    assert row is not None
    leased = app.store.sessions.take_lease(row, now=now)
    assert leased is not None
    return leased


# -- who is signed in


def test_a_cookie_that_proves_a_live_session_signs_in() -> None:
    """No cookie, two different ones, a wrong secret, an expired session or one that is gone: nobody."""
    app = SmallApp()
    one, two = app.browser(oid="o", tid="t"), app.browser()
    found = app.access.session(get("/", one), START)
    assert found is not None
    assert found.row == one.row
    user = found.user
    assert (user.account, user.name, user.username, user.sub, user.oid, user.tid) == ("a.t", "A", "a", "a.t", "o", "t")
    assert app.access.session(get("/"), START) is None
    assert app.access.session(get("/", one, two), START) is None
    assert app.access.session(get("/", one, one), START) is not None
    wrong = get("/", headers={"cookie": f"session={one.forged}"})
    assert app.access.authenticate(wrong, START) is None
    assert app.access.authenticate(get("/", one), START + 60 * MINUTE) is None
    app.store.sessions.end_account("a.t", now=START)
    assert app.access.authenticate(get("/", one), START) is None


def test_use_slides_the_idle_limit() -> None:
    """And a session that is ended at that very moment is not signed in."""
    app = SmallApp()
    one = app.browser()
    row = app.access.authenticate(get("/", one), START + 30 * MINUTE)
    assert row is not None
    assert row.idle_expires_at == START + 90 * MINUTE
    ending = app.store.meddled(before=[lambda: app.store.tables[0].write("a.t", Delete(key=one.row.id))])
    assert app.beside(ending).access.authenticate(get("/", one), START + 60 * MINUTE) is None


# -- tokens


def test_a_token_that_lasts_is_used_as_it_is() -> None:
    """No request to the provider."""
    app = SmallApp()
    one = app.browser()
    assert session(app, one, START).token() == "grant0:1"
    assert app.provider.requests == 0


def test_a_token_that_expired_is_refreshed_once_and_kept() -> None:
    """The row holds the new tokens and no lease; the next request uses them."""
    app = SmallApp()
    one = app.browser()
    found = session(app, one)
    assert found.token() == "grant0:2"
    assert app.provider.requests == 1
    assert app.provider.asked == {
        "cache": one.row.cache, "home_account_id": "a.t", "scopes": SCOPES, "claims": None, "now": LATER,
    }  # fmt: skip
    assert session(app, one).token() == "grant0:2"
    assert app.provider.requests == 1
    row = app.store.sessions.read(one.claim)
    assert row is not None
    assert row.lease == ""


def test_scopes_are_the_functions_or_what_is_asked_for() -> None:
    """The decorator's, else the app's; a call may name others, as a list or a tuple."""
    app = SmallApp()
    one = app.browser()
    app.now = START
    asked: list[tuple[str, ...]] = []
    real = app.provider.token_from_cache
    app.provider.token_from_cache = lambda **k: (asked.append(k["scopes"]), real(**{**k, "scopes": SCOPES}))[1]  # type: ignore[method-assign]
    for scopes, wanted in (((), None), (("Mail.Read",), None), ((), ["Files.Read"]), (("Mail.Read",), ("Files.Read",))):
        found = app.access.session(get("/", one), START, scopes)
        assert found is not None
        found.token(wanted)
    assert asked == [SCOPES, ("Mail.Read",), ("Files.Read",), ("Files.Read",)]


def test_tokens_are_dropped_where_the_session_ended_meanwhile() -> None:
    """The refresh worked, the row did not take it: nobody gets the token."""
    app = SmallApp()
    one = app.browser()
    row = session(app, one).row
    ending = app.store.meddled(before=[lambda: None, lambda: app.store.sessions.end_account("a.t", now=LATER)])
    with pytest.raises(NotSignedIn):
        app.beside(ending).access.token(row, SCOPES)
    assert app.provider.requests == 1
    assert not app.lives(one)


def test_a_dead_refresh_token_ends_the_session() -> None:
    """On record; unless somebody else gave the row new tokens meanwhile: then it is worth another try."""
    app = SmallApp()
    one = app.browser()
    row = session(app, one).row
    app.provider.fails = RefreshTokenDead("dead")

    def other() -> None:
        etag = app.store.tables[0].read("a.t", one.row.id).etag  # type: ignore[union-attr]
        app.store.tables[0].write("a.t", Merge(key=one.row.id, values={"Generation": "new"}, etag=etag))

    with pytest.raises(ProviderUnavailable):
        app.beside(app.store.meddled(before=[lambda: None, other])).access.token(row, SCOPES)
    assert app.lives(one)
    app.now = LATER + MINUTE  # the lease has run out
    with pytest.raises(RefreshTokenDead):
        app.access.token(session(app, one, app.now).row, SCOPES)
    assert not app.lives(one)
    assert app.records.written == [("sign_out", "refresh_token_dead", "a.t", 1)]


@pytest.mark.parametrize("error", [ProviderUnavailable("down"), InteractionRequired("mfa", claims=None, scopes=SCOPES)])
def test_a_failed_refresh_keeps_the_session_and_gives_the_lease_back(error: Any) -> None:
    """The next request may try at once."""
    app = SmallApp()
    one = app.browser()
    app.provider.fails = error
    for requests in (1, 2):
        with pytest.raises(type(error)):
            session(app, one).token()
        assert app.provider.requests == requests
    row = app.store.sessions.read(one.claim)
    assert row is not None
    assert (row.lease, row.cache) == ("", one.row.cache)
    app.provider.fails = None
    assert session(app, one).token() == "grant0:2"


def test_the_lease_must_last_for_the_request() -> None:
    """Less than 12 s left of it when it is there at last: no token request, its answer could not be written."""
    for took, done in ((18 * SECOND, True), (18 * SECOND + timedelta(microseconds=1), False)):
        app = SmallApp()
        one = app.browser()
        row = session(app, one).row

        def slow(app: SmallApp = app, took: timedelta = took) -> None:
            app.now += took

        slowly = app.beside(app.store.meddled(before=[slow]))
        times = iter([LATER, LATER, *[LATER + took] * 9])
        slowly.access._clock = lambda times=times: next(times)
        if done:
            assert slowly.access.token(row, SCOPES).value == "grant0:2"
        else:
            with pytest.raises(ProviderUnavailable, match="lease"):
                slowly.access.token(row, SCOPES)
            assert app.provider.requests == 0


# -- waiting for others


def test_others_wait_for_the_one_with_the_lease(naps: list[Callable[[], object]]) -> None:
    """Between processes the row says who redeems; whoever waits uses the result."""
    app = SmallApp()
    one = app.browser()
    found = session(app, one)
    leased = lease(app, one)
    other = app.beside(app.store)
    naps += [lambda: None, lambda: other.access._redeem(leased, SCOPES)]
    waiting = session(app, one)
    assert waiting.token() == "grant0:2"
    assert app.provider.requests == 1
    assert found.row.lease == ""


def test_whoever_waits_learns_of_a_sign_out(naps: list[Callable[[], object]]) -> None:
    """Ended, or expired while it waited."""
    app = SmallApp()
    one, two = app.browser("a.t"), app.browser("b.t")
    lease(app, one)
    naps.append(lambda: app.store.sessions.end_account("a.t", now=LATER))
    with pytest.raises(NotSignedIn):
        session(app, one).token()
    lease(app, two)

    def expires() -> None:
        app.now += 3 * 60 * MINUTE

    naps.append(expires)
    with pytest.raises(NotSignedIn):
        session(app, two).token()


def test_a_lease_that_ran_out_is_taken_over(naps: list[Callable[[], object]]) -> None:
    """Its holder died: after 30 s the next one redeems, in that very moment."""
    app = SmallApp()
    one = app.browser()
    lease(app, one)

    def passes() -> None:
        app.now += 30 * SECOND

    naps.append(passes)
    assert session(app, one).token() == "grant0:2"


def test_a_row_that_changed_is_read_again(naps: list[Callable[[], object]]) -> None:
    """Somebody took the lease between our reading and our taking: no second token request."""
    app = SmallApp()
    one = app.browser()
    row = session(app, one).row
    other = app.beside(app.store)

    def quicker() -> None:
        other.access._redeem(lease(app, one), SCOPES)

    assert app.beside(app.store.meddled(before=[quicker])).access.token(row, SCOPES).value == "grant0:2"
    assert app.provider.requests == 1


def test_nobody_waits_longer_than_the_request(naps: list[Callable[[], object]]) -> None:
    """With two polls left or fewer: 503, the session stays."""
    app = SmallApp()
    one = app.browser()
    lease(app, one)
    waiting = session(app, one)
    with limits.within(0.19), pytest.raises(ProviderUnavailable, match="too long"):
        waiting.token()
    assert app.lives(one)


def test_requests_of_one_process_share_one_wait() -> None:
    """Two threads, one token request, one result; a failure is shared, too, and nothing is left of it."""
    app = SmallApp()
    one = app.browser()
    rows = [session(app, one).row for _ in range(2)]
    began, go = threading.Event(), threading.Event()
    real = app.provider.refresh

    def slow(**asked: Any) -> Any:
        began.set()
        assert go.wait(20)
        return real(**asked)

    app.provider.refresh = slow  # type: ignore[method-assign]
    for fails, shown in ((ProviderUnavailable("down"), "down"), (None, "grant0:2")):
        app.provider.fails = fails
        began.clear()
        go.clear()
        results: list[str] = []

        def ask(row: Any, results: list[str] = results) -> None:
            try:
                results.append(app.access.token(row, SCOPES).value)
            except ProviderUnavailable as error:
                results.append(str(error))

        first = threading.Thread(target=ask, args=(rows[0],))
        first.start()
        assert began.wait(20)
        (future,) = app.access._shared.values()
        waits = threading.Event()
        original = future.result
        future.result = lambda timeout=None, o=original, w=waits: (w.set(), o(timeout))[1]  # type: ignore[method-assign]
        second = threading.Thread(target=ask, args=(rows[1],))
        second.start()
        assert waits.wait(20)
        go.set()
        first.join(20)
        second.join(20)
        assert results == [shown, shown]
        assert app.access._shared == {}
        rows = [session(app, one).row for _ in range(2)] if fails else rows
    assert app.provider.requests == 2


def test_a_shared_wait_ends_with_the_request() -> None:
    """Whoever redeems hangs: those that share give up in time."""
    app = SmallApp()
    one = app.browser()
    row = session(app, one).row
    hanging: Any = module.Future()
    app.access._shared[row.account, row.id, *SCOPES] = hanging
    with limits.within(0.01), pytest.raises(ProviderUnavailable, match="in vain"):
        app.access.token(row, SCOPES)


def test_others_tokens_are_not_shared() -> None:
    """Another session, another account or other scopes: a refresh of its own, the order of scopes does not matter."""
    app = SmallApp()
    one, two, ben = app.browser(), app.browser(), app.browser("b.t")
    keys = []

    class Seen(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            keys.append(key)
            super().__setitem__(key, value)

    app.access._shared = Seen()
    rows = [session(app, browser).row for browser in (one, two, ben)]
    app.provider.fails = ProviderUnavailable("down")
    for row, scopes in ((rows[0], ("x", "y")), (rows[0], ("y", "x")), (rows[0], ("x",)), (rows[1], ("x",)), (rows[2], ("x",))):
        with pytest.raises(ProviderUnavailable):
            app.access.token(row, scopes)
        app.now += MINUTE
    assert len(set(keys)) == 4
    assert app.access._shared == {}


def test_too_many_that_wait_are_sent_away() -> None:
    """Half of the pool may redeem or wait; a token from the cache needs no place."""
    app = SmallApp(places=1)
    one = app.browser()
    refused: list[str] = []

    def other() -> None:
        try:
            app.access.token(one.row, SCOPES)
        except Busy as error:
            refused.append(error.code)

    app.now = LATER
    with app.places.one():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
    assert refused == [Busy.code]
    assert app.provider.requests == 0
    assert app.lives(one)
    with app.places.one():
        assert session(app, one, START).token() == "grant0:1"


def test_storage_that_fails_gives_no_token() -> None:
    """A token that the row did not take is not used."""
    app = SmallApp()
    one = app.browser()
    row = session(app, one).row
    down = raising(StorageUnavailable("down"))
    with pytest.raises(StorageUnavailable):
        app.beside(app.store.meddled(before=[lambda: None, down])).access.token(row, SCOPES)
    with pytest.raises(StorageUnavailable):
        app.beside(Store.meddled(app.store, before=[down])).access.token(row, SCOPES)
