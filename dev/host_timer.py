"""When a timer fires: NCRONTAB expressions of six fields (five: on the full minute), or an interval ``hh:mm:ss``."""

import re
from datetime import UTC, datetime, timedelta

_MONTHS = {
    name: n
    for n, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1)
}
_DAYS = {name: n for n, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_INTERVAL = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})")
_YEARS = 8


class Schedule:
    """The schedule of a timer trigger.

    Raises:
        ValueError: it is malformed; the host does not index such a function.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        interval = _INTERVAL.fullmatch(text.strip())
        self._interval: timedelta | None = None
        if interval is not None:
            days, hours, minutes, seconds = (int(part or 0) for part in interval.groups())
            self._interval = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
            return
        fields = text.split()
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) != 6:
            raise ValueError(f"a schedule has six fields: {text!r}")
        names: list[dict[str, int]] = [{}, {}, {}, {}, _MONTHS, _DAYS]
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


def _field(text: str, least: int, most: int, names: dict[str, int]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = least, most
        else:
            start, dash, stop = span.partition("-")
            first = _value(start, names)
            last = _value(stop, names) if dash else (most if step else first)
        every = int(step) if step else 1
        if not (least <= first <= last <= most) or every < 1:
            raise ValueError(f"{text!r} in a schedule")
        values.update(range(first, last + 1, every))
    return frozenset(values)


def _value(text: str, names: dict[str, int]) -> int:
    return names[text.lower()] if text.lower() in names else int(text)


def now() -> datetime:
    """The time by which timers run: UTC, as on Azure."""
    return datetime.now(UTC)
