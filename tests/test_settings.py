"""Settings are read once; every fault is named at once and no secret with it."""

import base64
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsInvalid
from shared.settings import StorageSettings, load

KEY = base64.b64encode(os.urandom(32)).decode()
GOOD = {
    "AUTHORITY": "https://login.microsoftonline.com/11111111-2222-4333-8444-555555555555",
    "CLIENT_ID": "22222222-2222-4333-8444-555555555555",
    "CLIENT_SECRET": "s3cret-value-of-the-client",
    "REDIRECT_URI": "https://app.example/auth/callback",
    "TOKEN_STORE": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5LW9mLXRoZS1hY2NvdW50;EndpointSuffix=core.windows.net",
    "SEALING_KEYS": f"k1:{KEY}",
}
A, COSMOS = "https://a.table.core.windows.net", "https://name.table.cosmos.azure.com:443/"


def faults(**changes: str | None) -> tuple[str, ...]:
    environ = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(SettingsInvalid) as caught:
        load(environ)
    return caught.value.faults


def test_the_defaults_are_the_contract() -> None:
    """Names and defaults as documented."""
    settings = load(GOOD)
    assert settings.scopes == ("User.Read",)
    assert settings.table_prefix == "signin"
    assert settings.sign_out_scope == "account"
    assert (settings.idle, settings.absolute) == (timedelta(minutes=60), timedelta(minutes=720))
    assert settings.sessions_per_account == 50
    assert settings.cookie_name == "__Secure-session"
    assert settings.response_mode == "form_post"
    assert settings.not_before is None
    assert settings.graph_endpoint == "https://graph.microsoft.com/v1.0"
    assert settings.origin == "https://app.example"
    assert load({**GOOD, "REDIRECT_URI": "http://localhost:7071/auth/callback"}).cookie_name == "session"


def test_all_faults_come_at_once_and_by_name() -> None:
    """An empty environment names every setting that has to be set."""
    with pytest.raises(SettingsInvalid) as caught:
        load({})
    text = str(caught.value)
    for name in ("AUTHORITY", "CLIENT_ID", "CLIENT_SECRET", "REDIRECT_URI", "TOKEN_STORE", "SEALING_KEYS"):
        assert name in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTHORITY", "http://login.microsoftonline.com/t"), ("AUTHORITY", "https://login.microsoftonline.com"), ("AUTHORITY", "login.example/t"),
        ("AUTHORITY", "https://login.example/t?x=1"), ("AUTHORITY", "https://user:pw@login.example/t"), ("OIDC_AUTHORITY", "https://idp.example"),
        ("CLIENT_ID", "a b"), ("CLIENT_CERTIFICATE", "-----BEGIN x"), ("CLIENT_MANAGED_IDENTITY", "system"), ("CLIENT_CERTIFICATE_PASSWORD", "x"),
        ("REDIRECT_URI", "http://app.example/auth/callback"), ("REDIRECT_URI", "https://app.example/callback"), ("REDIRECT_URI", "https://app.example/auth/callback/"),
        ("REDIRECT_URI", "https://app.example/auth/callback?x=1"), ("REDIRECT_URI", "/auth/callback"), ("REDIRECT_URI", "https://app.example:99999/auth/callback"),
        ("SCOPES", 'User.Read "x"'), ("TOKEN_STORE", "nonsense"), ("TOKEN_STORE", "AccountName=a"), ("TOKEN_STORE", "AccountName=a;AccountKey=a2V5;junk"), ("TOKEN_STORE", "AccountName=;AccountKey="),
        ("TOKEN_STORE", "AccountName=a;AccountKey=***"), ("TOKEN_STORE", "AccountName=a;AccountKey=a2V5;TableEndpoint=junk"),
        ("TOKEN_STORE", "SharedAccessSignature=s;TableEndpoint=https://[::1"), ("TOKEN_STORE", "AccountName=a;AccountName=b;AccountKey=a2V5"),
        ("TOKEN_STORE__tableServiceUri", "https://a.table.core.windows.net"),
        ("TOKEN_STORE_TABLE_PREFIX", "a-b"), ("TOKEN_STORE_TABLE_PREFIX", "1a"), ("TOKEN_STORE_TABLE_PREFIX", "x" * 60),
        ("SEALING_KEYS", "k1"), ("SEALING_KEYS", "k1:AAAA"), ("SEALING_KEYS", f"k1:{KEY},k1:{KEY}"), ("SEALING_KEYS", f"k 1:{KEY}"), ("SEALING_KEYS", "k1:" + "A" * 43 + "="),
        ("SIGN_OUT_SCOPE", "everything"), ("SESSION_IDLE_MINUTES", "0"), ("SESSION_IDLE_MINUTES", "-1"), ("SESSION_IDLE_MINUTES", "1e3"), ("SESSION_IDLE_MINUTES", "٣"),
        ("SESSION_ABSOLUTE_MINUTES", "30"), ("SESSIONS_PER_ACCOUNT", "0"), ("SESSIONS_PER_ACCOUNT", "many"), ("SESSION_COOKIE_NAME", "path"), ("SESSION_COOKIE_NAME", "a b"),
        ("RESPONSE_MODE", "fragment"), ("SESSIONS_NOT_BEFORE", "yesterday"), ("GRAPH_ENDPOINT", "http://graph.example"), ("PYTHON_THREADPOOL_THREAD_COUNT", "x"),
    ],
)  # fmt: skip
def test_a_malformed_setting_is_named_and_its_value_is_not_shown(name: str, value: str) -> None:
    """Each fault begins with a setting's name; what was set stands in none of them."""
    found = faults(**{name: value})
    assert any(name.split("__", maxsplit=1)[0] in fault for fault in found)
    if len(value) > 8:
        assert value not in " ".join(found)


@given(
    st.dictionaries(
        st.sampled_from(
            [*GOOD, "OIDC_AUTHORITY", "SCOPES", "SESSIONS_NOT_BEFORE", "SESSION_IDLE_MINUTES", "CLIENT_CERTIFICATE"]
        ),
        st.text(max_size=40),
    )
)
def test_any_combination_loads_or_names_its_faults(changes: dict[str, str]) -> None:
    """Nothing but ``SettingsInvalid`` comes out, and no secret is in it."""
    environ = {**GOOD, **changes}
    try:
        load(environ)
    except SettingsInvalid as error:
        assert error.faults
        text = " ".join(error.faults)
        assert GOOD["CLIENT_SECRET"] not in text
        assert KEY not in text


@pytest.mark.parametrize("name", [*GOOD, "SESSION_COOKIE_NAME", "SCOPES"])
def test_a_reference_that_did_not_resolve_is_a_fault_by_name(name: str) -> None:
    """The platform leaves ``@Microsoft.KeyVault(…)`` in place when it cannot read the secret."""
    found = faults(**{name: "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/x)"})
    assert f"{name} is a reference that did not resolve" in found


def test_secrets_are_in_no_repr() -> None:
    """Settings that are logged by mistake tell nothing."""
    text = repr(load(GOOD))
    for secret in (GOOD["CLIENT_SECRET"], KEY, "a2V5LW9mLXRoZS1hY2NvdW50", repr(base64.b64decode(KEY))):
        assert secret not in text


@pytest.mark.parametrize("name", ["TOKEN_STORE", "AzureWebJobsStorage"])
@pytest.mark.parametrize(
    ("parts", "storage"),
    [
        ({"tableServiceUri": A}, StorageSettings(table_service_uri=A)),
        ({"tableServiceUri": A, "accountName": "abc"}, StorageSettings(table_service_uri=A)),
        ({"accountName": "abc"}, StorageSettings(table_service_uri="https://abc.table.core.windows.net")),
        ({"tableServiceUri": A, "clientId": "c"}, StorageSettings(table_service_uri=A, client_id="c")),
        ({"tableServiceUri": A, "credential": "managedidentity"}, StorageSettings(table_service_uri=A, managed_identity=True)),
        (
            {"accountName": "abc", "credential": "managedidentity", "clientId": "c"},
            StorageSettings(table_service_uri="https://abc.table.core.windows.net", managed_identity=True, client_id="c"),
        ),
        ({"tableServiceUri": COSMOS}, StorageSettings(table_service_uri=COSMOS)),
    ],
    ids=str,
)
def test_storage_by_identity(name: str, parts: dict[str, str], storage: StorageSettings) -> None:
    """The Functions connection convention, for our own setting and as the fallback: all parts are those of one name."""
    environ = {k: v for k, v in GOOD.items() if k != "TOKEN_STORE"}
    environ |= {f"{name}__{part}": value for part, value in parts.items()}
    assert load(environ).storage == storage
    if name == "TOKEN_STORE":
        others = {"AzureWebJobsStorage__accountName": "other", "AzureWebJobsStorage__clientId": "other"}
        assert load({**environ, **others}).storage == storage
        assert load({**environ, "AzureWebJobsStorage": "UseDevelopmentStorage=true"}).storage == storage


@pytest.mark.parametrize("credential", ["managed", "workloadidentity", "key"])
def test_another_kind_of_credential_is_a_fault(credential: str) -> None:
    """A misspelled one must not quietly mean another identity."""
    environ = {"TOKEN_STORE": None, "TOKEN_STORE__accountName": "abc", "TOKEN_STORE__credential": credential}
    assert faults(**environ) == ("TOKEN_STORE__credential must be managedidentity",)


@pytest.mark.parametrize(
    "value",
    [
        f"DefaultEndpointsProtocol=https;AccountName=name;AccountKey=a2V5;TableEndpoint={COSMOS};",
        f"AccountName=name;AccountKey=a2V5;TableEndpoint={COSMOS}",
        f"TableEndpoint={A};SharedAccessSignature=sv=2022-11-02&ss=t&srt=sco&sig=x%3D",
    ],
)
def test_a_connection_string_is_kept_as_it_is(value: str) -> None:
    """Cosmos DB for Table's, whose endpoint says where it is, and a shared access signature's."""
    assert load({**GOOD, "TOKEN_STORE": value}).storage == StorageSettings(connection_string=value)


def test_the_functions_storage_is_the_fallback() -> None:
    """Without ``TOKEN_STORE`` the tables are where ``AzureWebJobsStorage`` is; the emulator's short form works."""
    settings = load(
        {**{k: v for k, v in GOOD.items() if k != "TOKEN_STORE"}, "AzureWebJobsStorage": "UseDevelopmentStorage=true"}
    )
    assert "127.0.0.1:10002" in (settings.storage.connection_string or "")


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://App.example:443", "https://app.example"), ("https://app.example:8443", "https://app.example:8443"),
        ("http://localhost:80", "http://localhost"), ("http://localhost:7071", "http://localhost:7071"),
        ("http://localhost:443", "http://localhost:443"), ("http://[::1]:7071", "http://[::1]:7071"),
    ],
)  # fmt: skip
def test_the_origin_is_what_browsers_say(address: str, origin: str) -> None:
    """In ``Origin`` they leave out the scheme's own port, and write everything in lower case."""
    assert load({**GOOD, "REDIRECT_URI": f"{address}/auth/callback"}).origin == origin


def test_not_before_is_a_time_with_or_without_a_zone() -> None:
    """ISO 8601; UTC where it does not say."""
    assert load({**GOOD, "SESSIONS_NOT_BEFORE": "2026-11-23T08:00:00"}).not_before == datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert load({**GOOD, "SESSIONS_NOT_BEFORE": "2026-11-23T09:00:00+01:00"}).not_before == datetime(
        2026, 11, 23, 8, tzinfo=UTC
    )


def test_blanks_around_values_do_not_count() -> None:
    """A copied setting with a line end at its end works; an empty one counts as unset."""
    settings = load({**GOOD, "CLIENT_ID": " abc\n", "SCOPES": "  ", "OIDC_AUTHORITY": ""})
    assert settings.client_id == "abc"
    assert settings.scopes == ("User.Read",)
