"""Revocation at the provider (RFC 7009): a courtesy after a sign-out, never in its way.

The local deletion is the sign-out.  What a revocation needs is read before the rows go, and used when they are gone; what
cannot be had or done in time is not revoked, and the log says so.
"""

import logging
from collections.abc import Iterable, Sequence

from shared import limits
from shared.errors import AppError, StorageUnavailable
from shared.provider.client import Provider
from shared.provider.token_cache import refresh_tokens
from shared.store.sessions import Sessions
from shared.store.table import Row

log = logging.getLogger(__name__)

READING = 1.0
"""Seconds that a sign-out may be kept waiting for the tokens that it is going to revoke."""


class Revocation:
    """Reads and revokes refresh tokens."""

    def __init__(self, *, provider: Provider, sessions: Sessions) -> None:
        self._provider = provider
        self._sessions = sessions

    def tokens(self, rows: Iterable[Row]) -> list[str]:
        """The refresh tokens of rows that are about to go: a point read for each that was listed without its cache.

        None where the provider is known not to take them back; a process that does not know it yet asks when they are gone.
        """
        metadata = self._provider.metadata_if_known()
        if metadata is not None and metadata.revocation_endpoint is None:
            return []
        found: list[str] = []
        try:
            with limits.within(READING):
                for row in rows:
                    session = self._sessions.whole(row)
                    found += refresh_tokens(session.cache) if session is not None else []
        except StorageUnavailable as error:
            log.warning("some refresh tokens will not be revoked at the provider: %s", error)
        return found

    def revoke(self, tokens: Sequence[str]) -> None:
        """Revokes them, for at most 2 s in all; failure is only logged."""
        if not tokens:
            return
        try:
            with limits.within(limits.REVOCATION):
                self._provider.revoke(tokens)
        except AppError as error:
            log.warning("refresh tokens were not revoked at the provider: %s", error)
