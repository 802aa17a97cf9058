"""The sweep: what expired goes from storage, hour by hour.

Expired counts as gone before any sweep; this is housekeeping, and the promise that tokens do not lie about for long.
"""

import logging
import time
from datetime import datetime

from shared.errors import StorageUnavailable
from shared.store.index import Due, Index
from shared.store.sessions import KEEP_ENDED, Sessions
from shared.store.table import TRANSACTION_LIMIT

log = logging.getLogger(__name__)

TIME = 180.0
"""Seconds one sweep takes at most: well before the function's time limit of 5 minutes.  The next one goes on."""


class Sweep:
    """Removes what is due.  Two at once do no harm: every step is conditional or can be repeated."""

    def __init__(self, *, sessions: Sessions, index: Index, time_limit: float = TIME) -> None:
        self._sessions = sessions
        self._index = index
        self._time_limit = time_limit

    def run(self, now: datetime) -> int:
        """Works off the hours that have passed, oldest first; returns how many rows were due and are settled.

        What a row leads to goes first and the row itself last, so that a sweep that dies is repeated by the next one.
        """
        end = time.monotonic() + self._time_limit
        settled = failed = 0
        batch: list[Due] = []
        try:
            for due in self._index.due(now):
                if time.monotonic() >= end:
                    log.info("the sweep's time is up; the next one goes on")
                    break
                if batch and (len(batch) == TRANSACTION_LIMIT or due.hour != batch[0].hour):
                    self._index.settle(batch)
                    batch = []
                try:
                    if self._settle(due, now):
                        batch.append(due)
                        settled += 1
                except StorageUnavailable as error:
                    failed += 1
                    log.warning("a row stays for the next sweep: %s", error)
        except StorageUnavailable as error:
            log.warning("the sweep stops here, the next one goes on: %s", error)
        if batch:
            self._index.settle(batch)
        if settled or failed:
            log.info("swept %d rows, %d are left for the next sweep", settled, failed)
        return settled

    def _settle(self, due: Due, now: datetime) -> bool:
        """Removes what a row leads to, if its time has come; whether the row itself may go."""
        match due.kind:
            case "session":
                became = self._sessions.sweep_session(due.account, due.session_id, now=now, filed_under=due.hour)
                if became == "later":
                    return False
                if became == "gone":
                    # Not forgotten: nothing else leads to those that could not be removed.
                    self._index.remove((key, due.key) for key in due.index_keys if key != due.hour)
                    self._sessions.sweep_account(due.account, now=now)
            case "tombstone":
                self._sessions.sweep_tombstone(due.account, due.session_id)
                self._sessions.sweep_account(due.account, now=now)
            case "account":
                self._sessions.sweep_account(due.account, now=now)
            case "jti" | "end":
                if not self._index.expire(due, older_than=now - KEEP_ENDED):
                    return False
            case _:
                return False  # a newer release's
        return True
