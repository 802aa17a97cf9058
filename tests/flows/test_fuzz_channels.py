"""Front-channel queries and administrators' wishes: whom they name is signed out, whatever else they hold nobody.

``FUZZ=n`` multiplies the examples.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import forged
from tests.support.forged import TEXT
from tests.support.fuzzed import COOKIE, LONG_SID, Device, Fuzzed, drawn, opened
from tests.support.fuzzed_provider import BEN, MANY, ONE, VIC


@pytest.fixture(scope="module", params=[ONE, MANY], ids=str)
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """The app with its people, once for each kind of provider."""
    with opened(request.param) as world:
        yield world


# -- front-channel

SIDS = ["vic-1", "vic-2", "vic-state", LONG_SID, "ben-1", "ben-state"]


ISSUERS = ["vic's", "ben's", "the configured one", "https://evil.example", ""]
KNOWN = (
    st.sampled_from(SIDS)
    | st.sampled_from(SIDS)
    | st.sampled_from(["VIC-1", "vic-1 ", "x" * 8_000, "\0", "é", "", "sid"])
    | TEXT
)
ISS = st.sampled_from(ISSUERS) | st.sampled_from(ISSUERS) | TEXT
QUERIES = st.fixed_dictionaries({
    "sid": st.lists(KNOWN, min_size=1, max_size=1) | st.lists(KNOWN, max_size=2),
    "iss": st.lists(ISS, max_size=1) | st.lists(ISS, max_size=2),
    "more": st.just([]) | st.lists(st.tuples(st.sampled_from(["sid", "SID", "sid[]", "sid[0]", "x", ""]), KNOWN), max_size=2),
    "order": st.randoms(use_true_random=False),
    "spelling": st.integers(0, 4),
    "behind": st.sampled_from(["", "", "&", "#sid=x"]),
})  # fmt: skip


def query_of(drawn: "Mapping[str, Any] | str", world: Fuzzed) -> str:
    """``sid`` and ``iss`` in the drawn number and spelling, or any text."""
    if isinstance(drawn, str):
        return quote(drawn, safe="&=%+;", errors="replace")
    issuers = [world.provider.issuer_of(VIC), world.provider.issuer_of(BEN), world.kind.issuer]
    named = dict(zip(ISSUERS, issuers, strict=False))
    pairs = [*(("sid", sid) for sid in drawn["sid"]), *(("iss", named.get(iss, iss)) for iss in drawn["iss"]), *drawn["more"]]
    drawn["order"].shuffle(pairs)
    text = in_percents(pairs) if drawn["spelling"] == 0 else urlencode(pairs, errors="replace")
    return (text.replace("+", "%20") if drawn["spelling"] == 1 else text) + drawn["behind"]


def in_percents(pairs: list[tuple[str, str]]) -> str:
    """Every byte percent-encoded, names too."""
    return "&".join(
        "=".join("".join(f"%{byte:02x}" for byte in text.encode("utf-8", "replace")) for text in pair) for pair in pairs
    )


def front_names(world: Fuzzed, query: str) -> list[Device]:
    """Whom a front-channel query names (Front-Channel Logout 1.0, section 2): one ``sid``, and ``iss`` absent or right."""
    pairs = parse_qsl(query.partition("#")[0], keep_blank_values=True, errors="replace")
    sids, issuers = ([value for found, value in pairs if found == name] for name in ("sid", "iss"))
    if len(sids) != 1 or len(issuers) > 1 or not sids[0]:
        return []
    named = [device for device in world.devices if sids[0] in (device.sid, device.session_state)]
    return [device for device in named if not issuers or device.issuer == issuers[0]]


@drawn(10)
@given(query=QUERIES | TEXT, who=st.sampled_from([None, 0, -1]))
def test_a_front_channel_query_ends_whom_it_names(fuzzed: Fuzzed, query: Any, who: int | None) -> None:
    """The same bytes whatever it names; one read of the index where that is nobody; the browser's cookie goes with its own."""
    fuzzed.restore()
    query, own = query_of(query, fuzzed), fuzzed.devices[who] if who is not None else None
    named = front_names(fuzzed, query)
    headers = {"cookie": f"{COOKIE}={own.cookie}"} if own else {}
    answer = fuzzed.send("GET", f"/auth/frontchannel-logout?{query}", headers=headers)
    calls = [*fuzzed.tables["index"].calls], [*fuzzed.tables["sessions"].calls]
    nothing = fuzzed.send("GET", "/auth/frontchannel-logout")
    assert (answer.status_code, answer.get_body()) == (200, nothing.get_body())
    assert sorted(line for line in answer.headers.items() if line[0] != "Set-Cookie") == sorted(nothing.headers.items())
    cleared = [header.partition(";")[0] for header in answer.headers.getlist("Set-Cookie")]
    assert cleared == ([f"{COOKIE}="] if own in named else [])
    if not named:
        fuzzed.unchanged()
        assert calls in (([], []), (["list"], []))
    accounts = {device.account for device in named}
    ended = [device for device in fuzzed.devices if device in named or (fuzzed.kind is ONE and device.account in accounts)]
    fuzzed.ended(ended, touched=frozenset(accounts), kinds=frozenset({"account"}))
    assert [fuzzed.is_signed_in(device) for device in fuzzed.devices] == [device not in ended for device in fuzzed.devices]


def test_ten_thousand_guesses_cost_one_index_read_each(fuzzed: Fuzzed) -> None:
    """And end nothing, write nothing, and learn nothing: each gets the bytes that a query without ``sid`` gets."""
    fuzzed.restore()
    nothing = fuzzed.send("GET", "/auth/frontchannel-logout").get_body()
    for _ in range(10_000):
        answer = fuzzed.send("GET", f"/auth/frontchannel-logout?sid={secrets.token_hex(8)}")
        assert answer.get_body() == nothing
    assert fuzzed.tables["index"].calls == ["list"] * 10_000
    assert fuzzed.tables["sessions"].calls == []
    fuzzed.unchanged()
    fuzzed.send("GET", "/auth/frontchannel-logout?sid=vic-1")
    assert not fuzzed.is_signed_in(fuzzed.vic)


# -- the administrator


def accounts_of(world: Fuzzed) -> list[tuple[dict[str, str], str]]:
    """Good wishes, and whose account each names: V, B or nobody's."""
    vic, ben = world.vic.account, world.ben.account
    if world.kind is ONE:
        return [({"account": vic}, "V"), ({"sub": "ben"}, "B"), ({"oid": "vic", "tid": "t"}, ""), ({"sub": "nobody"}, "")]
    oid = {"oid": "oid-ben", "tid": BEN.tenant.upper()}
    return [({"account": vic}, "V"), ({"account": ben}, "B"), (oid, "B"), ({"account": vic.upper()}, ""), ({"sub": "vic"}, "")]


SPOILT: list[Any] = [None, [], {}, 7, "vic", {"account": None}, {"account": ""}, {"account": "a\n"}, {"account": "x" * 1_025}, {"account": ["vic"]}, {"account": "vic", "sub": "vic"}, {"oid": "x"}, {"Account": "vic"}, [[]], [{}], {"account": {"account": "vic"}}]  # fmt: skip
BROKEN = [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b"NaN", b"[" * 50_000, b'{"account":"vic","account":"ben"}', b'{"account":"\\ud800"}', b" " * 70_000, b'{"account":"vic"} x', b"{'account':'vic'}", b'{"account":1e999}']  # fmt: skip
ANY_JSON = forged.JSON.map(lambda value: json.dumps(value).encode())


@drawn(3)
@given(
    picks=st.lists(st.integers(0, 3), min_size=1, max_size=3) | st.lists(st.integers(0, 3), min_size=1, max_size=22),
    at=st.integers(0, 22),
    entry=st.just(...) | st.just(...) | st.sampled_from(SPOILT),
    whole=st.none() | st.none() | st.sampled_from(BROKEN) | st.binary(max_size=60) | ANY_JSON,
    alone=st.booleans(),
    accept=st.sampled_from(["*/*", "text/html"]),
)
def test_an_administrators_wish_is_done_or_refused(
    fuzzed: Fuzzed, picks: list[int], at: int, entry: Any, whole: bytes | None, alone: bool, accept: str
) -> None:
    """200 ends whom it names and nobody else; what is malformed in any part is 400 or 413 as JSON, and changes nothing."""
    fuzzed.restore()
    wishes = [accounts_of(fuzzed)[pick] for pick in picks]
    entries: list[Any] = [dict(wish) for wish, _ in wishes]
    if entry is not ...:
        entries.insert(at, entry)
    body = whole if whole is not None else json.dumps(entries[0] if alone and len(entries) == 1 else entries).encode()
    answer = fuzzed.send("POST", "/auth/admin/sign-out", headers={"accept": accept}, body=body)
    if whole is not None or entry is not ... or len(entries) > 20:
        assert answer.status_code == (413 if len(body) > 65_536 else 400)
        assert answer.headers["Content-Type"] == "application/problem+json"
        fuzzed.clean(answer)
        return
    named = {account for _, account in wishes}
    ended = [device for device in fuzzed.devices if ("V" if device.person is VIC else "B") in named]
    assert answer.status_code == 200
    assert json.loads(answer.get_body())["ended"] == len(ended)
    assert [fuzzed.is_signed_in(device) for device in fuzzed.devices] == [device not in ended for device in fuzzed.devices]
    touched = {place[1] for place in fuzzed.rows() if place[2] == "!"}
    others = {device.account for device in fuzzed.devices if device not in ended}
    fuzzed.ended(ended, touched=frozenset(touched - others), kinds=frozenset({"account"}))
