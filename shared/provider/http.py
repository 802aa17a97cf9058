"""The one HTTP session to the provider: every call has a time limit as a whole and an answer of limited size.

Owns connections, the CA bundle and what a failed call means.  What an answer says is for its readers: ``discovery``,
``keys``, ``answers``.  The only importer of ``requests``, and itself imported when the first call is made.

Timeouts of sockets hold for one read, so a provider that sends a byte now and then could keep a thread for hours.  Here every
read of headers and body, and every address that is tried, gets what is left of ``limits.PROVIDER`` or of the request.  Only
the resolver keeps its own time.
"""

import io
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from shared import limits
from shared.errors import ProviderFailed, ProviderUnavailable

LARGEST_ANSWER = 1024 * 1024
"""Bytes; metadata and keys of the large providers are some 20 KB, a token answer with many groups some 30 KB."""
_CONNECTIONS = 32
_ONE_ADDRESS = 3.0
"""Seconds for one of several addresses of a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, in the shape that MSAL expects of its ``http_client``."""

    status_code: int
    text: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class Http:
    """A pool of connections; safe for threads."""

    def __init__(self) -> None:
        # Read once: requests would look at the environment on every call, which costs more than the call itself.
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = bundle or True
        # The provider's cookies are one user's; this session serves them all.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter(pool_connections=8, pool_maxsize=_CONNECTIONS))

    def get(
        self, url: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> Answer:
        """GETs ``url``; redirects are not followed.

        Raises:
            ProviderUnavailable: no answer in time.
            ProviderFailed: the answer is over 1 MB, or no HTTP.
        """
        return self._call("GET", url, params=params, headers=headers)

    def post(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        **_: Any,
    ) -> Answer:
        """POSTs a form; never repeated, because codes and rotating refresh tokens work once.  Raises as ``get`` does."""
        return self._call("POST", url, params=params, data=data, headers=headers)

    def _call(self, method: str, url: str, *, headers: Mapping[str, str] | None, **kwargs: Any) -> Answer:
        with limits.within(limits.PROVIDER):
            left = limits.left(limits.PROVIDER)
            if left <= 0:
                raise ProviderUnavailable(f"{method} {_place(url)}: no time left to ask")
            try:
                with self._session.request(
                    method,
                    url,
                    headers={"Accept-Encoding": "identity", **(headers or {})},
                    timeout=left,
                    allow_redirects=False,
                    stream=True,
                    **kwargs,
                ) as response:
                    body = _read(response)
                    return Answer(
                        status_code=response.status_code,
                        text=body.decode("utf-8", "replace"),
                        headers=response.headers,
                    )
            except _TooLarge as error:
                raise ProviderFailed(f"{method} {_place(url)}: the answer is over {LARGEST_ANSWER} bytes") from error
            # requests lets some of urllib3's errors through.
            except (requests.RequestException, HTTPError, OSError) as error:
                raise ProviderUnavailable(f"{method} {_place(url)}: {type(error).__name__}") from None
            except ValueError as error:
                raise ProviderFailed(f"{method} {_place(url)}: {type(error).__name__}") from None


class _TooLarge(Exception):
    pass


def _read(response: requests.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_content(16 * 1024):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise _TooLarge
    return bytes(body)


def _place(url: str) -> str:
    """The address without its query, for the log."""
    return url.partition("?")[0]


# -- connections whose reads end at the deadline


class _UntilDeadline(io.RawIOBase):
    """Reads from a socket, each time with no more patience than is left."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = limits.left(limits.PROVIDER)
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilDeadline(sock))


def _connect(host: str, port: int) -> socket.socket:
    """Tries a host's addresses until one answers or the time is over."""
    error: OSError = TimeoutError()
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        left = limits.left(limits.PROVIDER)
        if left <= 0:
            break
        try:
            sock = socket.create_connection((str(address[0]), port), timeout=min(left, _ONE_ADDRESS))
        except OSError as failed:
            error = failed
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(limits.left(limits.PROVIDER) or 0.001)
        return sock
    raise error


class _HttpConnection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)


class _HttpsConnection(HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
