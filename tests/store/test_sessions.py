"""Sessions: what stands after each conflict, lost answer and failure, with others acting between any two storage calls."""

import json
import logging
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from shared.errors import NotSignedIn, SignedOutMeanwhile, StorageUnavailable
from shared.store.index import Due, end_key, exp_key, keys_of, oid_key, sid_key, sub_key
from shared.store.rows import Claim, SessionRow
from shared.store.sealing import digest
from shared.store.sessions import KEEP_ENDED, LEASE
from shared.store.table import Delete, Insert, Merge, Row, RowChanged, RowExists, RowMissing, Upsert
from tests.support.small_store import NEW, OLD, START, Store, new_session, nothing, raising

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
DOWN = StorageUnavailable("down")


def sessions_of(store: Store, account: str = "a.t") -> list[str]:
    return [row.key for row in store.tables[0].list(account) if row.key != "!"]


def row_of(store: Store, key: str, account: str = "a.t") -> Row:
    row = store.tables[0].read(account, key)
    assert row is not None
    return row


def change(store: Store, row: SessionRow, **values: Any) -> Callable[[], object]:
    """Somebody else writes the session's row."""

    def act() -> None:
        etag = row_of(store, row.id, row.account).etag
        store.tables[0].write(row.account, Merge(key=row.id, values=values or {"IdleExpiresAt": START}, etag=etag))

    return act


def delete(store: Store, key: str, account: str = "a.t") -> Callable[[], object]:
    """Somebody else deletes a row."""
    return lambda: store.tables[0].write(account, Delete(key=key))


def crowd(store: Store, size: int) -> list[str]:
    """Many sessions of one account: the row of one of them under many keys, in their order."""
    row, _ = store.sign_in()
    values = row_of(store, row.id).values
    keys = [row.id, *(f"{row.id}-{n:03}" for n in range(1, size))]
    for key in keys[1:]:
        store.tables[0].write("a.t", Insert(key=key, values=values))
    return keys


# -- reading


def test_only_the_whole_claim_reads_a_session() -> None:
    """Account, id and secret; a tombstone, another app's row or one of a newer release is no session and stays."""
    store = Store()
    row, claim = store.sign_in(cache=b"tokens")
    assert store.sessions.read(claim) == row_as_read(store, row)
    for changes in ({"account": "b.t"}, {"session_id": "x"}, {"secret_hash": "0" * 64}):
        wrong = {"account": "a.t", "session_id": row.id, "secret_hash": claim.secret_hash, **changes}
        assert store.sessions.read(Claim(**wrong)) is None
    assert Store(tables=store.tables, app="app2").sessions.read(claim) is None
    change(store, row, V=2)()
    assert store.sessions.read(claim) is None
    assert store.sessions.open(row_of(store, row.id)) is None
    assert sessions_of(store) == [row.id]


def row_as_read(store: Store, row: SessionRow) -> SessionRow:
    found = store.sessions.open(row_of(store, row.id, row.account))
    assert found is not None
    return found


def test_a_row_whose_known_key_does_not_open_it_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    """One of an unknown key is left alone: a newer instance may have written it."""
    store = Store()
    row, claim = store.sign_in()
    stranger = Store(tables=store.tables, keys=[NEW])
    assert stranger.sessions.read(claim) is None
    assert "SEALING_KEYS" in caplog.text
    assert sessions_of(store) == [row.id]
    change(store, row, Identity=b"x" * 50)()
    changing = store.meddled(before=[change(store, row, Identity=b"y" * 50)])
    assert changing.sessions.read(claim) is None
    assert sessions_of(store) == [row.id]  # it changed meanwhile: perhaps for the better
    assert store.sessions.open(row_of(store, row.id)) is None  # a listing changes nothing
    assert sessions_of(store) == [row.id]
    assert store.sessions.read(claim) is None
    assert sessions_of(store) == []


def test_a_row_is_proven_and_stands_without_its_key() -> None:
    """Enough for its owner's sign-out, on an instance that does not have the key yet; another app's row proves nothing."""
    store = Store(absolute=2 * HOUR)
    row, claim = store.sign_in()
    stranger = Store(tables=store.tables, keys=[NEW], not_before=START)
    found = stranger.sessions.proven(claim)
    assert found == row_of(store, row.id)
    assert stranger.sessions.is_standing(found, START + HOUR - SECOND)
    assert not stranger.sessions.is_standing(found, START + HOUR)
    assert not Store(not_before=START + SECOND).sessions.is_standing(found, START)
    change(store, row, IdleExpiresAt=START + 3 * HOUR)()
    slid = stranger.sessions.proven(claim)
    assert slid is not None
    assert stranger.sessions.is_standing(slid, START + 2 * HOUR - SECOND)
    assert not stranger.sessions.is_standing(slid, START + 2 * HOUR)
    for changes in ({"account": "b.t"}, {"session_id": "x"}, {"secret_hash": "0" * 64}):
        wrong = {"account": "a.t", "session_id": row.id, "secret_hash": claim.secret_hash, **changes}
        assert stranger.sessions.proven(Claim(**wrong)) is None
    assert Store(tables=store.tables, app="app2").sessions.proven(claim) is None


def test_a_listing_tells_sessions_from_tombstones_and_other_apps() -> None:
    """Without caches; a listed session has its own when it is asked for."""
    store, other = Store(), Store(app="app2")
    other.tables = store.tables
    row, _ = store.sign_in(cache=b"tokens")
    Store(tables=store.tables, app="app2").sign_in()
    store.sessions.end_session("a.t", "T" * 22, now=START, pointed=True)
    Store(tables=store.tables, app="app2").sessions.end_session("a.t", "U" * 22, now=START, pointed=True)
    listing = store.sessions.listing("a.t")
    assert [found.key for found in listing.rows] == [row.id]
    assert listing.tombstones == {"T" * 22}
    assert listing.account_row is not None
    assert listing.account_row.key == "!"
    opened = store.sessions.open(listing.rows[0])
    assert opened is not None
    assert (opened.cache, opened.identity, opened.index_keys) == (b"", row.identity, row.index_keys)
    full = store.sessions.whole(listing.rows[0])
    assert full is not None
    assert full.cache == b"tokens"
    store.sessions.end_session("a.t", row.id, now=START)
    assert store.sessions.whole(listing.rows[0]) is None
    assert store.sessions.listing("b.t").account_row is None


def test_a_sign_in_that_began_before_the_bar_is_refused() -> None:
    """``SESSIONS_NOT_BEFORE``: "everybody out" means those on their way in, too; nothing is left of it."""
    store = Store(not_before=START)
    with pytest.raises(SignedOutMeanwhile):
        store.sign_in(now=START + MINUTE, flow_started_at=START - SECOND)
    assert store.empty()
    store.sign_in(now=START + MINUTE, flow_started_at=START)


def test_a_session_lives_until_a_limit_or_the_bar() -> None:
    """Idle limit, absolute limit, ``SESSIONS_NOT_BEFORE`` (which spares what began in that moment)."""
    store = Store(idle=2 * HOUR, absolute=HOUR)
    row, _ = store.sign_in()
    assert row.idle_expires_at == row.expires_at == START + HOUR  # the idle limit never outlives the session
    assert store.sessions.is_live(row, START + HOUR - SECOND)
    assert not store.sessions.is_live(row, START + HOUR)
    assert Store(not_before=START).sessions.is_live(row, START)
    assert not Store(not_before=START + SECOND).sessions.is_live(row, START)


# -- signing in


def test_a_session_has_the_index_rows_that_logouts_need() -> None:
    """``sid``; Entra's ``session_state`` where it differs; ``sub`` with back-channel; ``oid`` where it is not the account."""
    store = Store()
    plain, _ = store.sign_in(sid="i", session_state="i", backchannel=False, oid="a", tid="t")
    assert set(plain.index_keys) == {exp_key(plain.idle_expires_at, plain.id), sid_key("issuer", "i")}
    assert plain.identity.oid == "a"
    state, _ = store.sign_in("b.t", sid="i", session_state="s", backchannel=False)
    assert set(state.index_keys[1:]) == {sid_key("issuer", "i"), sid_key("issuer", "s")}
    guest, _ = store.sign_in("g.home", sid=None, session_state="s2", oid="g", tid="t")
    assert set(guest.index_keys[1:]) == {sid_key("issuer", "s2"), sub_key("issuer", "g.home"), oid_key("t", "g")}
    for half in ({"oid": "h"}, {"tid": "t"}, {"oid": "", "tid": "t"}):
        found, _ = store.sign_in("h.home", sid="h", **half)
        assert not [key for key in found.index_keys if key.startswith("oid:")]
    (pointer,) = store.index.find(sub_key("issuer", "g.home"))
    assert (pointer.account, pointer.session_id, pointer.sid) == ("g.home", guest.id, "")
    assert pointer.sub == digest("issuer", "g.home")
    (pointer,) = store.index.find(sid_key("issuer", "s"))
    assert (pointer.issuer, pointer.sid) == ("issuer", digest("issuer", "i"))


def test_a_sign_in_replaces_the_same_browsers_session_and_the_oldest() -> None:
    """The same ``sid``, the session the browser had (if its secret fits), and what is over ``SESSIONS_PER_ACCOUNT``."""
    store = Store(per_account=3)
    rows = [store.sign_in(now=START + n * MINUTE) for n in range(3)]
    _, count = store.sessions.create(new_session(had=(rows[2][1],), flow_started_at=START), now=START + 3 * MINUTE)
    assert count == 1
    assert rows[2][0].id not in sessions_of(store)
    wrong = Claim(account="a.t", session_id=rows[1][0].id, secret_hash="0" * 64)
    fourth, count = store.sessions.create(new_session(had=(wrong,), sid="same"), now=START + 4 * MINUTE)
    assert count == 1
    assert rows[0][0].id not in sessions_of(store)  # the oldest, not the one that was claimed
    fifth, count = store.sessions.create(new_session(sid=None, session_state="same"), now=START + 5 * MINUTE)
    assert (count, fourth.id in sessions_of(store)) == (1, False)
    assert len(sessions_of(store)) == 3
    assert store.index.find(sid_key("issuer", "same"))[0].session_id == fifth.id
    elsewhere = Claim(account="b.t", session_id=rows[1][0].id, secret_hash=rows[1][1].secret_hash)
    other = Store(tables=store.tables, per_account=9)
    _, count = other.sessions.create(new_session(had=(elsewhere,)), now=START + 6 * MINUTE)
    assert count == 0


def test_a_sign_in_over_a_full_account_fits_one_transaction() -> None:
    """A limit that was lowered: 98 go at most, the rest with the next sign-ins."""
    store = Store()
    crowd(store, 105)
    low = Store(tables=store.tables, per_account=2)
    _, count = low.sessions.create(new_session(), now=START + HOUR)
    assert count == 98
    _, count = low.sessions.create(new_session(), now=START + HOUR)
    assert count == 7
    assert len(sessions_of(store)) == 2


@pytest.mark.parametrize("late", [timedelta(0), SECOND])
def test_a_sign_in_that_began_before_the_sign_out_is_refused(late: timedelta) -> None:
    """By the flow's start, never by its end; the same moment counts as before."""
    store = Store()
    store.sessions.end_account("a.t", now=START + late)
    with pytest.raises(SignedOutMeanwhile):
        store.sign_in(now=START + HOUR, flow_started_at=START)
    store.sign_in(flow_started_at=START + late + timedelta(microseconds=1))


def test_the_back_channels_marks_refuse_by_sid_and_by_sub() -> None:
    """Only where the provider has such a logout, and of one user only if it named them."""
    for name, value, sub in (
        ("sid", "i", ""),
        ("sid", "state", ""),
        ("sub", "a.t", ""),
        ("sid", "i", digest("issuer", "a.t")),
    ):
        store = Store()
        store.index.end(end_key("issuer", name, value), now=START, until=START + HOUR, sub=sub)
        with pytest.raises(SignedOutMeanwhile):
            store.sign_in(sid="i", session_state="state")
        assert sessions_of(store) == []
        assert len(store.keys("exp:")) == 1  # of the mark
        store.sign_in(sid="i", session_state="state", backchannel=False)
        store.sign_in(sid="i", session_state="state", flow_started_at=START + SECOND)
    store.index.end(end_key("issuer", "sid", "j"), now=START, until=START + HOUR, sub=digest("issuer", "somebody else"))
    store.sign_in(sid="j")


def test_an_administrators_mark_refuses_a_guest() -> None:
    """``oid`` and ``tid`` do not name a guest's account: the mark stands where they point."""
    store = Store()
    store.sessions.end_account("g.t", now=START)
    with pytest.raises(SignedOutMeanwhile):
        store.sign_in("g.home", oid="g", tid="t")
    store.sign_in("g.home", oid="g", tid="t", flow_started_at=START + SECOND)
    store.sign_in("g.home", oid="g2", tid="t")
    store.sign_in("g.home", oid="g", tid=None)
    assert Store(tables=store.tables, app="app2").sign_in("g.home", oid="g", tid="t")


def test_a_tombstone_refuses_the_session_it_names() -> None:
    """A sign-out that came through the index before the row was there."""
    store = Store()

    def end() -> None:
        (pointer,) = store.index.find(sid_key("issuer", "i"))
        store.sessions.end_session("a.t", pointer.session_id, now=START, pointed=True)

    for _ in range(2):
        with pytest.raises(SignedOutMeanwhile):
            store.meddled(before=[end]).sign_in(sid="i")
    assert store.keys("sid:") == []
    assert len(store.sessions.listing("a.t").tombstones) == 2
    store.sessions.sweep_account("a.t", now=START + HOUR)
    store.sign_in(sid="i")


def test_a_sign_in_that_meets_others_begins_again() -> None:
    """A changed account row: list again; what others inserted meanwhile counts for the limit."""
    store = Store(per_account=2)
    store.sign_in(now=START - HOUR, flow_started_at=START - HOUR)
    meddled = store.meddled(before=[lambda: store.sign_in(now=START - MINUTE)])
    _, count = meddled.sessions.create(new_session(), now=START)
    assert (count, len(sessions_of(store))) == (1, 2)


def test_a_sign_out_between_list_and_insert_wins() -> None:
    """The transaction fails on the account row, and the second look refuses."""
    for account_row in (False, True):
        store = Store()
        if account_row:
            store.sign_in(now=START - HOUR)
        with pytest.raises(SignedOutMeanwhile):
            store.meddled(before=[lambda s=store: s.sessions.end_account("a.t", now=START)]).sign_in(sid="i")
        assert sessions_of(store) == store.keys("sid:") == []


def test_a_sign_in_that_loses_every_race_is_nowhere() -> None:
    """503, and what was written is taken back; the row itself cannot come any more."""
    store = Store()
    many = [store.sign_in] * 12
    with pytest.raises(StorageUnavailable, match="conflicts"):
        store.meddled(before=many).sign_in(sid="mine")
    assert len(sessions_of(store)) - len(store.sessions.listing("a.t").tombstones) == 12
    assert len(store.sessions.listing("a.t").tombstones) == 1
    few = [store.sign_in] * 11
    store.meddled(before=few).sign_in(sid="mine")


def test_a_sign_in_whose_answer_was_lost_stands() -> None:
    """The repetition meets its own row: its mark in ``!`` says that it was carried out.  What it replaced counts."""
    store = Store()
    old, _ = store.sign_in(sid="same")
    _, count = store.meddled(after=[raising(RowExists("x"))]).sessions.create(new_session(sid="same"), now=START)
    assert (count, len(sessions_of(store))) == (1, 1)
    assert old.id not in sessions_of(store)
    assert len(store.keys("sid:")) == 1


def test_a_sign_in_whose_answer_was_lost_and_that_was_signed_out_stays_out() -> None:
    """With its own mark and no row it does not insert the session a second time."""
    store = Store()

    def lost_and_ended() -> None:
        (pointer,) = store.index.find(sid_key("issuer", "i"))
        store.sessions.end_session("a.t", pointer.session_id, now=START, pointed=True)
        raise RowExists("x")

    with pytest.raises(SignedOutMeanwhile):
        store.meddled(after=[lost_and_ended]).sign_in(sid="i")
    assert sessions_of(store) == store.keys("sid:") == []


def test_a_sign_in_that_storage_failed_leaves_a_tombstone(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has its cookie: its row goes if it is there, and cannot come if it is not."""
    store = Store()
    with pytest.raises(StorageUnavailable):
        store.meddled(after=[raising(DOWN)]).sign_in()
    assert sessions_of(store) == []
    with pytest.raises(StorageUnavailable):
        store.meddled(before=[raising(DOWN)]).sign_in()
    (tombstone,) = store.sessions.listing("a.t").tombstones
    assert dict(row_of(store, tombstone).values) == {"V": 1, "App": "app1", "Tombstone": True, "EndedAt": START}
    with caplog.at_level(logging.INFO), pytest.raises(StorageUnavailable):
        store.meddled(before=[raising(DOWN), raising(DOWN)]).sign_in()
    assert "abandoned" in caplog.text
    store.sweep.run(START + 3 * HOUR)
    store.sweep.run(START + 6 * HOUR)
    assert store.empty()


def test_marks_are_bounded() -> None:
    """``!`` remembers the last twenty writes."""
    store = Store()
    for n in range(25):
        store.sign_in(now=START + n * SECOND)
    marks = str(row_of(store, "!").values["Marks"]).split()
    assert len(marks) == len(set(marks)) == 20


# -- a session in use


def test_the_idle_limit_slides_once_per_tenth() -> None:
    """60 minutes: a write after 6, none before; never beyond the session's own end."""
    store = Store(absolute=90 * MINUTE)
    row, claim = store.sign_in()
    assert store.sessions.slide(row, now=START + 6 * MINUTE - SECOND) is row
    slid = store.sessions.slide(row, now=START + 6 * MINUTE)
    assert slid.idle_expires_at == START + 66 * MINUTE
    assert slid == store.sessions.read(claim)
    last = store.sessions.slide(slid, now=START + 60 * MINUTE)
    assert last.idle_expires_at == START + 90 * MINUTE
    assert store.sessions.slide(last, now=START + 80 * MINUTE) is last


def test_sliding_never_brings_a_session_back() -> None:
    """Gone: signed out.  Changed, or storage down: the read has proved the session, the next request slides it."""
    for keys in ((OLD,), (NEW, OLD)):
        store = Store()
        row, claim = store.sign_in()
        using = Store(tables=store.tables, keys=keys)
        for act in (change(store, row), raising(DOWN)):
            assert using.meddled(before=[act]).sessions.slide(row, now=START + 30 * MINUTE) is row
        with pytest.raises(NotSignedIn):
            using.meddled(before=[delete(store, row.id)]).sessions.slide(row, now=START + 30 * MINUTE)
        assert store.sessions.read(claim) is None


def test_a_slide_after_a_rotation_seals_the_whole_row_anew() -> None:
    """Tokens and identity come along, under the new key, and the limit moves too."""
    store = Store()
    row, claim = store.sign_in(cache=b"tokens")
    new = Store(tables=store.tables, keys=(NEW, OLD))
    slid = new.sessions.slide(row_as_read(store, row), now=START + 30 * MINUTE)
    found = Store(tables=store.tables, keys=(NEW,)).sessions.read(claim)
    assert found == slid
    assert (found.cache, found.key_id, found.idle_expires_at) == (b"tokens", "new", START + 90 * MINUTE)


def test_one_of_two_gets_the_lease() -> None:
    """30 s, under the ETag; the other one reads again; a lost answer is recognised by the lease's own id."""
    store = Store()
    row, claim = store.sign_in()
    mine = store.sessions.take_lease(row, now=START)
    assert mine is not None
    assert (mine.lease_until, mine) == (START + LEASE, store.sessions.read(claim))
    assert store.sessions.take_lease(row, now=START) is None
    other = store.sessions.take_lease(mine, now=START)
    assert other is not None
    assert other.lease != mine.lease != ""
    lost = store.meddled(after=[raising(RowChanged("x"))]).sessions.take_lease(other, now=START + MINUTE)
    assert lost == store.sessions.read(claim)
    assert lost is not None
    assert lost.lease_until == START + MINUTE + LEASE


def test_nobody_gets_the_lease_of_what_is_gone() -> None:
    """Signed out before the refresh, or while its answer was lost."""
    store = Store()
    row, _ = store.sign_in()
    assert store.meddled(before=[delete_then(store, row.id, RowChanged("x"))]).sessions.take_lease(row, now=START) is None
    with pytest.raises(NotSignedIn):
        store.sessions.take_lease(row, now=START)


def delete_then(store: Store, key: str, error: Exception) -> Callable[[], object]:
    def act() -> None:
        store.tables[0].write("a.t", Delete(key=key))
        raise error

    return act


def leased(store: Store, **changes: Any) -> tuple[SessionRow, Claim]:
    row, claim = store.sign_in(**changes)
    lease = store.sessions.take_lease(row, now=START)
    assert lease is not None
    return lease, claim


def test_written_tokens_give_the_lease_back() -> None:
    """A new generation, no lease, the rest as it was."""
    tables = Store().tables
    row, claim = leased(Store(tables=tables))
    store = Store(tables=tables, keys=(NEW, OLD))
    written = store.sessions.write_tokens(row, b"new")
    found = store.sessions.read(claim)
    assert found == written
    assert (found.cache, found.lease, found.lease_until, found.key_id) == (b"new", "", None, "new")
    assert found.generation != row.generation
    assert (found.idle_expires_at, found.index_keys) == (row.idle_expires_at, row.index_keys)


def test_tokens_go_into_the_row_as_it_is_now() -> None:
    """The idle limit slid during the refresh: it stays slid, and there is no second token request."""
    store = Store()
    row, claim = leased(store)
    later = START + 5 * HOUR
    store.meddled(
        before=[change(store, row, IdleExpiresAt=later), change(store, row, IndexKeys='["exp:x"]')]
    ).sessions.write_tokens(row, b"new")
    found = store.sessions.read(claim)
    assert found is not None
    assert (found.cache, found.idle_expires_at, found.index_keys) == (b"new", later, ("exp:x",))


def test_tokens_of_a_session_that_is_gone_are_dropped() -> None:
    """A sign-out during the refresh is never undone by it."""
    for acts in (["delete"], ["change", "delete"]):
        store = Store()
        row, _ = leased(store)
        before = [delete(store, row.id) if act == "delete" else change(store, row) for act in acts]
        with pytest.raises(NotSignedIn):
            store.meddled(before=before).sessions.write_tokens(row, b"new")
        assert sessions_of(store) == []


def test_newer_tokens_are_not_overwritten() -> None:
    """Another lease, or tokens of another generation: they are newer than ours, and are what we use."""
    for values in ({"Lease": "other"}, {"Generation": "other"}):
        store = Store()
        row, claim = leased(store)
        found = store.meddled(before=[change(store, row, **values)]).sessions.write_tokens(row, b"new")
        assert found == store.sessions.read(claim)
        assert found.cache == b"{}"


def test_tokens_whose_answer_was_lost_are_written_once() -> None:
    """The own generation in the row says so."""
    store = Store()
    row, claim = leased(store)
    found = store.meddled(after=[raising(RowChanged("x"))]).sessions.write_tokens(row, b"new")
    assert found == store.sessions.read(claim)
    assert found.cache == b"new"


def test_tokens_that_lose_every_race_are_given_up() -> None:
    """503; twelve tries."""
    store = Store()
    row, _ = leased(store)
    busy = [change(store, row)] * 12
    with pytest.raises(StorageUnavailable, match="conflicts"):
        store.meddled(before=busy).sessions.write_tokens(row, b"new")
    assert store.meddled(before=busy[:11]).sessions.write_tokens(row, b"new").cache == b"new"


def test_a_lease_is_given_back_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """It is over at once; where that fails it runs out by itself."""
    store = Store()
    row, claim = leased(store)
    with caplog.at_level(logging.INFO):
        store.meddled(before=[raising(DOWN)]).sessions.release_lease(row)
        store.meddled(before=[change(store, row)]).sessions.release_lease(row)
    assert caplog.text.count("runs out by itself") == 2
    found = store.sessions.read(claim)
    assert found is not None
    assert found.lease == row.lease
    store.sessions.release_lease(found)
    found = store.sessions.read(claim)
    assert found is not None
    assert found.lease == ""
    assert found.lease_until is not None
    assert found.lease_until <= START


# -- signing out


def test_the_account_row_says_whose_form_it_has() -> None:
    """Version and the app that wrote it first, the marks, the ends: no token, no personal data."""
    store = Store()
    store.sessions.end_account("a.t", now=START)
    values = row_of(store, "!").values
    assert values.keys() == {"V", "App", "Marks", "MarkedAt", "EndedAt", "EndedAt_app1"}
    assert (values["V"], values["App"]) == (1, "app1")


def test_a_sign_out_leaves_the_mark_and_what_sweeps_it() -> None:
    """``!`` with ``EndedAt``, its ``exp:`` row, nothing else; rows of other apps and accounts stay."""
    store = Store()
    row, claim = store.sign_in(oid="o", tid="x", session_state="state")
    store.sign_in()
    store.sign_in("b.t")
    other = Store(tables=store.tables, app="app2")
    other.sign_in()
    ended = store.sessions.end_account("a.t", now=START)
    assert row.id in {found.key for found in ended}
    assert len(ended) == 2
    assert store.sessions.read(claim) is None
    assert len(sessions_of(store, "b.t")) == len(sessions_of(other)) == 1
    assert store.sessions.ended_at(store.sessions.listing("a.t")) == START
    assert other.sessions.ended_at(other.sessions.listing("a.t")) is None
    assert row_of(store, "!").values["EndedAt"] == START
    mine = [
        row
        for row in store.tables[1].scan(first="", before="\uffff")
        if row.values["Account"] == "a.t" and row.values["App"] == "app1"
    ]
    assert [(row.values["Kind"], row.partition[:14]) for row in mine] == [("account", f"exp:{START + KEEP_ENDED:%Y%m%d%H}")]


def test_a_sign_out_of_nobody_is_a_mark_that_is_swept() -> None:
    """It refuses a sign-in under way; the row that sweeps it is there before it."""
    store = Store()
    with pytest.raises(StorageUnavailable):
        store.meddled(before=[raising(DOWN)]).sessions.end_account("a.t", now=START)
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]
    with pytest.raises(StorageUnavailable):
        store.meddled(before=[raising(DOWN)], index=True).sessions.end_account("a.t", now=START)
    assert store.rows()[0] == []
    assert store.sessions.end_account("a.t", now=START) == []
    assert store.rows()[0] == ["!"]
    with pytest.raises(SignedOutMeanwhile):
        store.sign_in()
    assert {partition[:-1] for partition in store.keys("exp:")} == {f"exp:{START + KEEP_ENDED:%Y%m%d%H}:"}
    store.sweep.run(START + HOUR)
    assert store.empty()
    store.sessions.end_account("a.t", now=START + 50 * MINUTE)
    assert [partition[:-1] for partition in store.keys("exp:")] == ["exp:2026112309:"]


def test_the_mark_of_a_sign_out_never_goes_back() -> None:
    """A slow sign-out, or one of a clock that is behind, makes no room for what a later one refuses."""
    store = Store()
    store.sessions.end_account("a.t", now=START)
    store.sessions.end_account("a.t", now=START - HOUR)
    assert store.sessions.ended_at(store.sessions.listing("a.t")) == START
    Store(tables=store.tables, app="app2").sessions.end_account("a.t", now=START - MINUTE)
    assert row_of(store, "!").values["EndedAt"] == START
    assert row_of(store, "!").values["EndedAt_app2"] == START - MINUTE


def test_more_than_a_transaction_holds_goes_in_rounds_the_requester_last() -> None:
    """99 a round; whoever asked can repeat a sign-out that was cut short."""
    store = Store()
    first = crowd(store, 230)[0]
    with pytest.raises(StorageUnavailable):
        store.meddled(before=[nothing, nothing, raising(DOWN)]).sessions.end_account("a.t", now=START + HOUR, requester=first)
    left = sessions_of(store)
    assert len(left) == 230 - 2 * 99
    assert first in left
    ended = store.sessions.end_account("a.t", now=START + HOUR, requester=first)
    assert len(ended) == 32
    assert store.rows()[0] == ["!"]
    assert len({row.key for row in ended}) == 32


def test_all_rounds_are_told() -> None:
    """Every row that is gone is returned once, and its index rows go."""
    store = Store()
    keys = crowd(store, 105)
    ended = store.sessions.end_account("a.t", now=START + HOUR)
    assert sorted(row.key for row in ended) == keys
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]


def test_ninety_nine_go_at_once() -> None:
    """One transaction: the mark and 99 deletions."""
    store = Store()
    crowd(store, 99)
    only_one = store.meddled(before=[nothing, raising(DOWN)])
    assert len(only_one.sessions.end_account("a.t", now=START + HOUR)) == 99


def test_a_listing_that_the_caller_has_saves_one() -> None:
    """And one that is stale is made anew."""
    store = Store()
    store.sign_in()
    listing = store.sessions.listing("a.t")
    newer, _ = store.sign_in(now=START + SECOND)
    ended = store.sessions.end_account("a.t", now=START + MINUTE, listing=listing)
    assert len(ended) == 2
    assert newer.id in {row.key for row in ended}


def test_what_is_spared_stays() -> None:
    """The rest goes, in every round and after every conflict; the mark is written all the same."""
    store = Store()
    spared, _ = store.sign_in()
    store.sign_in(now=START + SECOND)
    meddled = store.meddled(before=[lambda: store.sign_in(now=START + MINUTE)])
    ended = meddled.sessions.end_account("a.t", now=START + HOUR, spare=lambda row: row.key == spared.id)
    assert len(ended) == 2
    assert sessions_of(store) == [spared.id]
    assert store.sessions.ended_at(store.sessions.listing("a.t")) == START + HOUR


def test_a_sign_out_whose_answer_was_lost_tells_what_it_ended() -> None:
    """Its mark says that it was carried out; a session that came after it goes too."""
    store = Store()
    row, _ = store.sign_in()
    ended = store.meddled(after=[raising(RowMissing("x"))]).sessions.end_account("a.t", now=START)
    assert [found.key for found in ended] == [row.id]
    assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]
    first, _ = store.sign_in(now=START + HOUR)
    came: list[str] = []

    def lost() -> None:
        came.append(store.sign_in(now=START + 2 * HOUR)[0].id)
        raise RowMissing("x")

    ended = store.meddled(after=[lost]).sessions.end_account("a.t", now=START + HOUR)
    assert {found.key for found in ended} == {first.id, *came}
    assert sessions_of(store) == []


def test_a_sign_out_that_loses_races_deletes_one_by_one() -> None:
    """After six conflicts the mark goes first, then each row by itself, gone ones included."""
    store = Store()
    row, _ = store.sign_in()
    two, _ = store.sign_in(now=START + SECOND)
    touch = touching(store)
    # Six transactions lose; then come the mark, and two deletions of which one meets nothing.
    first = min(row.id, two.id)
    before = [*[touch] * 6, nothing, delete(store, first)]
    ended = store.meddled(before=before).sessions.end_account("a.t", now=START + MINUTE)
    assert {found.key for found in ended} == {row.id, two.id}
    assert store.rows()[0] == ["!"]
    assert store.sessions.ended_at(store.sessions.listing("a.t")) == START + MINUTE


def touching(store: Store) -> Callable[[], object]:
    """Somebody else writes the account row."""

    def act() -> None:
        etag = row_of(store, "!").etag
        store.tables[0].write("a.t", Merge(key="!", values={"x": 1}, etag=etag))

    return act


def test_a_sign_out_that_loses_every_race_is_told() -> None:
    """503 after twelve, and it can be repeated."""
    store = Store()
    store.sign_in()
    with pytest.raises(StorageUnavailable, match="conflicts"):
        store.meddled(before=[touching(store)] * 12).sessions.end_account("a.t", now=START)
    assert len(sessions_of(store)) == 1
    assert len(store.meddled(before=[touching(store)] * 11).sessions.end_account("a.t", now=START)) == 1


def test_a_failure_after_the_deletion_is_not_the_users(caplog: pytest.LogCaptureFixture) -> None:
    """Index rows are left for the sweep, which finds them."""
    store = Store()
    store.sign_in(sid="i")
    assert len(store.meddled(before=[raising(DOWN)], index=True).sessions.end_account("a.t", now=START)) == 1
    assert "left for the sweep" in caplog.text
    assert store.keys("sid:")
    store.sweep.run(START + 3 * HOUR)
    assert store.empty()


def test_one_session_ends_and_the_others_stay() -> None:
    """Its row, its index rows; the account is not marked as ended."""
    store = Store()
    row, _ = store.sign_in(sid="i")
    other, claim = store.sign_in(sid="j", now=START + SECOND)
    ended = store.sessions.end_session("a.t", row.id, now=START)
    assert ended is not None
    assert ended.key == row.id
    assert sessions_of(store) == [other.id]
    assert store.sessions.read(claim) is not None
    assert store.index.find(sid_key("issuer", "i")) == []
    assert store.sessions.ended_at(store.sessions.listing("a.t")) is None
    assert store.sessions.end_session("a.t", row.id, now=START) is None  # again: there is none, and no tombstone
    assert sessions_of(store) == [other.id]
    store.sessions.end_session("a.t", other.id, now=START)
    assert store.rows()[0] == ["!"]
    store.sweep.run(START + HOUR)  # something leads to the account row
    assert store.empty()


def test_a_session_that_an_index_row_led_to_gets_a_tombstone() -> None:
    """It is about to be inserted, perhaps; the tombstone has its hour before it is there, and stays when found again."""
    store = Store()
    assert store.sessions.end_session("a.t", "T" * 22, now=START, pointed=True) is None
    tombstone = row_of(store, "T" * 22)
    assert store.sessions.end_session("a.t", "T" * 22, now=START + MINUTE, pointed=True) is None
    assert row_of(store, "T" * 22) == tombstone
    (due,) = store.index.due(START + KEEP_ENDED + HOUR)
    assert (due.kind, due.account, due.session_id) == ("tombstone", "a.t", "T" * 22)
    late = Store()
    late.sessions.end_session("a.t", "T" * 22, now=START + 30 * MINUTE, pointed=True)
    late.sweep.run(START + 59 * MINUTE)  # a sign-in that began before may still come: it is filed under the next hour
    assert late.sessions.listing("a.t").tombstones
    late.sweep.run(START + 106 * MINUTE)
    assert late.empty()
    with pytest.raises(StorageUnavailable):
        store.meddled(before=[raising(DOWN)], index=True).sessions.end_session("a.t", "U" * 22, now=START, pointed=True)
    assert store.tables[0].read("a.t", "U" * 22) is None


def test_a_sign_in_that_was_quicker_than_the_tombstone_ends() -> None:
    """Its row is there by then, and goes."""
    store = Store()
    source, _ = store.sign_in(now=START - HOUR)
    values = row_of(store, source.id).values
    store.tables[0].write("a.t", Delete(key=source.id))
    quick = store.meddled(before=[lambda: store.tables[0].write("a.t", Insert(key=source.id, values=values))])
    ended = quick.sessions.end_session("a.t", source.id, now=START, pointed=True)
    assert ended is not None
    assert sessions_of(store) == []


def test_a_session_that_vanishes_under_the_sign_out_is_ended() -> None:
    """By whomever: its index rows go with both."""
    store = Store()
    row, _ = store.sign_in(sid="i")
    ended = store.meddled(before=[delete(store, row.id)]).sessions.end_session("a.t", row.id, now=START)
    assert ended is not None
    assert store.keys("sid:") == []


def test_what_is_not_ours_or_spared_is_not_ended() -> None:
    """Another app's row under that id, or a session that is younger than the logout."""
    store = Store()
    row, claim = store.sign_in()
    other = Store(tables=store.tables, app="app2")
    for pointed in (False, True):
        assert other.sessions.end_session("a.t", row.id, now=START, pointed=pointed) is None
        assert (
            store.sessions.end_session("a.t", row.id, now=START, pointed=pointed, spare=lambda found: found.key == row.id)
            is None
        )
    assert store.sessions.read(claim) is not None
    assert store.sessions.end_session("a.t", row.id, now=START, spare=lambda _: False) is not None


def test_a_session_sign_out_that_loses_every_race_is_told() -> None:
    """503: a row that comes and goes twelve times."""
    store = Store()
    row, _ = store.sign_in()
    values = row_of(store, row.id).values
    delete(store, row.id)()

    def come_and_go() -> None:
        store.tables[0].write("a.t", Insert(key=row.id, values=values))
        store.tables[0].write("a.t", Delete(key=row.id))
        raise RowExists(row.id)

    with pytest.raises(StorageUnavailable, match="conflicts"):
        store.meddled(before=[come_and_go] * 12).sessions.end_session("a.t", row.id, now=START, pointed=True)
    assert store.meddled(before=[come_and_go] * 11).sessions.end_session("a.t", row.id, now=START, pointed=True) is None


def test_a_session_that_was_read_ends_whatever_became_of_it() -> None:
    """Changed since, or gone: nothing of it is left."""
    for act in ("change", "delete", ""):
        store = Store()
        row, claim = store.sign_in(sid="i")
        known = store.sessions.proven(claim)
        assert known is not None
        {"change": change(store, row), "delete": delete(store, row.id), "": nothing}[act]()
        store.sessions.end_known(known, now=START)
        assert store.sessions.read(claim) is None
        assert [partition[:4] for partition in store.rows()[1]] == ["exp:"]  # of the account row


def test_a_dead_refresh_token_ends_its_session_unless_there_are_newer_tokens() -> None:
    """Under the ETag; gone already is ended, too."""
    store = Store()
    row, claim = leased(store, sid="i")
    change(store, row)()
    assert not store.sessions.end_if_unchanged(row, now=START)
    found = store.sessions.read(claim)
    assert found is not None
    assert store.sessions.end_if_unchanged(found, now=START)
    assert sessions_of(store) == store.keys("sid:") == []
    assert store.sessions.end_if_unchanged(found, now=START)


def test_a_dead_refresh_tokens_deletion_whose_answer_was_lost_leaves_no_index_rows() -> None:
    """Repeated, it finds no row: perhaps it was us, so what pointed there goes as well."""
    store = Store()
    row, _ = leased(store, sid="i")
    assert store.meddled(after=[raising(RowMissing(row.id))]).sessions.end_if_unchanged(row, now=START)
    assert sessions_of(store) == store.keys("sid:") == []


# -- sweeping


def due(row: SessionRow, hour: str, *index_keys: str) -> Due:
    """The ``exp:`` row of a session."""
    return Due(
        kind="session", hour=hour, key=row.id, account=row.account, session_id=row.id, partition="", index_keys=index_keys
    )


def test_the_sweep_ends_what_expired_and_files_what_slid() -> None:
    """What changed under it is left to the next one; another app's or none: gone."""
    store = Store()
    row, claim = store.sign_in(sid="i")
    hour = row.index_keys[0]

    def sweep(store: Store, now: timedelta, filed: str = hour) -> str:
        return store.sessions.sweep_session(due(row, filed), now=START + now)

    assert sweep(store, 59 * MINUTE) == "stays"  # it is filed where it belongs
    assert sweep(store, 59 * MINUTE, "exp:2026112307:0") == "filed"
    assert sweep(store.meddled(before=[change(store, row, IdleExpiresAt=START + HOUR)]), HOUR) == "stays"
    slid = store.sessions.slide(row_as_read(store, row), now=START + 50 * MINUTE)
    assert sweep(store.meddled(before=[change(store, row, IdleExpiresAt=slid.idle_expires_at)]), HOUR) == "stays"
    assert sweep(store, HOUR) == "filed"
    found = store.sessions.read(claim)
    assert found is not None
    assert found.index_keys[0] == exp_key(slid.idle_expires_at, row.id)
    assert set(found.index_keys[1:]) == set(row.index_keys[1:])
    assert keys_of(store.tables[1].list(found.index_keys[0])[0]) == found.index_keys
    assert sweep(Store(tables=store.tables, app="app2"), 9 * HOUR) == "gone"
    assert sweep(store, 110 * MINUTE) == "gone"
    assert sessions_of(store) == []
    assert store.keys("sid:") == store.keys("sub:") == []
    assert hour in store.keys("exp:")  # the caller deletes it last
    assert sweep(store, 110 * MINUTE) == "gone"


def test_a_session_goes_at_its_absolute_end_too() -> None:
    """Whatever its idle limit says, and with the bar of ``SESSIONS_NOT_BEFORE``; without times it stays."""
    store = Store()
    row, _ = store.sign_in()
    change(store, row, IdleExpiresAt=START + 99 * HOUR)()
    assert store.sessions.sweep_session(due(row, "x"), now=START + 12 * HOUR - SECOND) == "filed"
    exact = Store(tables=store.tables, not_before=START)
    assert exact.sessions.sweep_session(due(row, "x"), now=START) == "filed"
    assert store.sessions.sweep_session(due(row, "x"), now=START + 12 * HOUR) == "gone"


def test_only_tombstones_are_swept_as_such() -> None:
    """A session under that key, or nothing, is left alone; a change under the sweep does no harm."""
    store = Store()
    row, _ = store.sign_in()
    store.sessions.sweep_tombstone("a.t", row.id)
    store.sessions.sweep_tombstone("a.t", "none")
    assert sessions_of(store) == [row.id]
    store.sessions.end_session("a.t", "T" * 22, now=START, pointed=True)
    touched = store.meddled(before=[lambda: store.tables[0].write("a.t", Upsert(key="T" * 22, values={"Tombstone": True}))])
    touched.sessions.sweep_tombstone("a.t", "T" * 22)
    assert "T" * 22 in sessions_of(store)
    store.sessions.sweep_tombstone("a.t", "T" * 22)
    assert sessions_of(store) == [row.id]


def test_the_account_row_stays_while_a_sign_in_may_look_for_its_mark() -> None:
    """Its answer was lost, it has been signed out since: without the mark it would insert its session a second time."""
    store = Store(idle=MINUTE)
    first, _ = store.sign_in(now=START - HOUR)
    row: list[str] = []

    def others() -> None:
        (there,) = (key for key in sessions_of(store) if key != first.id)
        row.append(there)
        store.sessions.end_session("a.t", there, now=START)
        store.sweep.run(START + HOUR)
        store.sweep.run(START)
        raise RowExists("the repetition met its own work")

    with pytest.raises(SignedOutMeanwhile):
        store.meddled(after=[others]).sign_in(now=START + 50 * MINUTE)
    assert len(row) == 1
    assert sessions_of(store) == []


def test_times_of_the_account_row_never_go_back() -> None:
    """Of two instances whose clocks differ the later one counts."""
    store = Store()
    store.sign_in(now=START + 2 * MINUTE, flow_started_at=START)
    store.sessions.end_account("a.t", now=START)
    values = row_of(store, "!").values
    assert (values["MarkedAt"], values["EndedAt"]) == (START + 2 * MINUTE, START)


def test_the_account_row_stays_while_it_may_be_needed() -> None:
    """While a session or a tombstone is there, or a sign-in older than the sign-out may come; a change under the sweep saves it."""
    store = Store()
    store.sessions.sweep_account("a.t", now=START)  # nothing there: nothing happens
    assert store.empty()
    row, _ = store.sign_in()
    store.sessions.sweep_account("a.t", now=START + HOUR)
    assert "!" in store.rows()[0]
    store.sessions.end_account("a.t", now=START)
    for partition in store.keys("exp:"):
        for found in store.tables[1].list(partition):
            store.tables[1].write(partition, Delete(key=found.key))
    store.sessions.sweep_account("a.t", now=START + KEEP_ENDED - SECOND)
    assert store.rows()[0] == ["!"]
    (due,) = store.index.due(START + 9 * HOUR)
    assert (due.kind, due.account) == ("account", "a.t")  # filed again
    assert due.hour == f"exp:{START + 2 * KEEP_ENDED - SECOND:%Y%m%d%H}:{due.hour[-1]}"
    store.meddled(before=[touching(store)]).sessions.sweep_account("a.t", now=START + KEEP_ENDED)
    assert store.rows()[0] == ["!"]
    store.sessions.sweep_account("a.t", now=START + KEEP_ENDED)
    assert store.rows()[0] == []
    del row


def test_another_apps_sign_out_keeps_the_account_row() -> None:
    """Apps share the row: it goes when the last of their marks is old enough."""
    store = Store()
    other = Store(tables=store.tables, app="app2")
    store.sessions.end_account("a.t", now=START)
    other.sessions.end_account("a.t", now=START + 10 * MINUTE)
    store.sessions.sweep_account("a.t", now=START + 20 * MINUTE)
    assert store.rows()[0] == ["!"]
    store.sessions.sweep_account("a.t", now=START + 25 * MINUTE)
    assert store.rows()[0] == []


def test_ids_and_marks_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 bits for a session's id; nothing is derived from what others know."""
    asked: list[int] = []
    real = secrets.token_urlsafe

    def counted(size: int) -> str:
        asked.append(size)
        return real(size)

    store = Store()
    new = new_session()
    monkeypatch.setattr("shared.store.sessions.secrets.token_urlsafe", counted)
    row, _ = store.sessions.create(new, now=START)
    assert asked[0] == 16
    assert len(row.id) == 22
    assert json.loads(str(row_of(store, row.id).values["IndexKeys"])) == list(row.index_keys)
