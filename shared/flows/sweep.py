"""The sweep: what expired goes from storage, hour by hour.

Expired counts as gone before any sweep; this is housekeeping, and the promise that tokens do not lie about for long.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar

from shared.errors import StorageUnavailable
from shared.store.index import Due, Index, Parallel, in_turn
from shared.store.sessions import KEEP_ENDED, UNDER_WAY, Sessions
from shared.store.table import TRANSACTION_LIMIT

log = logging.getLogger(__name__)
T = TypeVar("T")
Outcome = Literal["gone", "filed", "stays", "failed"]
"""``gone`` and ``filed`` anew: the row itself may go."""

TIME = 180.0
"""Seconds one sweep takes at most: well before the function's time limit of 5 minutes.  The next one goes on."""


class Sweep:
    """Removes what is due.  Two at once do no harm: every step is conditional or can be repeated."""

    def __init__(self, *, sessions: Sessions, index: Index, parallel: Parallel = in_turn, time_limit: float = TIME) -> None:
        self._sessions = sessions
        self._index = index
        self._parallel = parallel
        self._time_limit = time_limit

    def run(self, now: datetime) -> int:
        """Works off the hours that have passed, oldest first; returns how many rows were due and are settled.

        An hour has passed when it has on every clock and no sign-in is still writing into it: what is due leads to rows
        that are about to be there, too.
        """
        end = time.monotonic() + self._time_limit
        settled = failed = 0
        try:
            for batch in _batches(self._index.due(now - UNDER_WAY)):
                outcomes = self._settle(batch, now, end)
                settled += outcomes.count("gone") + outcomes.count("filed")
                failed += outcomes.count("failed")
                if time.monotonic() >= end:
                    log.info("the sweep's time is up; the next one goes on")
                    break
        except StorageUnavailable as error:
            log.warning("the sweep stops here, the next one goes on: %s", error)
        if settled or failed:
            log.info("swept %d rows, %d are left for the next sweep", settled, failed)
        return settled

    def _settle(self, batch: Sequence[Due], now: datetime, end: float) -> list[Outcome]:
        """Removes what the rows of one hour lead to, then their accounts' rows, and the rows themselves last.

        So a sweep that dies is repeated by the next one.
        """
        outcomes = self._of_each(batch, lambda due: self._remove(due, now), end)
        emptied = {due.account for due, outcome in zip(batch, outcomes, strict=True) if due.account and outcome == "gone"}
        accounts = sorted(emptied)
        swept = dict(
            zip(accounts, self._of_each(accounts, lambda account: self._sweep_account(account, now), end), strict=True)
        )
        outcomes = [
            swept.get(due.account, outcome) if outcome == "gone" else outcome
            for due, outcome in zip(batch, outcomes, strict=True)
        ]
        settled = [due for due, outcome in zip(batch, outcomes, strict=True) if outcome in ("gone", "filed")]
        if settled:
            self._index.settle(settled)
        return outcomes

    def _of_each(self, things: Sequence[T], work: Callable[[T], Outcome], end: float) -> list[Outcome]:
        """What became of each: one that fails keeps no other from it, and nothing begins when the time is up."""
        outcomes: list[Outcome] = ["stays"] * len(things)

        def attempt(number: int) -> None:
            try:
                if time.monotonic() < end:
                    outcomes[number] = work(things[number])
            except StorageUnavailable as error:
                outcomes[number] = "failed"
                log.warning("a row stays for the next sweep: %s", error)
            except Exception:  # one row that nobody understands must not stop every sweep
                outcomes[number] = "failed"
                log.exception("a row that cannot be swept stays")

        self._parallel([partial(attempt, number) for number in range(len(things))])
        return outcomes

    def _remove(self, due: Due, now: datetime) -> Outcome:
        """Removes what a row leads to, if its time has come."""
        match due.kind:
            case "session":
                return self._sessions.sweep_session(due, now=now)
            case "tombstone":
                self._sessions.sweep_tombstone(due.account, due.session_id)
                return "gone"
            case "account":
                return "gone"  # its account is all that it leads to
            case "jti" | "end":
                return "gone" if self._index.expire(due, older_than=now - KEEP_ENDED) else "stays"
            case _:
                return "stays"  # a newer release's

    def _sweep_account(self, account: str, now: datetime) -> Outcome:
        self._sessions.sweep_account(account, now=now)
        return "gone"


def _batches(rows: Iterator[Due]) -> Iterator[list[Due]]:
    """Rows of one hour, as many as one transaction can delete."""
    batch: list[Due] = []
    for due in rows:
        if batch and (len(batch) == TRANSACTION_LIMIT or due.hour != batch[0].hour):
            yield batch
            batch = []
        batch.append(due)
    if batch:
        yield batch
