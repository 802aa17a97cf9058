"""``dev/host.py`` answers as Microsoft's own host does: its recordings replayed, and what they cannot show, on real processes."""

import concurrent.futures
import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dev.stack import ROOT

RECORDED = ROOT / "tests" / "host_recordings"
KEYS = ("--function-key", "rec-function-key", "--master-key", "rec-master-key")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

_spec = importlib.util.spec_from_file_location("host_replay", RECORDED / "replay.py")
assert _spec is not None
assert _spec.loader is not None
replay = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(replay)
CASES = replay.load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A host in a process of its own."""

    process: "subprocess.Popen[str]"
    origin: str
    log: Path

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers in lower case, body."""
        connection = http.client.HTTPConnection(urlsplit(self.origin).netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def raw(self, data: bytes) -> bytes:
        """What comes back for these octets until the host closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(data)
            got = b""
            while more := connection.recv(65536):
                got += more
            return got

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.origin).port or 0


@contextlib.contextmanager
def running(folder: Path, log: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Serves a folder on a free port; a host that is still there afterwards is ended."""
    environment = {**os.environ, "AzureWebJobsDisableHomepage": "true", **(env or {})}
    command = [sys.executable, "-m", "dev", "host", str(folder), "--port", "0", *options]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"^listening on (http://127\.0\.0\.1:\d+)$", line):
                yield Running(process=process, origin=found.group(1), log=log)
                break
        else:
            pytest.fail(f"the host did not start:\n{said}\n{log.read_text(encoding='utf-8')}")
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


HEADER = """
import asyncio, json, logging, os, threading, time
from pathlib import Path
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
"""


def write(folder: Path, code: str, **host_json: Any) -> Path:
    """A function app in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "function_app.py").write_text(HEADER + code, encoding="utf-8")
    settings = {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}} | host_json
    (folder / "host.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def until(what: Any, seconds: float = 20) -> bool:
    """Waits until ``what()`` holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The app that was recorded, with the keys of the recording."""
    with running(RECORDED, tmp_path_factory.mktemp("recorded") / "log", *KEYS) as host:
        yield host


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case['name'][:60]}" for n, case in enumerate(CASES)])
def test_answers_as_recorded(recorded: Running, case: dict[str, Any]) -> None:
    """Every recorded request gets one of the answers that Microsoft's host gave (in order: the timer's runs are counted)."""
    time.sleep(case.get("wait", 0))
    got = replay.answer_to(case, recorded.origin)
    if case.get("optional"):
        assert 400 <= got["status"] < 500 or not replay.differences(case, got)
    else:
        assert replay.differences(case, got) == []


# -- the wire


def test_a_connection_serves_many_requests(recorded: Running) -> None:
    """Keep-alive: requests sent one after the other on one connection, without waiting, are answered in their order."""
    one = b"GET /order/%d HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /order/3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    got = recorded.raw(one % 1 + one % 2 + last)
    assert re.findall(rb'"any": "(\d)"', got) == [b"1", b"2", b"3"]


def test_http_1_0_ends_the_connection(recorded: Running) -> None:
    """An HTTP/1.0 client without keep-alive gets its answer and the end of the connection."""
    assert recorded.raw(b"GET /echo HTTP/1.0\r\nHost: h\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_head_has_no_body(recorded: Running) -> None:
    """HEAD gets the headers of the answer, its length included, and nothing behind them."""
    got = recorded.raw(b"HEAD /every-method HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.endswith(b"\r\n\r\n")


def test_expect_continue(recorded: Running) -> None:
    """A client that asks before it sends its body is told to go on."""
    with socket.create_connection(("127.0.0.1", recorded.port), timeout=30) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        got = b""
        while more := connection.recv(65536):
            got += more
    assert b'"body": "abc"' in got


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * 32768 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\n" + b"X-A: 1\r\n" * 101 + b"\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: \xe9\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nX A: 1\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /echo HTTP/1.0\r\nHost: h\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 104857601\r\n\r\n", 413),
    ],
)
def test_the_servers_own_refusals(recorded: Running, data: bytes, status: int) -> None:
    """Limits and malformed requests: the HTTP server answers, closes, and no function sees them."""
    assert recorded.raw(data).startswith(b"HTTP/1.1 %d " % status)


def test_a_large_body_arrives(recorded: Running) -> None:
    """Bodies far larger than any buffer reach the function whole."""
    body = os.urandom(3_000_000)
    status, _, got = recorded.ask("/echo", "POST", body, {"Content-Type": "application/octet-stream"})
    assert status == 200
    assert json.loads(got)["body"].encode("latin-1") == body


def test_listens_on_loopback_only(recorded: Running) -> None:
    """``localhost`` reaches it, whichever address that is; no other interface does."""
    with socket.create_connection(("localhost", recorded.port), timeout=30):
        pass
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no other interface")
        address = probe.getsockname()[0]
    with pytest.raises(OSError):
        socket.create_connection((address, recorded.port), timeout=5)


# -- keys and /admin


def test_without_keys_nobody_is_asked_for_one(tmp_path: Path) -> None:
    """As under ``func start``: without keys on the command line every function and ``/admin`` can be called."""
    with running(RECORDED, tmp_path / "log") as host:
        assert host.ask("/keyed")[0] == 200
        assert host.ask("/for-master")[0] == 200
        assert host.ask("/admin/host/status")[0] == 200


def test_the_key_of_the_query(recorded: Running) -> None:
    """``code`` in whatever case, the first of several, and never beside a header."""
    assert recorded.ask("/keyed?CODE=rec-function-key")[0] == 200
    assert recorded.ask("/keyed?code=wrong&code=rec-function-key")[0] == 401
    assert recorded.ask("/keyed?code=&code=rec-function-key")[0] == 401
    assert recorded.ask("/keyed?code=rec-function-key", headers={"x-functions-key": ""})[0] == 401


def test_admin_tells_its_state(recorded: Running) -> None:
    """``ping`` answers anybody, ``status`` the master key; unknown methods of known routes are 404."""
    status, headers, _ = recorded.ask("/admin/host/ping")
    assert (status, headers["cache-control"]) == (200, "no-store,no-cache")
    assert recorded.ask("/admin/host/status", "DELETE")[0] == 404
    assert recorded.ask("/admin/functions")[0] == 401
    status, _, body = recorded.ask("/admin/host/status", headers={"x-functions-key": "rec-master-key"})
    assert status == 200
    assert json.loads(body)["state"] == "Running"


# -- what is served


def test_homepage_unless_disabled(tmp_path: Path) -> None:
    """Without a function of its own ``/`` shows a page, and 204 with ``AzureWebJobsDisableHomepage``."""
    folder = write(tmp_path / "app", "")
    with running(folder, tmp_path / "log", env={"AzureWebJobsDisableHomepage": ""}) as host:
        status, headers, body = host.ask("/")
        assert (status, headers["content-type"].partition(";")[0]) == (200, "text/html")
        assert b"<html" in body
    with running(folder, tmp_path / "log") as host:
        assert host.ask("/")[0] == 204


ONE = """
@app.route("fine")
def fine(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("fine")
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("raise RuntimeError('at import')", "at import"),
        ('@app.route("b")\ndef b(request: func.HttpRequest) -> func.HttpResponse: ...', "req"),
        ('@app.route("b")\ndef b(req: func.HttpRequest, more: str) -> func.HttpResponse: ...', "more"),
        ('@app.route("b")\ndef b(req: func.TimerRequest) -> func.HttpResponse: ...', "HttpRequest"),
    ],
    ids=["import", "raise", "missing", "extra", "type"],
)
def test_one_fault_and_no_function_is_served(tmp_path: Path, fault: str, said: str) -> None:
    """An import error or one wrong signature: it is reported, every path answers 404, and the host goes on."""
    with running(write(tmp_path / "app", ONE + fault), tmp_path / "log") as host:
        assert host.ask("/fine")[0] == 404
        assert host.ask("/fine")[0] == 404
        assert said in host.log.read_text(encoding="utf-8")
        assert host.process.poll() is None


@pytest.mark.parametrize("route", ["admin/x", "Runtime/x", "admin", "/admin/x", "administrators", "{broken", "{x:nothing}/y"])
def test_routes_the_host_refuses(tmp_path: Path, route: str) -> None:
    """A route that begins with ``admin`` or ``runtime`` or is malformed: that function is missing, and the others run."""
    code = ONE + f'@app.route("{route}")\ndef kept(req: func.HttpRequest) -> str: return "kept"'
    with running(write(tmp_path / "app", code), tmp_path / "log") as host:
        assert host.ask("/fine")[2] == b"fine"
        assert host.ask("/" + route.strip("/"))[0] == 404
        assert "kept" in host.log.read_text(encoding="utf-8")


def test_two_functions_of_one_route(tmp_path: Path) -> None:
    """The same route and a method in common: the second by name is missing, which is said; by other methods both are served.

    Names are in order as if in capitals: ``ab`` comes before ``a_``.
    """
    code = """
@app.route("x", methods=["GET"])
def a_(req: func.HttpRequest) -> str: return "a_"
@app.route("X", methods=["GET", "PUT"])
def ab(req: func.HttpRequest) -> str: return "ab"
@app.route("x", methods=["POST"])
def c(req: func.HttpRequest) -> str: return "c"
"""
    with running(write(tmp_path / "app", code), tmp_path / "log") as host:
        assert host.ask("/x")[2] == b"ab"
        assert host.ask("/x", "POST")[2] == b"c"
        assert "a_ is not served" in host.log.read_text(encoding="utf-8")


def test_prefix_is_api_unless_told(tmp_path: Path) -> None:
    """Without ``routePrefix`` routes begin with ``api``."""
    with running(write(tmp_path / "app", ONE, extensions={}), tmp_path / "log") as host:
        assert host.ask("/api/fine")[2] == b"fine"
        assert host.ask("/fine")[0] == 404


def test_local_settings_fill_what_the_environment_lacks(tmp_path: Path) -> None:
    """``Values`` of local.settings.json are in the environment, where nothing is set already."""
    folder = write(
        tmp_path / "app",
        """
SEEN = [os.environ.get("FROM_FILE"), os.environ.get("FROM_BOTH")]
@app.route("seen")
def seen(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(SEEN))
""",
    )
    values = {"IsEncrypted": False, "Values": {"FROM_FILE": "file", "FROM_BOTH": "file"}}
    (folder / "local.settings.json").write_text(json.dumps(values), encoding="utf-8")
    with running(folder, tmp_path / "log", env={"FROM_BOTH": "environment"}) as host:
        assert json.loads(host.ask("/seen")[2]) == ["file", "environment"]


# -- how functions run


def test_sync_functions_run_beside_each_other(tmp_path: Path) -> None:
    """As many sync functions run at once as ``PYTHON_THREADPOOL_THREAD_COUNT`` says, and the loop goes on meanwhile."""
    code = """
gate = threading.Barrier(3)
@app.route("meet")
def meet(req: func.HttpRequest) -> func.HttpResponse:
    gate.wait(20)
    return func.HttpResponse("met")
@app.route("loop")
async def loop(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(threading.current_thread().name)
"""
    env = {"PYTHON_THREADPOOL_THREAD_COUNT": "3"}
    with (
        running(write(tmp_path / "app", code), tmp_path / "log", env=env) as host,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        waiting = [pool.submit(host.ask, "/meet") for _ in range(2)]
        assert host.ask("/loop")[0] == 200
        assert host.ask("/meet")[2] == b"met"
        assert [one.result()[2] for one in waiting] == [b"met", b"met"]


def test_logs_carry_the_invocation(tmp_path: Path) -> None:
    """Records of INFO and above reach stderr with the function's name and its invocation; DEBUG does not."""
    code = """
@app.route("says")
def says(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    logging.info("heard")
    logging.debug("unheard")
    return func.HttpResponse(context.invocation_id)
"""
    with running(write(tmp_path / "app", code), tmp_path / "log") as host:
        invocation = host.ask("/says")[2].decode()
        assert until(lambda: f"[says {invocation}] heard" in host.log.read_text(encoding="utf-8"))
        assert "unheard" not in host.log.read_text(encoding="utf-8")


def test_a_function_that_takes_too_long(tmp_path: Path) -> None:
    """Beyond ``functionTimeout`` the request gets 500, sync or async; others are served."""
    code = (
        ONE
        + """
@app.route("sync")
def slow(req: func.HttpRequest) -> func.HttpResponse:
    time.sleep(3)
    return func.HttpResponse("late")
@app.route("async")
async def slow_too(req: func.HttpRequest) -> func.HttpResponse:
    await asyncio.sleep(60)
    return func.HttpResponse("late")
"""
    )
    with running(write(tmp_path / "app", code, functionTimeout="00:00:01"), tmp_path / "log") as host:
        assert host.ask("/sync")[::2] == (500, b"")
        assert host.ask("/async")[::2] == (500, b"")
        assert host.ask("/fine")[0] == 200


def test_timers_fire_by_their_schedule(tmp_path: Path) -> None:
    """Every second means every second; ``run_on_startup`` fires at the start, and without it a far date does not."""
    code = """
def note(name):
    with Path(__file__).with_name(name).open("a") as file:
        file.write("x")
@app.timer_trigger(schedule="* * * * * *", arg_name="timer", run_on_startup=False)
def often(timer: func.TimerRequest) -> None:
    note("often")
@app.timer_trigger(schedule="0 0 0 1 1 *", arg_name="timer", run_on_startup=True)
async def at_start(timer: func.TimerRequest) -> None:
    note("at_start")
@app.timer_trigger(schedule="0 0 0 29 2 *", arg_name="timer", run_on_startup=False)
def seldom(timer: func.TimerRequest) -> None:
    note("seldom")
"""
    folder = write(tmp_path / "app", code)

    def noted(name: str) -> int:
        return len((folder / name).read_text()) if (folder / name).exists() else 0

    with running(folder, tmp_path / "log"):
        assert until(lambda: noted("often") >= 3)
        assert noted("at_start") == 1
        assert noted("seldom") == 0


# -- the process


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_runs(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C: the request under way gets its answer, then the host exits with 0."""
    code = """
@app.route("slow")
def slow(req: func.HttpRequest) -> func.HttpResponse:
    Path(__file__).with_name("begun").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.02)
    return func.HttpResponse("done")
"""
    folder = write(tmp_path / "app", code)
    with running(folder, tmp_path / "log") as host, concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(host.ask, "/slow")
        assert until((folder / "begun").exists)
        host.process.send_signal(number)
        assert until(lambda: refused(host.port))
        (folder / "go").touch()
        assert answer.result()[::2] == (200, b"done")
        assert host.process.wait(20) == 0


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


@POSIX
def test_an_idle_connection_does_not_keep_it(recorded: Running, tmp_path: Path) -> None:
    """A browser that keeps its connection open does not keep the host from stopping."""
    with (
        running(RECORDED, tmp_path / "log") as host,
        socket.create_connection(("127.0.0.1", host.port), timeout=30) as connection,
    ):
        connection.sendall(b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        host.process.terminate()
        assert host.process.wait(20) == 0


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """A taken port: one clear line that names it, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "dev.host", str(write(tmp_path / "app", ONE)), "--port", str(port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
