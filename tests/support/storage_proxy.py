"""A proxy between an app and Azurite: counts what is asked, and fails as it is told.

    with StorageProxy(azurite.connection_string) as proxy:
        app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
        proxy.reset()
        ...
        assert proxy.counts() == {"read sessions": 1}
        proxy.fail("503", kind="transaction")              # the next one; times=None: every one from now on
        proxy.fail("drop_after", nth=2)                     # the second request of any kind: carried out, the answer is lost

Faults: ``429``, ``500``, ``503`` (not forwarded), ``drop_before``, ``hang`` (neither), ``delay`` (``seconds`` first), ``drop_after``, ``503_after``,
``hang_after`` (forwarded, and the answer lost or replaced), ``drip``, ``drip_body`` (forwarded, and the answer, or its body, comes a byte
each 0.1 s).  Kinds: read, list, scan, insert, upsert, replace, merge, delete, transaction, other.
"""

import contextlib
import http.client
import io
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(slots=True, kw_only=True)
class _Rule:
    fault: str
    kind: str | None
    table: str | None
    skip: int
    times: int | None
    seconds: float


class StorageProxy:
    """See the module."""

    def __init__(self, connection_string: str) -> None:
        self._upstream = urlsplit(re.search(r"TableEndpoint=([^;]+)", connection_string).group(1))  # type: ignore[union-attr]
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._seen: list[str] = []
        self._stopping = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                proxy._serve(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_MERGE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *args: Any) -> None:
                pass  # connections that were dropped on purpose

        self._server = Server(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.connection_string = connection_string.replace(f":{self._upstream.port}/", f":{port}/")
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    # -- what tests ask and tell

    def reset(self) -> None:
        """Forgets what was counted and every fault."""
        with self._lock:
            self._seen.clear()
            self._rules.clear()

    def counts(self) -> dict[str, int]:
        """How often what was asked since the last reset, as ``kind table``; creating tables does not count."""
        with self._lock:
            return dict(Counter(one for one in self._seen if not one.startswith("other")))

    def total(self) -> int:
        """All requests since the last reset."""
        return sum(self.counts().values())

    def fail(
        self,
        fault: str,
        *,
        kind: str | None = None,
        table: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        seconds: float = 1.0,
    ) -> None:
        """Fails the ``nth`` matching request from now on, and ``times`` in all (None: from then on)."""
        with self._lock:
            self._rules.append(_Rule(fault=fault, kind=kind, table=table, skip=nth - 1, times=times, seconds=seconds))

    # -- how

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        kind, table = _what(handler.command, handler.path, dict(handler.headers.items()), body)
        fault, seconds = self._fault(kind, table)
        with self._lock:
            self._seen.append(f"{kind} {table}")
        if fault in {"429", "500", "503"}:
            self._answer(
                handler,
                int(fault),
                [("Content-Type", "application/json")],
                b'{"odata.error":{"code":"ServerBusy","message":{"lang":"en","value":"busy"}}}',
            )
            return
        if fault == "delay":
            time.sleep(seconds)
        if fault == "drop_before":
            self._drop(handler)
            return
        if fault == "hang":
            self._stopping.wait(30)
            self._drop(handler)
            return
        status, headers, answer = self._forward(handler, body)
        if fault == "drop_after":
            self._drop(handler)
        elif fault == "hang_after":
            self._stopping.wait(30)
            self._drop(handler)
        elif fault == "503_after":
            self._answer(
                handler,
                503,
                [("Content-Type", "application/json")],
                b'{"odata.error":{"code":"ServerBusy","message":{"lang":"en","value":"busy"}}}',
            )
        elif fault in {"drip", "drip_body"}:
            self._drip(handler, status, headers, answer, whole=fault == "drip")
        else:
            self._answer(handler, status, headers, answer)

    def _fault(self, kind: str, table: str) -> tuple[str | None, float]:
        with self._lock:
            for rule in self._rules:
                if (rule.kind not in (None, kind)) or (rule.table is not None and not table.endswith(rule.table)):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times < 0:
                        continue
                return rule.fault, rule.seconds
        return None, 0.0

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=30)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            answer = response.read()
            return response.status, [(n, v) for n, v in response.getheaders() if n.lower() not in _HOP], answer
        finally:
            connection.close()

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        handler.send_response_only(status)
        for name, value in headers:
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def _drip(
        self, handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes, *, whole: bool
    ) -> None:
        swift, handler.wfile = handler.wfile, io.BytesIO()
        try:
            self._answer(handler, status, headers, body)
            content = handler.wfile.getvalue()
        finally:
            handler.wfile = swift
        start = 0 if whole else content.index(b"\r\n\r\n") + 4
        swift.write(content[:start])
        for number in range(start, len(content)):
            if self._stopping.wait(0.1):
                return
            swift.write(content[number : number + 1])

    def _drop(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)


def _what(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, str]:
    """The kind of a request and its table (``sessions`` or ``index``)."""
    lower = {name.lower(): value for name, value in headers.items()}
    place = unquote(urlsplit(path).path).rstrip("/").rpartition("/")[2]
    name = place.partition("(")[0]
    if name == "$batch":
        found = re.search(rb"(?:POST|PUT|PATCH|MERGE|DELETE) \S*/([A-Za-z0-9]+)(?:\(|\s|\?)", body)
        return "transaction", _table(found.group(1).decode() if found else "")
    if name.lower() == "tables":
        return "other", ""
    one = "RowKey=" in place
    if method == "GET":
        return (
            "read"
            if one
            else "scan"
            if "ge" in unquote(urlsplit(path).query).split() or "PartitionKey+ge" in unquote(path)
            else "list"
        ), _table(name)
    if method == "POST":
        return "insert", _table(name)
    if method == "DELETE":
        return "delete", _table(name)
    conditional = "if-match" in lower
    if method == "PUT":
        return ("replace" if conditional else "upsert"), _table(name)
    return ("merge" if conditional else "upsert"), _table(name)


def _table(name: str) -> str:
    return "sessions" if name.endswith("sessions") else "index" if name.endswith("index") else name
