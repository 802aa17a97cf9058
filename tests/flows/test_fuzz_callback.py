"""The way back from the provider: somebody is signed in if form, cookie, time, token answer and ID token are all right.

Each example starts a real sign-in, spoils up to two of these, and says by rules of its own whether a session may come.  The
tokens are ``tests/support/forged.py`` and ``judged.py``.  ``FUZZ=n`` multiplies the examples.
"""

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import assume, given, note
from hypothesis import strategies as st

from tests.provider.fake_provider import part
from tests.support import forged
from tests.support.forged import MARK
from tests.support.fuzzed import COOKIE, FORM, Device, Flow, Fuzzed, drawn, opened, session_cookie
from tests.support.fuzzed_provider import BEN, MANY, ONE, VIC, Person
from tests.support.judged import KeyUnknown, Refused

RETURNS = ["/", "/api/profile", "/orders?id=1&next=%2Fa", "/a#top"]
SUBS = ["zoe", "a/b\\c#d?e", "é€😀", "x" * 500, "-lead", ".", "~" + "0" * 64, "!", "Vic", "vic.x", "\r\n\0", MARK]
TEXTS = ["", "x", "\0", "é", "a" * 600, MARK, "vic-1", "ben-state", "' or 1"]
NAMES = ["state", "code", "iss", "error", "session_state", "client_info", "error_description", "error_uri", "error_codes"]
FLAWS = ["form", "form", "cookie", "clock", "answer", "answer", "id_token", "id_token", "id_token", "meanwhile"]


@pytest.fixture(scope="module", params=[ONE, MANY], ids=str)
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """The app with its people, once for each kind of provider."""
    with opened(request.param) as world:
        yield world


@dataclass(frozen=True, kw_only=True)
class Comes:
    """What comes back: the form's fields, the cookies, and what the token endpoint says."""

    fields: list[tuple[str, str]]
    cookies: list[tuple[str, str]]
    status: int
    answer: bytes
    later: int
    meanwhile: bool


@st.composite
def coming(draw: st.DrawFn, world: Fuzzed, flow: Flow, other: Flow, person: Person) -> Comes:
    """Everything right, but for up to two of the things that can be wrong."""
    flaws = draw(st.sets(st.sampled_from(FLAWS), max_size=2))
    good = [*flow.good(person).items(), ("session_state", draw(st.sampled_from(["new-state", "vic-state", "ben-state"])))]
    claims = world.id_claims(person, flow.nonce, sid=draw(st.sampled_from([None, "new", "vic-1", "vic-2", "ben-1"])))
    flawed = draw(forged.tokens(world, claims, {})) if "id_token" in flaws else claims
    status, answer = draw(answers(world.tokens(person, flawed)) if "answer" in flaws else st.just((200, None)))
    pair = (flow.name, flow.sealed)
    return Comes(
        fields=draw(forms(good, other)) if "form" in flaws else good,
        cookies=draw(st.lists(st.sampled_from(jars(flow, other)), max_size=3)) if "cookie" in flaws else [pair],
        status=status,
        answer=answer if answer is not None else json.dumps(world.tokens(person, flawed)).encode(),
        later=draw(st.sampled_from([-302, -301, -300, -1, 1, 599, 600, 601, 10**6])) if "clock" in flaws else 0,
        meanwhile="meanwhile" in flaws,
    )


@st.composite
def forms(draw: st.DrawFn, good: Sequence[tuple[str, str]], other: Flow) -> list[tuple[str, str]]:
    """The provider's fields: dropped, replaced, repeated, with an error, in another order."""
    pairs = list(good)
    issuers = [other.world.provider.issuer_of(person) for person in (VIC, BEN)]
    near = [*(value for _, value in good), other.state, *issuers]
    values = st.sampled_from(near) | st.sampled_from(TEXTS) | st.text(max_size=10)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*NAMES[:5], *NAMES]))
        if name == "iss" and draw(st.booleans()):
            pairs = [*[pair for pair in pairs if pair[0] != name], (name, draw(st.sampled_from(issuers)))]
            continue
        if draw(st.booleans()):
            pairs = [pair for pair in pairs if pair[0] != name]
        if draw(st.booleans()):
            pairs.append((draw(st.sampled_from([name, name, name, name.upper(), f"{name}[]", ""])), draw(values)))
    return draw(st.permutations(pairs))


def jars(flow: Flow, other: Flow) -> list[tuple[str, str]]:
    """The flow's own cookie, and those that are not."""
    name, value = flow.name, flow.sealed
    key_id, _, sealed = value.partition(".")
    changes = [
        other.sealed,
        value[:-1],
        value + "A",
        value + "=",
        value.swapcase(),
        f"x.{sealed}",
        sealed,
        f'"{value}"',
        "",
        "x",
        "é",
        MARK,
    ]
    flipped = value[:40] + ("A" if value[40] != "A" else "B") + value[41:]
    named = [(other.name, value), (name.lower(), value), (f"{name}x", value), (other.name, other.sealed), ("x", value)]
    return [(name, value), (name, value), (name, value), *((name, each) for each in [*changes, flipped, f"{key_id}.{key_id}"]), *named]  # fmt: skip


INFOS = [None, "", "x", 7, part([]), part({"uid": "u"}), part({"uid": 1, "utid": "t"}), part({"uid": "\ud800", "utid": "t"}), part({"uid": "u", "utid": "t"}), part({"uid": "a/b", "utid": MARK})]  # fmt: skip
MEMBERS: dict[str, list[Any]] = {
    "id_token": [None, "", 7, [], "x", "a.b.c", MARK],
    "refresh_token": [None, "", 7, {}, "\ud800", "rt"],
    "access_token": [None, "", 7, [], "\ud800"],
    "token_type": [None, "bearer", "BEARER", "mac", "", 7],
    "expires_in": [None, "3600", 3600.5, 0, -1, "x", True, [], 1e300, float("nan"), float("inf"), "9" * 12],
    "scope": [None, "", 7, "a b", MARK],
    "client_info": INFOS,
    "error": ["invalid_grant", "server_error", "temporarily_unavailable", MARK, 7, None],
}
WHOLE: list[tuple[int, bytes]] = [
    (400, b'{"error":"invalid_grant","error_description":"<script>fuzzmark"}'), (400, b'{"error":"invalid_client"}'),
    (401, b'{"error":"interaction_required","claims":"{}"}'), (400, b"{}"), (429, b""), (500, b""), (503, b"<html>fuzzmark"),
    (200, b"<html>fuzzmark</html>"), (200, b""), (200, b"[]"), (200, b"null"), (200, b'"x"'), (200, b"{}"), (200, b"[" * 100_000),
    (200, b" " * (1024 * 1024 + 1)), (200, b"\xff\xfe"), (302, b""), (204, b""),
]  # fmt: skip


def answers(good: Mapping[str, Any]) -> st.SearchStrategy[tuple[int, bytes | None]]:
    """The token endpoint's answer: another one altogether, or with some members changed."""
    change = st.sampled_from(sorted(MEMBERS)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from([..., *MEMBERS[name]]))
    )
    changed = st.lists(change, min_size=1, max_size=2).map(
        lambda changes: {name: value for name, value in {**good, **dict(changes)}.items() if value is not ...}
    )
    status = st.sampled_from([200, 200, 200, 200, 400, 500])
    return st.sampled_from(WHOLE) | st.tuples(status, changed.map(lambda answer: json.dumps(answer).encode()))


def form_is_good(world: Fuzzed, flow: Flow, fields: Sequence[tuple[str, str]]) -> bool:
    """RFC 6749, section 4.1.2 and RFC 9207, section 2.4: this flow's state, a code, no error, the provider's ``iss``, none twice."""
    names = [name for name, _ in fields]
    said = dict(fields)
    if (
        any(names.count(name) > 1 for name in NAMES)
        or said.get("state") != flow.state
        or "error" in said
        or not said.get("code")
    ):
        return False
    return world.judge().tenant(said["iss"]) is not None if "iss" in said else not world.kind.iss_parameter


def token_answer(comes: Comes) -> dict[str, Any] | None:
    """RFC 6749, section 5.1: the members of a good answer that brings an ID token; None for anything else."""
    try:
        said = json.loads(comes.answer) if comes.status == 200 and len(comes.answer) <= 1024 * 1024 else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "error" in said:
        return None
    texts = [said.get(name) for name in ("access_token", "id_token", "refresh_token", "scope", "client_info")]
    good = all(value is None or (isinstance(value, str) and "\ud800" not in value) for value in texts)
    good = good and bool(said.get("access_token")) and bool(said.get("id_token"))
    kind, expires = said.get("token_type", "Bearer"), said.get("expires_in", 600)
    expires = int(expires) if isinstance(expires, str) and re.fullmatch("[0-9]{1,9}", expires) else expires
    good = good and isinstance(kind, str) and kind.lower() == "bearer"
    good = good and type(expires) in (int, float) and 0 <= expires < math.inf
    return said if good and (not said.get("client_info") or home_account(said) is not None) else None


def home_account(said: Mapping[str, Any]) -> str | None:
    """What ``client_info`` names the account, None where it names none."""
    try:
        info = json.loads(base64.urlsafe_b64decode(said["client_info"] + "=="))
        return f"{info['uid']}.{info['utid']}".encode().decode() if isinstance(info["uid"] + info["utid"], str) else None
    except (ValueError, TypeError, KeyError):
        return None


@drawn(6)
@given(data=st.data())
def test_somebody_is_signed_in_if_everything_is_right_and_only_then(fuzzed: Fuzzed, data: st.DataObject) -> None:
    """303 with a cookie that works for the drawn user; or no cookie, no row, nothing asked that was not due, no markup."""
    fuzzed.restore()
    other = fuzzed.begin("/other")
    had = data.draw(st.sampled_from([None, None, fuzzed.vic, fuzzed.ben]))
    new = Person(
        sub=data.draw(st.sampled_from(SUBS)), tenant=VIC.tenant, uid=data.draw(st.sampled_from(["new", "a/b", "!"])), name=MARK
    )
    person = data.draw(st.sampled_from([VIC, BEN, new, new]))
    return_to = data.draw(st.sampled_from(RETURNS))
    flow = fuzzed.begin(return_to, cookie=f"{COOKIE}={had.cookie}" if had else "")
    comes = data.draw(coming(fuzzed, flow, other, person))
    fuzzed.answers(comes.status, comes.answer)
    account = ""
    if comes.meanwhile and person is not new:
        account = next(device.account for device in fuzzed.devices if device.person is person)
        wish = json.dumps({"account": account}).encode()
        assert fuzzed.send("POST", "/auth/admin/sign-out", body=wish).status_code == 200
    before = fuzzed.rows()
    fuzzed.now += timedelta(seconds=comes.later)
    # The rules, one after the other.
    cookies = [value for name, value in comes.cookies if name == flow.name]
    due = form_is_good(fuzzed, flow, comes.fields) and cookies == [flow.sealed] and -300 <= comes.later <= 600
    said = token_answer(comes)
    claims, trouble = None, () if said or not due else (502, 503)
    if due and said is not None:
        try:
            claims = fuzzed.judge().id_token(said["id_token"], flow.nonce)
        except Refused as reason:
            trouble = (503,) if isinstance(reason, KeyUnknown) else ()
    iss = dict(comes.fields).get("iss")
    claims = claims if claims is not None and iss in (None, claims["iss"]) else None
    if account and claims is not None and said is not None:  # the answer may name another account, which nobody ended
        assume((home_account(said) if said.get("client_info") else claims["sub"]) == account)
    note(f"due {due}, answer {said is not None}, claims {claims}")
    asked = fuzzed.provider.asked[fuzzed.provider.document["token_endpoint"]]
    accept = data.draw(st.sampled_from(["*/*", "text/html"]))
    headers = {"content-type": FORM, "accept": accept, "cookie": "; ".join(f"{name}={value}" for name, value in comes.cookies)}
    fuzzed.secrets[:] = [flow.sealed, flow.state, *([said["id_token"]] if said and len(said["id_token"]) > 20 else [])]
    answer = fuzzed.send("POST", "/auth/callback", headers=headers, body=urlencode(comes.fields).encode(), trouble=trouble)
    assert fuzzed.provider.asked[fuzzed.provider.document["token_endpoint"]] == asked + due
    assert b"fuzzmark" not in answer.get_body()
    if claims is None or (comes.meanwhile and person is not new):
        assert answer.status_code in (400, 409, *trouble)
        assert session_cookie(answer) is None
        assert fuzzed.rows() == before
        assert all("=; Max-Age=0" in header for header in answer.headers.getlist("Set-Cookie"))
        return
    assert said is not None
    assert answer.status_code == 303, fuzzed.overheard.lines
    assert answer.headers["Location"] == return_to
    cookie = session_cookie(answer)
    assert cookie is not None
    me = json.loads(fuzzed.me(f"{COOKIE}={cookie}").get_body())
    assert me["sub"] == claims["sub"]
    assert b"<script>" not in fuzzed.send("GET", "/", headers={"cookie": f"{COOKIE}={cookie}"}).get_body()
    account = home_account(said) if said.get("client_info") else claims["sub"]
    assert me["account"] == (account if re.fullmatch(r"\w[\w.-]{0,199}", account, re.ASCII) else f"~{me['account'][1:]}")
    replaced = [device for device in fuzzed.devices if is_replaced(device, me["account"], claims, dict(comes.fields), had)]
    touched = frozenset({me["account"], *(device.account for device in replaced)})
    fuzzed.ended(replaced, touched=touched, kinds=frozenset({"account"}), came=me["session"]["id"])


def is_replaced(
    device: Device, account: str, claims: Mapping[str, Any], fields: Mapping[str, str], had: Device | None
) -> bool:
    """A browser has one session: the one it had, and that of the same account which the provider calls the same, are over."""
    if device is had:
        return True
    state = fields.get("session_state")
    names = {claims.get("sid"), state if state and len(state) <= 512 else None} - {None}
    return device.account == account and not names.isdisjoint({device.sid, device.session_state})


@pytest.mark.parametrize("person", [VIC, BEN, Person(sub="é/", tenant=BEN.tenant, uid="x")], ids=lambda person: person.uid)
def test_a_good_answer_signs_in_whom_it_names(fuzzed: Fuzzed, person: Person) -> None:
    """By hand, so that the drawn test has something true to agree with."""
    fuzzed.restore()
    device = fuzzed.sign_in(person, sid="new")
    assert fuzzed.is_signed_in(device)
    assert json.loads(fuzzed.me(f"{COOKIE}={device.cookie}").get_body())["sub"] == person.sub
    known = [other.account for other in fuzzed.devices if other.person is person]
    assert {device.account} == set(known or [device.account])
    assert device.account not in {other.account for other in fuzzed.devices if other.person is not person}
    assert all(fuzzed.is_signed_in(other) for other in fuzzed.devices)
