"""Which function gets a path: route templates as the Functions host matches them (ASP.NET Core routing).

Names of functions are tried in alphabetical order and the first whose template and method fit wins.  Paths ignore case and
one slash at the end.  Percent-encoding is undone once, except for ``%2F`` and for what is no UTF-8.
"""

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

_PARAMETER = re.compile(r"\{(\*{0,2})([^:=?{}*]+)((?::(?:[^(){}:=?]+(?:\((?:[^(){}]|\{\{|\}\})*\))?))*)(?:=([^{}?]*))?(\?)?\}")
_CONSTRAINT = re.compile(r":([^(){}:=?]+)(?:\(((?:[^(){}]|\{\{|\}\})*)\))?")


def _number(least: float, most: float, kind: type[int] | type[float]) -> Callable[[str], bool]:
    pattern = re.compile(r"\s*[+-]?\d+\s*" if kind is int else r"\s*[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")

    def fits(text: str) -> bool:
        return pattern.fullmatch(text) is not None and least <= kind(text.replace(",", "")) <= most

    return fits


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return fits


def constraint(name: str, arguments: str | None) -> Callable[[str], bool]:
    """The check that an inline constraint stands for.

    Raises:
        ValueError: there is no such constraint: the host refuses the route.
    """
    values = [int(part) for part in arguments.split(",")] if arguments and name in _COUNTED else []
    match name:
        case "int":
            return _number(-(2**31), 2**31 - 1, int)
        case "long":
            return _number(-(2**63), 2**63 - 1, int)
        case "decimal" | "double" | "float":
            return _number(float("-inf"), float("inf"), float)
        case "bool":
            return lambda text: text.strip().lower() in {"true", "false"}
        case "guid":
            return lambda text: (
                re.fullmatch(r"[0-9a-fA-F-]{32,36}", text.strip("{}()")) is not None and _parses(uuid.UUID)(text)
            )
        case "datetime":
            return _parses(datetime.fromisoformat)
        case "alpha":
            return lambda text: re.fullmatch(r"[A-Za-z]*", text) is not None
        case "required":
            return lambda text: text != ""
        case "minlength":
            return lambda text: len(text) >= values[0]
        case "maxlength":
            return lambda text: len(text) <= values[0]
        case "length":
            return lambda text: values[0] <= len(text) <= values[-1]
        case "min":
            return _number(values[0], 2**63 - 1, int)
        case "max":
            return _number(-(2**63), values[0], int)
        case "range":
            return _number(values[0], values[1], int)
        case "regex":
            pattern = re.compile((arguments or "").replace("{{", "{").replace("}}", "}").replace("\\\\", "\\"), re.IGNORECASE)
            return lambda text: pattern.search(text) is not None
        case _:
            raise ValueError(f"no such route constraint: {name}")


_COUNTED = frozenset({"minlength", "maxlength", "length", "min", "max", "range"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    name: str
    checks: tuple[Callable[[str], bool], ...]
    default: str | None
    optional: bool
    catch_all: bool


class Template:
    """A route template, such as ``things/{id:int?}``.

    Raises:
        ValueError: it is malformed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._segments = [_Segment(segment) for segment in text.strip("/").split("/")] if text.strip("/") else []

    def match(self, path: Sequence[str]) -> dict[str, str] | None:
        """The route's parameters for the decoded segments of a path; None where it does not fit."""
        values: dict[str, str] = {}
        for place, segment in enumerate(self._segments):
            rest = path[place:]
            if segment.catch_all is not None:
                text = "/".join(rest)
                if not text and segment.catch_all.default is None:
                    return values
                return values if _take(values, segment.catch_all, text or segment.catch_all.default or "") else None
            if not rest:
                if not segment.may_be_absent:
                    return None
                only = segment.parameters[0]
                if only.default is not None:
                    values[only.name] = only.default
                continue
            found = segment.pattern.fullmatch(rest[0])
            if found is None:
                return None
            for number, parameter in enumerate(segment.parameters):
                text = found.group(number + 1) or ""
                if text and not _take(values, parameter, text):
                    return None
        return values if len(path) <= len(self._segments) else None


def _take(values: dict[str, str], parameter: _Parameter, text: str) -> bool:
    values[parameter.name] = text
    return all(check(text) for check in parameter.checks)


class _Segment:
    """Literals and parameters between two slashes."""

    def __init__(self, text: str) -> None:
        self.parameters: list[_Parameter] = []
        pattern, place = "", 0
        for found in _PARAMETER.finditer(text):
            literal = text[place : found.start()]
            stars, name, constraints, default, question = found.groups()
            checks = tuple(constraint(c.group(1), c.group(2)) for c in _CONSTRAINT.finditer(constraints))
            optional = question is not None
            self.parameters.append(
                _Parameter(name=name, checks=checks, default=default, optional=optional, catch_all=bool(stars))
            )
            if optional and literal == ".":
                pattern += r"(?:\.(.+))?"  # ASP.NET Core: a full stop before an optional parameter is optional too
            else:
                pattern += _literal(literal) + "(.+)"
            place = found.end()
        pattern += _literal(text[place:])
        self.pattern = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        alone = len(self.parameters) == 1 and _PARAMETER.fullmatch(text) is not None
        first = self.parameters[0] if alone else None
        self.catch_all = first if first is not None and first.catch_all else None
        self.may_be_absent = first is not None and (first.optional or first.default is not None)


def _literal(text: str) -> str:
    plain = text.replace("{{", "\0").replace("}}", "\1")
    if "{" in plain or "}" in plain:
        raise ValueError(f"malformed route: {text}")
    return re.escape(plain.replace("\0", "{").replace("\1", "}"))


def unescape(text: str, *, keep: str = "") -> str:
    """Percent-decoding that leaves what is no UTF-8 (and the characters of ``keep``) as it stands."""

    def run(found: re.Match[str]) -> str:
        data = bytes.fromhex(found.group().replace("%", ""))
        result, place = "", 0
        while place < len(data):
            for size in (1, 2, 3, 4):
                try:
                    character = data[place : place + size].decode("utf-8")
                except UnicodeDecodeError:
                    continue
                result += found.group()[3 * place : 3 * (place + size)] if character in keep else character
                place += size
                break
            else:
                result += found.group()[3 * place : 3 * place + 3]
                place += 1
        return result

    return re.sub(r"(?:%[0-9a-fA-F]{2})+", run, text)


def normalized(path: str) -> str:
    """A path without its dot segments, plain or percent-encoded, as the host's HTTP server hands it on."""
    if "." not in path and "%2e" not in path.lower():
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            kept = kept[:-1]
        elif plain != ".":
            kept.append(segment)
    if re.sub("%2e", ".", segments[-1], flags=re.IGNORECASE) in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def encoded(path: str) -> str:
    """The path as a function sees it in its URL: decoded, and encoded again where a URL needs it."""
    return quote(unescape(path, keep="/"), safe="/!$&'()*+,;=:@-._~%")


def segments(path: str) -> list[str] | None:
    """The decoded segments of a path; None where one of them is empty, which no route fits."""
    inner = path[1:].removesuffix("/") if path != "/" else ""
    if not inner:
        return [] if path in {"/", ""} else None
    parts = [unescape(part, keep="/") for part in inner.split("/")]
    return parts if all(parts) else None


def query(text: str) -> dict[str, str]:
    """The query as a function is given it: names ignore case, repeats are joined with a comma, empty values are dropped."""
    found: dict[str, tuple[str, list[str]]] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        name, value = (unescape(piece.replace("+", " ")) for piece in (name, value))
        if value:
            found[name.lower()] = (name, [*found.get(name.lower(), (name, []))[1], value])
    return {name: ",".join(values) for name, values in found.values()}
