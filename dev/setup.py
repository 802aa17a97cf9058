"""Set-up of a fresh machine: a virtual environment, the Python packages, the Node packages.  Standard library only.

Each part leaves a stamp with a hash of what it installed from, so that the next start only compares hashes.  The virtual
environment is ``.venv``; a Python of another minor version than the one in there gets its own below ``.dev``.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dev import locks

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".dev"
RUN = ("requirements.txt",)
TEST = (*RUN, "requirements-dev.txt")
"""Requirements files: the last one includes those before it."""
_NODE = (20, 12)
_WINDOWS = sys.platform == "win32"
_DONE = "DEV_SETUP_DONE"
"""Set for children: they need not look again."""


class SetupFailed(Exception):
    """Something is missing that we cannot install; the message says what to do."""


def ensure(requirements: Sequence[str], *, node: bool) -> None:
    """Installs what is missing, then goes on in the virtual environment: on its first call it does not return.

    Raises:
        SetupFailed: with what to do about it.
    """
    if os.environ.get(_DONE):
        return
    with locks.hold(STATE / "setup.lock", wait=True):  # two first starts must not install into the same folders
        folder = _environment()
        _ensure_packages(folder, requirements)
        if node:
            _ensure_node_packages()
    os.environ[_DONE] = "1"
    if Path(sys.prefix).resolve() != folder.resolve():
        _go_on_in(folder)


def interpreter(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if _WINDOWS else "bin/python")


def _environment() -> Path:
    """The virtual environment for this Python; made where there is none that works."""
    inside = Path(sys.prefix).resolve()
    if sys.prefix != sys.base_prefix and inside.is_relative_to(ROOT):
        return inside
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / ".venv"
    config = folder / "pyvenv.cfg"
    if interpreter(folder).exists() and config.exists():
        found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", config.read_text(encoding="utf-8"), re.MULTILINE)
        if found and found[1] != ours:
            folder = STATE / f"venv-{ours}"
    if not interpreter(folder).exists():
        _make(folder)
    return folder


def _make(folder: Path) -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupFailed(
            f"This Python ({sys.executable}) cannot make virtual environments.\n"
            f"On Debian and Ubuntu: sudo apt-get install python{version}-venv"
        )
    _say(f"Making a virtual environment in {folder.relative_to(ROOT)} …")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], "The virtual environment could not be made.")


def _ensure_packages(folder: Path, requirements: Sequence[str]) -> None:
    # One stamp for each file: what is there for the tests is there for running, too.
    stamp = folder / f"installed-{Path(requirements[-1]).stem}"
    wanted = _hash([ROOT / name for name in requirements])
    stamps = [stamp, *folder.glob("installed-*")]
    if any(path.exists() and wanted in path.read_text(encoding="utf-8").split() for path in stamps):
        return
    _say("Installing Python packages (once, about a minute) …")
    pip = [str(interpreter(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run(
        [*pip, "install", "--progress-bar", "off", "-r", str(ROOT / requirements[-1])],
        "pip could not install the Python packages.",
        progress=r"Collecting (\S+)|(Installing) collected",
    )
    hashes = [_hash([ROOT / name for name in requirements[:count]]) for count in range(1, len(requirements) + 1)]
    stamp.write_text("\n".join(hashes), encoding="utf-8")


def _ensure_node_packages() -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    wanted = f"Node.js {_NODE[0]}.{_NODE[1]} or newer is needed for the storage emulator and the identity provider"
    if node is None or npm is None:
        raise SetupFailed(
            f"{wanted}, but there is no {'node' if node is None else 'npm'} on PATH.\nGet it from https://nodejs.org/"
        )
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version < _NODE:
        raise SetupFailed(f"{wanted}, but {node} is {said or 'broken'}.\nGet it from https://nodejs.org/")
    folder = ROOT / "dev"
    stamp = folder / "node_modules" / ".installed"
    lock = _hash([folder / "package-lock.json", folder / "package.json"])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
        return
    _say("Installing the storage emulator and the identity provider (npm ci, once, about a minute) …")
    # No package here needs to run a script of its own to work.
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], "npm could not install.", cwd=folder)
    stamp.write_text(lock, encoding="utf-8")


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def _run(command: Sequence[str], failure: str, *, cwd: Path = ROOT, progress: str | None = None) -> None:
    """Runs an installer; shows where it is, and all that it said when it fails."""
    said: list[str] = []
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            match = re.search(progress, line) if progress else None
            if match:
                _say(f"  {next(filter(None, match.groups()))}")
    if process.returncode:
        raise SetupFailed("".join([*said[-30:], failure]))


def _go_on_in(folder: Path) -> NoReturn:
    command = [str(interpreter(folder)), "-m", "dev", *sys.argv[1:]]
    sys.stdout.flush()
    if not _WINDOWS:
        os.execv(command[0], command)  # noqa: S606 - our own interpreter
    with subprocess.Popen(command) as process:
        while True:
            # Ctrl-C reaches both; the child decides what it means.
            with contextlib.suppress(KeyboardInterrupt):
                sys.exit(process.wait())


def _say(text: str) -> None:
    print(text, flush=True)
