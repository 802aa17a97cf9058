"""Which function gets a path: route templates as the Functions host matches them (ASP.NET Core routing).

Names of functions are tried in alphabetical order and the first whose template and method fit wins.  Paths ignore case and
one slash at the end.  Percent-encoding is undone once, except for ``%2F`` and for what is no UTF-8.  What ``:int`` and the
like accept is ``host_constraints.py``.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from dev.host_constraints import Check, constraint

_PIECE = re.compile(r"\{\{|\}\}|\{(?:[^{}]|\{\{|\}\})*\}|[^{}]")
_INNER = re.compile(r"(\*{0,2})([^/{}?*][^/{}?*:=]*)((?::[^:=()?]*(?:\(.*?\)(?=$|[:=?]))?)*)(?:=(.*?))?(\?)?", re.DOTALL)
_CONSTRAINT = re.compile(r":([^:=()?]*)(?:\((.*?)\)(?=$|:))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    name: str
    checks: tuple[Check, ...]
    default: str | None
    optional: bool
    catch_all: bool

    def fits(self, value: str | None) -> bool:
        """Whether its constraints hold; one that is constrained and not optional has to be there."""
        if value is None:
            return self.optional or not self.checks
        return all(check(value) for check in self.checks)


class Template:
    """A route template, such as ``things/{id:int?}``.

    Raises:
        ValueError: it is malformed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        inner = text.removeprefix("~").removeprefix("/").removesuffix("/")
        self._segments = [_Segment(segment) for segment in _split(inner)] if inner else []
        self._parameters = [parameter for segment in self._segments for parameter in segment.parameters]
        names = [parameter.name.lower() for parameter in self._parameters]
        if len(set(names)) != len(names):
            raise ValueError(f"a parameter comes twice: {text}")
        if any(parameter.catch_all for parameter in self._parameters[:-1]) or any(
            segment.catch_all is not None for segment in self._segments[:-1]
        ):
            raise ValueError(f"a catch-all has to be the last: {text}")

    def match(self, path: str) -> dict[str, str] | None:
        """The route's parameters for a decoded path; None where it does not fit."""
        values = self._captured(path)
        if values is None or not all(parameter.fits(values.get(parameter.name)) for parameter in self._parameters):
            return None
        return values

    def _captured(self, path: str) -> dict[str, str] | None:
        values = {one.name: one.default for one in self._parameters if one.default is not None}
        parts = path[1:].split("/")
        if not parts[-1]:
            parts.pop()  # one slash at the end is none
        for place, part in enumerate(parts):
            if not part or place >= len(self._segments):
                return None
            segment = self._segments[place]
            if segment.catch_all is not None:
                values[segment.catch_all.name] = path[1:].split("/", place)[place]
                return values
            found = segment.match(part)
            if found is None:
                return None
            values |= found
        return values if all(segment.may_be_absent for segment in self._segments[len(parts) :]) else None


class _Segment:
    """Literals and parameters between two slashes."""

    def __init__(self, text: str) -> None:
        pieces = _pieces(text)
        self.parameters = [piece for piece in pieces if isinstance(piece, _Parameter)]
        if any(isinstance(a, _Parameter) and isinstance(b, _Parameter) for a, b in pairwise(pieces)):
            raise ValueError(f"two parameters without anything between them: {text}")
        only = self.parameters[0] if len(pieces) == 1 and self.parameters else None
        self.catch_all = only if only is not None and only.catch_all else None
        self.may_be_absent = only is not None and (only.optional or only.catch_all or only.default is not None)
        self._pieces = pieces
        self._shorter: list[str | _Parameter] = []
        if only is None and any(parameter.catch_all for parameter in self.parameters):
            raise ValueError(f"a catch-all has to be alone: {text}")
        if only is None and any(parameter.optional for parameter in self.parameters):
            # The full stop before an optional parameter may be missing together with it, but may not be the last character.
            if self.parameters[-1] is not pieces[-1] or not self.parameters[-1].optional or pieces[-2] != ".":
                raise ValueError(f"an optional parameter has to be the last and behind a full stop: {text}")
            self._shorter = pieces[:-2]

    def match(self, part: str) -> dict[str, str] | None:
        """The values of its parameters; None where it does not fit."""
        found = _from_the_right(self._pieces, part)
        if found is None and self._shorter and not part.endswith("."):
            found = _from_the_right(self._shorter, part)
        return found


def _from_the_right(pieces: "list[str | _Parameter]", part: str) -> dict[str, str] | None:
    """Each literal at its last place before what is taken already, each parameter at least a character; never a second try.

    So ``a{x}`` does not fit ``aab``: the last ``a`` that leaves a character is not at the beginning.
    """
    values: dict[str, str] = {}
    folded, end, pending = _folded(part), len(part), ""
    for place in reversed(range(len(pieces))):
        piece = pieces[place]
        if isinstance(piece, _Parameter):
            pending = piece.name
            if place == 0:
                values[pending] = part[:end]
            continue
        start = folded.rfind(_folded(piece), 0, end - bool(pending))
        if start == -1 or (place == len(pieces) - 1 and start + len(piece) != len(part)):
            return None
        if pending:
            values[pending] = part[start + len(piece) : end]
        end, pending = start, ""
    whole = end == 0 or isinstance(pieces[0], _Parameter)
    return values if whole and all(values.values()) else None


def _folded(text: str) -> str:
    """For comparing without case; as long as the text."""
    return "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in text)


def _split(text: str) -> list[str]:
    """The segments of a template; slashes within braces are none."""
    segments = [""]
    for piece in _checked(text):
        if piece == "/":
            segments.append("")
        else:
            segments[-1] += piece
    if not all(segments):
        raise ValueError(f"an empty segment: {text}")
    return segments


def _checked(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    if "".join(pieces) != text:
        raise ValueError(f"braces that do not match: {text}")
    return pieces


def _pieces(text: str) -> list["str | _Parameter"]:
    """Literals, joined and with single braces, and parameters."""
    pieces: list[str | _Parameter] = []
    for piece in _checked(text):
        if piece[0] == "{" and piece != "{{":
            pieces.append(_parameter(piece[1:-1].replace("{{", "{").replace("}}", "}")))
            continue
        literal = piece[0] if piece in {"{{", "}}"} else piece
        last = pieces[-1] if pieces else None
        if literal == "?":
            raise ValueError(f"a question mark: {text}")
        if isinstance(last, str):
            pieces[-1] = last + literal
        else:
            pieces.append(literal)
    return pieces


def _parameter(text: str) -> _Parameter:
    found = _INNER.fullmatch(text)
    if found is None:
        raise ValueError(f"malformed parameter: {{{text}}}")
    stars, name, constraints, default, question = found.groups()
    if question and (stars or default is not None):
        raise ValueError(f"an optional parameter is no catch-all and has no default: {{{text}}}")
    checks = tuple(constraint(name, arguments) for name, arguments in _CONSTRAINT.findall(constraints) if name)
    return _Parameter(name=name, checks=checks, default=default, optional=bool(question), catch_all=bool(stars))


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
    return re.sub("%(?![0-9a-fA-F]{2})", "%25", quote(unescape(path, keep="/"), safe="/!$&'()*+,;=:@-._~%"))


def decoded(path: str) -> str:
    """The path as routes see it."""
    return unescape(path, keep="/")


def pairs(text: str) -> list[tuple[str, str]]:
    """The names and values of a query, decoded, as they stand there."""
    parts = [part.replace("+", " ").partition("=") for part in text.split("&") if part]
    return [(unescape(name), unescape(value)) for name, _, value in parts]


def query(text: str) -> dict[str, str]:
    """The query as a function is given it: names ignore case, repeats are joined with a comma, empty values are dropped."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name, value in pairs(text):
        if value:
            found[name.lower()] = (name, [*found.get(name.lower(), (name, []))[1], value])  # the last spelling stays
    return {name: ",".join(values) for name, values in found.values()}
