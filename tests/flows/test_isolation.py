"""One user's tokens are never readable through another's cookie, whatever rows exist."""

import secrets
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.store.rows import Claim, secret_hash
from shared.store.table import Upsert
from shared.web.cookies import SessionCookie
from tests.support.small_store import START, Store

USERS = ["a.t", "A.t", "b.t", "~" + "0" * 64]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_the_whole_of_ones_own_cookie_opens_ones_own_session(data: st.DataObject) -> None:
    """Sessions of several users; a cookie put together from any of their accounts, ids and secrets opens at most its own."""
    store = Store()
    owners: dict[tuple[str, str, str], str] = {}
    parts: list[tuple[str, str, str]] = []
    for user in data.draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=5)):
        row, claim = store.sign_in(user, cache=user.encode())
        whole = (user, row.id, claim.secret_hash)
        owners[whole] = user
        parts.append(whole)
    for ended in data.draw(st.sets(st.sampled_from(parts), max_size=2)):
        store.sessions.end_session(ended[0], ended[1], now=START + timedelta(seconds=1))
        owners.pop(ended, None)
    account, session_id, hashed = (data.draw(st.sampled_from([part[n] for part in parts])) for n in range(3))
    found = store.sessions.read(Claim(account=account, session_id=session_id, secret_hash=hashed))
    owner = owners.get((account, session_id, hashed))
    assert (found.cache.decode() if found is not None else None) == owner


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_that_were_moved_or_mixed_open_for_nobody(data: st.DataObject) -> None:
    """Sealed values of one session under another's keys, by whoever can write the table: no session, no tokens."""
    store = Store()
    (one, claim_one), (two, claim_two) = store.sign_in("a.t", cache=b"a"), store.sign_in("b.t", cache=b"b")
    source = store.tables[0].read("a.t", one.id)
    target = store.tables[0].read("b.t", two.id)
    assert source is not None
    assert target is not None
    names = data.draw(st.sets(st.sampled_from(["Identity", "Cache0", "SecretHash", "KeyId", "CacheParts"]), min_size=1))
    store.tables[0].write("b.t", Upsert(key=two.id, values={**target.values, **{name: source.values[name] for name in names}}))
    for claim in (claim_one, claim_two):
        found = store.sessions.read(Claim(account="b.t", session_id=two.id, secret_hash=claim.secret_hash))
        assert found is None or (found.cache == b"b" and claim is claim_two)


def test_a_cookie_is_made_of_its_parts() -> None:
    """What the cookie claims is what is read: the account as it is spelled, the id, the hash of the secret."""
    secret = secrets.token_urlsafe(32)
    cookie = SessionCookie(account="AbC.t", session_id=secrets.token_urlsafe(16), secret=secret)
    decoded = SessionCookie.decode(cookie.encode())
    assert decoded is not None
    assert secret_hash(decoded.secret) == secret_hash(secret)
    assert decoded.account == "AbC.t"
