"""What the settings become: the one account that they name is the one that is asked, in the form that they name."""

from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError

from shared import app as module
from shared.app import build
from shared.errors import StorageUnavailable
from shared.settings import load
from shared.store import azure_table
from shared.store.azure_table import StorageAccount
from shared.store.transport import Transport
from tests.test_settings import GOOD

ELSEWHERE = {name: value for name, value in GOOD.items() if name != "TOKEN_STORE"}
CLIENT = "33333333-2222-4333-8444-555555555555"
COSMOS = (
    "DefaultEndpointsProtocol=https;AccountName=name;AccountKey=a2V5;TableEndpoint=https://name.table.cosmos.azure.com:443/;"
)


@pytest.mark.parametrize(
    ("environ", "account"),
    [
        ({"TOKEN_STORE": COSMOS}, StorageAccount(connection_string=COSMOS)),
        (
            {"TOKEN_STORE__tableServiceUri": "https://a.table.core.windows.net"},
            StorageAccount(table_service_uri="https://a.table.core.windows.net"),
        ),
        (
            {
                "TOKEN_STORE__accountName": "abc",
                "TOKEN_STORE__clientId": CLIENT,
                "TOKEN_STORE__credential": "managedidentity",
                "AzureWebJobsStorage__accountName": "other",
            },
            StorageAccount(table_service_uri="https://abc.table.core.windows.net", client_id=CLIENT, managed_identity=True),
        ),
        (
            {"AzureWebJobsStorage__accountName": "abc", "AzureWebJobsStorage__clientId": CLIENT, "TOKEN_STORE__clientId": "x"},
            StorageAccount(table_service_uri="https://abc.table.core.windows.net", client_id=CLIENT),
        ),
    ],
    ids=["connection string", "address", "managed identity", "the host's own storage"],
)
def test_the_tables_are_those_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], account: StorageAccount
) -> None:
    """Address, identity and prefix arrive as they were set."""
    asked: list[Any] = []

    class Tables:
        def __init__(self, *given: Any) -> None:
            asked.append(given)

        def table(self, name: str) -> str:
            asked.append(name)
            return name

        def check(self) -> None:
            asked.append("check")

    monkeypatch.setattr(module, "AzureTables", Tables)
    app = build(load({**ELSEWHERE, **environ, "TOKEN_STORE_TABLE_PREFIX": "mine"}))
    app.check_storage()
    assert asked[0] == (account, "mine")
    assert sorted(asked[1:]) == ["check", "index", "sessions"]


class Wire(Transport):
    """Sends nothing, remembers what it was to send, and refuses it."""

    sent: list[Any]

    def send(self, request: Any, **_: Any) -> Any:
        self.sent.append(request)
        error = HttpResponseError("refused")
        error.status_code = 400
        raise error


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have gone over the wire."""
    monkeypatch.setattr(azure_table, "Transport", Wire)
    monkeypatch.setattr(Wire, "sent", [], raising=False)
    return Wire.sent


class Credential:
    """An identity that gets a token for whatever it is asked."""

    def __init__(self, *_: Any) -> None:
        pass

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(" ".join(scopes), 4_000_000_000)


@pytest.mark.parametrize(
    ("environ", "address", "said"),
    [
        ({"TOKEN_STORE": COSMOS}, "https://name.table.cosmos.azure.com:443/Tables?", "SharedKey name:"),
        (
            {"TOKEN_STORE__tableServiceUri": "https://name.table.cosmos.azure.com:443/"},
            "https://name.table.cosmos.azure.com:443/Tables?",
            "Bearer https://cosmos.azure.com/.default",
        ),
        (
            {"TOKEN_STORE__accountName": "abc"},
            "https://abc.table.core.windows.net/Tables?",
            "Bearer https://storage.azure.com/.default",
        ),
        ({"TOKEN_STORE": GOOD["TOKEN_STORE"]}, "https://a.table.core.windows.net/Tables?", "SharedKey a:"),
    ],
    ids=["Cosmos DB", "Cosmos DB by identity", "storage by identity", "storage"],
)
def test_storage_and_cosmos_db_are_asked_at_their_own_address(
    monkeypatch: pytest.MonkeyPatch, sent: list[Any], environ: dict[str, str], address: str, said: str
) -> None:
    """Cosmos DB for Table by its endpoint, as its portal gives it; each with the proof that it takes."""
    monkeypatch.setattr(azure_table, "_credential", Credential)
    with pytest.raises(StorageUnavailable):
        build(load({**ELSEWHERE, **environ})).check_storage()
    [request] = sent
    assert request.url.startswith(address)
    assert request.headers["Authorization"].startswith(said)
