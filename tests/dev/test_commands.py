"""``python -m dev``: set-up of a fresh machine, and commands that start everything and leave nothing behind."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

import certifi
import pytest

from dev import certificates, commands, ports, setup
from dev import stack as local
from dev.processes import Child, ChildFailed, stop
from dev.stack import ROOT
from shared.settings import load
from tests.support.stack import Stack

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and scripts of POSIX")
APP = """
import os
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route("health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(os.environ.get("CLIENT_ID", ""))
"""


@pytest.fixture
def tiny_app(tmp_path: Path) -> Path:
    """A function app that is healthy and nothing else."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "function_app.py").write_text(APP, encoding="utf-8")
    (folder / "host.json").write_text((ROOT / "host.json").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> set[int]:
    """All processes below this one."""
    said = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in said.splitlines()]
    found: set[int] = set()
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in pairs if parent in wanted} - found
        found |= wanted
    return found


def gone(pids: set[int]) -> bool:
    """Waits until none of them is alive."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


class Command:
    """A running ``python -m dev``, in a session of its own as in a terminal."""

    def __init__(self, *arguments: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dev", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "DEV_SETUP_DONE": "1", **(env or {})},
            )

    def said(self, pattern: str) -> re.Match[str]:
        """Waits for a line of its output."""
        deadline = time.monotonic() + 60
        while True:
            text = self.log.read_text(encoding="utf-8")
            match = re.search(pattern, text)
            if match:
                return match
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(30)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[type[Command]]:
    """Starts commands, and kills what a failed test left of them."""
    started: list[Command] = []

    class Started(Command):
        def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
            super().__init__(*arguments, log=tmp_path / f"command-{len(started)}.log", env=env)
            started.append(self)

    yield Started
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(30)


# -- set-up


def in_fresh_project(tmp_path: Path, code: str, *, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs code that uses ``dev.setup`` in a project with nothing installed."""
    project = tmp_path / "project"
    (project / "dev").mkdir(parents=True)
    for name in ("__init__.py", "setup.py", "locks.py", "package.json", "package-lock.json"):
        (project / "dev" / name).write_bytes((ROOT / "dev" / name).read_bytes())
    for name in setup.TEST:
        (project / name).write_bytes((ROOT / name).read_bytes())
    env = {name: value for name, value in os.environ.items() if name != "DEV_SETUP_DONE"} | ({"PATH": path} if path else {})
    base = Path(sys.base_prefix) / ("python.exe" if sys.platform == "win32" else f"bin/python3.{sys.version_info.minor}")
    return subprocess.run([str(base), "-c", code], cwd=project, env=env, capture_output=True, text=True, check=False)


def test_setup_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """A fresh machine has no packages: set-up must not import any."""
    answer = in_fresh_project(tmp_path, "import dev.setup, sys; print(sorted(m for m in sys.modules if 'requests' in m))")
    assert answer.stdout.strip() == "[]", answer.stderr


def test_without_node_the_message_says_what_to_get(tmp_path: Path) -> None:
    """No Node on PATH: a sentence, not a traceback of subprocess."""
    answer = in_fresh_project(tmp_path, "from dev import setup; setup._ensure_node_packages()", path=str(tmp_path))
    assert "Node.js 20.12 or newer is needed" in answer.stderr
    assert "there is no node on PATH" in answer.stderr


@POSIX
def test_an_old_node_is_named(tmp_path: Path) -> None:
    """Node 18 would fail in strange ways later."""
    for name in ("node", "npm"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho v18.20.4\n", encoding="utf-8")
        script.chmod(0o755)
    answer = in_fresh_project(tmp_path, "from dev import setup; setup._ensure_node_packages()", path=str(tmp_path))
    assert "v18.20.4" in answer.stderr


def test_a_python_without_venv_is_told_which_package_to_install(tmp_path: Path) -> None:
    """Debian's python3 comes without ensurepip."""
    code = "import sys; sys.modules['ensurepip'] = None\nfrom dev import setup; setup._environment()"
    answer = in_fresh_project(tmp_path, code)
    assert f"apt-get install python3.{sys.version_info.minor}-venv" in answer.stderr


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    """The stamp holds: the second start runs no pip; a changed requirements file does."""
    code = """
from pathlib import Path
from dev import setup
ran = []
setup._run = lambda command, failure, **_: ran.append(command)
setup._environment()
Path('.venv/bin').mkdir(parents=True, exist_ok=True)
setup._ensure_packages(setup.ROOT / '.venv', setup.TEST)
setup._ensure_packages(setup.ROOT / '.venv', setup.TEST)
setup._ensure_packages(setup.ROOT / '.venv', setup.RUN)
print('installed', len(ran) - 1)
Path('requirements.txt').write_text('msal==1.0')
setup._ensure_packages(setup.ROOT / '.venv', setup.RUN)
print('installed', len(ran) - 1)
"""
    answer = in_fresh_project(tmp_path, code)
    assert re.findall(r"installed (\d)", answer.stdout) == ["1", "2"], answer.stderr


def test_the_lock_file_names_no_registry() -> None:
    """Where packages come from is the machine's own setting; their hashes are ours."""
    lock = json.loads((ROOT / "dev" / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all("resolved" not in package for package in packages.values())
    assert all("integrity" in package for package in packages.values())
    assert {name: packages[f"node_modules/{name}"]["version"] for name in ("azurite", "oidc-provider")} == lock["packages"][
        ""
    ]["dependencies"]


def test_only_the_product_is_deployed() -> None:
    """.funcignore leaves function_app.py, host.json, requirements.txt and shared/, whatever else is added to the project."""
    patterns = [
        line.rstrip("/")
        for line in (ROOT / ".funcignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    deployed = {
        path.partition("/")[0] for path in tracked if not any(fnmatch(path.partition("/")[0], pattern) for pattern in patterns)
    }
    assert deployed <= {"function_app.py", "host.json", "requirements.txt", "shared"}


@pytest.mark.parametrize(("arguments", "code", "text"), [([], 0, "python -m dev run"), (["walk"], 2, "no command 'walk'")])
def test_usage(arguments: list[str], code: int, text: str) -> None:
    """Without a command, or with one that is not there, it says what there is."""
    answer = subprocess.run([sys.executable, "-m", "dev", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == code
    assert text in answer.stdout + answer.stderr


# -- ports and certificates


def test_a_taken_port_is_passed_over_or_named(tmp_path: Path) -> None:
    """The preferred port gives way to the next one; a wanted one does not."""
    with socket.socket() as taken, contextlib.ExitStack() as held:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free(port)
        assert port < ports.reserve(held, tmp_path, None, preferred=port) < port + 100
        with pytest.raises(ports.PortTaken, match=f"Port {port} is taken"):
            ports.reserve(held, tmp_path, port, preferred=7071)
    assert ports.is_free(ports.free())


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens yet at a port that was just given: chance must not give it to a second host."""
    chosen = iter([ports.free()] * 2)
    other = ports.free()
    ports._given.discard(other)
    monkeypatch.setattr(ports.secrets, "choice", lambda _: next(chosen, other))
    assert ports.free() == other


def test_a_port_is_reserved_before_its_host_listens(tmp_path: Path) -> None:
    """Two starts at once do not get the same port; one that has ended gives it back."""
    port = ports.free()
    with contextlib.ExitStack() as first:
        assert ports.reserve(first, tmp_path, None, preferred=port) == port
        with contextlib.ExitStack() as second:
            assert ports.reserve(second, tmp_path, None, preferred=port) > port
    with contextlib.ExitStack() as third:
        assert ports.reserve(third, tmp_path, port, preferred=7071) == port


def test_a_listener_on_the_other_loopback_counts() -> None:
    """Browsers try ::1 first for localhost: whoever listens there would get our visitors."""
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with taken:
        assert not ports.is_free(taken.getsockname()[1])


def test_the_certificate_is_good_for_both_names_and_nothing_else(tmp_path: Path) -> None:
    """A client with the bundle trusts the provider as localhost and 127.0.0.1, and still the public authorities."""
    files = certificates.ensure(tmp_path, now=datetime.now(UTC))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.bundle))

    def handshake(name: str) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:

            def serve() -> None:
                try:
                    server.wrap_socket(theirs, server_side=True).close()
                except OSError:
                    theirs.close()

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                client.wrap_socket(ours, server_hostname=name).close()
            finally:
                ours.close()
                thread.join()

    handshake("localhost")
    handshake("127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake("example.org")
    public = Path(certifi.where()).read_bytes().count(b"BEGIN CERTIFICATE")
    assert files.bundle.read_bytes().count(b"BEGIN CERTIFICATE") > public


def test_certificates_are_kept_until_they_run_out(tmp_path: Path) -> None:
    """The second start makes none; one that runs out within a week is replaced.  The key is its owner's alone."""
    now = datetime.now(UTC)
    first = certificates.ensure(tmp_path, now=now).certificate.read_bytes()
    assert certificates.ensure(tmp_path, now=now + timedelta(days=80)).certificate.read_bytes() == first
    files = certificates.ensure(tmp_path, now=now + timedelta(days=84))
    assert files.certificate.read_bytes() != first
    if sys.platform != "win32":
        assert files.key.stat().st_mode & 0o077 == 0


# -- processes


def python(code: str) -> list[str]:
    """A command that runs this code."""
    return [sys.executable, "-c", code]


def test_a_child_that_fails_shows_its_last_words(tmp_path: Path) -> None:
    """Whoever waits for it learns why it did not start."""
    with (
        Child("The thing", python("print('because of this'); raise SystemExit(3)"), log=tmp_path / "log") as child,
        pytest.raises(ChildFailed, match=r"The thing ended\n  because of this"),
    ):
        child.wait_for("ready", seconds=20)


def test_a_child_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    """Nobody waits for ever."""
    with (
        Child("The thing", python("import time; time.sleep(60)"), log=tmp_path / "log") as child,
        pytest.raises(ChildFailed, match=r"not ready after 0\.1 s"),
    ):
        child.wait_for("ready", seconds=0.1)
    assert not child.running


@POSIX
def test_stop_ends_the_whole_group_even_one_that_refuses(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed, and so are its own children."""
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"])
print("inner", inner.pid, flush=True)
time.sleep(60)
"""
    child = Child("Stubborn", python(code), log=tmp_path / "log")
    inner = int(child.wait_for(r"inner (\d+)", seconds=20)[1])
    child.wait_for("up", seconds=20)
    stop([child], patience=0.2)
    assert not child.running
    assert gone({inner})


@POSIX
@pytest.mark.parametrize("service", ["azurite", "provider"])
def test_services_end_when_their_parent_is_killed(tmp_path: Path, service: str) -> None:
    """SIGKILL leaves no time to clean up: the services notice that their stdin is gone."""
    code = f"""
import time
from pathlib import Path
from dev import stack
child = stack.launch_{service}(Path({str(tmp_path)!r}))
stack.{service}_ready(child)
print("pid", child.pid, flush=True)
time.sleep(60)
"""
    parent = Child("Parent", python(code), log=tmp_path / "log", cwd=ROOT)
    pid = int(parent.wait_for(r"pid (\d+)", seconds=30)[1])
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    assert gone({pid})
    parent.stop()


def test_azurite_leaves_no_file_behind(tmp_path: Path) -> None:
    """Tables are in memory; the folder holds the log."""
    with local.launch_azurite(tmp_path) as child:
        local.azurite_ready(child)
    assert [path.name for path in tmp_path.iterdir()] == ["azurite.log"]


# -- the settings


def test_settings_of_the_machine_do_not_leak_in(stack: Stack) -> None:
    """A shell that names a real tenant does not contradict the local stack, nor does a proxy get local requests."""
    values = local.settings(stack.azurite, stack.provider.local, origin="http://localhost:7071")
    env = local.environment(
        values,
        {
            "AUTHORITY": "https://real",
            "CLIENT_CERTIFICATE": "x",
            "REQUESTS_CA_BUNDLE": "/their.pem",
            "HOME": "/home",
            "NO_PROXY": "corp",
        },
    )
    assert (env["AUTHORITY"], env["CLIENT_CERTIFICATE"], env["HOME"]) == (" ", " ", "/home")
    assert env["REQUESTS_CA_BUNDLE"] == env["SSL_CERT_FILE"] == str(stack.provider.bundle)
    assert env["NO_PROXY"] == "corp,localhost,127.0.0.1"


def test_the_products_own_check_accepts_the_local_settings(stack: Stack) -> None:
    """What the commands set is a complete and faultless configuration."""
    loaded = load(local.environment(local.settings(stack.azurite, stack.provider.local, origin="http://localhost:7071"), {}))
    assert loaded.authority == stack.provider.issuer
    assert loaded.scopes == ("User.Read",)


def test_the_sample_is_complete_once_its_blanks_are_filled() -> None:
    """Whoever fills in what stands in angle brackets has a faultless configuration."""
    text = (ROOT / "local.settings.json.sample").read_text(encoding="utf-8")
    values = json.loads(text)["Values"]
    values["SEALING_KEYS"] = local.sealing_key("k1")
    filled = {name: re.sub("<.*>", "11111111-2222-4333-8444-555555555555", value) for name, value in values.items()}
    assert load(filled).authority.startswith("https://login.microsoftonline.com/1111")


def test_a_local_settings_file_of_ones_own_is_kept(tmp_path: Path) -> None:
    """Only a file that we wrote is overwritten."""
    path = tmp_path / "local.settings.json"
    path.write_text('{"Values": {"AUTHORITY": "mine"}}', encoding="utf-8")
    kept = commands.write_settings(path, {"A": "1"}, port=7071)
    assert kept is not None
    assert "mine" in kept.read_text(encoding="utf-8")
    assert commands.write_settings(path, {"A": "2"}, port=7072) is None
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["IsEncrypted"], written["Values"], written["Host"]) == (False, {"A": "2"}, {"LocalHttpPort": 7072})


# -- the commands


def get(url: str) -> str:
    """A GET that no proxy sees."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")


@POSIX
@pytest.mark.stack
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_and_ends_everything(command: type[Command], tiny_app: Path, how: signal.Signals) -> None:
    """Run says where the app is; Ctrl-C or SIGTERM ends every child."""
    running = command("run", "--host", "dev", "--folder", str(tiny_app), "--port", str(ports.free()))
    address = running.said(r"Your app +(http://localhost:\d+)/")[1]
    running.said("Ctrl-C ends all of it")
    assert "dev/host.py" in running.log.read_text(encoding="utf-8")
    assert get(f"{address.replace('localhost', '127.0.0.1')}/health") == local.CLIENT_ID
    children = children_of(running.process.pid)
    assert len(children) >= 3
    os.kill(running.process.pid, how)
    assert running.ended() == 0
    assert gone(children)


@POSIX
@pytest.mark.stack
def test_a_second_run_works_while_the_first_runs(command: type[Command], tiny_app: Path) -> None:
    """Other ports, another storage: neither knows of the other."""
    runs = [command("run", "--host", "dev", "--folder", str(tiny_app)) for _ in range(2)]
    addresses = [running.said(r"Your app +(http://localhost:\d+)/")[1] for running in runs]
    for running in runs:
        running.said("Ctrl-C ends all of it")
    assert len(set(addresses)) == 2
    for address in addresses:
        assert get(f"{address.replace('localhost', '127.0.0.1')}/health") == local.CLIENT_ID


@POSIX
@pytest.mark.stack
def test_run_ends_when_a_child_does(command: type[Command], tiny_app: Path) -> None:
    """A stack with a hole in it is no stack: it says which child ended, and ends the others."""
    running = command("run", "--host", "dev", "--folder", str(tiny_app), "--port", str(ports.free()))
    running.said("Ctrl-C ends all of it")
    children = children_of(running.process.pid)
    azurite = next(pid for pid in children if "azurite.mjs" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"))
    os.kill(azurite, signal.SIGKILL)
    assert running.ended() == 1
    assert "Azurite ended" in running.log.read_text(encoding="utf-8")
    assert gone(children)


@POSIX
def test_run_names_a_port_that_is_taken(command: type[Command], tiny_app: Path) -> None:
    """Before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = command("run", "--host", "dev", "--folder", str(tiny_app), "--port", str(taken.getsockname()[1]))
        assert running.ended() == 1
    assert "is taken" in running.log.read_text(encoding="utf-8")


@POSIX
@pytest.mark.stack
def test_run_shows_why_an_app_does_not_start(command: type[Command], tiny_app: Path) -> None:
    """An import error is shown, and nothing keeps running."""
    (tiny_app / "function_app.py").write_text("import does_not_exist\n", encoding="utf-8")
    running = command("run", "--host", "dev", "--folder", str(tiny_app), "--port", str(ports.free()))
    running.said("does_not_exist")
    os.kill(running.process.pid, signal.SIGINT)
    running.ended()


@POSIX
@pytest.mark.stack
def test_services_write_settings_that_a_host_takes_as_they_are(command: type[Command], tiny_app: Path) -> None:
    """Services leaves a local.settings.json beside the app, with which a host that knows nothing else serves it."""
    port = ports.free()
    running = command("services", "--folder", str(tiny_app), "--port", str(port))
    running.said("Ctrl-C ends the services")
    values = json.loads((tiny_app / "local.settings.json").read_text(encoding="utf-8"))["Values"]
    assert values["REDIRECT_URI"] == f"http://localhost:{port}/auth/callback"
    assert values["AzureWebJobsDisableHomepage"] == "true"
    clean = {name: value for name, value in os.environ.items() if name not in values}
    clean["DEV_SETUP_DONE"] = "1"
    with Child("The host", local.host_command(tiny_app, port), log=tiny_app / "log", env=clean, cwd=ROOT) as host:
        local.wait_until_healthy(host, f"http://127.0.0.1:{port}/health", seconds=30)
        assert get(f"http://127.0.0.1:{port}/health") == local.CLIENT_ID
    children = children_of(running.process.pid)
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.ended() == 0
    assert gone(children)
