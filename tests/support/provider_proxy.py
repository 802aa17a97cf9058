"""A proxy between apps and the provider, over https: counts what is asked, and fails as it is told.

    with ProviderProxy() as proxy:                        # first: the provider has to know the address it goes by
        provider = Provider(local.provider_ready(local.launch_provider(folder, address=proxy.address)))
        proxy.upstream = provider.browser
        ...
        page = proxy.during("code", "hang", lambda: agent.choose("alice"))    # the next token request gets no answer
        with proxy.failing("graph", "500"): ...                               # all of them, until the end
        assert proxy.counts() == {"code": 1}

Calls: ``discovery``, ``jwks``, ``code`` and ``refresh`` (the token endpoint, by grant), ``revocation``, ``graph``.  Faults of
``QUICK`` are over at once, those of ``SLOW`` as late as the caller lets them be.  None but ``lost`` reaches the provider.
"""

import contextlib
import http.client
import itertools
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from dev import certificates
from dev.stack import STATE

T = TypeVar("T")

QUICK = ("refused", "drop", "lost", "500", "503", "html", "endless", "no_line_end", "cut", "empty", "list", "redirect")
"""refused: nobody listens.  drop: closed without an answer.  lost: the provider did it, its answer is cut off.  endless: a body
without an end.  no_line_end: a chunk whose length has none.  cut: half a body.  list: JSON, but no object."""
SLOW = ("hang", "mute", "drip", "drip_head")
"""hang: no answer.  mute: not even TLS.  drip: a byte now and then, of the body or of the headers."""
_DROP = 0.1
_ENDPOINTS = {"openid-configuration": "discovery", "keys": "jwks", "revoke": "revocation", "me": "graph"}
_JSON = {"Content-Type": "application/json"}


class ProviderProxy:
    """See the module."""

    def __init__(self) -> None:
        self.upstream = ""
        """The provider's http address."""
        files = certificates.ensure(STATE, now=datetime.now(UTC))
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(files.certificate, files.key)
        # Keeps the port ours while nobody listens.
        self._holder = _bound(0)
        self._port: int = self._holder.getsockname()[1]
        self.address = f"https://127.0.0.1:{self._port}"
        self._lock = threading.Lock()
        self._arming = threading.Lock()
        self._armed: dict[str, tuple[str, threading.Event | None]] = {}
        self._mute: threading.Event | None = None
        self._seen: list[str] = []
        self._connections: dict[socket.socket, bool] = {}
        self._stopping = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._silence()
        self._holder.close()

    # -- what tests ask and tell

    def reset(self) -> None:
        """Forgets what was counted."""
        with self._lock:
            self._seen.clear()

    def counts(self) -> dict[str, int]:
        """How often what was asked since the last reset; ``elsewhere`` is where the redirect leads."""
        with self._lock:
            return dict(Counter(self._seen))

    @contextlib.contextmanager
    def failing(self, call: str, fault: str) -> Iterator[None]:
        """Fails all requests of ``call`` that come inside; not for ``mute``."""
        if fault == "refused":
            with self._refusing():
                yield
            return
        with self._lock:
            self._armed[call] = (fault, None)
        try:
            yield
        finally:
            with self._lock:
                del self._armed[call]

    def during(self, call: str, fault: str, act: Callable[[], T]) -> T:
        """``act``, of whose requests the first of ``call`` fails.

        Several threads may do so at once: the next one begins when the fault of the one before has struck.

        Raises:
            AssertionError: nothing of the kind was asked.
        """
        if fault == "refused":
            with self._refusing():
                return act()
        struck = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            with self._arming:
                with self._lock:
                    if fault == "mute":
                        self._mute = struck
                        self._close(idle_only=True)
                    else:
                        self._armed[call] = (fault, struck)
                acting = pool.submit(act)
                try:
                    while not struck.wait(0.01) and not acting.done():
                        pass
                finally:
                    with self._lock:
                        self._mute = None
                        self._armed.pop(call, None)
            result = acting.result()
        assert struck.is_set(), f"{call} was not asked"
        return result

    # -- who listens

    def _listen(self) -> None:
        self._server = _Server(self, self._port)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _silence(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            self._close(idle_only=False)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        self._silence()
        try:
            yield
        finally:
            self._listen()

    def _close(self, *, idle_only: bool) -> None:
        """Ends connections; the caller has the lock."""
        for connection, busy in self._connections.items():
            if not (busy and idle_only):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    # -- what is answered

    def secured(self, connection: socket.socket) -> ssl.SSLSocket | None:
        """The connection after TLS, or None where it came to nothing."""
        with self._lock:
            mute, self._mute = self._mute, None
        if mute is not None:
            mute.set()
            self._wait_for_the_end(connection)
            return None
        try:
            secured = self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            return None
        with self._lock:
            self._connections[secured] = False
        return secured

    def gone(self, connection: socket.socket) -> None:
        """That connection has ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        with self._lock:
            self._connections[handler.connection] = True
        try:
            body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
            call = _what(handler.path, body)
            with self._lock:
                self._seen.append(call)
                fault, struck = self._armed.pop(call, ("", None))
                if fault and struck is None:
                    self._armed[call] = (fault, None)
            if struck is not None:
                struck.set()
            with contextlib.suppress(OSError):
                self._answer(handler, body, fault)
                return
            handler.close_connection = True
        finally:
            with self._lock:
                if handler.connection in self._connections:
                    self._connections[handler.connection] = False

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes, fault: str) -> None:
        match fault:
            case "":
                _send(handler, *self._forwarded(handler, body))
            case "lost":
                self._forwarded(handler, body)
                _end(handler)
            case "drop":
                _end(handler)
            case "500":
                _send(handler, 500, {"Content-Type": "text/plain"}, b"internal server error")
            case "503":
                _send(handler, 503, {"Content-Type": "text/plain", "Retry-After": "120"}, b"busy")
            case "html":
                _send(handler, 200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Maintenance</title><p>Back soon.")
            case "empty":
                _send(handler, 200, _JSON, b"")
            case "list":
                _send(handler, 200, _JSON, b'["access_token", "issuer", "keys"]')
            case "redirect":
                _send(handler, 307, {"Location": f"{self.address}/elsewhere"}, b"")
            case "cut":
                _send(handler, 200, {**_JSON, "Content-Length": "4000"}, b'{"issuer": "https://')
                _end(handler)
            case "endless":
                self._stream(handler, {**_JSON, "Content-Length": str(1 << 40)}, itertools.repeat(b" " * 65536), pause=0)
            case "no_line_end":
                self._stream(handler, {**_JSON, "Transfer-Encoding": "chunked"}, itertools.repeat(b"0" * 65536), pause=0)
            case "hang":
                self._wait_for_the_end(handler.connection)
                handler.close_connection = True
            case "drip":
                self._stream(handler, {**_JSON, "Content-Length": "4000"}, itertools.repeat(b" "), pause=_DROP)
            case "drip_head":
                head = b"HTTP/1.1 200 OK\r\nX-Padding: "
                self._stream(
                    handler, None, (bytes([one]) for one in itertools.chain(head, itertools.repeat(120))), pause=_DROP
                )
            case _:
                raise ValueError(fault)

    def _stream(
        self, handler: BaseHTTPRequestHandler, headers: dict[str, str] | None, pieces: Iterator[bytes], *, pause: float
    ) -> None:
        """Sends pieces until the other side has had enough."""
        handler.close_connection = True
        if headers is not None:
            _send(handler, 200, headers, b"")
        for piece in pieces:
            if self._stopping.wait(pause):
                return
            handler.wfile.write(piece)

    def _wait_for_the_end(self, connection: socket.socket) -> None:
        """Until the other side hangs up, whatever it says meanwhile."""
        connection.settimeout(0.1)
        while not self._stopping.is_set():
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _forwarded(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = urlsplit(self.upstream)
        with contextlib.closing(http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)) as connection:
            sent = {name: value for name, value in handler.headers.items() if name.lower() not in {"host", "connection"}}
            connection.request(handler.command, handler.path, body=body or None, headers=sent)
            answer = connection.getresponse()
            content = answer.read()
            kept = {"content-type", "www-authenticate", "cache-control"}
            return answer.status, {n: v for n, v in answer.getheaders() if n.lower() in kept}, content


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: ProviderProxy, port: int) -> None:
        self._proxy = proxy

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                proxy.serve(self)

            do_GET = do_POST = handle_any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = _bound(port)
        self.socket.listen(256)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # TLS here, in the connection's own thread: a client that is slow at it must not stop the others.
        secured = self._proxy.secured(request)
        if secured is None:
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(secured, client_address)
        finally:
            self._proxy.gone(secured)

    def handle_error(self, *args: Any) -> None:
        pass  # connections that were dropped on purpose


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response_only(status)
    length = {} if {"Content-Length", "Transfer-Encoding"} & headers.keys() else {"Content-Length": str(len(body))}
    for name, value in {**headers, **length}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _end(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def _what(path: str, body: bytes) -> str:
    """The call that a request is."""
    name = urlsplit(path).path.rpartition("/")[2]
    if name == "token":
        grant = parse_qs(body.decode()).get("grant_type", [""])[0]
        return "refresh" if grant == "refresh_token" else "code"
    return _ENDPOINTS.get(name, name)
