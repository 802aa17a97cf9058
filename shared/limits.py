"""Time limits, the deadline of the request that is being served, and how many threads may wait for the provider.

The limits are contract (seconds).  Whoever waits for the network asks ``left()`` how long it may wait: its own limit,
or what the request has left, whichever is less.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from shared.errors import Busy

REQUEST = 15.0
"""A whole request."""
STORAGE = 5.0
"""One storage operation with its retries."""
PROVIDER = 10.0
"""One call to the provider, in total: connection, answer and body."""
REVOCATION = 2.0
"""Revocation at the provider after a sign-out: nobody waits longer for what is only a courtesy."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Everything inside has at most ``seconds``, and no more than what was left outside."""
    outer = _deadline.get()
    mine = time.monotonic() + seconds
    token = _deadline.set(mine if outer is None else min(outer, mine))
    try:
        yield
    finally:
        _deadline.reset(token)


def left(at_most: float) -> float:
    """Seconds that may still be spent: ``at_most``, or less when the request ends before; never below 0."""
    deadline = _deadline.get()
    return at_most if deadline is None else max(0.0, min(at_most, deadline - time.monotonic()))


class Places:
    """Places for threads that wait for the provider: a part of the pool, so that the rest is there for sign-outs."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(max(1, count))

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for what is done inside; who has one of these already needs no other.

        Raises:
            Busy: all are taken.
        """
        taken = _places.get()
        if self in taken:
            yield
            return
        if not self._free.acquire(blocking=False):
            raise Busy("as many threads as may are waiting for the provider")
        token = _places.set((*taken, self))
        try:
            yield
        finally:
            _places.reset(token)
            self._free.release()


_places: ContextVar[tuple[Places, ...]] = ContextVar("places", default=())
PLENTY = Places(1_000_000)
"""For those who have no pool to share."""
