"""What the inline constraints of a route accept, ``{id:int}`` and the like: ASP.NET Core's, which parse as .NET does.

Which function gets a path is ``host_routes.py``.
"""

import re
from collections.abc import Callable
from datetime import datetime

Check = Callable[[str], bool]

_SPACE = "[\\t-\\r ]*"
_GROUPED = r"(\d[\d,]*(\.\d*)?|\.\d+)"
_WHOLE = re.compile(rf"{_SPACE}[+-]?\d+{_SPACE}", re.ASCII)
_DECIMAL = re.compile(rf"{_SPACE}([+-]?{_GROUPED}|{_GROUPED}[+-]){_SPACE}", re.ASCII)
_DOUBLE = re.compile(rf"{_SPACE}[+-]?({_GROUPED}(e[+-]?\d+)?|infinity|nan){_SPACE}", re.ASCII | re.IGNORECASE)
_HEX = "[0-9a-f]"
_DASHED = rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
_GUID = re.compile(
    rf"{_SPACE}({_HEX}{{32}}|{_DASHED}|\{{{_DASHED}\}}|\({_DASHED}\)"
    rf"|\{{0x{_HEX}{{1,8}},0x{_HEX}{{1,4}},0x{_HEX}{{1,4}},\{{(0x{_HEX}{{1,2}},){{7}}0x{_HEX}{{1,2}}\}}\}}){_SPACE}",
    re.IGNORECASE,
)
_DATES = ("%Y-%m-%d", "%Y-%m", "%m-%d-%Y", "%Y.%m.%d", "%m.%d.%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%B %Y")
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_ZONE = re.compile(r" ?(Z|GMT|[+-]\d\d:\d\d)$")
_LONG = 2**63 - 1


def constraint(name: str, arguments: str) -> Check:
    """The check that an inline constraint stands for; ``arguments`` is what its parentheses hold.

    Raises:
        ValueError: there is no such constraint, or its arguments are not what it takes.
    """
    name = name.strip().lower()
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "regex":
        pattern = re.compile(arguments, re.IGNORECASE)
        return lambda text: pattern.search(text) is not None
    values = [int(part) for part in arguments.split(",")]
    match name, values:
        case "minlength", [least]:
            return lambda text: len(text) >= least
        case "maxlength", [most]:
            return lambda text: len(text) <= most
        case "length", [least] | [least, _]:
            return lambda text: least <= len(text) <= values[-1]
        case "min", [least]:
            return _whole(least, _LONG)
        case "max", [most]:
            return _whole(-_LONG - 1, most)
        case "range", [least, most]:
            return _whole(least, most)
        case _:
            raise ValueError(f"no such route constraint: {name}({arguments})")


def _whole(least: int, most: int) -> Check:
    return lambda text: _WHOLE.fullmatch(text) is not None and least <= int(text) <= most


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda text: pattern.fullmatch(text) is not None


def _decimal(text: str) -> bool:
    return _DECIMAL.fullmatch(text) is not None and float(text.strip(" \t\r\n\v\f+-").replace(",", "")) < 2.0**96


def _date(text: str) -> bool:
    """The common ones of the many spellings that .NET understands."""
    plain = _ZONE.sub("", text.strip())
    dates = [*_DATES, *_TIMES, *(f"{date}{gap}{time}" for date in _DATES for gap in " T" for time in _TIMES)]
    return any(_is(plain, form) for form in dates)


def _is(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007  only whether it is one
    except ValueError:
        return False
    return True


def _file_name(text: str) -> bool:
    return text.rpartition("/")[2].partition(".")[2].strip(".") != ""


_PLAIN: dict[str, Check] = {
    "int": _whole(-(2**31), 2**31 - 1),
    "long": _whole(-_LONG - 1, _LONG),
    "decimal": _decimal,
    "double": _matches(_DOUBLE),
    "float": _matches(_DOUBLE),
    "bool": lambda text: text.strip(" \t\r\n\v\f\0").lower() in {"true", "false"},
    "guid": _matches(_GUID),
    "datetime": _date,
    "alpha": _matches(re.compile("[a-z]*", re.IGNORECASE | re.ASCII)),
    "required": lambda text: text != "",
    "file": _file_name,
    "nonfile": lambda text: not _file_name(text),
}
