"""One structured record for each sign-in and sign-out: enough to tell what happened, and nothing that opens anything."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from shared.store.metering import counting, requests_so_far

log = logging.getLogger("shared.audit")
_began: ContextVar[float | None] = ContextVar("began", default=None)


@contextmanager
def measured() -> Iterator[None]:
    """Everything inside is one request: its time and storage requests go into its records."""
    token = _began.set(time.monotonic())
    try:
        with counting():
            yield
    finally:
        _began.reset(token)


class Audit:
    """Writes the records.  ``pseudonym`` is a keyed hash: the account itself is in no log."""

    def __init__(self, pseudonym: Callable[[str], str]) -> None:
        self._pseudonym = pseudonym

    def record(self, event: str, *, cause: str, account: str, ended: int) -> None:
        """Writes one record.

        Args:
            event: ``sign_in`` or ``sign_out``.
            cause: the way it came: ``callback``, ``user``, ``everywhere``, ``device``, ``front_channel``, ``back_channel``,
                ``administrator``, ``refresh_token_dead``, ``another_account`` (somebody else signed in in that browser).
            account: the account key, logged as its pseudonym.
            ended: how many sessions are gone.
        """
        began = _began.get()
        fields = {
            "event": event,
            "cause": cause,
            "account": self._pseudonym(account),
            "sessions_ended": ended,
            "storage_requests": requests_so_far(),
            "milliseconds": round((time.monotonic() - began) * 1000) if began is not None else None,
        }
        log.info("%s", json.dumps(fields))
