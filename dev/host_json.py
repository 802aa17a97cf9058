"""JSON as the host reads and writes it (Json.NET): more lenient than JSON, with .NET's spelling of numbers.

It matters where a function returns text: the host looks for JSON in it, ``host_answers.py``.  One thing is left out: text
that looks like a date stays text.
"""

import re
from decimal import Decimal
from typing import Any

_BLANK = re.compile(r"(?:\s|/\*.*?\*/|//[^\r\n]*)*", re.DOTALL)
_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "\\": "\\", "'": "'", '"': '"', "/": "/"}
_NAME = re.compile(r"[\w$]+")
_WORD = re.compile(r"(true|false|null|undefined|NaN|-?Infinity)(?![\w$])")
_WORDS = {"true": True, "false": False, "null": None, "undefined": None}
_NUMBER = re.compile(r"[-.0-9][-+.0-9a-fA-FxX]*(?=[\s,\]}/]|$)")
_DEEPEST = 64

_UNSAFE = re.compile('["\\\\\x00-\x1f\x85\u2028\u2029]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def read(text: str) -> Any:
    """The value of a document; None for an empty one.

    Raises:
        ValueError: it is none.
    """
    place = _blank(text, 0)
    if place == len(text):
        return None
    value, place = _value(text, place, 0)
    if _blank(text, place) != len(text):
        raise ValueError("something behind the document")
    return value


def _blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place


def _value(text: str, place: int, depth: int) -> tuple[Any, int]:
    start = text[place : place + 1]
    if start in {"{", "["}:
        if depth == _DEEPEST:
            raise ValueError("too deep")
        return (_members if start == "{" else _items)(text, place + 1, depth + 1)
    if start in {'"', "'"}:
        return _string(text, place)
    if word := _WORD.match(text, place):
        return _WORDS[word[1]] if word[1] in _WORDS else float(word[1]), word.end()
    if number := _NUMBER.match(text, place):
        return _number(number[0]), number.end()
    raise ValueError(f"no value at {place}")


def _members(text: str, place: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while (place := _blank(text, place)) < len(text):
        if text[place] == "}":
            return found, place + 1
        bare = _NAME.match(text, place)
        name, place = (bare[0], bare.end()) if bare else _string(text, place)
        place = _blank(text, place)
        if text[place : place + 1] != ":":
            raise ValueError(f"no colon at {place}")
        found[name], place = _value(text, _blank(text, place + 1), depth)
        place = _behind(text, place, "}")
    raise ValueError("an object without its end")


def _items(text: str, place: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while (place := _blank(text, place)) < len(text):
        if text[place] == "]":
            return found, place + 1
        value, place = _value(text, place, depth)
        found.append(value)
        place = _behind(text, place, "]")
    raise ValueError("an array without its end")


def _behind(text: str, place: int, end: str) -> int:
    """Behind the comma, or where the end stands: a comma before the end is allowed."""
    place = _blank(text, place)
    if text[place : place + 1] == ",":
        return place + 1
    if text[place : place + 1] != end:
        raise ValueError(f"neither comma nor end at {place}")
    return place


def _string(text: str, place: int) -> tuple[str, int]:
    found = _STRING.match(text, place)
    if found is None:
        raise ValueError(f"no string at {place}")

    def plain(escape: re.Match[str]) -> str:
        code, letter = escape.groups()
        if code is None and letter not in _ESCAPED:
            raise ValueError(f"unknown escape: {escape[0]}")
        return chr(int(code, 16)) if code is not None else _ESCAPED[letter]

    plain_text = _ESCAPE.sub(plain, found[1] if found[1] is not None else found[2])
    return plain_text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), found.end()


def _number(text: str) -> int | float:
    """Whole numbers may be hexadecimal or, with a leading zero, octal."""
    if re.fullmatch(r"0x[0-9a-f]+", text, re.IGNORECASE):
        return int(text, 16)
    if re.fullmatch(r"0[0-9]+", text):
        return int(text, 8)
    if re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", text, re.IGNORECASE):
        return float(text)
    raise ValueError(f"no number: {text}")


def double(value: float) -> str:
    """A number as .NET writes it: scientific from 1E+15 and below 0.0001."""
    if value != value:  # noqa: PLR0124  not a number
        return "NaN"
    if value in {float("inf"), float("-inf")}:
        return "Infinity" if value > 0 else "-Infinity"
    exact = Decimal(repr(value)).normalize()
    exponent = exact.adjusted()
    if value == 0 or -5 < exponent < 15:
        return f"{exact:f}"
    digits = "".join(map(str, exact.as_tuple().digits))
    mantissa = digits[0] + (f".{digits[1:]}" if digits[1:] else "")
    return f"{'-' if value < 0 else ''}{mantissa}E{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def written(value: Any, indent: int | None = None) -> str:
    """The document of a value: in one line, or with ``indent`` (0 to begin with) in many."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            text = double(value)
            return f'"{text}"' if text[-1] in "Ny" else text if "." in text or "E" in text else f"{text}.0"
        case str():
            return f'"{_UNSAFE.sub(lambda found: _SHORT.get(found[0], f"{chr(92)}u{ord(found[0]):04x}"), value)}"'
    inner = None if indent is None else indent + 1
    if isinstance(value, dict):
        gap = ":" if indent is None else ": "
        parts, marks = [f"{written(name)}{gap}{written(item, inner)}" for name, item in value.items()], "{}"
    else:
        parts, marks = [written(item, inner) for item in value], "[]"
    if not parts or indent is None:
        return marks[0] + ",".join(parts) + marks[1]
    line = "\n" + "  " * (indent + 1)
    return marks[0] + line + f",{line}".join(parts) + "\n" + "  " * indent + marks[1]
