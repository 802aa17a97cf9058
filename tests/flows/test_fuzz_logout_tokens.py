"""Logout tokens that anybody may post: a true one acts once on exactly whom it names, any other is 400 and changes nothing.

The tokens are drawn by ``tests/support/forged.py`` and judged by ``tests/support/judged.py``, which know nothing of each other
nor of ``shared``.  ``FUZZ=n`` multiplies the examples.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import azure.functions as func
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.fake_provider import sign
from tests.support import forged
from tests.support.fuzzed import CLIENT, FORM, LONG_SID, Device, Fuzzed, drawn, opened
from tests.support.fuzzed_provider import BEN, MANY, ONE, VIC, Person
from tests.support.judged import EVENT, KeyUnknown, Refused

STARTED = time.monotonic()


@pytest.fixture(scope="module", params=[ONE, MANY], ids=str)
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """The app with its people, once for each kind of provider."""
    with opened(request.param) as world:
        yield world


def claims_of(world: Fuzzed, person: Person, **names: Any) -> dict[str, Any]:
    """What a good logout token says."""
    iss = world.provider.issuer_of(person)
    fixed = {"iss": iss, "aud": CLIENT, "iat": world.time, "exp": world.time + 120, "jti": "j", "events": {EVENT: {}}}
    return {**fixed, **names}


def post(world: Fuzzed, token: str, *, trouble: tuple[int, ...] = ()) -> func.HttpResponse:
    body = urlencode({"logout_token": token}, errors="replace").encode()
    world.secrets[:] = [token] if len(token) > 40 else []
    answer = world.send("POST", "/auth/backchannel-logout", headers={"content-type": FORM}, body=body, trouble=trouble)
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    return answer


def refused(answer: func.HttpResponse) -> None:
    assert answer.status_code == 400
    assert json.loads(answer.get_body())["error"] == "invalid_request"


def named(world: Fuzzed, claims: Mapping[str, Any]) -> list[Device] | None:
    """Whom a true token names (Back-Channel Logout 1.0, section 2.6); None where its ``sid`` is one user's and ``sub`` another's."""
    sub, sid = claims.get("sub"), claims.get("sid")
    theirs = [device for device in world.devices if device.issuer == claims["iss"]]
    of_sub = [device for device in theirs if device.person.sub == sub]
    if sid is None:
        return of_sub
    of_sid = [device for device in theirs if sid in (device.sid, device.session_state)]
    if sub is None:
        return of_sid
    if any(device.sid == sid and device not in of_sub for device in of_sid):
        return None
    return [device for device in of_sub if device in of_sid or device.sid is None]


def expected(world: Fuzzed, claims: Mapping[str, Any]) -> tuple[list[Device], frozenset[str]] | None:
    """The sessions that a true token ends, and the accounts whose row tells of it."""
    found = named(world, claims)
    if found is None:
        return None
    touched = frozenset(device.account for device in found)
    if world.kind.scope == "account" or claims.get("sid") is None:
        found = [device for device in world.devices if device.account in touched]
    return [device for device in found if device.issued_at <= claims["iat"]], touched


@drawn(6)
@given(data=st.data())
def test_a_logout_token_acts_if_it_is_true_and_only_then(fuzzed: Fuzzed, data: st.DataObject) -> None:
    """200 and exactly whom it names, once; or 400 and nothing, 503 at most where its key might still be published."""
    fuzzed.restore()
    person = data.draw(st.sampled_from([VIC, BEN]))
    sids = ["vic-1", "vic-2", "vic-state", LONG_SID, "ben-1", "ben-state", "nobody"]
    sid, sub = (
        st.fixed_dictionaries({"sid": st.sampled_from(sids)}),
        st.fixed_dictionaries({"sub": st.sampled_from(["vic", "ben"])}),
    )
    names = data.draw(sid | sub | st.builds(lambda one, two: {**one, **two}, sid, sub))
    header = data.draw(st.sampled_from([{"typ": "logout+jwt"}, {"typ": "JWT"}, {}]))
    token = data.draw(forged.tokens(fuzzed, claims_of(fuzzed, person, **names), header))
    try:
        claims = fuzzed.judge().logout_token(token)
    except Refused as reason:
        waits = isinstance(reason, KeyUnknown)
        answer = post(fuzzed, token, trouble=(503,) if waits else ())
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) > 0
        else:
            refused(answer)
        fuzzed.clean(answer)
        assert fuzzed.provider.asked[fuzzed.provider.document["jwks_uri"]] <= 3 + (time.monotonic() - STARTED) / 30
        return
    effect = expected(fuzzed, claims)
    answer = post(fuzzed, token)
    if effect is None:
        refused(answer)
        fuzzed.clean(answer)
        return
    ended, touched = effect
    assert answer.status_code == 200, fuzzed.overheard.lines
    fuzzed.ended(ended, touched=touched, kinds=frozenset({"jti", "end", "account"}))
    after = fuzzed.rows()
    refused(post(fuzzed, token))
    assert fuzzed.rows() == after
    assert [device for device in fuzzed.devices if fuzzed.is_signed_in(device)] == [
        d for d in fuzzed.devices if d not in ended
    ]


@pytest.mark.parametrize(
    ("names", "account", "session"),
    [
        ({"sid": "vic-1"}, "vvvv.", "v...."),
        ({"sid": "vic-1", "sub": "vic"}, "vvvv.", "v.v.."),
        ({"sid": "vic-state"}, "vvvv.", ".v..."),
        ({"sid": LONG_SID}, "vvvv.", "...v."),
        ({"sub": "vic"}, "vvvv.", "vvvv."),
        ({"sub": "ben"}, "....b", "....b"),
        ({"sid": "ben-1"}, "....b", "....b"),
        ({"sid": "nobody"}, ".....", "....."),
        ({"sub": "vic", "iat": -1}, ".....", "....."),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize(("kid", "alg"), [("rsa", "RS256"), ("ec", "ES256")])
def test_a_good_token_ends_whom_it_names(
    fuzzed: Fuzzed, names: dict[str, Any], account: str, session: str, kid: str, alg: str
) -> None:
    """By hand, so that the drawn tests have something true to agree with: ``SIGN_OUT_SCOPE`` says how much a ``sid`` names."""
    fuzzed.restore()
    person = BEN if "b" in account else VIC
    names = {**names, **({"iat": fuzzed.time - 1} if "iat" in names else {})}
    token = sign(claims_of(fuzzed, person, **names), fuzzed.provider.keys[kid], alg=alg, kid=kid, typ="logout+jwt")
    assert post(fuzzed, token).status_code == 200
    wanted = account if fuzzed.kind.scope == "account" else session
    assert [fuzzed.is_signed_in(device) for device in fuzzed.devices] == [letter == "." for letter in wanted]


JUNK = st.lists(
    st.tuples(st.sampled_from(["x", "Logout_Token", "logout_token[]", "sid", ""]), st.text(max_size=20)), max_size=4
)


@drawn(1)
@given(
    junk=JUNK,
    fields=st.sampled_from([1, 1, 1, 0, 2]),
    query=st.sampled_from(["", "", "", "?x=y", "?logout_token=", "?a&logout_token=x", "?%6cogout_token=x"]),
    media=st.sampled_from([FORM, FORM, f"{FORM}; charset=utf-8", FORM.upper(), "application/json", "text/plain", "multipart/form-data", ""]),
    padding=st.sampled_from([0, 0, 0, 40_000, 70_000, 1_000_000]),
    spoilt=st.binary(max_size=3),
)  # fmt: skip
def test_a_token_comes_alone_in_a_form(
    fuzzed: Fuzzed, junk: list[tuple[str, str]], fields: int, query: str, media: str, padding: int, spoilt: bytes
) -> None:
    """Once, in the body, of a form of at most 64 KB: else even a true one is 400 and changes nothing; other fields are ignored."""
    fuzzed.restore()
    token = sign(claims_of(fuzzed, VIC, sid="vic-1"), fuzzed.provider.keys["ec"], alg="ES256", kid="ec", typ="logout+jwt")
    pairs = [*junk, *[("logout_token", token)] * fields, *([("pad", "x" * padding)] if padding else [])]
    body = urlencode(pairs, errors="replace").encode() + (b"&z=" + spoilt.replace(b"&", b"") if spoilt else b"")
    good = fields == 1 and "logout_token" not in query.replace("%6c", "l") and media.lower().startswith(FORM)
    good = good and len(body) <= 64 * 1024
    answer = fuzzed.send("POST", f"/auth/backchannel-logout{query}", headers={"content-type": media}, body=body)
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    if good:
        assert answer.status_code == 200
        assert not fuzzed.is_signed_in(fuzzed.vic)
        assert fuzzed.is_signed_in(fuzzed.ben)
    else:
        refused(answer)
        fuzzed.clean(answer)
