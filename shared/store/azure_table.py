"""Tables in Azure Table Storage, Azurite or Cosmos DB for Table: the only importer of ``azure.data.tables``.

What a row means is ``sessions.py`` and ``index.py``; the contract is ``table.py``.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import EdmType, EntityProperty, TableServiceClient, TableTransactionError, UpdateMode

from shared import limits
from shared.errors import StorageUnavailable
from shared.store.table import TRANSACTION_LIMIT, Conflict, Delete, Insert, Merge, Operation, Replace, Row, RowChanged, RowExists, RowMissing, Table, Upsert, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageAccount:
    connection_string: str | None = field(default=None, repr=False)
    table_service_uri: str | None = None
    client_id: str | None = None
    managed_identity: bool = False


class AzureTables:
    def __init__(self, account: StorageAccount, prefix: str) -> None:
        logging.getLogger("azure").setLevel(logging.WARNING)
        self._prefix = prefix
        self._service = TableServiceClient.from_connection_string(account.connection_string or "", retry_total=2)

    def table(self, name: str) -> Table:
        return _AzureTable(self._service, self._prefix + name)

    def check(self) -> None:
        with _mapped():
            next(iter(self._service.list_tables(results_per_page=1)), None)


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except Conflict:
        raise
    except AzureError as error:
        raise StorageUnavailable(type(error).__name__) from None


class _AzureTable:
    def __init__(self, service: TableServiceClient, name: str) -> None:
        self._service, self._name = service, name
        self._client = service.get_table_client(name)

    def read(self, partition: str, key: str) -> Row | None:
        with _mapped():
            try:
                return _row(self._client.get_entity(partition, key))
            except ResourceNotFoundError:
                return None

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        select = ["PartitionKey", "RowKey", *columns] if columns is not None else None
        with _mapped():
            try:
                return [_row(e) for e in self._client.query_entities("PartitionKey eq @p", parameters={"p": partition}, select=select)]
            except ResourceNotFoundError:
                return []

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        with _mapped():
            try:
                for entity in self._client.query_entities("PartitionKey ge @a and PartitionKey lt @b", parameters={"a": first, "b": before}):
                    yield _row(entity)
            except ResourceNotFoundError:
                return

    def write(self, partition: str, operation: Operation) -> str:
        with _mapped():
            for _ in range(2):
                try:
                    return self._write(partition, operation)
                except ResourceNotFoundError as error:
                    if getattr(error, "error_code", "") == "TableNotFound":
                        self._create()
                        continue
                    raise RowMissing(operation.key) from None
                except ResourceExistsError:
                    raise RowExists(operation.key) from None
                except ResourceModifiedError:
                    raise RowChanged(operation.key) from None
        raise StorageUnavailable("no table")

    def _create(self) -> None:
        self._service.create_table_if_not_exists(self._name)

    def _write(self, partition: str, operation: Operation) -> str:
        keys = {"PartitionKey": partition, "RowKey": operation.key}
        if isinstance(operation, Delete):
            extra = {"etag": operation.etag, "match_condition": MatchConditions.IfNotModified} if operation.etag else {}
            url_like = self._client.get_entity if False else None
            del url_like
            # delete_entity swallows 404: a transaction of one does not
            self._client.submit_transaction([("delete", keys, extra)])
            return ""
        entity = {**keys, **{n: _out(v) for n, v in operation.values.items()}}
        if isinstance(operation, Insert):
            return str(self._client.create_entity(entity)["etag"])
        if isinstance(operation, Upsert):
            return str(self._client.upsert_entity(entity, mode=UpdateMode.REPLACE)["etag"])
        mode = UpdateMode.MERGE if isinstance(operation, Merge) else UpdateMode.REPLACE
        return str(self._client.update_entity(entity, mode=mode, etag=operation.etag, match_condition=MatchConditions.IfNotModified)["etag"])

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        if not 1 <= len(operations) <= TRANSACTION_LIMIT:
            raise ValueError(f"a transaction has 1 to {TRANSACTION_LIMIT} operations")
        with _mapped():
            for _ in range(2):
                try:
                    self._client.submit_transaction([_step(partition, o) for o in operations])
                    return
                except TableTransactionError as error:
                    if error.error_code == "TableNotFound":
                        self._create()
                        continue
                    kind = {404: RowMissing, 409: RowExists, 412: RowChanged}.get(error.status_code or 0)
                    if kind is None:
                        raise
                    raise kind(str(error.index)) from None
                except ResourceNotFoundError:
                    self._create()


def _step(partition: str, operation: Operation) -> Any:
    keys = {"PartitionKey": partition, "RowKey": operation.key}
    if isinstance(operation, Delete):
        return ("delete", keys, {"etag": operation.etag, "match_condition": MatchConditions.IfNotModified} if operation.etag else {})
    entity = {**keys, **{n: _out(v) for n, v in operation.values.items()}}
    if isinstance(operation, Insert):
        return ("create", entity)
    if isinstance(operation, Upsert):
        return ("upsert", entity, {"mode": UpdateMode.REPLACE})
    mode = UpdateMode.MERGE if isinstance(operation, Merge) else UpdateMode.REPLACE
    return ("update", entity, {"mode": mode, "etag": operation.etag, "match_condition": MatchConditions.IfNotModified})


def _out(value: Value) -> Any:
    return EntityProperty(value, EdmType.INT64) if isinstance(value, int) and not isinstance(value, bool) else value


def _row(entity: Mapping[str, Any]) -> Row:
    values: dict[str, Value] = {}
    for name, value in entity.items():
        if name in ("PartitionKey", "RowKey"):
            continue
        if isinstance(value, EntityProperty):
            value = value.value
        if isinstance(value, datetime):
            value = datetime.fromtimestamp(value.timestamp(), UTC).replace(microsecond=value.microsecond)
        if value is not None:
            values[name] = value
    return Row(partition=entity["PartitionKey"], key=entity["RowKey"], etag=entity.metadata["etag"], values=values)  # type: ignore[attr-defined]
