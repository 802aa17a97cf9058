"""Error answers of the token endpoint: is the user wanted, the token dead, or the provider in trouble?"""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import AppError, CodeRefused, InteractionRequired, ProviderFailed, ProviderUnavailable, RefreshTokenDead
from shared.provider import answers

REFRESH: list[tuple[dict[str, Any], type[AppError]]] = [
    # OpenID Connect and OAuth providers
    ({"error": "invalid_grant"}, RefreshTokenDead),
    ({"error": "interaction_required"}, InteractionRequired),
    ({"error": "consent_required"}, InteractionRequired),
    ({"error": "login_required"}, InteractionRequired),
    ({"error": "account_selection_required"}, InteractionRequired),
    ({"error": "invalid_client"}, ProviderFailed),
    ({"error": "unauthorized_client"}, ProviderFailed),
    ({"error": "invalid_scope"}, ProviderFailed),
    ({"error": "invalid_request"}, ProviderFailed),
    ({"error": "server_error"}, ProviderFailed),
    ({"error": "temporarily_unavailable"}, ProviderUnavailable),
    # Entra ID: MFA, consent, device, Conditional Access, password
    ({"error": "invalid_grant", "suberror": "basic_action", "error_codes": [50076]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "basic_action", "error_codes": [50078]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "additional_action", "error_codes": [53000]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "message_only", "error_codes": [53003]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "consent_required", "error_codes": [65001]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "user_password_expired", "error_codes": [50055]}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "protection_policy_required"}, InteractionRequired),
    ({"error": "invalid_grant", "suberror": "device_authentication_failed"}, InteractionRequired),
    ({"error": "invalid_grant", "error_codes": [50076]}, InteractionRequired),
    ({"error": "invalid_grant", "error_codes": [50079]}, InteractionRequired),
    ({"error": "invalid_grant", "error_codes": [65001]}, InteractionRequired),
    ({"error": "invalid_grant", "claims": '{"access_token":{}}'}, InteractionRequired),
    ({"error": "interaction_required", "error_codes": [50076], "claims": '{"access_token":{}}'}, InteractionRequired),
    # Entra ID: expired, inactive, revoked, sign-in frequency
    ({"error": "invalid_grant", "suberror": "bad_token", "error_codes": [50173]}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [50173]}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [70000]}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [70008]}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [700082]}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [700084], "suberror": "bad_token"}, RefreshTokenDead),
    ({"error": "invalid_grant", "suberror": "token_expired", "error_codes": [70043]}, RefreshTokenDead),
    ({"error": "interaction_required", "suberror": "token_expired", "error_codes": [70043]}, RefreshTokenDead),
    ({"error": "invalid_grant", "suberror": "client_mismatch"}, RefreshTokenDead),
    ({"error": "invalid_grant", "error_codes": [50057]}, RefreshTokenDead),
    ({"error": "invalid_grant", "suberror": "bad_token", "error_codes": [50076]}, RefreshTokenDead),
    ({"error": "invalid_grant", "suberror": "of_tomorrow", "error_codes": [50076]}, RefreshTokenDead),
    ({"error": "temporarily_unavailable", "error_codes": [90033]}, ProviderUnavailable),
]


@pytest.mark.parametrize(("answer", "expected"), REFRESH, ids=[str(case[0]) for case in REFRESH])
def test_what_a_refused_refresh_means(answer: dict[str, Any], expected: type[AppError]) -> None:
    """Only what the user can mend keeps the session; a dead token ends it, and trouble of the provider's changes nothing."""
    error = answers.refresh_error(answers.failure({**answer, "error_description": "Ada Lovelace"}), ("A", "B"))
    assert type(error) is expected
    assert "Ada" not in str(error)
    assert str(answer["error"]) in str(error)
    if isinstance(error, InteractionRequired):
        assert (error.claims, error.scopes) == (answer.get("claims"), ("A", "B"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("invalid_grant", CodeRefused),
        ("interaction_required", CodeRefused),
        ("consent_required", CodeRefused),
        ("invalid_client", ProviderFailed),
        ("temporarily_unavailable", ProviderUnavailable),
        ("<b>", ProviderFailed),
    ],
)
def test_what_a_refused_code_means(error: str, expected: type[AppError]) -> None:
    """A code that is refused is the user's to try again, a wrong secret is not."""
    assert type(answers.redemption_error(answers.failure({"error": error}))) is expected


@pytest.mark.parametrize("claims", ["x" * 4097, "", "[1]", "{", 7, {"access_token": {}}, "[" * 4000])
def test_a_challenge_that_is_none_is_left_out(claims: Any) -> None:
    """It would travel in an address: a JSON object of bearable length, or nothing."""
    assert "claims" not in answers.failure({"error": "invalid_grant", "claims": claims})


@pytest.mark.parametrize("error", [None, 7, "", "two words", "<b>", "x" * 65, ["invalid_grant"]])
def test_what_is_no_code_is_unknown(error: Any) -> None:
    """Codes go to the log: letters, digits, dot, hyphen and underscore, at most 64; anything else is left out."""
    assert answers.failure({"error": error, "suberror": error}) == {"error": "unknown_error"}
    assert answers.failure({"error": "E" + "x_.-9" * 12, "suberror": "Z"}) == {"error": "E" + "x_.-9" * 12, "suberror": "Z"}


def test_error_codes_are_numbers_and_ten_at_most() -> None:
    """What else is in the list is left out."""
    codes = [50076, "50076", True, None, 1.5, *range(10)]
    assert answers.failure({"error": "e", "error_codes": codes})["error_codes"] == [50076, 0, 1, 2, 3, 4]
    assert "error_codes" not in answers.failure({"error": "e", "error_codes": "50076"})


def test_a_challenge_of_4096_characters_is_one() -> None:
    """A JSON object of that length goes back to the provider unchanged."""
    claims = '{"a":"' + "x" * 4088 + '"}'
    assert answers.failure({"error": "e", "claims": claims})["claims"] == claims


def info(**members: Any) -> str:
    """``client_info`` with these members."""
    return base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()


def test_a_token_answer_is_cut_to_what_is_used() -> None:
    """Empty and missing members are left out; whatever else is there is nobody's business."""
    whole = {
        "access_token": "at", "token_type": "bearer", "expires_in": 3600, "refresh_token": "rt", "id_token": "a.b.c",
        "scope": "User.Read", "client_info": info(uid="u", utid="t"),
    }  # fmt: skip
    assert answers.success({**whole, "foci": "1", "ext_expires_in": 7}) == {**whole, "token_type": "Bearer"}
    bare = {"access_token": "at", "token_type": "Bearer", "expires_in": 600}
    assert answers.success({"access_token": "at"}) == bare
    assert answers.success({"access_token": "at", "refresh_token": "", "id_token": None}) == bare


@pytest.mark.parametrize(
    "changes",
    [
        {"token_type": "DPoP"}, {"token_type": None}, {"token_type": 7}, {"access_token": None}, {"access_token": ""},
        {"access_token": 7}, {"refresh_token": ["rt"]}, {"id_token": "\ud800"}, {"scope": {}}, {"client_info": "x"},
        {"client_info": info(uid="u")}, {"client_info": info(uid="u", utid=7)}, {"client_info": info(uid=None, utid="t")},
        {"client_info": info(uid="\ud800", utid="t")}, {"expires_in": True}, {"expires_in": -1}, {"expires_in": None},
        {"expires_in": "soon"}, {"expires_in": float("inf")}, {"expires_in": float("nan")}, {"expires_in": "1234567890"},
        {"expires_in": [1]},
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_a_failure(changes: dict[str, Any]) -> None:
    """The provider's fault; MSAL never sees it."""
    with pytest.raises(ProviderFailed):
        answers.success({"access_token": "at", **changes})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        ("3600", 3600),
        ("123456789", 366 * 24 * 3600),
        (1.9, 1),
        (10**12, 366 * 24 * 3600),
        (366 * 24 * 3600, 31_622_400),
    ],
)
def test_how_long_a_token_lives(value: Any, seconds: int) -> None:
    """Whole seconds, also as text, a year at most."""
    assert answers.success({"access_token": "at", "expires_in": value})["expires_in"] == seconds


def test_client_info_names_the_account() -> None:
    """``uid.utid``, whatever the padding; anything else is a failure."""
    for uid in ("u", "us", "use", "user"):
        assert answers.account_of(info(uid=uid, utid="t")) == f"{uid}.t"
    for bad in ("", "*", info(), base64.urlsafe_b64encode(b"[]").decode(), base64.urlsafe_b64encode(b"{").decode()):
        with pytest.raises(ProviderFailed):
            answers.account_of(bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(
    [
        "error",
        "suberror",
        "error_codes",
        "claims",
        "access_token",
        "token_type",
        "expires_in",
        "refresh_token",
        "id_token",
        "scope",
        "client_info",
    ]
)


@given(document=st.dictionaries(MEMBERS, JSON, max_size=6))
def test_no_json_makes_an_answer_crash(document: dict[str, Any]) -> None:
    """An answer of any form is read or is one of our errors."""
    for error in (answers.redemption_error(answers.failure(document)), answers.refresh_error(answers.failure(document), ())):
        assert isinstance(error, AppError)
        str(error).encode()
    try:
        kept = answers.success({"access_token": "at", **document})
    except ProviderFailed:
        return
    assert 0 <= kept["expires_in"] < 10**8
    assert all(isinstance(value, str | int) for value in kept.values())
