"""Sign-ins under way: their state lives sealed in cookies of the browser that started them, so a start writes no row.

Each has a cookie of its own, named by its ``state``; at most four at a time, ten minutes each.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.store.rows import Claim
from shared.store.sealing import BrokenSealError, KeyRing, UnknownKeyError
from shared.store.sessions import CLOCK_LEEWAY, FLOW_LIFETIME
from shared.web.cookies import from_base64url

AT_MOST = 4
"""Tabs that may sign in at once: more would make the request headers too large."""
_VALUE_LIMIT = 3500
_PLAIN_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A sign-in under way.  ``flow`` is the provider wing's; ``had`` are the sessions that the browser claimed then."""

    state: str
    flow: Mapping[str, Any] = field(repr=False)
    return_to: str
    started_at: datetime
    had: tuple[Claim, ...]

    def is_over(self, now: datetime) -> bool:
        """Whether it took too long, or began further in the future than clocks differ."""
        return not -CLOCK_LEEWAY <= now - self.started_at <= FLOW_LIFETIME


class PendingSeal:
    """Seals and opens the cookies' values for one app."""

    def __init__(self, ring: KeyRing, app: str) -> None:
        self._ring = ring
        self._app = app

    def seal(self, pending: Pending) -> str:
        """The cookie's value: key id, a dot, base64url.

        Raises:
            ValueError: it would be too large for a cookie.
        """
        plain = json.dumps(
            {
                "flow": dict(pending.flow),
                "return_to": pending.return_to,
                "started_at": pending.started_at.timestamp(),
                "had": [[claim.account, claim.session_id, claim.secret_hash] for claim in pending.had],
            },
            separators=(",", ":"),
        )
        sealed = self._ring.seal(zlib.compress(plain.encode(), 9), *self._place(pending.state))
        value = f"{self._ring.current}.{base64.urlsafe_b64encode(sealed).rstrip(b'=').decode()}"
        if len(value) > _VALUE_LIMIT:
            raise ValueError("the sign-in's state does not fit into a cookie")
        return value

    def open(self, state: str, value: str) -> Pending | None:
        """What was sealed for this state; None for anything else."""
        key_id, _, text = value.rpartition(".")
        sealed = from_base64url(text)
        if sealed is None:
            return None
        try:
            unpacking = zlib.decompressobj()
            plain = unpacking.decompress(self._ring.open(key_id, sealed, *self._place(state)), _PLAIN_LIMIT)
            data = json.loads(plain)
            return Pending(
                state=state,
                flow=data["flow"],
                return_to=data["return_to"],
                started_at=datetime.fromtimestamp(data["started_at"], UTC),
                had=tuple(
                    Claim(account=account, session_id=session_id, secret_hash=secret_hash)
                    for account, session_id, secret_hash in data["had"]
                ),
            )
        except (BrokenSealError, UnknownKeyError, zlib.error, ValueError, KeyError, TypeError):
            return None

    def _place(self, state: str) -> tuple[str, ...]:
        return ("pending", "1", self._app, state)
