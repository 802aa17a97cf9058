"""Sealing: what we keep is unreadable and unmovable without the key ring.  No I/O, no clock.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce.  The place a value stands in is its associated data, so a sealed
value that is copied elsewhere does not open.  The first key of the ring seals, every key opens: ``docs`` describe rotation.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_TAG = 16
OVERHEAD = _NONCE + _TAG
"""Bytes that sealing adds."""


class UnknownKeyError(Exception):
    """The ring has no key of that id: perhaps a newer instance sealed it, so leave it alone."""


class BrokenSealError(Exception):
    """The key is known and the value does not open: it was changed, moved, or never ours."""


def digest(*parts: str) -> str:
    """SHA-256 over length-prefixed parts as 64 hex digits: ``("ab", "c")`` and ``("a", "bc")`` differ."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()


class KeyRing:
    """The keys of ``SEALING_KEYS``: id and 32 bytes each, the sealing one first."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        self._ciphers = {identifier: AESGCM(key) for identifier, key in keys}
        self.current = keys[0][0]
        # Derived, so that what a log shows can neither be turned back nor used to open anything.
        self._pseudonyms = hmac.digest(keys[0][1], b"pseudonyms in logs", "sha256")

    def seal(self, plain: bytes, *place: str) -> bytes:
        """Seals with the current key for one place."""
        nonce = os.urandom(_NONCE)
        return nonce + self._ciphers[self.current].encrypt(nonce, plain, _associated(self.current, place))

    def open(self, key_id: str, sealed: bytes, *place: str) -> bytes:
        """Opens what ``seal`` closed for the same place.

        Raises:
            UnknownKeyError: the ring has no such key.
            BrokenSealError: the value was changed or moved.
        """
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownKeyError(key_id)
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _associated(key_id, place))
        except (InvalidTag, ValueError) as error:
            raise BrokenSealError(place[-1] if place else "") from error

    def pseudonym(self, text: str) -> str:
        """A keyed hash (16 hex digits) that stands for ``text`` in logs: equal for equal text, useless without the key."""
        return hmac.digest(self._pseudonyms, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]


def _associated(key_id: str, place: Sequence[str]) -> bytes:
    return digest(key_id, *place).encode("ascii")
