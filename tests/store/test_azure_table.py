"""Who we are to storage, and over which wire; what the tables then do is ``test_table_contract.py``."""

import os
from typing import Any

import azure.identity
import pytest

from shared import limits
from shared.store import azure_table
from shared.store.azure_table import CONNECT, StorageAccount
from shared.store.transport import Transport

URI = "https://account.table.core.windows.net"
CLIENT = "22222222-2222-4333-8444-555555555555"


class Credential:
    """A class of ``azure.identity`` that remembers how it was made."""

    made: list["Credential"]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.made.append(self)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Credential]]:
    """The two classes of ``azure.identity``, as doubles; the environment names an identity of its own."""
    found: dict[str, type[Credential]] = {}
    for name in ("ManagedIdentityCredential", "DefaultAzureCredential"):
        found[name] = type(name, (Credential,), {"made": []})
        monkeypatch.setattr(azure.identity, name, found[name])
    monkeypatch.setenv("AZURE_CLIENT_ID", "33333333-2222-4333-8444-555555555555")
    return found


@pytest.mark.parametrize("client_id", [None, CLIENT], ids=["system-assigned", "user-assigned"])
@pytest.mark.parametrize(
    ("managed", "name", "more"),
    [
        (True, "ManagedIdentityCredential", {"client_id": "its id"}),
        (False, "DefaultAzureCredential", {"managed_identity_client_id": "its id", "process_timeout": 5}),
    ],
    ids=["managed identity", "whatever the environment has"],
)
def test_the_identity_is_the_configured_one(
    kinds: dict[str, type[Credential]], managed: bool, name: str, more: dict[str, Any], client_id: str | None
) -> None:
    """``__credential=managedidentity`` insists on it; ``__clientId`` names it, and without one it is the system-assigned.

    Token requests go over our transport and are not repeated behind our back: the operation's own limit is theirs.
    """
    account = StorageAccount(table_service_uri=URI, client_id=client_id, managed_identity=managed)
    credential = azure_table._credential(account)
    assert [kind for kind, double in kinds.items() if double.made] == [name]
    assert type(credential) is kinds[name]
    options = dict(credential.options)
    transport = options.pop("transport")
    assert options == {"retry_total": 0, **{key: client_id if value == "its id" else value for key, value in more.items()}}
    assert isinstance(transport, Transport)
    assert (transport._connection_timeout, transport._read_timeout) == (CONNECT, limits.STORAGE)


def test_a_connection_string_needs_no_identity(kinds: dict[str, type[Credential]]) -> None:
    """Its key, or signature, is who we are; ``azure.identity`` is not even asked."""
    key = StorageAccount(connection_string="AccountName=a;AccountKey=a2V5")
    signed = StorageAccount(connection_string=f"TableEndpoint={URI};SharedAccessSignature=sv=1&sig=x")
    for account in (key, signed):
        azure_table._service(account)
    assert not any(double.made for double in kinds.values())


def test_the_real_classes_take_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked while they are made."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    for managed in (True, False):
        account = StorageAccount(table_service_uri=URI, client_id=CLIENT, managed_identity=managed)
        assert hasattr(azure_table._credential(account), "get_token")
