"""The provider's sign-outs and the administrator's: whom they end, whom they spare, and what they refuse."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from shared.errors import BadRequest, ProviderUnavailable, SignedOutMeanwhile, StorageUnavailable, TokenInvalid
from shared.store.index import jti_key, sid_key
from shared.store.rows import hashed_account_key
from shared.store.table import Delete, Insert
from tests.proof.provider import ISSUER
from tests.support.small_app import Browser, SmallApp, get, logout_token, post
from tests.support.small_store import START, Store, raising

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
DOWN = StorageUnavailable("down")


def plain(value: object) -> str:
    """An id that can be typed on a command line."""
    return str(value).replace("\\", "/")


def front(*browsers: Browser, **params: Any) -> Any:
    return get(f"/auth/frontchannel-logout?{urlencode(params, doseq=True)}", *browsers)


def living(app: SmallApp, *browsers: Browser) -> list[bool]:
    return [app.lives(browser) for browser in browsers]


# -- front-channel


@pytest.mark.parametrize("scope", ["account", "session"])
@pytest.mark.parametrize("iss", [None, ISSUER])
def test_a_sid_ends_its_session_without_any_cookie(scope: str, iss: str | None) -> None:
    """Or its account, by ``SIGN_OUT_SCOPE``; another user's stay; on record."""
    app = SmallApp(scope=scope)
    one, two, ben = app.browser(sid="i"), app.browser(sid="j"), app.browser("b.t", sid="k")
    params = {"sid": "i", **({"iss": iss} if iss else {})}
    assert app.channels.front_channel(front(**params), START) is False
    assert living(app, one, two, ben) == [False, scope == "session", True]
    assert app.records.written == [("sign_out", "front_channel", "a.t", 2 if scope == "account" else 1)]


def test_the_cookie_may_go_only_with_the_session_that_was_named() -> None:
    """This browser's own: True; another of the same account, another's, or two cookies: False."""
    for own, expected in (("one", True), ("two", False), ("ben", False), ("both", False), ("none", False)):
        app = SmallApp()
        one, two, ben = app.browser(sid="i"), app.browser(sid="j"), app.browser("b.t", sid="k")
        cookies = {"one": [one], "two": [two], "ben": [ben], "both": [one, two], "none": []}[own]
        assert app.channels.front_channel(front(*cookies, sid="i"), START) is expected
    app = SmallApp()
    one = app.browser(sid="i")
    same_id = get("/?sid=i", headers={"cookie": f"session=YiB0.{one.row.id}.{one.cookie.split('.')[2]}"})
    assert app.channels.front_channel(same_id, START) is False


@pytest.mark.parametrize(
    "params",
    [
        {}, {"sid": ""}, {"sid": "x"}, {"sid": ["i", "i"]}, {"sid": "i", "iss": "https://evil.example"}, {"sid": "i\n"},
        {"sid": "i", "iss": [ISSUER, ISSUER]}, {"sid": "i", "iss": ""}, {"sid": "i" * 512}, {"iss": ISSUER},
    ],
    ids=plain,
)  # fmt: skip
def test_anything_else_ends_nothing_and_says_nothing(params: Mapping[str, Any]) -> None:
    """No ``sid``, two of them, a wrong ``iss``, or one that no provider gives: the same answer, nothing ended."""
    app = SmallApp()
    one, long = app.browser(sid="i"), app.browser(sid="i" * 513)
    assert app.channels.front_channel(front(one, **params), START) is False
    assert living(app, one, long) == [True, True]
    assert app.records.written == []


@pytest.mark.parametrize(
    "sid",
    ["i" * 512, "i" * 5000, "zero\u200bwidth", "line\nend", "/\\#?", "ä"],
    ids=["long", "longer", "invisible", "line end", "reserved", "umlaut"],
)
def test_any_sid_that_a_sign_in_took_is_one(sid: str) -> None:
    """However long, whatever its characters: storage sees a hash."""
    app = SmallApp()
    one = app.browser(sid=sid)
    app.channels.front_channel(front(sid=sid), START)
    assert not app.lives(one)


def test_a_tenant_names_its_own_sessions_only() -> None:
    """The row keeps the concrete issuer, which counts when ``iss`` comes."""
    app = SmallApp()
    one = app.browser(sid="i", issuer="https://login.example/other")
    app.channels.front_channel(front(sid="i", iss=ISSUER), START)
    assert app.lives(one)
    app.channels.front_channel(front(sid="i"), START)
    assert not app.lives(one)


def test_accounts_that_share_a_sid_end_once_each() -> None:
    """Two people at one browser, one ``sid``: each account is signed out once."""
    app = SmallApp()
    app.browser(sid="i", session_state="s")
    app.browser(sid="j", session_state="s")
    app.browser("b.t", sid="k", session_state="s")
    app.channels.front_channel(front(sid="s"), START)
    assert sorted(app.records.written) == [("sign_out", "front_channel", "a.t", 1), ("sign_out", "front_channel", "b.t", 1)]


def test_a_session_that_is_about_to_come_is_kept_out() -> None:
    """Scope ``session``: the index row is there, the session is not; a tombstone meets its transaction."""
    app = SmallApp(scope="session")
    meddled = app.store.meddled(before=[lambda: app.channels.front_channel(front(sid="i"), START)])
    with pytest.raises(SignedOutMeanwhile):
        app.beside(meddled).browser(sid="i")
    assert app.records.written == [("sign_out", "front_channel", "a.t", 0)]


@pytest.mark.parametrize("scope", ["account", "session"])
def test_storage_that_fails_is_told_to_the_providers_page(scope: str) -> None:
    """503: it is not done."""
    app = SmallApp(scope=scope)
    one = app.browser(sid="i")
    with pytest.raises(StorageUnavailable):
        app.beside(app.store.meddled(before=[raising(DOWN)])).channels.front_channel(front(sid="i"), START)
    assert app.lives(one)


# -- back-channel


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_token_with_sid_ends_what_the_scope_says(scope: str) -> None:
    """One session or its account; the token acts once."""
    app = SmallApp(scope=scope)
    one, two, ben = app.browser(sid="i"), app.browser(sid="j"), app.browser("b.t", sid="k")
    app.channels.back_channel(logout_token(sid="i"), START)
    assert living(app, one, two, ben) == [False, scope == "session", True]
    assert app.records.written == [("sign_out", "back_channel", "a.t", 2 if scope == "account" else 1)]
    with pytest.raises(TokenInvalid, match="jti"):
        app.channels.back_channel(logout_token(sid="k"), START)
    assert app.lives(ben)
    app.channels.back_channel(logout_token(sid="k", jti="another"), START)
    assert not app.lives(ben)


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_token_with_sub_alone_ends_the_account(scope: str) -> None:
    """Whatever the scope says."""
    app = SmallApp(scope=scope)
    one, two, ben = app.browser(sid="i"), app.browser(sid=None), app.browser("b.t")
    app.channels.back_channel(logout_token(sub="a.t"), START)
    assert living(app, one, two, ben) == [False, False, True]
    assert app.records.written == [("sign_out", "back_channel", "a.t", 2)]


def test_the_token_is_judged_by_the_requests_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's wing gets the text as it came, and ``now``."""
    app = SmallApp()
    asked: list[Any] = []

    def refuse(text: str, *, now: Any) -> Any:
        asked.append((text, now))
        raise TokenInvalid("no")

    monkeypatch.setattr(app.provider, "logout_token", refuse)
    with pytest.raises(TokenInvalid):
        app.channels.back_channel(post("/", {"logout_token": "a.b.c"}), START)
    assert asked == [("a.b.c", START)]
    assert app.store.empty()


def test_a_sub_alone_needs_metadata_that_promise_it() -> None:
    """Without them no index row leads from ``sub``: 400 rather than a 200 that claims too much."""
    app = SmallApp(backchannel=False)
    one = app.browser(sid="i", backchannel=False)
    with pytest.raises(TokenInvalid):
        app.channels.back_channel(logout_token(sub="a.t"), START)
    app.channels.back_channel(logout_token(sid="i"), START)
    assert not app.lives(one)


def test_sid_and_sub_end_that_users_sessions_with_that_sid_or_none() -> None:
    """Sessions of theirs with another ``sid`` stay; of those without one a sign-in under way is refused, too."""
    app = SmallApp(scope="session")
    one, without, other = app.browser(sid="i"), app.browser(sid=None), app.browser(sid="j")
    ben = app.browser("b.t", sid=None)
    app.channels.back_channel(logout_token(sid="i", sub="a.t"), START)
    assert living(app, one, without, other, ben) == [False, False, True, True]
    assert app.records.written == [("sign_out", "back_channel", "a.t", 2)]
    with pytest.raises(SignedOutMeanwhile):
        app.browser(sid=None)
    assert app.lives(app.browser(sid="k"))
    assert app.lives(app.browser("b.t", sid=None))


def test_a_sid_of_one_user_with_a_sub_of_another_ends_nothing() -> None:
    """400, and no mark is left that would refuse anybody."""
    app = SmallApp()
    one, ben = app.browser(sid="i"), app.browser("b.t", sid="k")
    before = app.store.rows()
    with pytest.raises(TokenInvalid, match="sub"):
        app.channels.back_channel(logout_token(sid="i", sub="b.t"), START)
    assert living(app, one, ben) == [True, True]
    assert app.store.rows() == before
    assert app.records.written == []


def test_a_tokens_issuer_is_the_sessions() -> None:
    """A tenant of a multi-tenant app names its own sessions only, by ``sid`` and by ``sub``."""
    for said in ({"sid": "i"}, {"sub": "a.t"}, {"sid": "i", "sub": "a.t"}):
        app = SmallApp()
        foreign = app.browser(sid="i", issuer="https://login.example/other")
        app.channels.back_channel(logout_token(**said), START)
        assert app.lives(foreign)


@pytest.mark.parametrize("scope", ["account", "session"])
@pytest.mark.parametrize("said", [{"sid": "i"}, {"sub": "a.t"}, {"sid": "i", "sub": "a.t"}], ids=str)
def test_sessions_that_began_after_the_logout_are_spared(scope: str, said: dict[str, str]) -> None:
    """By the ID token's ``iat`` against the token's: a token that came late does not end what came after it."""
    app = SmallApp(scope=scope)
    before = app.browser(sid="i", session_state="old", issued_at=START.timestamp())
    after = app.browser(sid="j", session_state="i2", issued_at=(START + SECOND).timestamp())
    younger = app.browser("b.t", sid="n", issued_at=(START + SECOND).timestamp())
    app.channels.back_channel(logout_token(**said), START + MINUTE)
    assert living(app, before, after, younger) == [False, True, True]
    app.channels.back_channel(logout_token(sid="n", jti="2"), START + MINUTE)
    assert app.lives(younger)


@pytest.mark.parametrize("said", [{"sid": "i"}, {"sub": "a.t"}, {"sid": "i", "sub": "a.t"}], ids=str)
def test_a_sign_in_under_way_is_refused(said: dict[str, str]) -> None:
    """The mark is written before anything is looked up, and kept as long as an older sign-in could come."""
    app = SmallApp()
    app.channels.back_channel(logout_token(**said), START)
    with pytest.raises(SignedOutMeanwhile):
        app.browser(sid="i", now=START + MINUTE, flow_started_at=START)
    if "sub" in said and "sid" in said:
        app.browser("b.t", sid="i", now=START + MINUTE, flow_started_at=START)  # the token named somebody else
    app.browser(sid="i", now=START + MINUTE)
    app.store.sweep.run(START + 14 * MINUTE)
    assert app.store.keys("end:")
    app.store.sweep.run(START + HOUR)
    assert not app.store.keys("end:")


def test_a_sign_in_that_saw_no_mark_is_found_behind_it() -> None:
    """Its index rows are written by the time the mark is, and are looked up again."""
    app = SmallApp(scope="session")
    signed: list[Browser] = []

    def sign_in() -> None:
        signed.append(app.browser(sid="i"))

    # Writes of the index: the mark's hour, then the mark.
    meddled = app.store.meddled(before=[lambda: None, sign_in], index=True)
    app.beside(meddled).channels.back_channel(logout_token(sid="i"), START)
    assert not app.lives(signed[0])


def test_a_token_whose_sessions_could_not_be_ended_acts_again() -> None:
    """503, the provider tries again, and it works: ``jti`` is recorded last, and kept as long as the token could pass."""
    app = SmallApp()
    one = app.browser(sid="i")
    with pytest.raises(StorageUnavailable):
        app.beside(app.store.meddled(before=[raising(DOWN)])).channels.back_channel(logout_token(sid="i"), START)
    assert app.lives(one)
    app.channels.back_channel(logout_token(sid="i"), START)
    assert not app.lives(one)
    (due,) = [due for due in app.store.index.due(START + 9 * HOUR) if due.kind == "jti"]
    assert due.partition == jti_key(ISSUER, "j")
    late = SmallApp()
    late.channels.back_channel(logout_token(START + 35 * MINUTE, sid="i"), START + 35 * MINUTE)
    (due,) = [due for due in late.store.index.due(START + 9 * HOUR) if due.kind == "jti"]
    assert due.hour.startswith("exp:2026112309:")  # 8:55, two minutes, and twice the clocks' leeway


@pytest.mark.parametrize(
    "path_and_form",
    [("/", {}), ("/", {"logout_token": ""}), ("/?logout_token=x", {"logout_token": "x"}), ("/?logout_token=x", {})],
    ids=str,
)
def test_exactly_one_token_in_the_form(path_and_form: tuple[str, dict[str, str]]) -> None:
    """Never one from the query: addresses are logged."""
    app = SmallApp()
    with pytest.raises(BadRequest, match="logout_token"):
        app.channels.back_channel(post(*path_and_form), START)


# -- administrator


@pytest.mark.parametrize("wish", [{"account": "a.t"}, {"oid": "a", "tid": "t"}, {"sub": "a.t"}], ids=str)
def test_an_account_by_any_of_its_names(wish: dict[str, str]) -> None:
    """All of its sessions, whatever the scope says; a sign-in under way is refused."""
    app = SmallApp(scope="session")
    one, two, ben = app.browser(), app.browser(), app.browser("b.t")
    assert app.channels.administrator(wish, START) == {"ended": 2}
    assert living(app, one, two, ben) == [False, False, True]
    assert ("sign_out", "administrator", "a.t", 2) in app.records.written
    with pytest.raises(SignedOutMeanwhile):
        app.browser()


def test_a_hashed_account_by_its_partition_or_its_sub() -> None:
    """Where ``home_account_id`` can be no key; a name that looks like a hash is the partition itself."""
    key = hashed_account_key(ISSUER, "someone")
    odd = SmallApp()
    one = odd.browser(hashed_account_key(ISSUER, "-x"))
    assert odd.channels.administrator({"sub": "-x"}, START) == {"ended": 1}
    assert [account for _, _, account, _ in odd.records.written] == [one.row.account]
    for wish in ({"account": key}, {"sub": "someone"}):
        app = SmallApp()
        one = app.browser(key)
        assert app.channels.administrator(wish, START) == {"ended": 1}
        assert not app.lives(one)
    for wish in ({"account": key[:-1]}, {"account": key.upper()}, {"account": key + "0"}):
        app = SmallApp()
        one = app.browser(key)
        assert app.channels.administrator(wish, START) == {"ended": 0}
        assert app.lives(one)
    assert list(SmallApp().channels.accounts({"account": "-x"})) == [hashed_account_key(ISSUER, "-x")]


def test_guids_are_taken_in_any_case_and_nothing_else_is() -> None:
    """Portals show them in capitals; ``AbC`` and ``aBc`` are two people."""
    oid, tid = "0123abcd-0000-4000-8000-00000000beef", "99999999-0000-4000-8000-0000000000aa"
    for wish in ({"oid": oid.upper(), "tid": tid.upper()}, {"account": f"{oid}.{tid}".upper()}):
        app = SmallApp()
        one, guest = app.browser(f"{oid}.{tid}"), app.browser("guest.home", oid=oid, tid=tid)
        ended = app.channels.administrator(wish, START)["ended"]
        assert living(app, one, guest) == [False, "account" in wish]
        assert ended == (1 if "account" in wish else 2)
    app = SmallApp()
    one = app.browser("AbC.t")
    assert app.channels.administrator({"account": "aBc.t"}, START) == {"ended": 0}
    assert app.lives(one)
    assert list(app.channels.accounts({"account": f"{oid}.{tid}".upper()})) == [f"{oid}.{tid}", f"{oid}.{tid}".upper()]
    # Another provider may write its own in capitals, and those are its names.
    for wish in ({"oid": oid, "tid": tid}, {"oid": oid.upper(), "tid": tid.upper()}):
        app = SmallApp()
        guest = app.browser("guest.home", oid=oid.upper(), tid=tid.upper())
        assert app.channels.administrator(wish, START) == {"ended": 1}
        assert not app.lives(guest)
    for wish, account in itertools.product(({"account": oid.upper()}, {"sub": oid.upper()}), (oid, oid.upper())):
        app = SmallApp()
        one = app.browser(account)
        assert app.channels.administrator(wish, START) == {"ended": 1}
        assert not app.lives(one)


def test_a_person_whose_token_names_no_tenant() -> None:
    """As B2C's may not: the account says which directory it is of."""
    app = SmallApp()
    one = app.browser("oid-b2c_1_flow.tenant", oid="oid", tid=None)
    assert app.channels.administrator({"oid": "oid", "tid": "tenant"}, START) == {"ended": 1}
    assert not app.lives(one)
    with pytest.raises(SignedOutMeanwhile):
        app.browser("oid-b2c_1_flow.tenant", oid="oid", tid=None)
    app.browser("a-sub-without-dots", oid="oid", tid=None)
    assert app.store.keys("oid:") == []


def test_a_guest_by_oid_and_tid() -> None:
    """Their account has another name: the index leads to it, after the mark that refuses a sign-in under way."""
    app = SmallApp()
    guest, twin = app.browser("g.home", oid="g", tid="t"), app.browser("g.home", oid="g", tid="t")
    assert app.channels.administrator({"oid": "g", "tid": "t"}, START) == {"ended": 2}
    assert living(app, guest, twin) == [False, False]
    assert [account for _, _, account, _ in app.records.written] == ["g.t", "g.home"]
    with pytest.raises(SignedOutMeanwhile):
        app.browser("g.home", oid="g", tid="t")


def test_a_list_ends_each_and_tells_of_each() -> None:
    """Up to 20; the sum and one result for each."""
    app = SmallApp()
    app.browser()
    app.browser("b.t")
    answer = app.channels.administrator([{"account": "a.t"}, {"account": "x.t"}, {"sub": "b.t"}], START)
    assert answer == {"ended": 2, "results": [{"ended": 1}, {"ended": 0}, {"ended": 1}]}
    assert app.channels.administrator([{"account": f"{n}.t"} for n in range(20)], START)["ended"] == 0
    app.browser(now=START + MINUTE)
    assert app.channels.administrator([{"account": "a.t"}], START + HOUR) == {"ended": 1, "results": [{"ended": 1}]}


def test_one_that_fails_in_a_list_keeps_nobody_else() -> None:
    """It has its own error code; a single one is answered with the error itself."""
    app = SmallApp()
    one, two = app.browser(), app.browser("b.t")
    down = app.beside(app.store.meddled(before=[raising(DOWN)]))
    answer = down.channels.administrator([{"account": "a.t"}, {"account": "b.t"}], START)
    assert answer == {"ended": 1, "results": [{"error": DOWN.code}, {"ended": 1}]}
    assert living(app, one, two) == [True, False]
    with pytest.raises(StorageUnavailable):
        app.beside(app.store.meddled(before=[raising(DOWN)])).channels.administrator({"account": "a.t"}, START)


BAD_WISHES: list[Any] = [
    None, "a.t", 7, {}, {"account": 7}, {"account": None}, {"account": ""}, {"account": "a\n"}, {"account": "a" * 1025},
    {"oid": "a"}, {"tid": "t"}, {"account": "a.t", "sub": "x"}, {"accounts": "a.t"}, {"oid": "a", "tid": ""}, [[]],
]  # fmt: skip


@pytest.mark.parametrize("wish", BAD_WISHES, ids=plain)
def test_a_malformed_wish_ends_nothing(wish: Any) -> None:
    """400, also for one of a list, before anything of it was done."""
    app = SmallApp()
    one = app.browser()
    for wishes in (wish, [{"account": "a.t"}, wish]):
        with pytest.raises(BadRequest):
            app.channels.administrator(wishes, START)
    assert app.lives(one)
    for number in (0, 21):
        with pytest.raises(BadRequest):
            app.channels.administrator([{"account": "a.t"}] * number, START)
    assert app.lives(one)


def test_a_long_name_is_one() -> None:
    """Up to 1,024 characters."""
    assert SmallApp().channels.administrator({"account": "a" * 1024}, START) == {"ended": 0}


def test_an_administrators_sign_out_revokes_where_that_can_be() -> None:
    """Of all accounts that it ended; a failure is only logged."""
    app = SmallApp(revocation=True)
    app.browser("g.t")
    app.browser("g.home", oid="g", tid="t")
    assert app.channels.administrator({"oid": "g", "tid": "t"}, START) == {"ended": 2}
    assert app.provider.revoked == ["grant0:1", "grant1:1"]
    app.browser("b.t")
    app.provider.fails = ProviderUnavailable("down")
    assert app.channels.administrator({"account": "b.t"}, START) == {"ended": 1}
    for changes, known, revoked in (({}, True, []), ({"revocation": True}, False, ["grant0:1"])):
        other = SmallApp(**changes)
        other.provider.known = known
        other.browser()
        assert other.channels.administrator({"account": "a.t"}, START) == {"ended": 1}
        assert other.provider.revoked == revoked


def test_a_pointer_to_nothing_is_harmless() -> None:
    """A row of the index whose session is gone ends nothing and breaks nothing."""
    for scope in ("account", "session"):
        app = SmallApp(Store(issuer=ISSUER), scope=scope)
        one = app.browser(sid="i")
        app.store.tables[0].write("a.t", Delete(key=one.row.id))
        app.channels.front_channel(front(sid="i"), START)
        assert app.store.index.find(sid_key(ISSUER, "i"))
        assert app.records.written == [("sign_out", "front_channel", "a.t", 0)]


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_pointer_that_was_left_behind_signs_nobody_out_who_came_later(scope: str) -> None:
    """Its sign-out could not delete it, and every app of the provider knows its ``sid``; while its session may come, it counts."""
    for minutes, ended in ((5, True), (6, False)):
        app = SmallApp(Store(issuer=ISSUER), scope=scope)
        one = app.browser(sid="old")
        app.store.tables[0].write("a.t", Delete(key=one.row.id))
        later = app.browser(sid="new", now=START + minutes * MINUTE - SECOND)
        before = app.store.rows()
        app.channels.front_channel(front(sid="old"), START + minutes * MINUTE)
        assert app.lives(later) is not (ended and scope == "account")
        assert (app.store.rows() == before) is not ended
        assert len(app.records.written) == (1 if ended or scope == "session" else 0)


def test_the_session_that_was_named_goes_last() -> None:
    """A front-channel logout of many sessions that was cut short finds the account again when it is repeated."""
    app = SmallApp()
    one = app.browser(sid="i")
    values = app.store.tables[0].read("a.t", one.row.id).values  # type: ignore[union-attr]
    for number in range(120):
        app.store.tables[0].write("a.t", Insert(key=f"~{number}", values={**values, "IndexKeys": "[]"}))
    cut = app.beside(app.store.meddled(before=[lambda: None, raising(DOWN)]))
    with pytest.raises(StorageUnavailable):
        cut.channels.front_channel(front(sid="i"), START + HOUR)
    assert app.lives(one)
    app.channels.front_channel(front(sid="i"), START + HOUR)
    assert app.store.rows()[0] == ["!"]


def test_whoever_signed_in_with_that_sid_ends_first() -> None:
    """Made-up ``session_state`` of others must not take the time that the sign-out has."""
    app = SmallApp()
    for number in range(9):
        app.browser(f"mallory{number}.t", sid=f"m{number}", session_state="the sid")
    victim = app.browser("victim.t", sid="the sid")
    app.channels.front_channel(front(sid="the sid"), START)
    assert app.records.written[0][2] == "victim.t"
    assert not app.lives(victim)


@pytest.mark.parametrize("scope", ["account", "session"])
def test_a_session_state_that_somebody_made_up_keeps_no_other_from_being_signed_out(scope: str) -> None:
    """It comes unsigned through the browser: naming somebody's ``sid`` there must not refuse the provider's logout token."""
    app = SmallApp(scope=scope)
    victim = app.browser("victim.t", sub="victim", sid="the sid")
    mallory = app.browser("mallory.t", sub="mallory", sid="another", session_state="the sid")
    app.channels.back_channel(logout_token(sub="victim", sid="the sid"), START)
    assert not app.lives(victim)
    assert app.lives(mallory)


def test_an_account_that_cannot_be_ended_keeps_no_other_from_being_ended() -> None:
    """Every session of a ``sid`` is tried; then the whole is not done, and the provider tries again."""
    app = SmallApp()
    browsers = [app.browser(account, sid="shared") for account in ("one.t", "two.t")]
    failing = app.beside(app.store.meddled(before=[raising(StorageUnavailable("down"))]))
    with pytest.raises(StorageUnavailable):
        failing.channels.front_channel(get("/auth/frontchannel-logout?sid=shared"), START)
    assert sorted(app.lives(browser) for browser in browsers) == [False, True]


def test_a_logout_token_that_never_expires_is_remembered_for_a_year() -> None:
    """``exp`` in the year 9999 is no reason for a 500 after the sessions have ended."""
    app = SmallApp()
    one = app.browser(sid="i", sub="a.t")
    provider: Any = app.provider
    whole = provider.logout_token
    endless = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    provider.logout_token = lambda token, *, now: replace(whole(token, now=now), expires_at=endless)
    app.channels.back_channel(logout_token(sid="i"), START)
    assert not app.lives(one)
    with pytest.raises(TokenInvalid):
        app.channels.back_channel(logout_token(sid="i"), START)
