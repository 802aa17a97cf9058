"""A lock between processes: a file that the system unlocks when its holder ends, however it ends."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


class Held(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock inside.

    Raises:
        Held: another process has it, and we are not to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            if sys.platform == "win32":
                import msvcrt  # noqa: PLC0415 - of Windows only

                file.seek(0)
                # LK_LOCK gives up after ten seconds; somebody else's installation takes longer.
                while True:
                    try:
                        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                        break
                    except OSError:
                        if not wait:
                            raise
            else:
                import fcntl  # noqa: PLC0415 - of everything else

                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise Held(str(path)) from None
        yield
