"""What becomes of a function's answer: the library's converter first, then what the host makes of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.functions.http import HttpResponseConverter

if TYPE_CHECKING:
    from http.cookies import Morsel, SimpleCookie

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_EXPIRES = ("%a, %d %b %Y %H:%M:%S GMT", "%a, %d-%b-%Y %H:%M:%S GMT", "%a, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
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
    cookies = [_rendered(morsel) for jar in value["cookies"] or [] for morsel in _morsels(jar)]
    return _checked(_status(value["status_code"].value), [*headers.values()], cookies, value["body"].value)


def _from_text(text: str) -> Answer:
    """A function that returns text: the host looks for JSON in it, and for a whole response in that."""
    plain = ("content-type", ("Content-Type", _PLAIN))
    try:
        value = json.loads(text) if text.strip() else None
    except ValueError:
        return Answer(status=200, headers=(plain[1],), body=text.encode())
    members = {key.lower(): item for key, item in value.items()} if isinstance(value, dict) else {}
    if "body" not in members:
        shown = json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else _shown(value)
        return Answer(status=200, headers=(plain[1],), body=shown.encode())
    headers = dict([plain])
    if isinstance(given := members.get("headers"), dict):
        headers |= {name.lower(): (name, _header(item)) for name, item in given.items()}
    status = _status(members.get("statuscode", members.get("status")))
    body = members["body"]
    if isinstance(body, dict):
        return _checked(status, [*headers.values()], [], json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
    return _checked(status, [*headers.values()], [], _shown(body).encode())


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
            return repr(value).removesuffix(".0").replace("e", "E")
        case list():
            return "System.Collections.Generic.List`1[System.Object]"
        case _:
            return "System.Dynamic.ExpandoObject"


def _checked(status: int, headers: list[tuple[str, str]], cookies: list[str], body: bytes) -> Answer:
    if not 100 <= status <= 999:
        raise ValueError(f"status {status}")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} cannot be sent")
    return Answer(status=status, headers=(*headers, *(("Set-Cookie", cookie) for cookie in cookies)), body=body)


def _morsels(jar: "SimpleCookie") -> list["Morsel[str]"]:
    return list(jar.values())


def _rendered(morsel: "Morsel[str]") -> str:
    """A cookie as the host writes it: attributes in lower case and in its own order, the value percent-encoded."""
    if not _TOKEN.fullmatch(morsel.key):
        raise ValueError(f"cookie name {morsel.key!r}")
    parts = [f"{morsel.key}={quote(morsel.value, safe='-._~')}"]
    if morsel["expires"]:
        parts.append(f"expires={_expires(str(morsel['expires'])):%a, %d %b %Y %H:%M:%S} GMT")
    if str(morsel["max-age"]):
        parts.append(f"max-age={_seconds(str(morsel['max-age']))}")
    parts.append(f"domain={morsel['domain']}")
    parts.append(f"path={morsel['path']}")
    if morsel["secure"]:
        parts.append("secure")
    same_site = str(morsel["samesite"]).lower()
    if same_site in {"lax", "strict", "none"}:
        parts.append(f"samesite={same_site}")
    if morsel["httponly"]:
        parts.append("httponly")
    return "; ".join(parts)


def _expires(text: str) -> datetime:
    for form in _EXPIRES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise ValueError(f"cookie expires {text!r}")


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
