"""Child processes that end with us: started in a group of their own, logged to a file, stopped together.

Ctrl-C reaches this process alone (each child is in its own group), so that children end in the order we choose.  All of ours
watch their stdin, too: when this process is killed, the pipe closes and they end.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

_WINDOWS = sys.platform == "win32"
_POLL = 0.02
_PATIENCE = 5.0
"""Seconds that a child has to end by itself before it is killed."""


class ChildFailed(Exception):
    """A child ended, or did not become ready in time; the message has the end of its log."""


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal.  Not an Exception: nothing but the end handles it."""


class Child:
    """A running child process.

    Without ``log`` the child speaks on our own stdout and stderr.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self._log = log
        self._read = 0
        with contextlib.ExitStack() as files:
            output = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(log.open("wb"))
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=not _WINDOWS,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """All that it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log is not None else ""

    def wait_for(self, pattern: str, *, seconds: float) -> re.Match[str]:
        """Waits until a line of the log matches.

        Raises:
            ChildFailed: it ended, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while True:
            ended = not self.running
            match = re.search(pattern, self.log(), re.MULTILINE)
            if match:
                return match
            if ended or time.monotonic() > deadline:
                raise self.failure("ended" if ended else f"was not ready after {seconds:g} s")
            time.sleep(_POLL)

    def failure(self, what: str) -> ChildFailed:
        """An error that says what happened, with the end of the log."""
        lines = self.log().strip().splitlines()[-20:]
        return ChildFailed("\n  ".join([f"{self.name} {what}", *lines]))

    def terminate(self) -> None:
        """Asks it to end: SIGTERM to its group.  Windows has no such thing; there the whole tree is ended."""
        if not self.running:
            return
        if _WINDOWS:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(self.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and its group at once (SIGKILL)."""
        if _WINDOWS:
            self.terminate()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or None when it has not ended in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ends it: asked first, then killed."""
        stop([self])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def stop(children: Iterable[Child], *, patience: float = _PATIENCE) -> None:
    """Ends all of them: asked together, and whoever is still there after ``patience`` seconds is killed with its group."""
    children = list(children)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + patience
    for child in children:
        child.wait(max(0.0, deadline - time.monotonic()))
        child.kill()


def interruptible() -> None:
    """Makes Ctrl-C, SIGTERM and a closed terminal (but for ``nohup``) raise ``Interrupted`` in the main thread, once."""

    def raise_interrupted(_number: int, _frame: FrameType | None) -> None:
        for name in names:
            signal.signal(name, signal.SIG_IGN)  # a second Ctrl-C must not keep the children from being ended
        raise Interrupted

    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    names = [name for name in names if name == signal.SIGINT or signal.getsignal(name) != signal.SIG_IGN]
    for name in names:
        signal.signal(name, raise_interrupted)


def end_with_stdin() -> None:
    """Sends this process SIGTERM when its stdin closes: the other end of a ``Child`` that outlived its parent."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-stdin", daemon=True).start()
