"""The claims of ID and logout tokens: pure checks, no keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import TokenInvalid
from shared.provider import tokens
from shared.provider.values import ProviderMetadata, Verified

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T = int(NOW.timestamp())
LEEWAY = 300
TENANT = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
ISSUER = f"https://login.example/{TENANT}/v2.0"
EVENT = "http://schemas.openid.net/event/backchannel-logout"


def plain(value: object) -> str:
    """An id that can be typed on a command line."""
    return str(value).replace("\\", "/")


def metadata(issuer: str = ISSUER) -> ProviderMetadata:
    """Metadata of this issuer."""
    return ProviderMetadata(
        issuer=issuer, authorization_endpoint="https://a/a", token_endpoint="https://a/t", jwks_uri="https://a/k"
    )


def changed(claims: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``claims`` with changes; ``...`` takes a claim away."""
    return {name: value for name, value in {**claims, **changes}.items() if value is not ...}


def id_claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good ID token but for the changes."""
    good = {"iss": ISSUER, "aud": "app", "sub": "s", "exp": T + 60, "iat": T, "nonce": "n", "tid": TENANT}
    return changed(good, changes)


def logout_claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good logout token but for the changes."""
    good = {"iss": ISSUER, "aud": "app", "sub": "s", "sid": "i", "exp": T + 60, "iat": T, "jti": "j", "events": {EVENT: {}}}
    return changed(good, changes)


def check_id(claims: dict[str, Any], *, issuer: str = ISSUER, key_issuer: str | None = None) -> tokens.IdToken:
    """Checks claims of an ID token that a key signed."""
    token = Verified(header={}, claims=claims, key_issuer=key_issuer)
    return tokens.id_token(token, metadata=metadata(issuer), client_id="app", nonce="n", now=NOW)


def check_logout(claims: dict[str, Any], *, header: dict[str, Any] | None = None, issuer: str = ISSUER) -> Any:
    """Checks claims of a logout token that a key signed."""
    token = Verified(header=header or {}, claims=claims, key_issuer=None)
    return tokens.logout_token(token, metadata=metadata(issuer), client_id="app", now=NOW)


BAD_TIMES = ["1", "", True, False, None, [], {}, 1e300, float("inf"), -1, -0.5, 253_402_300_800, ...]
BAD_TEXTS = ["", 7, True, [], ["s"], {}, "\ud800", ...]

GOOD_ID_CHANGES: list[dict[str, Any]] = [
    {},
    {"aud": ["app"]},
    {"aud": ["app", "other"], "azp": "app"},
    {"azp": "app"},
    {"exp": T - LEEWAY + 1},
    {"nbf": T + LEEWAY},
    {"iat": T + LEEWAY},
    {"iat": T + 0.5, "exp": T + 60.25},
    {"iat": 0},
    {"auth_time": None, "nbf": None},
    {"name": 7, "preferred_username": ["x"]},
    {"unknown": {"deep": [1]}},
]


@pytest.mark.parametrize("changes", GOOD_ID_CHANGES, ids=str)
def test_id_tokens_that_pass(changes: dict[str, Any]) -> None:
    """What the specification allows, up to the very edge of the clocks' leeway."""
    assert check_id(id_claims(**changes)).sub == "s"


BAD_ID_CHANGES: list[dict[str, Any]] = [
    *({"iss": value} for value in ["https://evil.example", ISSUER + "/", ISSUER.upper(), *BAD_TEXTS]),
    *(
        {"aud": value}
        for value in ["other", "APP", [], ["other"], ["app", "other"], ["app", 7], [["app"]], {"app": 1}, 7, None, ...]
    ),
    *({"azp": value} for value in ["other", "", 7, ["app"], False]),
    {"aud": ["app", "other"], "azp": "other"},
    *({name: value} for name in ("exp", "iat") for value in BAD_TIMES),
    *({"nbf": value} for value in BAD_TIMES if value is not ... and value is not None),
    *({"auth_time": value} for value in BAD_TIMES if value is not ... and value is not None),
    {"exp": T - LEEWAY},
    {"nbf": T + LEEWAY + 1},
    {"iat": T + LEEWAY + 1},
    *({"nonce": value} for value in ["other", "N", *BAD_TEXTS]),
    *({"sub": value} for value in BAD_TEXTS),
    *({name: value} for name in ("oid", "tid", "sid", "login_hint") for value in BAD_TEXTS if value is not ...),
]


@pytest.mark.parametrize("changes", BAD_ID_CHANGES, ids=plain)
def test_id_tokens_that_do_not(changes: dict[str, Any]) -> None:
    """Each fault alone is enough, and its message names the claim."""
    with pytest.raises(TokenInvalid) as raised:
        check_id(id_claims(**changes))
    assert str(raised.value).partition(":")[0] in {*changes, "azp"}


def test_what_an_id_token_says_of_the_user() -> None:
    """Names are for showing: the first there is, cut where a provider sends a novel."""
    full = check_id(id_claims(oid="o", sid="i", login_hint="h", name="Ada", preferred_username="ada@x", auth_time=T - 9))
    assert (full.oid, full.tid, full.sid, full.login_hint, full.name, full.username) == ("o", TENANT, "i", "h", "Ada", "ada@x")
    assert full.auth_time == NOW - timedelta(seconds=9)
    assert full.issued_at == NOW
    bare = check_id(id_claims(email="ada@y"))
    assert (bare.oid, bare.sid, bare.login_hint, bare.name, bare.username) == (None, None, None, "ada@y", "ada@y")
    assert bare.auth_time == NOW
    assert check_id(id_claims(upn="u@x", email="e@x")).username == "u@x"
    nameless = check_id(id_claims())
    assert (nameless.name, nameless.username) == ("", "")
    assert len(check_id(id_claims(name="x" * 1000)).name) == 256


TEMPLATE = "https://login.example/{tenantid}/v2.0"


@pytest.mark.parametrize(
    ("changes", "key_issuer", "good"),
    [
        ({}, None, True),
        ({}, TEMPLATE, True),
        ({}, ISSUER, True),
        ({}, f"https://login.example/{OTHER}/v2.0", False),
        ({}, "https://login.example/v2.0", False),
        ({"tid": OTHER}, None, False),
        ({"tid": ...}, None, False),
        ({"tid": ..., "events": {}}, None, False),
        ({"iss": TEMPLATE}, None, False),
        ({"iss": TEMPLATE, "tid": "{tenantid}"}, None, False),
        ({"iss": "https://login.example/x/v2.0", "tid": "x"}, None, False),
        ({"iss": f"https://login.example/{TENANT}/evil/v2.0"}, None, False),
    ],
)
def test_with_many_tenants_issuer_tenant_and_key_belong_together(
    changes: dict[str, Any], key_issuer: str | None, *, good: bool
) -> None:
    """A tenant's own token never passes for another tenant's."""
    if good:
        assert check_id(id_claims(**changes), issuer=TEMPLATE, key_issuer=key_issuer).issuer == ISSUER
    else:
        with pytest.raises(TokenInvalid):
            check_id(id_claims(**changes), issuer=TEMPLATE, key_issuer=key_issuer)


GOOD_LOGOUT_CHANGES: list[dict[str, Any]] = [
    {},
    {"sub": ...},
    {"sid": ...},
    {"sub": None},
    {"aud": ["app"]},
    {"aud": ["app", "other"]},
    {"aud": ["app", "other"], "azp": "app"},
    {"events": {EVENT: {"x": 1}, "other": 1}},
    {"exp": T - LEEWAY + 1},
    {"iat": T + LEEWAY},
]


@pytest.mark.parametrize("changes", GOOD_LOGOUT_CHANGES, ids=str)
def test_logout_tokens_that_pass(changes: dict[str, Any]) -> None:
    """``sub`` or ``sid`` or both."""
    token = check_logout(logout_claims(**changes))
    assert (token.issuer, token.jti) == (ISSUER, "j")
    claims = logout_claims(**changes)
    assert (token.sub, token.sid) == (claims.get("sub"), claims.get("sid"))
    times = [datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp")]
    assert [token.issued_at, token.expires_at] == times


BAD_LOGOUT_CHANGES: list[dict[str, Any]] = [
    *({"iss": value} for value in ["https://evil.example", *BAD_TEXTS]),
    *({"aud": value} for value in ["other", [], ["another", "other"], None, ...]),
    {"aud": ["app", "other"], "azp": "other"},
    *({name: value} for name in ("exp", "iat") for value in BAD_TIMES),
    {"exp": T - LEEWAY},
    {"iat": T + LEEWAY + 1},
    *({"jti": value} for value in BAD_TEXTS),
    *(
        {"events": value}
        for value in [..., None, {}, [], EVENT, [EVENT], {EVENT: None}, {EVENT: []}, {EVENT: "x"}, {EVENT + "/": {}}]
    ),
    *({"nonce": value} for value in ["n", "", None, 0, False, [], {}]),
    *({name: value} for name in ("sub", "sid") for value in BAD_TEXTS if value is not ...),
    {"sub": ..., "sid": ...},
    {"sub": None, "sid": None},
]


@pytest.mark.parametrize("changes", BAD_LOGOUT_CHANGES, ids=plain)
def test_logout_tokens_that_do_not(changes: dict[str, Any]) -> None:
    """Back-Channel Logout 2.4 and 2.6: all that is required, and no nonce in any form."""
    with pytest.raises(TokenInvalid) as raised:
        check_logout(logout_claims(**changes))
    assert str(raised.value).partition(":")[0] in {*changes, "azp"}


@pytest.mark.parametrize("typ", ["logout+jwt", "LOGOUT+JWT", "application/logout+jwt", "JWT", "jwt", None])
def test_a_logout_tokens_type(typ: Any) -> None:
    """As the final specification has it, in any case of letters; ``JWT`` or nothing as providers sent it before."""
    assert check_logout(logout_claims(), header={"typ": typ}).jti == "j"


@pytest.mark.parametrize("typ", ["at+jwt", "", "jose", 7, [], "logout+jwt ", "id+jwt"])
def test_a_token_of_another_type_is_no_logout_token(typ: Any) -> None:
    """Explicit typing keeps kinds of tokens apart."""
    with pytest.raises(TokenInvalid, match="typ"):
        check_logout(logout_claims(), header={"typ": typ})


def test_a_logout_token_of_a_multi_tenant_provider_needs_no_tid() -> None:
    """The form of the issuer is what can be checked."""
    assert check_logout(logout_claims(), issuer=TEMPLATE).issuer == ISSUER
    with pytest.raises(TokenInvalid):
        check_logout(logout_claims(tid=OTHER), issuer=TEMPLATE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*id_claims(), *logout_claims(), "azp", "nbf", "auth_time", "oid", "name", "email", "login_hint"])


@given(changes=st.dictionaries(NAMES, JSON, max_size=4), issuer=st.sampled_from([ISSUER, TEMPLATE]))
def test_no_json_makes_the_checks_crash(changes: dict[str, Any], issuer: str) -> None:
    """A claim of any JSON type passes or is ``TokenInvalid``; what passes can be stored."""
    for check, claims in ((check_id, id_claims(**changes)), (check_logout, logout_claims(**changes))):
        try:
            token = check(claims, issuer=issuer)
        except TokenInvalid as error:
            str(error).encode()
        else:
            repr(token).encode()
            (token.issuer + (token.sub or "") + (token.sid or "")).encode()
