"""What stands between the tables SDK and the wire: limits that hold against any server, and answers as they were sent."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.rest import HttpRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev import certificates
from shared import limits
from shared.errors import StorageUnavailable
from shared.store import connections
from shared.store.azure_table import AzureTables, StorageAccount
from shared.store.table import Delete, Merge
from shared.store.transport import Transport

ROOT = Path(__file__).parent.parent.parent
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """A server on loopback that does to each connection what it is told; it remembers requests and connections."""

    def __init__(self, serve: "Serve", context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.over = threading.Event()
        self._serve = serve
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/account/table"
        self.connection_string = (
            f"AccountName=account;AccountKey=a2V5;TableEndpoint=http://127.0.0.1:{self.port}/account;EndpointSuffix=x"
        )
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def request(self, sock: socket.socket) -> bytes:
        """The next whole request, b"" where the client has gone."""
        got = b""
        while b"\r\n\r\n" not in got:
            more = self._receive(sock)
            if not more:
                return b""
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self._receive(sock)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]

    def drip(self, sock: socket.socket, content: bytes) -> None:
        """A byte now and then, without end."""
        while not self.over.wait(0.02):
            sock.sendall(content)

    def _receive(self, sock: socket.socket) -> bytes:
        sock.settimeout(0.05)
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                return sock.recv(65536)
        return b""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._connected, args=(sock, self.connections)))
                self._threads[-1].start()

    def _connected(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            try:
                sock.settimeout(5)
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_side=True)
                self._serve(self, sock, number)
            finally:
                sock.close()


Serve = Callable[[Server, socket.socket, int], None]
Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def start(serve: Serve, context: ssl.SSLContext | None = None) -> Server:
        started.append(Server(serve, context))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def transport() -> Iterator[Transport]:
    """With limits that no test waits for."""
    with Transport(connection_timeout=10, read_timeout=20) as transport:
        yield transport


def answering(*answers: bytes) -> Serve:
    """Answers each request of a connection with the same bytes."""

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        while server.request(sock):
            for answer in answers:
                sock.sendall(answer)

    return serve


def once(answer: bytes) -> Serve:
    """One answer, then the connection is closed."""

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(answer)

    return serve


def dripping(beginning: bytes, content: bytes) -> Serve:
    """The beginning of an answer, then drips."""

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(beginning)
        server.drip(sock, content)

    return serve


def get(transport: Transport, url: str, **kwargs: Any) -> Any:
    return transport.send(HttpRequest("GET", url), **kwargs)


# -- the deadline


DRIPS = {
    "status": (b"HTTP/1.1 2", b"0"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "body to the end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", b"x"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_dripping_answer_ends_with_the_time(start: Start, transport: Transport, where: str) -> None:
    """Wherever it drips: each single read is quick, and yet the whole is over when it has to be."""
    server = start(dripping(*DRIPS[where]))
    began = time.monotonic()
    with pytest.raises(AzureError):
        get(transport, server.url, read_timeout=0.4)
    assert time.monotonic() - began < 5


def test_no_answer_ends_with_the_time(start: Start, transport: Transport) -> None:
    """Nothing comes, and it is said that nothing came."""

    def silent(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        server.over.wait()

    server = start(silent)
    began = time.monotonic()
    with pytest.raises(ServiceResponseTimeoutError):
        get(transport, server.url, read_timeout=0.3)
    assert 0.25 < time.monotonic() - began < 5
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [0, 200_000])
def test_a_server_that_reads_slowly_ends_with_the_time(start: Start, transport: Transport, size: int) -> None:
    """Sending counts too, whether nothing is read or a little now and then."""

    def slow(server: Server, sock: socket.socket, _: int) -> None:
        while not server.over.wait(0.02):
            sock.recv(size)

    server = start(slow)
    began = time.monotonic()
    with pytest.raises(ServiceResponseTimeoutError):
        transport.send(HttpRequest("POST", server.url, content=b"x" * 64_000_000), read_timeout=0.4)
    assert time.monotonic() - began < 5


def test_a_kept_connection_that_fell_silent_ends_with_the_time(start: Start, transport: Transport) -> None:
    """Something was sent, and that is what the error says; there is no time to send it again."""

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(OK)
        server.request(sock)
        server.over.wait()

    server = start(serve)
    get(transport, server.url)
    with pytest.raises(ServiceResponseTimeoutError):
        get(transport, server.url, read_timeout=0.3)
    assert len(server.requests) == 2


def test_a_handshake_ends_with_the_time(start: Start, transport: Transport) -> None:
    """A port that takes connections and never speaks TLS; nothing was sent then."""
    server = start(lambda server, sock, _: server.over.wait())
    began = time.monotonic()
    with pytest.raises(ServiceRequestTimeoutError):
        get(transport, server.url.replace("http:", "https:"), connection_timeout=0.3)
    assert time.monotonic() - began < 5


def test_an_exchange_ends_with_the_request_that_is_served(start: Start, transport: Transport) -> None:
    """Whatever the call would allow."""
    server = start(dripping(*DRIPS["body"]))
    began = time.monotonic()
    with pytest.raises(ServiceResponseTimeoutError), limits.within(0.3):
        get(transport, server.url, read_timeout=20)
    assert time.monotonic() - began < 5


def test_without_time_nothing_is_sent(start: Start, transport: Transport) -> None:
    """A request that is over asks nobody."""
    server = start(answering(OK))
    with pytest.raises(ServiceRequestTimeoutError), limits.within(0):
        get(transport, server.url)
    assert server.connections == 0


def test_a_list_of_many_pages_has_one_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without end, page after page in no time, is given up all the same."""
    page = b'{"value":[{"PartitionKey":"p","RowKey":"r","odata.etag":"e"}]}'
    head = f"Content-Length: {len(page)}\r\nx-ms-continuation-NextPartitionKey: p\r\nx-ms-continuation-NextRowKey: r\r\n\r\n"
    server = start(answering(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head.encode() + page))
    monkeypatch.setattr(limits, "STORAGE", 0.5)
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        AzureTables(StorageAccount(connection_string=server.connection_string), "t").table("sessions").list("p")
    assert time.monotonic() - began < 5
    assert len(server.requests) > 1


@pytest.mark.parametrize("where", ["header", "body", "chunks"])
def test_an_operation_ends_with_its_own_limit(start: Start, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """With its repetitions, through the whole SDK."""
    server = start(dripping(*DRIPS[where]))
    monkeypatch.setattr(limits, "STORAGE", 0.4)
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        AzureTables(StorageAccount(connection_string=server.connection_string), "t").table("sessions").read("p", "k")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("managed", [True, False], ids=["managed identity", "whatever the environment has"])
@pytest.mark.parametrize("where", ["header", "body"])
def test_a_token_for_storage_is_asked_for_within_the_same_limit(
    start: Start, monkeypatch: pytest.MonkeyPatch, managed: bool, where: str
) -> None:
    """The platform's identity endpoint drips: the operation ends all the same, and is none that storage has seen."""
    identity, storage = start(dripping(*DRIPS[where])), start(answering(OK))
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{identity.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    monkeypatch.setattr(limits, "STORAGE", 1.0)
    account = StorageAccount(table_service_uri=storage.url.replace("http:", "https:"), managed_identity=managed)
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        AzureTables(account, "t").table("sessions").read("p", "k")
    assert time.monotonic() - began < 10
    assert identity.requests
    assert not storage.requests


# -- addresses


def at(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every host has these addresses."""
    resolve = socket.getaddrinfo

    def resolved(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host in addresses:
            return resolve(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(connections.socket, "getaddrinfo", resolved)


def test_the_next_address_is_tried(start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses is not the end."""
    server = start(answering(OK))
    at(monkeypatch, "::1", "127.0.0.1")
    assert get(transport, server.url.replace("127.0.0.1", "storage.example")).status_code == 200
    assert f"Host: storage.example:{server.port}\r\n".encode() in server.requests[0]


def test_addresses_share_the_time(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many addresses behind a wall that swallows packets cost no more than one, and each gets its turn."""
    at(monkeypatch, *(f"192.0.2.{n}" for n in range(1, 5)))
    tried: list[float] = []

    def swallowed(_: Any, timeout: float) -> Any:
        tried.append(timeout)
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr(connections.socket, "create_connection", swallowed)
    with pytest.raises(ServiceRequestTimeoutError):
        get(transport, "http://storage.example/", connection_timeout=0.4)
    assert len(tried) == 4
    assert sum(tried) < 0.5


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://" + "a" * 70 + ".invalid/", "http://[::1/", "ftp://x/", "x"])
def test_nobody_there(transport: Transport, url: str) -> None:
    """Nothing was sent, and that is what the error says."""
    with pytest.raises(ServiceRequestError):
        get(transport, url)


def test_proxies_of_the_environment_do_not_count(start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage is asked directly."""
    server = start(answering(OK))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(transport, server.url).status_code == 200


# -- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    """A certificate for ``localhost`` and 127.0.0.1, and the authority that signed it."""
    return certificates.ensure(tmp_path_factory.mktemp("tls"), now=datetime.now(UTC))


@pytest.fixture
def secure(start: Start, made: certificates.Certificates) -> Server:
    """Answers over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    return start(answering(OK), context)


def test_tls_connections_are_kept(
    secure: Server, transport: Transport, made: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake costs more than the rest; tickets that come after it are no reason for another."""
    monkeypatch.setenv("SSL_CERT_FILE", str(made.bundle))
    assert [get(transport, secure.url).status_code for _ in range(5)] == [200] * 5
    assert secure.connections == 1


def test_a_certificate_of_an_unknown_authority_is_refused(secure: Server, transport: Transport) -> None:
    """Nothing is sent to whoever it is."""
    with pytest.raises(ServiceRequestError) as raised:
        get(transport, secure.url)
    assert isinstance(raised.value.inner_exception.__cause__, ssl.SSLCertVerificationError)
    assert secure.requests == []


def test_a_certificate_for_another_name_is_refused(
    secure: Server, transport: Transport, made: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority is known, the name is not the one that was asked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(made.bundle))
    at(monkeypatch, "127.0.0.1")
    with pytest.raises(ServiceRequestError) as raised:
        get(transport, secure.url.replace("127.0.0.1", "storage.example"))
    assert isinstance(raised.value.inner_exception.__cause__, ssl.SSLCertVerificationError)
    assert secure.requests == []


# -- connections that are kept


def test_connections_are_kept(start: Start, transport: Transport) -> None:
    """Also after errors and answers without a body."""
    answers = [OK, b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", b"HTTP/1.1 204 No Content\r\n\r\n"]

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        while server.request(sock):
            sock.sendall(answers[len(server.requests) - 1])

    server = start(serve)
    assert [get(transport, server.url).status_code for _ in answers] == [200, 404, 204]
    assert server.connections == 1


def test_a_connection_that_the_server_closed_is_not_used(start: Start, transport: Transport) -> None:
    """Azurite closes idle ones after 5 s: nobody notices."""
    server = start(once(OK))
    get(transport, server.url)
    time.sleep(0.1)
    assert transport.send(HttpRequest("POST", server.url, content=b"once")).status_code == 200
    assert server.connections == 2
    assert sum(b"once" in request for request in server.requests) == 1


def test_a_connection_that_closes_as_it_is_used_again_costs_one_repetition(start: Start, transport: Transport) -> None:
    """With no byte of an answer the same is asked again, over a new connection."""

    def serve(server: Server, sock: socket.socket, number: int) -> None:
        server.request(sock)
        sock.sendall(OK)
        if number == 1:
            server.request(sock)  # and goes, without an answer

    server = start(serve)
    get(transport, server.url)
    assert transport.send(HttpRequest("PUT", server.url, content=b"twice")).status_code == 200
    assert server.connections == 2
    assert sum(b"twice" in request for request in server.requests) == 2


@pytest.mark.parametrize(
    "beginning", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", b"HTTP/1.1 204 No Content\r\nX: "]
)
def test_an_answer_that_began_is_not_asked_for_again(start: Start, transport: Transport, beginning: bytes) -> None:
    """What it would have been is for the contract's callers to find out."""

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(OK)
        server.request(sock)
        sock.sendall(beginning)

    server = start(serve)
    get(transport, server.url)
    with pytest.raises(AzureError):
        get(transport, server.url)
    assert len(server.requests) == 2


def test_a_new_connection_is_not_repeated(start: Start, transport: Transport) -> None:
    """Nobody there is nobody there: how often to ask is the operation's to decide."""
    server = start(once(b""))
    with pytest.raises(ServiceResponseError):
        get(transport, server.url)
    assert len(server.requests) == 1


def test_a_connection_that_was_idle_for_long_is_not_used(
    start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer between may have forgotten it in silence."""
    server = start(answering(OK))
    get(transport, server.url)
    monkeypatch.setattr(connections, "IDLE", 0.0)
    assert get(transport, server.url).status_code == 200
    assert server.connections == 2


def test_a_connection_with_bytes_nobody_asked_for_is_not_used(start: Start, transport: Transport) -> None:
    """They would be taken for the answer to somebody else's question."""
    server = start(answering(OK, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"))
    for _ in range(3):
        assert get(transport, server.url).content == b"{}"
        time.sleep(0.05)


def test_a_server_that_wants_to_close_may(start: Start, transport: Transport) -> None:
    """``Connection: close``, or HTTP/1.0."""
    for answer in (OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), OK.replace(b"1.1", b"1.0")):
        server = start(answering(answer))
        assert [get(transport, server.url).json() for _ in range(3)] == [{}] * 3
        assert server.connections == 3


def test_fifty_threads_get_their_own_answers(start: Start, transport: Transport) -> None:
    """Nobody another's, over as many connections as there are threads at most, and all are closed at the end."""
    gone: list[int] = []

    def echo(server: Server, sock: socket.socket, number: int) -> None:
        while request := server.request(sock):
            path = request.split()[1]
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
        gone.append(number)

    server = start(echo)
    wrong: list[Any] = []
    go = threading.Barrier(50)

    def ask(number: int) -> None:
        go.wait()
        for n in range(20):
            path = f"/{number}/{n}/" + "x" * (n * 997)
            answer = get(transport, f"http://127.0.0.1:{server.port}{path}").text()
            if answer != path:
                wrong.append((path, answer))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server.requests) == 1000
    assert server.connections <= 50
    transport.close()
    server.close()
    assert len(gone) == server.connections


def test_only_so_many_idle_connections_are_kept(start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd does not leave its connections behind."""
    monkeypatch.setattr(connections, "KEPT", 2)
    together = threading.Barrier(6)

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        while server.request(sock):
            together.wait()
            sock.sendall(OK)

    server = start(serve)
    threads = [threading.Thread(target=get, args=(transport, server.url)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.connections == 6
    assert sum(map(len, transport._connections._kept.values())) == 2


def test_a_transport_that_is_dropped_closes_its_connections(start: Start) -> None:
    """Nothing stays open behind it."""
    gone = threading.Event()

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(OK)
        if not server.request(sock) and not server.over.is_set():
            gone.set()

    server = start(serve)
    transport = Transport(connection_timeout=5, read_timeout=5)
    get(transport, server.url)
    del transport
    assert gone.wait(5)


# -- answers


def test_an_answer_as_the_sdk_reads_it(start: Start, transport: Transport) -> None:
    """Status, headers in any case, text, JSON, bytes."""
    body = '\ufeff{"name": "Ж"}'.encode()
    head = (
        b"HTTP/1.1 412 Was Changed\r\nContent-Type: application/json;odata=minimalmetadata; charset=UTF-8\r\n"
        b'ETag: W/"1"\r\nX-Two: a\r\nx-two: b\r\nContent-Length: %d\r\n\r\n' % len(body)
    )
    response = get(transport, start(answering(head + body)).url)
    assert (response.status_code, response.reason) == (412, "Was Changed")
    assert response.headers["etag"] == response.headers["ETag"] == 'W/"1"'
    assert response.headers["X-TWO"] == "a, b"
    assert response.content_type == "application/json;odata=minimalmetadata; charset=UTF-8"
    assert response.content == response.body() == response.read() == body
    assert b"".join(response.stream_download(None)) == b"".join(response.iter_bytes()) == body
    assert response.text() == response.text("utf-8") == '{"name": "Ж"}'
    assert response.encoding == "UTF-8"
    assert response.json() == {"name": "Ж"}
    assert response.is_closed
    with pytest.raises(HttpResponseError):
        response.raise_for_status()
    response.encoding = "latin-1"
    assert response.text().startswith("ï»¿")
    assert "412" in repr(response)


@pytest.mark.parametrize(("charset", "text"), [("latin-1", "é"), ("no-such", "�"), ("", "�")])
def test_text_is_never_an_error(start: Start, transport: Transport, charset: str, text: str) -> None:
    """Whatever encoding a server names, and whether it keeps to it."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset={charset}\r\nContent-Length: 1\r\n\r\n"
    assert get(transport, start(answering(answer.encode() + b"\xe9")).url).text() == text


@pytest.mark.parametrize("size", [0, 1, 8192, 100_000])
def test_chunks_are_put_together(start: Start, transport: Transport, size: int) -> None:
    """And the connection serves again."""
    body = bytes(n % 251 for n in range(size))
    chunks = [body[start : start + 777] for start in range(0, size, 777)]
    wire = b"".join(b"%x;extension=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    server = start(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", wire))
    assert [get(transport, server.url).content for _ in range(3)] == [body] * 3
    assert server.connections == 1


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(start: Start, transport: Transport, status: int) -> None:
    """Even where a length is said."""
    server = start(answering(f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode()))
    assert [(r.status_code, r.content) for r in (get(transport, server.url) for _ in range(2))] == [(status, b"")] * 2
    assert server.connections == 1


def test_head_has_no_body(start: Start, transport: Transport) -> None:
    """Whatever length the answer would have had."""
    server = start(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"))
    assert [transport.send(HttpRequest("HEAD", server.url)).headers["Content-Length"] for _ in range(2)] == ["500"] * 2
    assert server.connections == 1


def test_an_answer_up_to_the_end_of_the_connection(start: Start, transport: Transport) -> None:
    """Neither length nor chunks."""
    assert get(transport, start(once(b"HTTP/1.1 200 OK\r\n\r\nall of it")).url).content == b"all of it"


BROKEN: dict[str, tuple[bytes, type[AzureError]]] = {
    "in the body": (OK[:-1], IncompleteReadError),
    "in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", IncompleteReadError),
    "between chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", IncompleteReadError),
    "below zero": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nab\r\n", ServiceResponseError),
    "in the headers": (b"HTTP/1.1 204 No Content\r\nETag: W/", ServiceResponseError),
    "after a header": (b"HTTP/1.1 204 No Content\r\nETag: x\r\n", ServiceResponseError),
    "in the status": (b"HTTP/1.1 2", ServiceResponseError),
    "at once": (b"", ServiceResponseError),
}


@pytest.mark.parametrize("where", BROKEN)
def test_an_answer_that_breaks_off_is_none(start: Start, transport: Transport, where: str) -> None:
    """Half an answer is never taken for a whole one."""
    answer, error = BROKEN[where]
    with pytest.raises(error):
        get(transport, start(once(answer)).url)


TOO_LARGE = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", b"x"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n", b"x" * 10_000),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n%b\r\n" % (b"x" * 1000)),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n", b"x" * 10_000),
    "negative chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 10_000),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 10_000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\nX: %b\r\n\r\n" % (b"x" * 10_000)),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_an_answer_without_measure_is_refused(
    start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """At once, whatever is large about it: memory is not the server's to fill."""
    monkeypatch.setattr(connections, "LARGEST_ANSWER", 100_000)
    beginning, more = TOO_LARGE[what]
    sent = 0

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        nonlocal sent
        server.request(sock)
        sock.sendall(beginning)
        while not server.over.is_set():
            sock.sendall(more)
            sent += len(more)

    server = start(serve)
    with pytest.raises(AzureError) as raised:
        get(transport, server.url, read_timeout=20)
    assert not isinstance(raised.value, ServiceResponseTimeoutError)


def test_an_answer_of_ten_megabytes_is_enough(start: Start, transport: Transport) -> None:
    """More than a page of a list can be."""
    body = b"x" * 10_000_000
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        assert get(transport, start(answering(answer)).url).content == body


_pieces = st.sampled_from(
    b"HTTP/1.1 200 OK\r\n|HTTP/1.1 |\r\n|\r\n\r\n|Transfer-Encoding: chunked\r\n|Content-Length: |-|9|0\r\n|-5\r\n|ff\r\n|:|\0|\xff|"
    b"Content-Type: multipart/mixed; boundary=b\r\n|--b|--b\r\nContent-Type: application/http\r\n\r\n".split(b"|")
)


@pytest.fixture(scope="module")
def nonsense() -> Iterator[tuple[Server, list[bytes]]]:
    """A server that answers what stands in the list, and closes."""
    said = [b""]

    def serve(server: Server, sock: socket.socket, _: int) -> None:
        server.request(sock)
        sock.sendall(said[0])

    server = Server(serve)
    yield server, said
    server.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.lists(_pieces | st.binary(max_size=20), max_size=12).map(b"".join))
def test_nonsense_is_an_answer_or_one_of_azures_errors(
    nonsense: tuple[Server, list[bytes]], transport: Transport, answer: bytes
) -> None:
    """Whatever a server says, the code above sees what it expects to see."""
    server, said = nonsense
    said[0] = answer
    with contextlib.suppress(AzureError):
        response = get(transport, server.url)
        response.text()
        if (response.content_type or "").startswith("multipart/mixed"):
            list(response.parts())


# -- questions


def test_a_request_is_sent_as_it_is(start: Start, transport: Transport) -> None:
    """Path, query, headers and body; the length is that of the bytes."""
    server = start(answering(OK))
    url = f"{server.url}(PartitionKey='a%2Fb')?$select=x&y=%D0%96"
    transport.send(HttpRequest("MERGE", url, headers={"If-Match": "W/1", "Content-Length": "1"}, content="Ж"))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"MERGE /account/table(PartitionKey='a%2Fb')?$select=x&y=%D0%96 HTTP/1.1"
    assert b"If-Match: W/1" in lines
    assert b"Content-Length: 2" in lines
    assert sum(line.startswith(b"Host: ") for line in lines) == 1
    assert body == "Ж".encode()


@pytest.mark.parametrize(("method", "length"), [("GET", None), ("HEAD", None), ("POST", b"0"), ("DELETE", b"0")])
def test_a_request_without_a_body(start: Start, transport: Transport, method: str, length: bytes | None) -> None:
    """Says so where one is expected."""
    server = start(answering(b"HTTP/1.1 204 X\r\n\r\n"))
    transport.send(HttpRequest(method, server.url))
    assert (b"Content-Length: 0" in server.requests[0].split(b"\r\n")) is (length is not None)


def test_a_header_cannot_bring_another(start: Start, transport: Transport) -> None:
    """Line ends in a value are refused before anything is sent."""
    server = start(answering(OK))
    with pytest.raises(ValueError):
        transport.send(HttpRequest("GET", server.url, headers={"If-Match": "a\r\nX: b"}))
    assert server.requests == []


def test_redirects_are_not_followed(start: Start) -> None:
    """Tables do not move, and the account's signature goes nowhere else."""
    elsewhere = start(answering(OK))
    moved = f"HTTP/1.1 307 Elsewhere\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
    server = start(answering(moved.encode()))
    with pytest.raises(StorageUnavailable):
        AzureTables(StorageAccount(connection_string=server.connection_string), "t").table("sessions").read("p", "k")
    assert elsewhere.requests == []


# -- batches


def batch(*answers: str) -> bytes:
    """The answer to a transaction: a change set in a batch."""
    parts = "".join(
        f"--changeset\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n{answer}\r\n"
        for answer in answers
    )
    body = (
        f"--batch\r\nContent-Type: multipart/mixed; boundary=changeset\r\n\r\n{parts}--changeset--\r\n--batch--\r\n".encode()
    )
    return (
        b"HTTP/1.1 202 Accepted\r\nContent-Type: multipart/mixed; boundary=batch\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


def question(url: str, count: int) -> HttpRequest:
    """A transaction of so many deletions."""
    changeset = HttpRequest("POST", "")
    changeset.set_multipart_mixed(*(HttpRequest("DELETE", f"{url}/{n}") for n in range(count)))
    request = HttpRequest("POST", url)
    request.set_multipart_mixed(changeset)
    request.prepare_multipart_body()
    return request


def test_a_batch_has_the_answers_of_its_change_set(start: Start, transport: Transport) -> None:
    """In their order, with what was asked; bodies may be any bytes that JSON is made of."""
    server = start(
        answering(
            batch(
                'HTTP/1.1 204 No Content\r\nETag: W/"1"\r\n\r\n',
                'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\r\n{"name": "Ж"}',
                "HTTP/1.1 204 No Content\r\n\r\n",
            )
        )
    )
    parts = list(transport.send(question(server.url, 3), stream=True).parts())
    assert [part.status_code for part in parts] == [204, 201, 204]
    assert [part.request.url for part in parts] == [f"{server.url}/{n}" for n in range(3)]
    assert parts[0].headers["etag"] == 'W/"1"'
    assert parts[1].json()["name"] == "Ж"
    assert b"DELETE" in server.requests[0]


def test_a_batch_that_fails_has_one_answer(start: Start, transport: Transport) -> None:
    """Whatever it asked."""
    error = {"odata.error": {"code": "ResourceNotFound", "message": {"value": "1:gone"}}}
    server = start(answering(batch(f"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{json.dumps(error)}")))
    parts = list(transport.send(question(server.url, 3)).parts())
    assert [(part.status_code, part.json()) for part in parts] == [(404, error)]


@pytest.mark.parametrize("answer", [batch(), batch("no HTTP at all"), batch("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")])
def test_a_batch_without_readable_answers_is_unknown(start: Start, transport: Transport, answer: bytes) -> None:
    """It is not taken for one that succeeded."""
    with pytest.raises(ServiceResponseError):
        list(transport.send(question(start(answering(answer)).url, 1)).parts())


def test_what_is_no_batch_has_no_parts(start: Start, transport: Transport) -> None:
    """As with azure-core's own answers."""
    with pytest.raises(ValueError):
        list(get(transport, start(answering(OK)).url).parts())


def test_a_404_that_is_not_storages_own_says_nothing(start: Start) -> None:
    """A gateway, or a wrong address: not that there is no session, nor that a session is gone."""
    for said in (
        b"<html>no route</html>",
        b"",
        b'{"error": {"message": "no route"}}',
        b'{"odata.error":{"code":"NoSuchHost"}}',
    ):
        kind = b"application/json" if said.startswith(b"{") else b"text/html"
        answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(said), said)
        server = start(answering(answer))
        table = AzureTables(StorageAccount(connection_string=server.connection_string), "t").table("sessions")
        for work in (
            lambda table=table: table.read("p", "k"),
            lambda table=table: table.list("p"),
            lambda table=table: list(table.scan(first="a", before="b")),
            lambda table=table: table.write("p", Delete(key="k")),
            lambda table=table: table.write("p", Delete(key="k", etag="x")),
            lambda table=table: table.write("p", Merge(key="k", values={"A": 1}, etag="x")),
        ):
            with pytest.raises(StorageUnavailable):
                work()


# -- the price


def test_a_storage_operation_does_not_load_requests(start: Start) -> None:
    """A cold instance answers ``/auth/me`` without paying 110 ms for it."""
    body = b'{"odata.error":{"code":"ResourceNotFound","message":{"lang":"en","value":"x"}}}'
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    server = start(answering(head + body))
    code = (
        "import sys; from shared.store.azure_table import AzureTables, StorageAccount; "
        f"table = AzureTables(StorageAccount(connection_string={server.connection_string!r}), 't').table('x'); "
        "print(table.read('p', 'k'), 'requests' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["None", "False"]
