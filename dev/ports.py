"""Free ports on loopback."""

import contextlib
import secrets
import socket
import sys
from pathlib import Path

from dev import locks

_EITHER = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_QUIET = range(15_000, 32_768)
"""Below the ephemeral ports of Linux, macOS and Windows."""
_given: set[int] = set()


class PortTaken(Exception):
    """Somebody listens there already."""


def is_free(port: int) -> bool:
    """Whether nobody listens at ``port``, on either loopback address: a browser tries both for ``localhost``."""
    return all(_free(family, address, port) for family, address in _EITHER)


def _free(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        # On macOS a bind succeeds beside somebody who listens on all addresses.
        with contextlib.suppress(OSError):
            probe.connect((address, port))
            return False
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections of the last run do not count
        try:
            probe.bind((address, port))
        except OSError:
            return family == socket.AF_INET6 and not _has_ipv6()
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free() -> int:
    """A free port that no system gives to outgoing connections: it may be a while until its host listens.

    None is given twice by one process: of two hosts on one port the first would answer for both.
    """
    while True:
        port = secrets.choice(_QUIET)
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def reserve(held: contextlib.ExitStack, locked: Path, wanted: int | None, *, preferred: int) -> int:
    """``wanted``, or else ``preferred`` or the next free one after it; ours until ``held`` closes.

    A port is free until its host listens, so that two starts at once would both take it: ``locked`` is the folder of the
    locks that keep them apart.

    Raises:
        PortTaken: ``wanted`` is not free, or a hundred ports in a row are not.
    """
    for port in [wanted] if wanted is not None else range(preferred, preferred + 100):
        if is_free(port):
            with contextlib.suppress(locks.Held):
                held.enter_context(locks.hold(locked / str(port), wait=False))
                return port
    if wanted is not None:
        raise PortTaken(f"Port {wanted} is taken: end what listens there, or choose another one with --port.")
    raise PortTaken(f"The ports {preferred} to {preferred + 99} are all taken: choose another one with --port.")
