"""Time limits, and the deadline of the request that is being served.

The limits are contract (seconds).  Whoever waits for the network asks ``left()`` how long it may wait: its own limit,
or what the request has left, whichever is less.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
