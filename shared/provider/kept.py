"""A value that is fetched from the provider and kept: metadata, keys.

Owns when to ask again and who waits; it does no I/O of its own.

One thread fetches, the others use what is there.  While the provider is down the old value serves on, and nobody asks again
before a pause is over: a provider that hangs must not take one thread after the other.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from shared import limits
from shared.errors import ProviderFailed, ProviderUnavailable

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds to wait for another thread's fetch when there is no value yet."""
RENEWAL = 2.0
"""Seconds for the fetch of a newer value while the old one would do."""
AFTER_FAILURE = 5.0
"""Seconds before the provider is asked again after a failure when there is no value yet."""
_MUCH = 1.0
"""Seconds by which patience has to differ to make a difference."""
LONGEST = 86_400.0
"""Seconds after which an old value serves no more: a key that the provider withdrew does not outlive that, come what may."""


class Kept(Generic[T]):
    """A value of type ``T`` from ``fetch``, which raises ``ProviderUnavailable`` or ``ProviderFailed``.

    ``max_age`` and ``pause`` are seconds: how long a value serves, and how long after a fetch for a newer value no other
    one is made: a fetch in the ordinary course does not count, so that a rotated key is found at once.  Who cannot go on
    without a value fetches it, or waits for it, in one of the ``places``.  Safe for threads.
    """

    def __init__(
        self,
        fetch: Callable[[], T],
        *,
        max_age: float,
        pause: float,
        places: limits.Places = limits.PLENTY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._places = places
        self._max_age = max_age
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._value: tuple[float, T] | None = None
        self._failure: _Failure | None = None
        self._wanted_newer: float | None = None

    def peek(self) -> T | None:
        """What is there, of any age."""
        value = self._value
        return None if value is None else value[1]

    def get(self) -> T:
        """The value; an old one is renewed if that goes quickly.

        Raises:
            ProviderUnavailable, ProviderFailed: there is none and it cannot be had.
            Busy: too many wait for it already.
        """
        value = self._usable()
        if value is None:
            return self._first()
        if self._clock() - value[0] < self._max_age:
            return value[1]
        if not self._failed_within(self._pause) and self._lock.acquire(blocking=False):
            try:
                with limits.within(RENEWAL):
                    return self._ask()
            except (ProviderUnavailable, ProviderFailed):
                pass
            finally:
                self._lock.release()
        return value[1]

    def newer(self, than: T) -> T:
        """A value fetched after ``than``, which lacks something.

        Raises:
            ProviderUnavailable: a newer value was wanted less than the pause ago, or the provider does not answer.
            ProviderFailed: it did not answer properly.
            Busy: too many wait for it already.
        """
        with self._places.one(), self._alone():
            value = self._value
            if value is not None and value[1] is not than:
                return value[1]
            if self._wanted_newer is not None and self._clock() - self._wanted_newer < self._pause:
                raise ProviderUnavailable("asked for a newer value only a moment ago")
            self._wanted_newer = self._clock()
            return self._ask()

    def confirm(self, max_age: float) -> T:
        """The value, fetched no longer than ``max_age`` seconds ago, for whoever wants to know how things are.

        While another thread asks, what was known last counts.  Raises as ``get`` does, old value or not; it needs no place.
        """
        value = self._value
        if value is not None and self._clock() - value[0] < max_age:
            return value[1]
        self._raise_recent_failure()
        # Nobody waits here: whoever asks how things are must not take the threads from those who do something.
        if not self._lock.acquire(blocking=False):
            if value is not None and self._failure is None:
                return value[1]
            raise ProviderUnavailable("another request is asking the provider just now")
        try:
            return self._ask()
        finally:
            self._lock.release()

    def _first(self) -> T:
        with self._places.one(), self._alone():
            value = self._usable()
            if value is not None:
                return value[1]
            self._raise_recent_failure()
            return self._ask()

    def _usable(self) -> tuple[float, T] | None:
        value = self._value
        return value if value is not None and self._clock() - value[0] < LONGEST else None

    def _alone(self) -> "_Turn":
        return _Turn(self._lock)

    def _ask(self) -> T:
        patience = limits.left(limits.PROVIDER)
        try:
            value = self._fetch()
        except (ProviderUnavailable, ProviderFailed) as error:
            ran_out = limits.left(limits.PROVIDER) <= 0
            self._failure = _Failure(self._clock(), type(error), str(error), patience if ran_out else limits.PROVIDER)
            raise
        self._value, self._failure = (self._clock(), value), None
        return value

    def _failed_within(self, seconds: float) -> bool:
        return self._failure is not None and self._clock() - self._failure.at < seconds

    def _raise_recent_failure(self) -> None:
        failure = self._failure
        if failure is None or not self._failed_within(AFTER_FAILURE):
            return
        # That somebody with less time got no answer says nothing to those who can wait for it.
        if failure.patience + _MUCH >= limits.left(limits.PROVIDER):
            raise failure.kind(f"{failure.detail} (a moment ago)")


class _Failure(NamedTuple):
    """``patience``: the seconds that were there for the answer."""

    at: float
    kind: type[ProviderUnavailable | ProviderFailed]
    detail: str
    patience: float


class _Turn:
    """The lock, waited for with a limit."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=limits.left(PATIENCE)):
            raise ProviderUnavailable("another request is still waiting for the provider")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
