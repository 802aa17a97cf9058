"""A proxy between an app and Azurite: counts what is asked, and fails as it is told.

    with StorageProxy(azurite.connection_string) as proxy:
        app = stack.start_app({"TOKEN_STORE": proxy.connection_string})
        proxy.reset()
        ...
        assert proxy.counts() == {"read sessions": 1}
        proxy.fail("503", kind="transaction")              # the next one; times=None: every one from now on
        proxy.fail("drop_after", nth=2)                     # the second request of any kind: carried out, the answer is lost

For tests that run beside each other, faults of their own:

        with proxy.watch("an-account", "an-index-key") as watch:
            ...                                             # only requests that mention one of these names
            assert watch.calls() == [Call("list sessions", 1), Call("transaction sessions", 1), Call("delete index sid", 1)]
            watch.fail("503", call=Call("delete index sid", 1), times=None)   # that one, however often it is repeated

Faults: ``429``, ``500``, ``503`` (not forwarded), ``drop_before``, ``hang`` (neither), ``delay`` (``seconds`` first),
``drop_after``, ``503_after``, ``hang_after`` (forwarded, and the answer lost or replaced), ``late`` (forwarded after
``seconds``, when nobody waits for the answer), ``drip``, ``drip_body`` (forwarded, and the answer, or its body, comes a byte
each 0.1 s).  Kinds: read, list, scan, insert, upsert, replace, merge, delete, transaction, other.
"""

import contextlib
import http.client
import io
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, unquote_to_bytes, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_PARTITION = re.compile(r"PartitionKey(?:='| eq '|\+eq\+')([^']*)'")
_ROW = re.compile(r"RowKey='([^']*)'")
_OF_AN_APP = re.compile(r"-[0-9a-f]{16}")
"""The key of rows of which an app has one in each partition."""
_IDLE = 3.0
"""Seconds after which a connection to Azurite is not used again."""
_NAME = 16
"""Letters from which a key is nobody else's."""


@dataclass(slots=True, kw_only=True)
class _Rule:
    fault: str
    kind: str | None
    table: str | None
    skip: int
    times: int | None
    seconds: float


class Call(NamedTuple):
    """A storage call: ``kind table``, of the index also the kind of row, and which of those that read the same."""

    what: str
    nth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    kind: str
    table: str
    what: str
    text: bytes
    """Address and body: all that can mention a name."""
    act: tuple[str, ...]
    """The same when a call is repeated."""
    partition: str
    row: str


@dataclass(slots=True, kw_only=True)
class _Fault:
    faults: tuple[str, ...]
    """In turn, beginning again after the last."""
    call: Call | None
    times: int | None
    seconds: float
    seen: int = 0
    struck: int = 0
    act: tuple[str, ...] | None = None

    @property
    def fault(self) -> str:
        """That of the latest request that met it."""
        return self.faults[(self.struck - 1) % len(self.faults)]

    def meets(self, request: _Request) -> bool:
        """Whether this request is the call that fails, or its repetition."""
        if self.call is None:
            self.struck += 1
            return True
        if self.act is None:
            self.seen += request.what == self.call.what
            if request.what != self.call.what or self.seen < self.call.nth:
                return False
            self.act = request.act
        if request.act != self.act or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


@dataclass(slots=True, eq=False)
class Watch:
    """The requests that mention one of some names, and a fault for these alone.

    It knows more names as it goes: the session that an index row of its account points to, and where that row is.
    """

    _lock: threading.Condition
    learns: bool = True
    """Whether the keys that go with a name become names: not where others have the same keys."""
    _names: set[bytes] = field(default_factory=set)
    _calls: list[Call] = field(default_factory=list)
    _fault: _Fault | None = None
    _late: int = 0

    def know(self, *names: str) -> None:
        """More names: keys of storage that nobody else has."""
        with self._lock:
            self._names.update(name.encode() for name in names)

    def knows(self, text: str) -> bool:
        """Whether a text mentions one of the names."""
        with self._lock:
            return any(name.decode() in text for name in self._names)

    def begin(self) -> None:
        """Forgets what was asked, and the fault."""
        with self._lock:
            self._calls.clear()
            self._fault = None

    def calls(self) -> list[Call]:
        """What was asked since it began, in order; creating tables does not count."""
        with self._lock:
            return list(self._calls)

    def fail(self, *faults: str, call: Call | None = None, times: int | None = 1, seconds: float = 1.0) -> None:
        """Fails the first ``times`` tries of a call, or (None) each, with these faults in turn; without a call, of any."""
        with self._lock:
            self._fault = _Fault(faults=faults, call=call, times=times, seconds=seconds)

    def heal(self) -> int:
        """Ends the fault, waits until what comes late has come, and says how often the fault was met."""
        with self._lock:
            fault, self._fault = self._fault, None
            self._lock.wait_for(lambda: not self._late, timeout=30)
            return fault.struck if fault is not None else 0

    def _takes(self, request: _Request) -> bool:
        if not any(name in request.text for name in self._names):
            return False
        if request.table == "index" and self.learns:
            keys = [request.row, "" if request.partition.startswith("exp:") else request.partition]
            self._names.update(key.encode() for key in keys if len(key) >= _NAME and not _OF_AN_APP.fullmatch(key))
        return True

    def _met(self, request: _Request) -> _Fault | None:
        if request.kind != "other":
            self._calls.append(Call(request.what, 1 + sum(call.what == request.what for call in self._calls)))
        if self._fault is None or not self._fault.meets(request):
            return None
        self._late += self._fault.fault == "late"
        return self._fault

    def _came(self) -> None:
        with self._lock:
            self._late -= 1
            self._lock.notify_all()


class StorageProxy:
    """See the module."""

    def __init__(self, connection_string: str) -> None:
        self._upstream = urlsplit(re.search(r"TableEndpoint=([^;]+)", connection_string).group(1))  # type: ignore[union-attr]
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._seen: list[str] = []
        self._watches: list[Watch] = []
        self._watched = threading.Condition()
        self._strangers: list[str] = []
        self._stopping = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                proxy._serve(self)

            def finish(self) -> None:
                super().finish()
                if hasattr(self, "upstream"):
                    self.upstream[0].close()

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

    @contextlib.contextmanager
    def watch(self, *names: str) -> Iterator[Watch]:
        """Watches the requests that mention one of these names: keys of storage that nobody else has."""
        watch = Watch(self._watched)
        watch.know(*names)
        with self._watched:
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with self._watched:
                self._watches.remove(watch)

    def strangers(self) -> list[str]:
        """What was asked while somebody was watching, and was nobody's; creating tables does not count."""
        with self._watched:
            return list(self._strangers)

    # -- how

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        kind, table = _what(handler.command, handler.path, dict(handler.headers.items()), body)
        fault, seconds = self._fault(kind, table)
        watch, met = self._watching(_request(kind, table, handler.command, handler.path, body))
        if met is not None:
            fault, seconds = met.fault, met.seconds
        with self._lock:
            self._seen.append(f"{kind} {table}")
        if fault == "late":
            try:
                self._stopping.wait(seconds)
                self._forward(handler, body)
            finally:
                if watch is not None:
                    watch._came()
            self._drop(handler)
            return
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

    def _watching(self, request: _Request) -> tuple[Watch | None, _Fault | None]:
        with self._watched:
            for watch in self._watches:
                if watch._takes(request):
                    return watch, watch._met(request)
            if self._watches and request.kind != "other":
                self._strangers.append(f"{request.what}: {request.act}")
            return None, None

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
        connection = self._connection(handler)
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            if name.lower() not in _HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        handler.upstream = (connection, time.monotonic())  # type: ignore[attr-defined]
        return response.status, [(n, v) for n, v in response.getheaders() if n.lower() not in _HOP], answer

    def _connection(self, handler: BaseHTTPRequestHandler) -> http.client.HTTPConnection:
        """The one that goes with the client's connection; Azurite closes one that was idle for 5 s."""
        connection, used = getattr(handler, "upstream", (None, 0.0))
        if connection is not None and time.monotonic() - used < _IDLE:
            return connection  # type: ignore[no-any-return]
        if connection is not None:
            connection.close()
        return http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=30)

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


def _request(kind: str, table: str, method: str, path: str, body: bytes) -> _Request:
    address = unquote(path)
    if kind == "transaction":
        lines = re.findall(rb"(?:POST|PUT|PATCH|MERGE|DELETE) \S+", body)
        act = tuple(sorted(unquote_to_bytes(line).decode("utf-8", "replace") for line in lines))
    else:
        act = (kind, address)
    found, row = _PARTITION.search(" ".join(act)), _ROW.search(address)
    partition, key = found[1] if found is not None else "", row[1] if row is not None else ""
    if kind == "insert":  # its address is the table's
        entity = json.loads(body)
        partition, key = entity["PartitionKey"], entity["RowKey"]
        act = (*act, partition, key)
    kept = partition.partition(":")[0] if table == "index" else "!" if key == "!" else ""
    return _Request(
        kind=kind,
        table=table,
        what=f"{kind} {table} {kept}".strip(),
        text=address.encode() + unquote_to_bytes(body),
        act=act,
        partition=partition,
        row=key,
    )


def _table(name: str) -> str:
    return "sessions" if name.endswith("sessions") else "index" if name.endswith("index") else name
