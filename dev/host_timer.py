"""When a timer fires: NCRONTAB expressions of six fields (five: on the full minute), or an interval (.NET's time span)."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_SPAN = re.compile(r"(?:(\d+)[.:](?=\d+:\d+:\d))?(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,7}))?)?", re.ASCII)
_YEARS = 8


def time_span(text: str) -> timedelta:
    """A span as .NET reads it: ``hh:mm``, ``hh:mm:ss`` with a fraction, or ``d.hh:mm:ss``, or a number of days.

    Raises:
        ValueError: it is none, or an hour, minute or second is none.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,8}", text, re.ASCII):
        return timedelta(days=int(text))
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"no time span: {text!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:4])
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError(f"no time span: {text!r}")
    fraction = int((found[5] or "0").ljust(7, "0")) / 10
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=fraction)


class Schedule:
    """The schedule of a timer trigger.

    Raises:
        ValueError: it is malformed; the host does not index such a function.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._interval: timedelta | None = None
        fields = text.split()
        if len(fields) < 5:
            self._interval = time_span(text)
            if not self._interval:
                raise ValueError(f"an interval of nothing: {text!r}")
            return
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) != 6:
            raise ValueError(f"a schedule has six fields: {text!r}")
        names: list[tuple[str, ...]] = [(), (), (), (), _MONTHS, _DAYS]
        limits = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
        self._fields = [_field(field, *limit, known) for field, limit, known in zip(fields, limits, names, strict=True)]

    def after(self, time: datetime) -> datetime:
        """The first moment after ``time`` at which it fires; the time zone is kept.

        Raises:
            ValueError: it never does.
        """
        if self._interval is not None:
            return time + self._interval
        seconds, minutes, hours, days, months, weekdays = self._fields
        moment = time.replace(microsecond=0) + timedelta(seconds=1)
        end = time + timedelta(days=366 * _YEARS)
        while moment < end:
            if moment.month not in months:
                following = (moment.replace(day=1) + timedelta(days=32)).replace(day=1)
                moment = following.replace(hour=0, minute=0, second=0)
            elif moment.day not in days or (moment.isoweekday() % 7) not in weekdays:
                moment = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0)
            elif moment.hour not in hours:
                moment = (moment + timedelta(hours=1)).replace(minute=0, second=0)
            elif moment.minute not in minutes:
                moment = (moment + timedelta(minutes=1)).replace(second=0)
            elif moment.second not in seconds:
                moment += timedelta(seconds=1)
            else:
                return moment
        raise ValueError(f"{self.text!r} never comes")


def _field(text: str, least: int, most: int, names: Sequence[str]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        every = int(step) if step else 1
        if span == "*":
            first, last = least, most
        else:
            start, dash, stop = span.partition("-")
            first = _value(start, names, least)
            last = _value(stop, names, least) if dash else (most if every != 1 else first)
        first, last = min(first, last), max(first, last)  # a range may run backwards
        if not least <= first <= last <= most:
            raise ValueError(f"{text!r} in a schedule")
        values.update(range(first, last + 1, max(every, 1)))
    return frozenset(values)


def _value(text: str, names: Sequence[str], least: int) -> int:
    """A number, or the beginning of a month's or a day's name."""
    if text.isascii() and text.isdigit():
        return int(text)
    for number, name in enumerate(names, start=least):
        if text and name.lower().startswith(text.lower()):
            return number
    raise ValueError(f"{text!r} in a schedule")


def now() -> datetime:
    """The time by which timers run: UTC, as on Azure."""
    return datetime.now(UTC)
