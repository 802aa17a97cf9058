"""HTTP connections whose every wait ends at one deadline, kept for the next exchange.  The standard library only.

Timeouts of sockets hold for one read or write, so a server that sends a byte now and then could keep a thread for hours.
Here an exchange has one deadline, and each read, each write and each address that is tried gets what is left of it.  Only
the resolver keeps its own time.  What an answer means is for ``transport.py``.
"""

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer with its headers.  A page of a list has at most 4 MiB of data (Table service, "Query timeout and
pagination"), to which JSON and base64 add."""
KEPT = 64
"""Idle connections kept for each place; more are closed after use.  Those in use are as many as threads ask."""
IDLE = 120.0
"""Seconds after which an idle connection is not trusted: Azure's load balancers forget one in silence after 240."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Who is asked: a host and port, over TLS or not."""

    secure: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.  The headers are sent as they are: ``Host`` and ``Content-Length`` are among them."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    reason: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)


class NoConnection(Exception):
    """Nothing was sent: no address, nobody there, or not who they should be (TLS).  The cause is its ``__cause__``."""


class BadAnswer(http.client.HTTPException):
    """What came is not HTTP, or too large."""


class Connections:
    """Asks places over connections that are kept; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: defaultdict[Place, list[_Connection]] = defaultdict(list)

    def ask(self, place: Place, question: Question, *, connect_until: float, until: float) -> Answer:
        """One exchange, over by ``until`` (monotonic), a new connection by ``connect_until``.

        A kept connection may have been closed by the server just as it is used again (Azurite does so after 5 s, Azure after
        minutes).  Then, with not a byte of an answer, the same is asked once more over a new connection.  A write
        may thereby be carried out twice: the contract of ``table.py`` allows for it, and the callers' own repetitions need
        it anyway.

        Raises:
            NoConnection: nothing was sent.
            OSError: the connection broke, or (``TimeoutError``) the time was over.
            http.client.HTTPException: what came is not HTTP, incomplete or over ``LARGEST_ANSWER``.
        """
        connection = self._take(place)
        if connection is not None:
            try:
                return self._exchange(connection, question, until)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                if connection.heard:
                    raise
        return self._exchange(self._connect(place, min(connect_until, until)), question, until)

    def close(self) -> None:
        """Closes the idle connections."""
        with self._lock:
            idle = [connection for kept in self._kept.values() for connection in kept]
            self._kept.clear()
        for connection in idle:
            connection.close()

    def _exchange(self, connection: "_Connection", question: Question, until: float) -> Answer:
        try:
            answer = connection.exchange(question, until)
        except BaseException:
            connection.close()
            raise
        self._give(connection)
        return answer

    def _take(self, place: Place) -> "_Connection | None":
        """The connection that was used last, if it is still good."""
        while True:
            with self._lock:
                kept = self._kept[place]
                if not kept:
                    return None
                connection = kept.pop()
            if connection.good():
                return connection
            connection.close()

    def _give(self, connection: "_Connection") -> None:
        if connection.reusable:
            connection.idle_since = time.monotonic()
            with self._lock:
                kept = self._kept[connection.place]
                if len(kept) < KEPT:
                    kept.append(connection)
                    return
        connection.close()

    def _connect(self, place: Place, until: float) -> "_Connection":
        try:
            sock = _open(place, until)
            return _Connection(place, self._secured(sock, place, until) if place.secure else sock)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            raise NoConnection(str(error)) from error

    def _secured(self, sock: socket.socket, place: Place, until: float) -> ssl.SSLSocket:
        try:
            sock.settimeout(_left(until))  # the handshake takes it as the limit of all its reads and writes together
            return self._tls.wrap_socket(sock, server_hostname=place.host)
        except BaseException:
            sock.close()
            raise

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made when first needed: reading the machine's authorities takes some 20 ms."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Connection:
    """One connection, for one exchange at a time."""

    def __init__(self, place: Place, sock: socket.socket) -> None:
        self.place = place
        self.idle_since = 0.0
        self.reusable = False
        self._wire = _Wire(sock)
        self._http = http.client.HTTPConnection(place.host, place.port)
        self._http.auto_open = 0
        self._http.sock = self._wire

    @property
    def heard(self) -> bool:
        """Whether a byte of the latest answer came."""
        return self._wire.received > 0

    def good(self) -> bool:
        """Whether it may be used again.  An end of the stream, or bytes nobody asked for, make it readable."""
        return time.monotonic() - self.idle_since < IDLE and not _readable(self._wire.sock)

    def exchange(self, question: Question, until: float) -> Answer:
        self._wire.until, self._wire.received, self._wire.ended = until, 0, False
        self.reusable = False
        self._http.putrequest(question.method, question.target, skip_host=True, skip_accept_encoding=True)
        for name, value in question.headers:
            self._http.putheader(name, value)
        self._http.endheaders(question.body)
        try:
            with self._http.getresponse() as response:
                if self._wire.ended:  # http.client takes headers that broke off for all of them
                    raise BadAnswer("the headers broke off")
                answer = Answer(
                    status=response.status, reason=response.reason, headers=response.getheaders(), body=_body(response)
                )
                self.reusable = not response.will_close and response.isclosed()
                return answer
        except ValueError as error:  # http.client does not expect every nonsense
            raise BadAnswer(str(error)) from error

    def close(self) -> None:
        self._http.close()


class _Wire:
    """What http.client needs of a socket; no wait is longer than what is left, and no answer larger than it may be."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.until = 0.0
        self.received = 0
        self.ended = False

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self.sock.settimeout(_left(self.until))
            rest = rest[self.sock.send(rest) :]

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        self.sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._raw = wire.sock.makefile("rb", buffering=0)  # keeps the socket open until the answer is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._wire.sock.settimeout(_left(self._wire.until))
        count = self._raw.readinto(buffer)
        self._wire.received += count or 0
        self._wire.ended = count == 0
        if self._wire.received > LARGEST_ANSWER:
            raise BadAnswer("too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _body(response: http.client.HTTPResponse) -> bytes:
    if response.length is not None:
        if response.length > LARGEST_ANSWER:  # before so much memory is asked for
            raise BadAnswer("too large")
        return response.read()  # raises IncompleteRead; with a number of bytes it would not
    return response.read(LARGEST_ANSWER)


def _open(place: Place, until: float) -> socket.socket:
    """Tries the host's addresses until one answers; each has an equal share of the time that is left."""
    _left(until)
    addresses = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    failed: OSError = TimeoutError("no time left")
    for waiting, (*_, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            sock = socket.create_connection((str(address[0]), place.port), timeout=left / waiting)
        except OSError as error:
            failed = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failed


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left")
    return left


def _readable(sock: socket.socket) -> bool:
    if hasattr(select, "poll"):  # select() takes no descriptor over 1023
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])
