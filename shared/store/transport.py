"""What azure-core sends its requests through: a face of its public ``HttpTransport`` over ``connections.py``.

The transport that azure-core comes with limits each read, not the exchange, and takes most of the CPU of a small operation
(docs/decisions.md has the figures).  Here an exchange is over when the ``read_timeout`` of its call or the time of the request
being served is over, whichever is first; the answer has been read wholly by then.

Owns answers as the tables SDK reads them, batches included, and which of azure-core's errors a failure is.  Proxies of the
environment do not count, redirects are left to the SDK.
"""

import email
import http.client
import io
import json
import re
import time
import weakref
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from azure.core.exceptions import (
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.core.utils import case_insensitive_dict

from shared import limits
from shared.store.connections import Answer, Connections, NoConnection, Place, Question

if TYPE_CHECKING:
    from email.message import Message

_PORTS = {"http": 80, "https": 443}
_OURS = frozenset({"host", "content-length", "connection", "accept-encoding"})
_BODILESS = frozenset({"GET", "HEAD"})


class Transport(HttpTransport[HttpRequest, HttpResponse]):
    """Sends requests over connections that are kept.  Safe for threads; building it does no I/O."""

    def __init__(self, *, connection_timeout: float, read_timeout: float) -> None:
        """Takes the seconds for a new connection and for a whole exchange, where a call does not give its own."""
        self._connection_timeout = connection_timeout
        self._read_timeout = read_timeout
        self._connections = Connections()
        weakref.finalize(self, self._connections.close)

    def send(self, request: HttpRequest, **kwargs: Any) -> "Response":
        """Sends a request with ``connection_timeout`` and ``read_timeout`` in seconds; other arguments do not matter.

        Raises:
            ServiceRequestError: nothing was sent.
            ServiceResponseError: no answer in time, or none that can be read.
            IncompleteReadError: the answer broke off.
        """
        now = time.monotonic()
        place, target, host = _address(request.url)
        body = _body(request)
        headers = [("Host", host), ("Accept-Encoding", "identity")]
        headers += [(name, str(value)) for name, value in request.headers.items() if name.lower() not in _OURS]
        if body is not None or request.method not in _BODILESS:
            headers.append(("Content-Length", str(len(body or b""))))
        try:
            answer = self._connections.ask(
                place,
                Question(method=request.method, target=target, headers=headers, body=body),
                connect_until=now + kwargs.get("connection_timeout", self._connection_timeout),
                until=now + limits.left(kwargs.get("read_timeout", self._read_timeout)),
            )
        except NoConnection as error:
            kind = ServiceRequestTimeoutError if isinstance(error.__cause__, TimeoutError) else ServiceRequestError
            raise kind(error, error=error) from error
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(error, error=error) from error
        except http.client.IncompleteRead as error:
            raise IncompleteReadError(error, error=error) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServiceResponseError(error, error=error) from error
        return Response(request, answer)

    def open(self) -> None:
        """Connections are opened when they are needed."""

    def close(self) -> None:
        """Closes what is idle."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Response(HttpResponse):
    """An answer that has been read.  ``body``, ``stream_download`` and ``parts`` are what the SDK still asks of older ones."""

    def __init__(self, request: HttpRequest, answer: Answer) -> None:
        self._request = request
        self._answer = answer
        self._headers = _joined(answer.headers)
        self._encoding: str | None = None

    @property
    def request(self) -> HttpRequest:
        """What was asked."""
        return self._request

    @property
    def url(self) -> str:
        """Where it was asked."""
        return self._request.url

    @property
    def status_code(self) -> int:
        """The status."""
        return self._answer.status

    @property
    def reason(self) -> str:
        """The words after the status."""
        return self._answer.reason

    @property
    def headers(self) -> MutableMapping[str, str]:
        """By name, in whatever case; those that came several times joined with a comma."""
        return self._headers

    @property
    def content_type(self) -> str | None:
        """The header."""
        return self._headers.get("Content-Type")

    @property
    def is_closed(self) -> bool:
        """True: the answer is here."""
        return True

    @property
    def is_stream_consumed(self) -> bool:
        """True: the answer is here."""
        return True

    @property
    def encoding(self) -> str | None:
        """That of the text: as set, or as the content type says."""
        if self._encoding is None:
            found = re.search(r"charset=[\"']?([\w.:-]+)", self.content_type or "", re.IGNORECASE)
            return found.group(1) if found else None
        return self._encoding

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self._encoding = value

    @property
    def content(self) -> bytes:
        """The body."""
        return self._answer.body

    def read(self) -> bytes:
        """The body."""
        return self._answer.body

    body = read

    def iter_raw(self, **_: Any) -> Iterator[bytes]:
        """The body, in one piece."""
        yield self._answer.body

    iter_bytes = iter_raw

    def stream_download(self, _pipeline: Any = None, **_: Any) -> Iterator[bytes]:
        """The body, in one piece."""
        return self.iter_raw()

    def text(self, encoding: str | None = None) -> str:
        """The body as text; a mark of UTF-8 at its start is no part of it."""
        encoding = encoding or self.encoding or "utf-8"
        try:
            return self._answer.body.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding, "replace")
        except LookupError:  # the server named an encoding that does not exist
            return self._answer.body.decode("utf-8-sig", "replace")

    def json(self) -> Any:
        """The body's JSON; raises ``json.JSONDecodeError``."""
        return json.loads(self.text())

    def raise_for_status(self) -> None:
        """Raises ``HttpResponseError`` from 400 on."""
        if self.status_code >= 400:  # noqa: PLR2004 - as HTTP has it
            raise HttpResponseError(response=self)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def parts(self) -> Iterator["Response"]:
        """The answers in the answer to a batch, those of its change sets among them, in their order.

        Raises:
            ValueError: the answer is no ``multipart/mixed``.
            ServiceResponseError: it has no parts, or one that is no answer: nothing is known about the batch.
        """
        if not (self.content_type or "").startswith("multipart/mixed"):
            raise ValueError("an answer that is not multipart/mixed has no parts")
        message = email.message_from_bytes(f"Content-Type: {self.content_type}\r\n\r\n".encode() + self._answer.body)
        found = [part for part in message.walk() if part.get_content_type() == "application/http"]
        if not found:
            raise ServiceResponseError("a batch was answered without parts")
        requests = list(_single(self._request))
        for number, part in enumerate(found):
            # A batch that fails has one part, whatever its number of operations.
            yield Response(requests[number] if number < len(requests) else self._request, _answer(part))


class _InMemory:
    """What ``HTTPResponse`` needs of a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def _answer(part: "Message[str, str]") -> Answer:
    content = part.get_payload(decode=True)
    try:
        with http.client.HTTPResponse(_InMemory(content if isinstance(content, bytes) else b"")) as response:  # type: ignore[arg-type]
            response.begin()
            return Answer(status=response.status, reason=response.reason, headers=response.getheaders(), body=response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise ServiceResponseError(error, error=error) from error


def _single(request: HttpRequest) -> Iterator[HttpRequest]:
    """The requests of a batch without those that only hold others."""
    info = getattr(request, "multipart_mixed_info", None)
    if not info:
        yield request
        return
    for inner in info[0]:
        yield from _single(inner)


def _joined(headers: Any) -> MutableMapping[str, str]:
    joined: MutableMapping[str, str] = case_insensitive_dict()
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _address(url: str) -> tuple[Place, str, str]:
    """Whom to ask, for what, and the ``Host`` header."""
    try:
        parts = urlsplit(url)
        place = Place(secure=parts.scheme == "https", host=parts.hostname or "", port=parts.port or _PORTS[parts.scheme])
    except (ValueError, KeyError) as error:
        raise ServiceRequestError("no address to ask", error=error) from error
    return place, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), parts.netloc.rpartition("@")[2]


def _body(request: HttpRequest) -> bytes | None:
    content = request.content
    if isinstance(content, str):
        return content.encode()
    if content is None or isinstance(content, bytes):
        return content
    raise TypeError("a body is text or bytes")
