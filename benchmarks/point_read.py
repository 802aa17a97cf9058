"""What a point read of 10 KB costs in CPU: raw http.client, the SDK over our transport, and the SDK over azure-core's own.

    python -m benchmarks.point_read [--reads 1000] [--rounds 5]

Azurite answers; its CPU is another process's and does not count.  The three take turns, and the best round of each counts, so
that other work on the machine weighs on none of them.  The last column is the first read of a fresh process, after the SDK has
been imported.  Ratios count, not the absolute numbers.
"""

import argparse
import http.client
import multiprocessing
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.data.tables import TableClient, TableServiceClient

from dev.stack import azurite_ready, launch_azurite
from shared.store.transport import Transport

_RAW, _OURS, _CORE = "http.client", "SDK, our transport", "SDK, RequestsTransport"
_SECONDS = 5.0

Read = Callable[[], object]


def reader(kind: str, connection_string: str, table: str) -> Read:
    """Reads the row once, each time it is called."""
    if kind == _RAW:
        return _raw(connection_string, table)
    transport: Any
    if kind == _OURS:
        transport = Transport(connection_timeout=_SECONDS, read_timeout=_SECONDS)
    else:
        from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415 - what its import costs is measured

        transport = RequestsTransport(use_env_settings=False, connection_timeout=_SECONDS, read_timeout=_SECONDS)
    client = TableClient.from_connection_string(connection_string, table, transport=transport, retry_total=0)
    return lambda: client.get_entity("p", "k")


def _raw(connection_string: str, table: str) -> Read:
    """Repeats a request that the SDK signed."""
    signed: list[Any] = []
    with TableClient.from_connection_string(connection_string, table) as client:
        client.get_entity("p", "k", raw_response_hook=lambda response: signed.append(response.http_request))
    url, headers = urlsplit(signed[0].url), dict(signed[0].headers)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_SECONDS)

    def read() -> None:
        try:
            ask()
        except ConnectionError:  # Azurite closes what was idle for the others' turns
            connection.close()
            ask()

    def ask() -> None:
        connection.request("GET", url.path + ("?" + url.query if url.query else ""), headers=headers)
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"Azurite answered {response.status}")

    return read


def cpu(read: Read, reads: int) -> float:
    """Milliseconds of CPU for one read."""
    began = time.process_time()
    for _ in range(reads):
        read()
    return (time.process_time() - began) * 1000 / reads


def first(kind: str, connection_string: str, table: str) -> float:
    """Milliseconds of CPU until the first read of a fresh process is done."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_first, (kind, connection_string, table))


def _first(kind: str, connection_string: str, table: str) -> float:
    began = time.process_time()
    reader(kind, connection_string, table)()
    return (time.process_time() - began) * 1000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.point_read")
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    azurite = azurite_ready(launch_azurite(Path(tempfile.mkdtemp())))
    try:
        storage, table = azurite.connection_string, f"read{secrets.token_hex(4)}"
        with TableServiceClient.from_connection_string(storage) as service:
            service.create_table(table).create_entity(
                {"PartitionKey": "p", "RowKey": "k", "Cache": secrets.token_bytes(10_000)}
            )
        readers = {kind: reader(kind, storage, table) for kind in (_RAW, _OURS, _CORE)}
        each = {kind: [cpu(read, options.reads // 10)] for kind, read in readers.items()}
        for _ in range(options.rounds):
            for kind, read in readers.items():
                each[kind].append(cpu(read, options.reads))
        fresh = {kind: min(first(kind, storage, table) for _ in range(3)) for kind in (_OURS, _CORE)}
    finally:
        azurite.child.stop()
    print(f"{'':24}{'CPU a read':>12}{'ratio':>8}{'first read':>14}")
    for kind, figures in each.items():
        one = f"{min(figures):.2f} ms"
        begin = f"{fresh[kind]:.0f} ms" if kind in fresh else ""
        print(f"{kind:24}{one:>12}{min(figures) / min(each[_RAW]):>8.1f}{begin:>14}")


if __name__ == "__main__":
    main()
