"""Metadata and issuers: what is believed, and which issuer belongs to which authority."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProviderFailed
from shared.provider import discovery
from shared.provider.client import Provider
from shared.provider.http import Answer
from shared.provider.values import ProviderMetadata, ProviderSettings

ID = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
MSA = "9188040d-6c67-4c5b-b112-36a304b66dad"


def settings(authority: str, *, oidc: bool = False) -> ProviderSettings:
    """The settings of this authority."""
    return ProviderSettings(
        authority=authority,
        oidc=oidc,
        client_id="app",
        client_secret="s",
        redirect_uri="https://a/auth/callback",
        scopes=(),
        response_mode="form_post",
    )


def document(issuer: str, **changes: Any) -> dict[str, Any]:
    """Good metadata of this issuer but for the changes."""
    return {
        "issuer": issuer,
        "authorization_endpoint": "https://op.example/authorize",
        "token_endpoint": "https://op.example/token",
        "jwks_uri": "https://op.example/keys",
        **changes,
    }


def fetched(of: ProviderSettings, text: str, status: int = 200) -> ProviderMetadata:
    """What is read from an answer."""
    return discovery.fetch(of, lambda _: Answer(status_code=status, text=text, headers={}))


ENTRA = "https://login.microsoftonline.com"
# authority, oidc, issuers that are its own, issuers that are not
ISSUERS: list[tuple[str, bool, list[str], list[str]]] = [
    (
        f"{ENTRA}/{ID}",
        False,
        [f"{ENTRA}/{ID}/v2.0"],
        [
            f"{ENTRA}/{OTHER}/v2.0",
            f"{ENTRA}/{ID}",
            "https://evil.example",
            f"http://login.microsoftonline.com/{ID}/v2.0",
            f"{ENTRA}/{{tenantid}}/v2.0",
        ],
    ),
    (f"{ENTRA}/{ID}/v2.0/", False, [f"{ENTRA}/{ID}/v2.0"], [f"{ENTRA}/{OTHER}/v2.0"]),
    (
        f"{ENTRA}/contoso.onmicrosoft.com",
        False,
        [f"{ENTRA}/{ID}/v2.0"],
        [f"https://evil.example/{ID}/v2.0", f"{ENTRA}.evil.example/{ID}/v2.0", f"{ENTRA}/x/{ID}/v2.0"],
    ),
    (
        f"{ENTRA}/common",
        False,
        [f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{ID}/v2.0"],
        [f"{ENTRA}/x/v2.0", f"https://login.microsoftonline.us/{ID}/v2.0"],
    ),
    (f"{ENTRA}/Organizations", False, [f"{ENTRA}/{{tenantid}}/v2.0"], []),
    (f"{ENTRA}/consumers", False, [f"{ENTRA}/{MSA}/v2.0"], [f"{ENTRA}/{ID}/v2.0"]),
    ("https://login.windows.net/contoso.com", False, [f"{ENTRA}/{ID}/v2.0"], ["https://login.windows.net.evil/x/v2.0"]),
    (
        "https://login.chinacloudapi.cn/contoso.cn",
        False,
        [f"https://login.partner.microsoftonline.cn/{ID}/v2.0"],
        [f"{ENTRA}/{ID}/v2.0"],
    ),
    (
        "https://contoso.b2clogin.com/contoso.onmicrosoft.com/B2C_1_in",
        False,
        [f"https://contoso.b2clogin.com/{ID}/v2.0/", f"https://contoso.b2clogin.com/tfp/{ID}/b2c_1_in/v2.0/"],
        [f"https://evil.b2clogin.com/{ID}/v2.0/", f"https://contoso.b2clogin.com/tfp/{ID}/b2c_1_other/v2.0/"],
    ),
    (
        "https://contoso.ciamlogin.com/contoso.onmicrosoft.com",
        False,
        [f"https://{ID}.ciamlogin.com/{ID}/v2.0"],
        [f"https://{ID}.ciamlogin.com/{OTHER}/v2.0", f"https://{ID}.evil.com/{ID}/v2.0"],
    ),
    (
        f"https://contoso.ciamlogin.com/{ID}",
        False,
        [f"https://{ID}.ciamlogin.com/{ID}/v2.0"],
        [f"https://{OTHER}.ciamlogin.com/{OTHER}/v2.0"],
    ),
    (
        "https://login.contoso.com/contoso.onmicrosoft.com/B2C_1_in",
        False,
        [f"https://login.contoso.com/{ID}/v2.0/"],
        [f"https://contoso.b2clogin.com/{ID}/v2.0/"],
    ),
    (
        "https://adfs.contoso.com/adfs",
        False,
        ["https://adfs.contoso.com/adfs"],
        ["https://adfs.contoso.com/adfs/v2.0", "https://adfs.contoso.com"],
    ),
    (
        "https://localhost:8443/tenant",
        False,
        ["https://localhost:8443/tenant/v2.0"],
        ["https://localhost/tenant/v2.0", f"https://localhost:8444/{ID}/v2.0"],
    ),
    (f"https://[::1]:8443/{ID}", False, [f"https://[::1]:8443/{ID}/v2.0"], [f"https://[::2]:8443/{ID}/v2.0"]),
    (
        "https://op.example",
        True,
        ["https://op.example", "https://op.example/"],
        ["https://op.example/x", "https://op.example.evil", "http://op.example", "https://op.example//"],
    ),
    (
        "https://op.example/realms/a/",
        True,
        ["https://op.example/realms/a", "https://op.example/realms/a/"],
        ["https://op.example/realms/b", "https://op.example/realms/A"],
    ),
]


@pytest.mark.parametrize(("authority", "oidc", "own", "others"), ISSUERS, ids=[case[0] for case in ISSUERS])
def test_an_authority_knows_its_issuers(authority: str, *, oidc: bool, own: list[str], others: list[str]) -> None:
    """OpenID Connect Discovery 4.3 with the forms of Entra ID: the metadata is believed from its own issuer alone."""
    configured = settings(authority, oidc=oidc)
    for issuer in own:
        assert fetched(configured, json.dumps(document(issuer))).issuer == issuer
    for issuer in [*others, "", " " + own[0], own[0] + "\n"]:
        with pytest.raises(ProviderFailed, match="issuer"):
            fetched(configured, json.dumps(document(issuer)))


@pytest.mark.parametrize(("authority", "oidc", "own", "others"), ISSUERS, ids=[case[0] for case in ISSUERS])
def test_a_front_channel_issuer_is_matched_without_asking(
    authority: str, *, oidc: bool, own: list[str], others: list[str]
) -> None:
    """By its form, or exactly where the session knows its issuer; a template is nobody's issuer."""
    provider = Provider(settings(authority, oidc=oidc))
    for issuer in own:
        assert provider.issuer_matches(issuer) is ("{" not in issuer)
        assert provider.issuer_matches(issuer, concrete=issuer)
        assert not provider.issuer_matches(issuer, concrete=issuer + "x")
    for issuer in others:
        assert not provider.issuer_matches(issuer)


@pytest.mark.parametrize(
    ("authority", "oidc", "name", "place"),
    [
        (f"{ENTRA}/{ID}", False, f"{ENTRA}/{ID}/v2.0", f"{ENTRA}/{ID}/v2.0/.well-known/openid-configuration"),
        (f"{ENTRA}/{ID}/", False, f"{ENTRA}/{ID}/v2.0", f"{ENTRA}/{ID}/v2.0/.well-known/openid-configuration"),
        (f"{ENTRA}/common", False, f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/common/v2.0/.well-known/openid-configuration"),
        (
            "https://a.b2clogin.com/a/B2C_1",
            False,
            "https://a.b2clogin.com/a/B2C_1/v2.0",
            "https://a.b2clogin.com/a/B2C_1/v2.0/.well-known/openid-configuration",
        ),
        (
            "https://fs.example/adfs",
            False,
            "https://fs.example/adfs/v2.0",
            "https://fs.example/adfs/.well-known/openid-configuration",
        ),
        ("https://op.example", True, "https://op.example", "https://op.example/.well-known/openid-configuration"),
        ("https://op.example/a/", True, "https://op.example/a", "https://op.example/a/.well-known/openid-configuration"),
    ],
)
def test_the_index_has_one_name_for_the_issuer(authority: str, *, oidc: bool, name: str, place: str) -> None:
    """The same in every process, from the settings alone; and the metadata's address beside it."""
    assert discovery.configured_issuer(settings(authority, oidc=oidc)) == name
    assert discovery.address(settings(authority, oidc=oidc)) == place


OP = settings("https://op.example", oidc=True)


def test_metadata_is_read() -> None:
    """What the flows ask it for."""
    read = fetched(
        OP,
        json.dumps(
            document(
                "https://op.example",
                end_session_endpoint="http://localhost:8080/logout",
                revocation_endpoint="https://op.example/revoke",
                backchannel_logout_supported=True,
                authorization_response_iss_parameter_supported=True,
                id_token_signing_alg_values_supported=["RS256", 7, "ES256"],
            )
        ),
    )
    assert read.end_session_endpoint == "http://localhost:8080/logout"
    assert read.revocation_endpoint == "https://op.example/revoke"
    assert read.backchannel_logout
    assert read.iss_parameter
    assert read.id_token_algs == ("RS256", "ES256")
    bare = fetched(OP, json.dumps(document("https://op.example", backchannel_logout_supported="yes")))
    assert (bare.end_session_endpoint, bare.revocation_endpoint, bare.backchannel_logout, bare.id_token_algs) == (
        None,
        None,
        False,
        (),
    )


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint", "revocation_endpoint"]
)
@pytest.mark.parametrize(
    "value",
    [
        "http://op.example/x",
        "ftp://op.example/x",
        "//op.example/x",
        "https://",
        "https:///x",
        "",
        7,
        ["https://a/b"],
        "https://op.example/a b",
        "https://op.example/\n",
        "https://[::1/x",
        "javascript:alert(1)",
    ],
)
def test_addresses_that_are_not_https_are_refused(name: str, value: Any) -> None:
    """Codes and secrets go there, or browsers do."""
    with pytest.raises(ProviderFailed, match=name):
        fetched(OP, json.dumps(document("https://op.example", **{name: value})))


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri", "revocation_endpoint"])
def test_what_we_call_ourselves_is_https_even_here(name: str) -> None:
    """Plain http on this machine is for browsers alone."""
    with pytest.raises(ProviderFailed, match=name):
        fetched(OP, json.dumps(document("https://op.example", **{name: "http://localhost/x"})))


def test_a_token_endpoint_without_a_path_is_refused() -> None:
    """MSAL could not name its cache."""
    with pytest.raises(ProviderFailed, match="token_endpoint"):
        fetched(OP, json.dumps(document("https://op.example", token_endpoint="https://op.example/")))


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "{}"), (302, "{}"), (200, "<html>"), (200, "[]"), (200, "null"), (200, ""), (200, "[" * 100_000)],
)
def test_what_is_no_metadata_is_a_failure(status: int, text: str) -> None:
    """And never a crash."""
    with pytest.raises(ProviderFailed):
        fetched(OP, text, status)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    changes=st.dictionaries(
        st.sampled_from(
            [*document(""), "end_session_endpoint", "id_token_signing_alg_values_supported", "backchannel_logout_supported"]
        ),
        JSON,
    )
)
def test_no_json_makes_the_metadata_crash(changes: dict[str, Any]) -> None:
    """A member of any type is read or is ``ProviderFailed``."""
    try:
        fetched(OP, json.dumps({**document("https://op.example"), **changes}))
    except ProviderFailed:
        return


@given(
    iss=st.text()
    | st.sampled_from([case[2][0] for case in ISSUERS]).flatmap(
        lambda good: st.builds(good.replace, st.sampled_from(["/", ".", "0"]), st.text(max_size=2))
    )
)
def test_any_text_may_come_as_issuer(iss: str) -> None:
    """The front channel is open to everybody."""
    for authority, oidc, *_ in ISSUERS:
        assert Provider(settings(authority, oidc=oidc)).issuer_matches(iss) in (True, False)
