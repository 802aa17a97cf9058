"""Requests and answers as the flows see them: plain values, parsed strictly, with no SDK in sight."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from shared.errors import AppError, BadRequest, BodyTooLarge, CrossSite, LengthRequired
from shared.web.cookies import SetCookie

BODY_LIMIT = 64 * 1024
"""Bytes of a form or of JSON."""
FIELDS = 100
_DEPTH = 16
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_URL = re.compile(r"(?:[^:/?#]*:)?(?://[^/?#]*)?([^?#]*)(?:\?([^#]*))?", re.DOTALL)
"""Path and query (RFC 3986, appendix B).  ``urlsplit`` also judges the host, which comes from the client, and raises."""
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")


class Params:
    """Fields of a query or form, with repeats and blanks as they were sent."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self._pairs = pairs

    @staticmethod
    def parse(text: bytes) -> "Params":
        """``application/x-www-form-urlencoded`` (WHATWG URL, section 5.1); broken UTF-8 becomes U+FFFD.

        Raises:
            BadRequest: it has more than 100 fields, blank ones included.
        """
        if text.count(b"&") >= FIELDS:
            raise BadRequest(f"more than {FIELDS} fields")
        pieces = filter(None, text.split(b"&"))
        return Params(tuple((_plain(name), _plain(value)) for name, _, value in (piece.partition(b"=") for piece in pieces)))

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a field."""
        return tuple(value for found, value in self._pairs if found == name)

    def one(self, name: str) -> str | None:
        """The value of a field; None where it is absent.

        Raises:
            BadRequest: it is there more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise BadRequest(f"{name} is there more than once")
        return values[0] if values else None

    @property
    def names(self) -> frozenset[str]:
        """The fields' names."""
        return frozenset(name for name, _ in self._pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request.  ``headers`` have lower-case names; ``url`` is the host's and good for path and query only.

    Its ``repr`` tells nothing that a log should not hold: a query may carry an authorization code or a ``sid``.
    """

    method: str
    url: str = field(repr=False)
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @staticmethod
    def of(method: str, url: str, headers: Mapping[str, str], body: bytes) -> "Request":
        """A request as the host gives it: any text is a URL here, and only its path and query are looked at."""
        found = _URL.match(url)
        path, query = found.groups("") if found else ("", "")
        return Request(
            method=method.upper(),
            url=url,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in headers.items()},
            body=body,
        )

    def params(self) -> Params:
        """The query's fields, parsed from the URL: the host joins repeats and drops blanks."""
        return Params.parse(self.query.encode("utf-8", "replace"))

    def form(self) -> Params:
        """The body's fields.

        Raises:
            BodyTooLarge, LengthRequired, BadRequest: it is no form of reasonable size.
        """
        self.require_body()
        if self._media_type != "application/x-www-form-urlencoded":
            raise BadRequest("the body is no form")
        return Params.parse(self.body)

    def json(self) -> Any:
        """The body as JSON: UTF-8, no member twice, no number or text that JSON cannot carry on, not deep (RFC 7493).

        Raises:
            BodyTooLarge, LengthRequired, BadRequest: it is no such JSON.
        """
        self.require_body()
        try:
            value = json.loads(self.body.decode("utf-8"), object_pairs_hook=_object)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON that we take: {type(error).__name__}") from None
        if _depth(value) > _DEPTH:
            raise BadRequest("the JSON is nested too deeply")
        return value

    def require_body(self) -> None:
        """Refuses a body that is too large, or that the host dropped because it was chunked."""
        if len(self.body) > BODY_LIMIT:
            raise BodyTooLarge(f"a body of {len(self.body)} bytes")
        if "chunked" in self.headers.get("transfer-encoding", "").lower() and not self.body:
            raise LengthRequired("the body was sent chunked, and the Functions host drops such bodies")

    @property
    def _media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    # -- what the browser says about where the request comes from (Fetch Metadata Request Headers)

    @property
    def is_prefetch(self) -> bool:
        """A speculative load, which must have no effect."""
        return any(name in self.headers for name in ("sec-purpose", "purpose", "x-moz"))

    @property
    def is_top_level_navigation(self) -> bool:
        """A navigation of a tab, or a client that does not say."""
        return self.headers.get("sec-fetch-dest", "document") == "document" and not self.is_prefetch

    @property
    def is_same_origin_navigation(self) -> bool:
        """A link or form of our own pages, for sure."""
        wanted = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        return all(self.headers.get(name) == value for name, value in wanted.items()) and not self.is_prefetch

    @property
    def wants_html(self) -> bool:
        """Whether a person is looking: ``Accept`` names HTML, and JSON no more than that (RFC 9110, section 12.5.1)."""
        html = self._weight("text/html", "application/xhtml+xml")
        return html > 0 and html >= self._weight("application/json", "application/problem+json")

    def _weight(self, *media_types: str) -> float:
        best = 0.0
        for part in self.headers.get("accept", "").lower().split(","):
            media_type, *parameters = (piece.strip() for piece in part.split(";"))
            if media_type in media_types:
                weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
                best = max(best, float(weight) if _WEIGHT.fullmatch(weight) else 0.0)
        return best

    def require_same_origin(self, origin: str) -> None:
        """Lets a change through only if it comes from ``origin``.

        Raises:
            CrossSite: it comes from elsewhere, or does not say from where.
        """
        site = self.headers.get("sec-fetch-site")
        if site is not None:
            if site != "same-origin":
                raise CrossSite(f"Sec-Fetch-Site: {site[:20]!r}")
        elif self.headers.get("origin") != origin:
            raise CrossSite("no Sec-Fetch-Site, and Origin is absent or another one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer.  Header values are ASCII: anything else makes the host answer 500."""

    status: int
    body: bytes = field(repr=False)
    content_type: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # Location may hold an ID token
    cookies: tuple[SetCookie, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (*self.headers, ("Content-Type", self.content_type)):
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"header {name!r} would not survive")

    @staticmethod
    def html(status: int, text: str) -> "Response":
        """A page; half a surrogate pair, which a provider's JSON may hold, becomes a question mark."""
        return Response(status=status, body=text.encode("utf-8", "replace"), content_type="text/html; charset=utf-8")

    @staticmethod
    def json(status: int, value: object) -> "Response":
        """JSON."""
        return Response(status=status, body=json.dumps(value).encode(), content_type="application/json")

    @staticmethod
    def problem(error: AppError) -> "Response":
        """An error as ``application/problem+json`` (RFC 9457); what is for the log stays there."""
        body = {"type": "about:blank", "title": error.public, "status": error.status, "code": error.code}
        return Response(status=error.status, body=json.dumps(body).encode(), content_type="application/problem+json")

    @staticmethod
    def redirect(status: int, location: str) -> "Response":
        """A redirect."""
        return Response(status=status, body=b"", content_type="text/plain; charset=utf-8", headers=(("Location", location),))

    def with_header(self, name: str, value: str) -> "Response":
        """The same with one more header."""
        return replace(self, headers=(*self.headers, (name, value)))

    def with_cookie(self, cookie: SetCookie) -> "Response":
        """The same with one more cookie."""
        return replace(self, cookies=(*self.cookies, cookie))


def _plain(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member is there twice")
    return value


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest
