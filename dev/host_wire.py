"""HTTP/1.1 on the wire, with the limits and the strictness of the host's HTTP server (Kestrel).

Owns connections and messages; what a request means is ``host.py``.
"""

import asyncio
import email.utils
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from dev.host_answers import Answer

LINE = 8 * 1024
"""Bytes of a request line."""
HEAD = 32 * 1024
"""Bytes of all headers."""
HEADERS = 100
BODY = 104_857_600
_KEEP_ALIVE = 130.0
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_ABSOLUTE = re.compile(r"(?i)(https?)://(?:[^/?#@]*@)?([^/?#@]+)([^#]*)")
_HOST = re.compile(r"((\[[0-9A-Fa-f:.]{3,}\]|[A-Za-z0-9._~!$&'()-]+)(:[0-9]+)?)?")
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_OURS = {"content-length", "transfer-encoding", "connection"}
"""Headers that only the server writes."""
_GRACE = 5.0
"""Seconds that a client has to send the rest of its request once the server is told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request as it came: the target's path and query undecoded, header names in lower case, repeats joined."""

    method: str
    path: str
    query: str
    """With its question mark, "" where there is none."""
    headers: dict[str, str]
    body: bytes


class Refused(Exception):
    """The HTTP server answers this itself, and closes."""

    def __init__(self, status: int, *, allow: str = "") -> None:
        super().__init__(status)
        self.answer = Answer(status=status, headers=(("Allow", allow),) if allow else ())


Handler = Callable[[Message], Awaitable[Answer]]


class Server:
    """Serves connections until ``stop``, which lets running requests finish."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._idle: set[asyncio.StreamWriter] = set()
        self._reading: set[asyncio.StreamWriter] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._stopping = False

    async def start(self, hosts: list[str], port: int) -> int:
        """Listens; the first address has to work, the others are tried.  Returns the port.

        Raises:
            OSError: the port is taken.
        """
        for number, host in enumerate(hosts):
            try:
                listener = await asyncio.start_server(self._serve, host, port, limit=2 * HEAD, backlog=1024)
            except OSError:
                if number == 0:
                    raise
                continue
            port = listener.sockets[0].getsockname()[1]
            self._listeners.append(listener)
        return port

    async def stop(self) -> None:
        """Accepts nothing more and waits for the answers that are under way."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for writer in list(self._idle):
            writer.close()
        slow = asyncio.get_running_loop().call_later(_GRACE, self._drop_slow)
        while self._busy:
            await asyncio.wait(list(self._busy))
        slow.cancel()

    def _drop_slow(self) -> None:
        for writer in list(self._reading):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not self._stopping and await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        self._idle.add(writer)
        try:
            head = await asyncio.wait_for(_head(reader), _KEEP_ALIVE)
        except Refused as refused:
            await _send(writer, refused.answer, head_only=False, connection="close")
            return False
        finally:
            self._idle.discard(writer)
        if head is None:
            return False
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        self._reading.add(writer)
        try:
            version, message, chunked, length = head
            if message.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if chunked:
                await _discard_chunks(reader)
            body = await reader.readexactly(length) if length else b""
            self._reading.discard(writer)
            answer = await self._handler(
                Message(method=message.method, path=message.path, query=message.query, headers=message.headers, body=body)
            )
            wishes = {wish.strip() for wish in message.headers.get("connection", "").lower().split(",")}
            keeps = "keep-alive" in wishes if version == "HTTP/1.0" else "close" not in wishes
            closes = any(name.lower() == "connection" and "close" in value.lower() for name, value in answer.headers)
            going_on = keeps and not closes and not self._stopping
            said = "close" if not going_on else "keep-alive" if version == "HTTP/1.0" else ""
            await _send(writer, answer, head_only=message.method == "HEAD", connection=said)
        except Refused as refused:
            await _send(writer, refused.answer, head_only=False, connection="close")
            return False
        finally:
            self._reading.discard(writer)
            self._busy.discard(task)
        return going_on


async def _head(reader: asyncio.StreamReader) -> tuple[str, Message, bool, int] | None:
    line = b""
    while line in (b"", b"\r\n"):
        line = await _line(reader, LINE, 414)
        if not line:
            return None
    method, target, authorities, version = _request_line(line)
    names: dict[str, list[str]] = {}
    size = count = 0
    while (line := await _line(reader, HEAD, 431)) != b"\r\n":
        if not line:
            return None
        size, count = size + len(line), count + 1
        if size > HEAD or count > HEADERS:
            raise Refused(431)
        name, colon, value = line[:-2].partition(b":")
        text = value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(name) or any(byte in text for byte in b"\r\n\0"):
            raise Refused(400)
        try:
            names.setdefault(name.decode().lower(), []).append(text.decode("utf-8"))
        except UnicodeDecodeError:
            raise Refused(400) from None
    headers = {name: ",".join(values) for name, values in names.items()}
    hosts = names.get("host", [])
    if (version == "HTTP/1.1" and len(hosts) != 1) or not all(_HOST.fullmatch(host) for host in hosts):
        raise Refused(400)
    if hosts and authorities and hosts[0] not in authorities:  # the target names another host than the header
        raise Refused(400)
    path, mark, query = target.partition("?")
    chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
    lengths = names.get("content-length", [])
    if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
        raise Refused(400)
    if "transfer-encoding" in headers and not chunked:
        raise Refused(400)
    length = 0 if chunked or not lengths else int(lengths[0])
    if length > BODY:
        raise Refused(413)
    if lengths:
        headers["content-length"] = str(int(lengths[0]))
    if version == "HTTP/1.0" and method in {"POST", "PUT"} and not chunked and "content-length" not in headers:
        raise Refused(400)
    if chunked and "content-length" in headers:
        headers["x-content-length"] = headers.pop("content-length")  # against smuggling, RFC 9112 6.3
    return version, Message(method=method, path=path, query=mark + query, headers=headers, body=b""), chunked, length


async def _line(reader: asyncio.StreamReader, limit: int, too_long: int) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Refused(400) from None
        return b""
    except asyncio.LimitOverrunError:
        raise Refused(too_long) from None
    if len(line) > limit:
        raise Refused(too_long)
    if not line.endswith(b"\r\n"):
        raise Refused(400)
    return line


def _request_line(line: bytes) -> tuple[str, str, tuple[str, ...], str]:
    """Method, path with query, what ``Host`` may say (anything where it is empty), version."""
    parts = line[:-2].split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise Refused(400)
    version = parts[2].decode("latin-1")
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise Refused(505 if version.startswith("HTTP/") else 400)
    method, target = parts[0].decode().upper(), parts[1].decode("ascii")
    authorities: tuple[str, ...] = ()
    if absolute := _ABSOLUTE.fullmatch(target):
        scheme, authority, target = absolute.groups()
        port = _DEFAULT_PORT[scheme.lower()]
        authority = authority.lower().removesuffix(port)
        authorities = (authority, authority + port)
        target = target if target.startswith("/") else "/" + target
    elif not target.startswith("/"):  # "*" is for OPTIONS, and anything else the authority of CONNECT
        if target[0] in "?%" or (target != "*" and not _HOST.fullmatch(target)):
            raise Refused(400)
        wanted = "OPTIONS" if target == "*" else "CONNECT"
        if method != wanted:
            raise Refused(405, allow=wanted)
        authorities = () if target == "*" else (target,)
        target = ""
    if "%00" in target.partition("?")[0]:
        raise Refused(400)
    return method, target, authorities, version


async def _discard_chunks(reader: asyncio.StreamReader) -> None:
    """Reads a chunked body to its end and keeps nothing of it: that is what the function gets."""
    total = 0
    while True:
        size_text = (await _line(reader, 256, 400))[:-2].partition(b";")[0].strip()
        try:
            size = int(size_text, 16)
        except ValueError:
            raise Refused(400) from None
        total += size
        if size < 0 or total > BODY:
            raise Refused(413)
        if size == 0:
            break
        left = size
        while left:
            left -= len(await reader.readexactly(min(left, 65536)))
        if await reader.readexactly(2) != b"\r\n":
            raise Refused(400)
    while await _line(reader, HEAD, 431) not in (b"\r\n", b""):
        pass


async def _send(writer: asyncio.StreamWriter, answer: Answer, *, head_only: bool, connection: str) -> None:
    bodiless = answer.status in (204, 205, 304) or answer.status < 200
    body = b"" if bodiless else answer.body
    lines = [f"HTTP/1.1 {answer.status} {_reason(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers if name.lower() not in _OURS]
    names = {name.lower() for name, _ in answer.headers}
    if "date" not in names:
        lines.append(f"Date: {email.utils.formatdate(usegmt=True)}")
    if "server" not in names:
        lines.append("Server: dev-host")
    if not bodiless or answer.status == 205:
        lines.append(f"Content-Length: {len(body)}")
    if connection:
        lines.append(f"Connection: {connection}")
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if head_only else body))
    await writer.drain()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
