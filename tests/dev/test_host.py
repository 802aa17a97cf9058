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
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: h:x\r\n\r\n", 400),
        (b"GET http://i/echo HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /order/a%00 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\nHost: h\n\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n 2\r\n\r\n", 400),
        (b"GET echo HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 104857601\r\n\r\n", 413),
    ],
)
def test_the_servers_own_refusals(recorded: Running, data: bytes, status: int) -> None:
    """Limits and malformed requests: the HTTP server answers, closes, and no function sees them."""
    assert recorded.raw(data).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("line", "host", "url"),
    [
        (b"GET http://h/echo?a=1 HTTP/1.1", b"h", "http://h/echo?a=1"),
        (b"GET http://user@H:80/echo HTTP/1.1", b"h", "http://h/echo"),
        (b"GET /ECHO#x?a=%zz HTTP/1.1", b"h", ""),
        (b"GET /echo?a=1#b HTTP/1.1", b"", "http:///echo?a=1#b"),
        (b"GET /order/../echo/ HTTP/1.1", b"[::1]:80", "http://[::1]:80/echo/"),
        (b"OPTIONS * HTTP/1.1", b"h", ""),
    ],
)
def test_forms_of_the_target(recorded: Running, line: bytes, host: bytes, url: str) -> None:
    """A proxy's absolute form, an empty or literal host, a fragment: what the function sees, or 404 where no route fits."""
    got = recorded.raw(line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 " if url else b"HTTP/1.1 404 ")
    assert not url or json.loads(got.partition(b"\r\n\r\n")[2])["url"] == url


def test_a_cookie_cannot_break_out(recorded: Running) -> None:
    """An attribute whose quoting hides a line break fails the answer; what was set before stays, as on Microsoft's host."""
    cookies = [["Set-Cookie", "a=1; Path=/"], ["Set-Cookie", 'b=2; Path="/x\\012Evil: 1"']]
    wish = json.dumps({"body": "x", "headers": [["X-A", "1"], *cookies]}).encode()
    status, headers, body = recorded.ask("/answer", "POST", wish)
    assert (status, body) == (500, b"")
    assert (headers["x-a"], headers["set-cookie"]) == ("1", "a=1; domain=; path=/")
    assert "evil" not in headers


@pytest.mark.parametrize(
    ("attribute", "written"),
    [
        ("Expires=2026-10-21T07:28:00Z", "expires=Wed, 21 Oct 2026 07:28:00 GMT; "),
        ("Expires=2026-10-21T07:28:00+02:00", "expires=Wed, 21 Oct 2026 05:28:00 GMT; "),
        ("Expires=Mon, 01 Jan 0001 00:00:00 GMT", "expires=Mon, 01 Jan 0001 00:00:00 GMT; "),
        ("Max-Age=1e3", "max-age=1000; "),
        ("Max-Age=nan", None),
        ("Max-Age=1e300", None),
        ("Expires=tomorrow", None),
    ],
)
def test_times_in_cookies(recorded: Running, attribute: str, written: str | None) -> None:
    """Times are read and written anew; one that cannot be read fails the whole answer."""
    wish = json.dumps({"body": "x", "headers": [["Set-Cookie", f"a=1; {attribute}; Path=/"]]}).encode()
    status, headers, _ = recorded.ask("/answer", "POST", wish)
    assert (status, headers.get("set-cookie")) == ((500, None) if written is None else (200, f"a=1; {written}domain=; path=/"))


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"body": "x", "status": 99}, 500),
        ({"body": "x", "status": "404"}, 404),
        ({"body": "x", "status": "nonsense"}, 200),
        ({"body": "x", "status": 204}, 204),
        ({"body": "x", "headers": [["Content-Length", "5"]]}, 500),
        ({"body": "x", "headers": [["Content-Length", "1"]]}, 200),
    ],
)
def test_odd_answers(recorded: Running, wish: dict[str, Any], status: int) -> None:
    """What a function may get wrong about its status and length: a whole answer all the same, on a connection that goes on."""
    connection = http.client.HTTPConnection(urlsplit(recorded.origin).netloc, timeout=30)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("POST", "/answer", json.dumps(wish))
            response = connection.getresponse()
            assert response.status == status
            assert response.read() == (b"x" if status in {200, 404} else b"")


def test_a_function_may_end_the_connection(recorded: Running) -> None:
    """``Connection: close`` in the answer is said once and done."""
    wish = json.dumps({"body": "x", "mimetype": "", "headers": [["Connection", "close"]]}).encode()
    got = recorded.raw(b"POST /answer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(wish), wish))
    assert got.endswith(b"\r\n\r\nx")
    assert got.lower().count(b"\r\nconnection:") == 1
    assert b"content-type" not in got.lower()


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
    twice = b"GET /keyed HTTP/1.1\r\nHost: h\r\nConnection: close\r\nx-functions-key: %s\r\nx-functions-key: %s\r\n\r\n"
    assert recorded.raw(twice % (b"rec-function-key", b"wrong")).startswith(b"HTTP/1.1 200 ")
    assert recorded.raw(twice % (b"wrong", b"rec-function-key")).startswith(b"HTTP/1.1 401 ")


def test_admin_tells_its_state(recorded: Running) -> None:
    """``ping`` answers anybody, ``status`` the master key; unknown methods of known routes are 404."""
    status, headers, _ = recorded.ask("/admin/host/ping")
    assert (status, headers["cache-control"]) == (200, "no-store,no-cache")
    assert recorded.ask("/admin/host/status", "DELETE")[0] == 404
    assert recorded.ask("/admin/functions")[0] == 401
    status, _, body = recorded.ask("/admin/host/status", headers={"x-functions-key": "rec-master-key"})
    assert status == 200
    assert json.loads(body)["state"] == "Running"
    assert recorded.ask("/admin/warmup", "POST")[::2] == (200, b"")
    assert recorded.ask("/admin/instance/http-health")[0] == 200
    status, headers, _ = recorded.ask("/admin/vfs/function_app.py")
    assert (status, headers.get("www-authenticate")) == (401, None)


def test_a_catch_all_gets_what_the_host_does_not_answer(tmp_path: Path) -> None:
    """The host's own routes come first; a path under ``/admin`` that is none of them is as good as any."""
    code = (
        '@app.route("{*rest}")\ndef catch_all(req: func.HttpRequest) -> func.HttpResponse:\n    return func.HttpResponse("c")'
    )
    with running(write(tmp_path / "app", code), tmp_path / "log", "--master-key", "m") as host:
        assert host.ask("/admin/nothing")[2] == b"c"
        assert host.ask("/admin/host/ping")[2] == b""
        assert host.ask("/admin/host/status")[0] == 401
        assert host.ask("/")[2] == b"c"


def test_disabled_functions(tmp_path: Path) -> None:
    """``AzureWebJobs.NAME.Disabled``: nobody reaches the function but the holder of the master key, and no clock fires it."""
    code = (
        ONE
        + """
@app.timer_trigger(schedule="* * * * * *", arg_name="timer", run_on_startup=True)
def often(timer: func.TimerRequest) -> None:
    Path(__file__).with_name("often").touch()
@app.timer_trigger(schedule="* * * * * *", arg_name="timer")
def reference(timer: func.TimerRequest) -> None:
    Path(__file__).with_name("reference").touch()
"""
    )
    folder = write(tmp_path / "app", code)
    values = {"AzureWebJobs.fine.Disabled": "true", "AzureWebJobs.often.Disabled": "1"}
    (folder / "local.settings.json").write_text(json.dumps({"Values": values}), encoding="utf-8")
    with running(folder, tmp_path / "log", "--master-key", "m") as host:
        assert host.ask("/fine")[0] == 404
        assert host.ask("/fine", headers={"x-functions-key": "m"})[2] == b"fine"
        assert until((folder / "reference").exists)
        assert not (folder / "often").exists()


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
        ('@app.route("b")\ndef b(req: "func.HttpRequest | None") -> func.HttpResponse: ...', "no type"),
        ('@app.route("b")\ndef b(req: "Unknown") -> func.HttpResponse: ...', "Unknown"),
        ('@app.route("b")\ndef b(req, context: str) -> func.HttpResponse: ...', "context"),
        ('@app.route("b")\ndef b(req: func.HttpRequest) -> dict: ...', "dict"),
        ('@app.route("b")\ndef b(req: func.HttpRequest) -> None: ...', "None"),
        ('@app.route("b")\ndef b(req: func.HttpRequest) -> "list[str]": ...', "list"),
        ('@app.function_name("fine")\n@app.route("b")\ndef b(req): ...', "unique"),
        ("other = func.FunctionApp()", "one FunctionApp"),
    ],
    ids=[
        *("import", "raise", "missing", "extra", "type", "union", "unknown", "context"),
        *("dict", "none", "list", "name twice", "two apps"),
    ],
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


@pytest.mark.parametrize(
    "signature",
    [
        '@app.route("kept")\ndef _kept(req) -> str',
        '@app.function_name("host")\n@app.route("kept")\ndef kept(req) -> str',
        '@app.route("kept", trigger_arg_name="my_req")\ndef kept(my_req) -> str',
        '@app.route("kept")\n@app.queue_output(arg_name="out", queue_name="q", connection="c")\ndef kept(req, out) -> str',
    ],
    ids=["underscore", "reserved", "argument", "binding"],
)
def test_names_and_bindings_the_host_refuses(tmp_path: Path, signature: str) -> None:
    """A name that Microsoft's host does not take, or a binding that this one does not have: only that function is missing."""
    with running(write(tmp_path / "app", ONE + signature + ': return "kept"'), tmp_path / "log") as host:
        assert host.ask("/fine")[2] == b"fine"
        assert host.ask("/kept")[0] == 404
        assert "is not served" in host.log.read_text(encoding="utf-8")


def test_signatures_the_worker_takes(tmp_path: Path) -> None:
    """No annotations, late ones, a wrapped function, text for a request (which fails when it is called), another file's name."""
    code = """
import functools
def wrapped(call):
    @functools.wraps(call)
    def inner(req):
        return call(req)
    return inner
@app.route("bare")
def bare(req): return func.HttpResponse("bare")
@app.route("late")
def late(req: "func.HttpRequest", context: "func.Context") -> "str": return context.function_directory
@app.route("wraps")
@wrapped
def wraps(req: func.HttpRequest) -> func.HttpResponse: return func.HttpResponse("wraps")
@app.route("text")
def text(req: str) -> str: return req
@app.route("is-async")
async def is_async(req: func.HttpRequest, context) -> str:
    await asyncio.sleep(0)
    return context.function_name
"""
    folder = write(tmp_path / "app", code)
    (folder / "function_app.py").rename(folder / "other.py")
    with running(folder, tmp_path / "log", env={"PYTHON_SCRIPT_FILE_NAME": "other.py"}) as host:
        assert host.ask("/bare")[2] == b"bare"
        assert host.ask("/late")[2] == str(folder).encode()
        assert host.ask("/wraps")[2] == b"wraps"
        assert host.ask("/is-async")[2] == b"is_async"
        assert host.ask("/text")[::2] == (500, b"")


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


def test_a_timer_called_by_hand(tmp_path: Path) -> None:
    """What the timer's function is given, and what happens when it returns something or fails: the log says so, no more."""
    code = """
@app.timer_trigger(schedule="%WHEN%", arg_name="timer")
def tick(timer: func.TimerRequest) -> str:
    logging.info("due %s %s", timer.past_due, timer.schedule)
    return "x"
@app.timer_trigger(schedule="%WHEN%", arg_name="timer")
def raw(timer: str) -> None:
    logging.info("raw %s", json.loads(timer)["IsPastDue"])
@app.timer_trigger(schedule="%NOT_SET%", arg_name="timer")
def never(timer: func.TimerRequest) -> None: ...
"""
    json_type = {"Content-Type": "application/json"}
    with running(write(tmp_path / "app", code), tmp_path / "log", env={"WHEN": "0 0 0 29 2 *"}) as host:
        assert host.ask("/admin/functions/TICK", "POST", b"{}", json_type)[0] == 202
        assert host.ask("/admin/functions/raw", "POST", b'{"input": null}', json_type)[0] == 202
        assert host.ask("/admin/functions/never", "POST", b"{}", json_type)[0] == 404
        log = host.log
        for said in ("due False {'AdjustForDST': True}", "nobody to return a value to", "raw False", "no setting NOT_SET"):
            assert until(lambda said=said: said in log.read_text(encoding="utf-8")), said


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


STUCK = """
@app.route("stuck")
def stuck(req: func.HttpRequest) -> func.HttpResponse:
    Path(__file__).with_name("begun").touch()
    time.sleep(600)
    return func.HttpResponse("late")
"""


@POSIX
def test_a_thread_that_never_ends_does_not_keep_it(tmp_path: Path) -> None:
    """A function beyond its ``functionTimeout`` was answered already: the host that is told to stop goes all the same."""
    with running(write(tmp_path / "app", STUCK, functionTimeout="00:00:01"), tmp_path / "log") as host:
        assert host.ask("/stuck")[0] == 500
        host.process.terminate()
        assert host.process.wait(20) == 0


@POSIX
def test_the_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    """The first lets running requests finish, the second ends the host at once; SIGTERM after Ctrl-C is no second one."""
    folder = write(tmp_path / "app", STUCK)
    request = b"GET /stuck HTTP/1.1\r\nHost: h\r\n\r\n"
    with (
        running(folder, tmp_path / "log") as host,
        socket.create_connection(("127.0.0.1", host.port), timeout=30) as connection,
    ):
        connection.sendall(request)
        assert until((folder / "begun").exists)
        host.process.send_signal(signal.SIGINT)
        assert until(lambda: refused(host.port))
        host.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            host.process.wait(1)
        host.process.send_signal(signal.SIGINT)
        assert host.process.wait(20) == 0


@POSIX
def test_a_client_that_never_sends_its_body_does_not_keep_it(tmp_path: Path) -> None:
    """Half a request gets a few seconds more, then the host goes."""
    with (
        running(RECORDED, tmp_path / "log") as host,
        socket.create_connection(("127.0.0.1", host.port), timeout=30) as connection,
    ):
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        assert host.ask("/echo")[0] == 200  # by now it has read the other's head
        host.process.terminate()
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
