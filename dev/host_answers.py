"""What becomes of a function's answer: the library's converter first, then what the host makes of it."""

import email.utils
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.functions.http import HttpResponseConverter

from dev.host_json import double, read, written

if TYPE_CHECKING:
    from http.cookies import Morsel

log = logging.getLogger("dev.host")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_EXPIRES = ("%a, %d %b %Y %H:%M:%S GMT", "%a, %d-%b-%Y %H:%M:%S GMT", "%a, %d-%b-%y %H:%M:%S GMT", "%a, %d %b %y %H:%M:%S GMT")
_LONGEST_SPAN = 922_337_203_685.0
"""Seconds that .NET's ``TimeSpan`` holds."""
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer on its way out; ``headers`` with repeats only for ``Set-Cookie``."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


FAILED = Answer(status=500)


def answer_of(returned: Any) -> Answer:
    """The host's answer for what a function returned.

    Raises:
        Exception: whatever the library or the host would fail with; the caller answers 500 and logs it.
    """
    datum = HttpResponseConverter.encode(returned, expected_type=None)
    if datum.type == "string":
        return _from_text(datum.value)
    value = datum.value
    headers: dict[str, tuple[str, str]] = {}
    for name, item in value["headers"].items():
        headers[name.lower()] = (name, item.value)
    answer = _checked(_status(value["status_code"].value), [*headers.values()], value["body"].value)
    cookies: list[str] = []
    for morsel in [_read(morsel) for jar in value["cookies"] or [] for morsel in jar.values()]:
        cookie = morsel.rendered()
        if not _TOKEN.fullmatch(morsel.name) or not _HEADER_VALUE.fullmatch(cookie):
            log.error("cookie %r cannot be sent", morsel.name)
            answer = Answer(status=500, headers=answer.headers)  # what was set before the failure stays
            break
        cookies.append(cookie)
    return Answer(
        status=answer.status, headers=(*answer.headers, *(("Set-Cookie", cookie) for cookie in cookies)), body=answer.body
    )


def _from_text(text: str) -> Answer:
    """A function that returns text: the host looks for JSON in it, and for a whole response in that."""
    plain = ("content-type", ("Content-Type", _PLAIN))
    try:
        value = read(text)
    except ValueError:
        return Answer(status=200, headers=(plain[1],), body=text.encode("utf-8", "replace"))
    members: dict[str, Any] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        members.setdefault(key.lower(), item)
    if "body" not in members:
        shown = written(value, 0) if isinstance(value, dict | list) else _shown(value)
        return Answer(status=200, headers=(plain[1],), body=shown.encode())
    headers = dict([plain])
    if isinstance(given := members.get("headers"), dict):
        for name, item in given.items():
            header = (name, _header(item))
            if name.lower() == "content-type" or name.lower() not in headers:
                headers[name.lower()] = header  # of others the first stays
    headers["content-type"] = (headers["content-type"][0], _in_utf8(headers["content-type"][1]))
    body = members["body"]
    shown = written(body) if isinstance(body, dict) else _shown(body)
    return _checked(_status(members.get("statuscode", members.get("status"))), [*headers.values()], shown.encode())


def _in_utf8(content_type: str) -> str:
    """Text goes out as UTF-8 and says so, whatever charset it came with."""
    if not re.search(r";\s*charset\s*=", content_type, re.IGNORECASE):
        return f"{content_type}; charset=utf-8" if content_type else _PLAIN
    return re.sub(
        r"(;\s*charset\s*=\s*)(?!\"?utf-8\"?\s*(?:;|$))(\"[^\"]*\"|[^;\s]*)", r"\1utf-8", content_type, flags=re.IGNORECASE
    )


def _status(value: Any) -> int:
    """A number or a text that is one; everything else counts as 200."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 200


def _header(value: Any) -> str:
    if value is None:
        raise ValueError("a header without a value")
    return _shown(value)


def _shown(value: Any) -> str:
    """A value of JSON as .NET writes it."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | int():
            return str(value)
        case float():
            return double(value)
        case list():
            return "System.Collections.Generic.List`1[System.Object]"
        case _:
            return "System.Dynamic.ExpandoObject"


def _checked(status: int, headers: list[tuple[str, str]], body: bytes) -> Answer:
    if not 100 <= status <= 999:
        raise ValueError(f"status {status}")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} cannot be sent")
        if name.lower() == "content-length" and body and value.strip() != str(len(body)):
            raise ValueError(f"Content-Length {value!r} for a body of {len(body)}")
    return Answer(
        status=status,
        headers=tuple(header for header in headers if header[1] or header[0].lower() != "content-type"),  # empty is none
        body=body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cookie:
    """A cookie as the worker hands it to the host."""

    name: str
    value: str
    expires: datetime | None
    max_age: int | None
    domain: str
    path: str
    secure: bool
    same_site: str
    http_only: bool

    def rendered(self) -> str:
        """As the host writes it: attributes in lower case and in its own order, the value percent-encoded."""
        parts = [
            f"{self.name}={quote(self.value, safe='-._~')}",
            f"expires={email.utils.format_datetime(self.expires, usegmt=True)}" if self.expires is not None else "",
            f"max-age={self.max_age}" if self.max_age is not None else "",
            f"domain={self.domain}",
            f"path={self.path}",
            "secure" if self.secure else "",
            f"samesite={self.same_site}" if self.same_site in {"lax", "strict", "none"} else "",
            "httponly" if self.http_only else "",
        ]
        return "; ".join(part for part in parts if part)


def _read(morsel: "Morsel[str]") -> _Cookie:
    """What the worker understands of it.

    Raises:
        ValueError: one of the attributes is not what it has to be; the whole answer fails.
    """
    return _Cookie(
        name=morsel.key,
        value=morsel.value,
        expires=_expires(morsel["expires"]) if morsel["expires"] else None,
        max_age=_seconds(morsel["max-age"]) if morsel["max-age"] else None,
        domain=morsel["domain"],
        path=morsel["path"],
        secure=bool(morsel["secure"]),
        same_site=morsel["samesite"].lower(),
        http_only=bool(morsel["httponly"]),
    )


def _expires(text: str) -> datetime:
    """The common ones of the many spellings that the worker understands; without a zone it is UTC."""
    for form in _EXPIRES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _seconds(text: str) -> int:
    seconds = float(text)
    if not -_LONGEST_SPAN < seconds < _LONGEST_SPAN:
        raise ValueError(f"cookie max-age {text!r}")
    return int(seconds)


def with_headers(answer: Answer, more: Mapping[str, str]) -> Answer:
    """The answer with ``customHeaders`` of host.json, where the function did not set them itself."""
    there = {name.lower() for name, _ in answer.headers}
    added = tuple((name, value) for name, value in more.items() if name.lower() not in there)
    return Answer(status=answer.status, headers=(*answer.headers, *added), body=answer.body)
