"""Tables in Azure Table Storage, Azurite or Cosmos DB for Table: the only importer of ``azure.data.tables``.

The contract is ``table.py``; what a row means is ``sessions.py`` and ``index.py``.

Time and retries are ours, not the SDK's, so that they can be said in one sentence: an operation is tried up to three times,
after 0.1 and 0.4 s (or what ``Retry-After`` asks), on 408, 429, 5xx and failed connections, and all of it together takes no
longer than ``limits.STORAGE`` or what the request has left.  A write that was carried out though its answer was lost meets
its own work when it is repeated: that is a ``Conflict``, as the contract says.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.data.tables import EdmType, EntityProperty, TableClient, TableServiceClient, UpdateMode

from shared import limits
from shared.errors import StorageUnavailable
from shared.store.table import (
    TRANSACTION_LIMIT,
    Conflict,
    Delete,
    Insert,
    Merge,
    Operation,
    Row,
    RowChanged,
    RowExists,
    RowMissing,
    Table,
    Upsert,
    Value,
)
from shared.store.transport import Transport

T = TypeVar("T")

PAUSES = (0.1, 0.4)
"""Seconds before the second and the third try."""
CONNECT = 2.0
"""Seconds for a connection: a dead address is found out in time for another try."""
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_CONFLICTS: Mapping[str, type[Conflict]] = {
    "EntityAlreadyExists": RowExists,
    "UpdateConditionNotSatisfied": RowChanged,
    "ConditionNotMet": RowChanged,
    "ResourceNotFound": RowMissing,
    "EntityNotFound": RowMissing,
}
_BY_STATUS: Mapping[int, type[Conflict]] = {409: RowExists, 412: RowChanged}
"""Without a code of storage's own.  A 404 is none of these: a gateway's would say that there is no session."""
_ILLEGAL = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_OPTIONS: dict[str, Any] = {"retry_total": 0, "permit_redirects": False, "user_agent": "functions-sign-out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageAccount:
    """Where the tables are: a connection string, or an address and an identity.

    ``client_id`` is that of a user-assigned managed identity; ``managed_identity`` insists on a managed identity, otherwise
    the environment decides (a developer's sign-in, workload identity …).
    """

    connection_string: str | None = field(default=None, repr=False)
    table_service_uri: str | None = None
    client_id: str | None = None
    managed_identity: bool = False


class AzureTables:
    """The tables of one storage account.  Building it does no I/O; it is safe for threads."""

    def __init__(self, account: StorageAccount, prefix: str) -> None:
        logging.getLogger("azure").setLevel(logging.WARNING)  # at INFO it writes two records for each request
        self._prefix = prefix
        self._service = _service(account)

    def table(self, name: str) -> Table:
        """The table ``prefix + name``; it is created by the first write that misses it."""
        return _AzureTable(self._service, self._prefix + name)

    def check(self) -> None:
        """One cheap request.

        Raises:
            StorageUnavailable: the account does not answer, or does not let us in.
        """
        _attempt("check", lambda: next(iter(self._service.list_tables(results_per_page=1, **_timeouts())), None))


def _service(account: StorageAccount) -> TableServiceClient:
    transport = _transport()
    if account.connection_string is not None:
        return TableServiceClient.from_connection_string(account.connection_string, transport=transport, **_OPTIONS)
    return TableServiceClient(
        account.table_service_uri or "", credential=_credential(account), transport=transport, **_OPTIONS
    )


def _credential(account: StorageAccount) -> Any:
    """Who we are to storage.  A token request belongs to the operation that needs it: its deadline, its repetitions."""
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential  # noqa: PLC0415 - 350 ms, when it is used

    options: dict[str, Any] = {"transport": _transport(), "retry_total": 0}
    if account.managed_identity:
        return ManagedIdentityCredential(client_id=account.client_id, **options)
    return DefaultAzureCredential(managed_identity_client_id=account.client_id, process_timeout=int(limits.STORAGE), **options)


def _transport() -> Transport:
    return Transport(connection_timeout=CONNECT, read_timeout=limits.STORAGE)


class _AzureTable:
    """One table; see ``Table``."""

    def __init__(self, service: TableServiceClient, name: str) -> None:
        self._service = service
        self._name = name
        self._client: TableClient = service.get_table_client(name)

    def read(self, partition: str, key: str) -> Row | None:
        """See ``Table.read``."""
        _check_keys(partition, key)
        try:
            return self._attempt("read", lambda: _row(self._client.get_entity(partition, key, **_timeouts())))
        except RowMissing:
            return None

    def list(self, partition: str, *, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """See ``Table.list``."""
        _check_keys(partition)
        select = ["PartitionKey", "RowKey", *columns] if columns is not None else None

        def rows() -> list[Row]:
            found = self._client.query_entities(
                "PartitionKey eq @partition", parameters={"partition": partition}, select=select, **_timeouts()
            )
            return [_row(entity) for entity in found]

        try:
            return self._attempt("list", rows)
        except RowMissing:
            return []

    def scan(self, *, first: str, before: str) -> Iterator[Row]:
        """See ``Table.scan``."""
        token: Any = None
        while True:
            pages = self._client.query_entities(
                "PartitionKey ge @first and PartitionKey lt @before",
                parameters={"first": first, "before": before},
                **_timeouts(),
            ).by_page(continuation_token=token)
            try:
                page = self._attempt("scan", lambda pages=pages: [_row(entity) for entity in next(pages, ())])  # type: ignore[misc]
            except RowMissing:
                return
            yield from page
            token = pages.continuation_token  # type: ignore[attr-defined]
            if token is None:
                return

    def write(self, partition: str, operation: Operation) -> str:
        """See ``Table.write``."""
        _check_keys(partition, operation.key)
        return self._creating("write", lambda: self._write(partition, operation))

    def transact(self, partition: str, operations: Sequence[Operation]) -> None:
        """See ``Table.transact``."""
        if not 1 <= len(operations) <= TRANSACTION_LIMIT:
            raise ValueError(f"a transaction has 1 to {TRANSACTION_LIMIT} operations")
        if len({operation.key for operation in operations}) < len(operations):
            raise ValueError("a transaction touches each row once")
        _check_keys(partition, *(operation.key for operation in operations))
        steps = [_step(partition, operation) for operation in operations]
        self._creating("transact", lambda: self._client.submit_transaction(steps, **_timeouts()))

    def _write(self, partition: str, operation: Operation) -> str:
        keys = {"PartitionKey": partition, "RowKey": operation.key}
        match operation:
            case Delete(key=key, etag=etag):
                answers: list[Any] = []
                self._client.delete_entity(
                    partition,
                    key,
                    **_condition(etag),
                    **_timeouts(),
                    raw_response_hook=lambda response: answers.append(response.http_response),
                )
                if answers[-1].status_code == 404:  # noqa: PLR2004 - Not Found, which the SDK takes for success
                    missing = HttpResponseError(response=answers[-1])
                    raise RowMissing(key) if _code(missing) == "TableNotFound" else missing
                return ""
            case Insert(values=values):
                answer = self._client.create_entity({**keys, **_outgoing(values)}, **_timeouts())
            case Upsert(values=values):
                answer = self._client.upsert_entity({**keys, **_outgoing(values)}, mode=UpdateMode.REPLACE, **_timeouts())
            case _:
                answer = self._client.update_entity(
                    {**keys, **_outgoing(operation.values)},
                    mode=_mode(operation),
                    **_condition(operation.etag),
                    **_timeouts(),
                )
        return str(answer["etag"])

    def _creating(self, what: str, work: Callable[[], T]) -> T:
        """Carries out a write; where the table is missing, creates it and tries once more."""
        try:
            return self._attempt(what, work, table_missing=_TableMissing)
        except _TableMissing:
            self._attempt("create table", lambda: self._service.create_table_if_not_exists(self._name, **_timeouts()))
            return self._attempt(what, work)

    def _attempt(self, what: str, work: Callable[[], T], *, table_missing: type[Exception] = RowMissing) -> T:
        return _attempt(f"{what} {self._name}", work, table_missing=table_missing)


class _TableMissing(Exception):
    pass


def _attempt(what: str, work: Callable[[], T], *, table_missing: type[Exception] = RowMissing) -> T:
    """Carries out one operation within its time, repeating what may succeed a moment later.

    Raises:
        Conflict: the row is not as the operation demands.
        StorageUnavailable: nothing is known about the operation.
    """
    with limits.within(limits.STORAGE):
        for pause in (*PAUSES, None):
            if limits.left(limits.STORAGE) <= 0:
                break
            try:
                return work()
            except HttpResponseError as error:
                code = _code(error)
                if code == "TableNotFound":
                    raise table_missing(what) from None
                if error.status_code is not None and error.status_code not in _TRANSIENT:
                    conflict = _CONFLICTS.get(code) if code else _BY_STATUS.get(error.status_code)
                    if conflict is not None:
                        raise conflict(what) from None
                    raise StorageUnavailable(_said(what, error)) from None
                said, wish = _said(what, error), _retry_after(error)
            except AzureError as error:  # no connection, no answer, or none that can be read
                said, wish = f"{what}: {type(error).__name__}", 0.0
            wait = max(pause or 0.0, wish)
            if pause is None or wait >= limits.left(limits.STORAGE):
                raise StorageUnavailable(said) from None
            time.sleep(wait)
        raise StorageUnavailable(f"{what}: no time left")


def _timeouts() -> dict[str, Any]:
    left = max(0.05, limits.left(limits.STORAGE))
    return {"connection_timeout": min(CONNECT, left), "read_timeout": left}


def _code(error: HttpResponseError) -> str:
    """The service's error code; ``create_entity`` of the SDK leaves it in the text of the answer."""
    code = getattr(error, "error_code", None)
    if code:
        return str(getattr(code, "value", code))
    found = re.search(r'"code"\s*:\s*"(\w+)', str(error))
    return found.group(1) if found else ""


def _said(what: str, error: HttpResponseError) -> str:
    """For the log: what was refused and how; never keys or values, which may stand in the error's own message."""
    headers = getattr(error.response, "headers", None) or {}
    return f"{what}: {error.status_code} {_code(error)} (request {headers.get('x-ms-request-id', 'unknown')})"


def _retry_after(error: HttpResponseError) -> float:
    headers = getattr(error.response, "headers", None) or {}
    text = str(headers.get("Retry-After", ""))
    return float(text) if re.fullmatch(r"\d{1,5}", text) else 0.0


def _check_keys(*keys: str) -> None:
    """Keys that storage refuses are a fault of ours: they are not sent."""
    if any(_ILLEGAL.search(key) for key in keys):
        raise ValueError("a key holds a character that storage refuses")


def _condition(etag: str | None) -> dict[str, Any]:
    return {} if etag is None else {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def _mode(operation: Operation) -> UpdateMode:
    return UpdateMode.MERGE if isinstance(operation, Merge) else UpdateMode.REPLACE


def _step(partition: str, operation: Operation) -> Any:
    keys = {"PartitionKey": partition, "RowKey": operation.key}
    match operation:
        case Delete(etag=etag):
            return ("delete", keys, _condition(etag))
        case Insert(values=values):
            return ("create", {**keys, **_outgoing(values)})
        case Upsert(values=values):
            return ("upsert", {**keys, **_outgoing(values)}, {"mode": UpdateMode.REPLACE})
        case _:
            entity = {**keys, **_outgoing(operation.values)}
            return ("update", entity, {"mode": _mode(operation), **_condition(operation.etag)})


def _outgoing(values: Mapping[str, Value]) -> dict[str, Any]:
    """Whole numbers go as ``Edm.Int64``; the SDK would send 32 bits."""
    return {
        name: EntityProperty(value, EdmType.INT64) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in values.items()
    }


def _row(entity: Any) -> Row:
    values = {
        name: _incoming(value)
        for name, value in entity.items()
        if name not in {"PartitionKey", "RowKey", "Timestamp"} and value is not None
    }
    return Row(partition=entity["PartitionKey"], key=entity["RowKey"], etag=entity.metadata["etag"], values=values)


def _incoming(value: Any) -> Value:
    plain = value.value if isinstance(value, EntityProperty) else value
    if isinstance(plain, datetime):  # the SDK's own subclass
        return datetime(
            plain.year, plain.month, plain.day, plain.hour, plain.minute, plain.second, plain.microsecond, tzinfo=UTC
        )
    return plain  # type: ignore[no-any-return]
