"""A Functions host for a developer's machine: serves a Python function app and answers as Microsoft's host does.

    python -m dev host FOLDER --port N [--function-key K --master-key K]

Requests and answers pass through azure.functions' own converters: what Azure loses or changes is lost and changed here.
What the host does was recorded (``tests/host_recordings``) and is followed as rules: ``host_app.py`` loads the app,
``host_wire.py`` is the HTTP server, ``host_routes.py`` and ``host_constraints.py`` are its routing, ``host_answers.py`` is
what it makes of an answer, ``host_timer.py`` its schedules, ``host_admin.py`` the list of its own routes.  This file calls
the functions, checks keys, answers ``/admin`` and runs the timers.

Keys are checked only when they are given, as ``func start --enable-auth`` and Azure do and ``func start`` does not.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import contextvars
import hmac
import inspect
import json
import logging
import os
import re
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
from azure.functions.http import HttpRequestConverter
from azure.functions.meta import Datum
from azure.functions.timer import TimerRequestConverter

from dev.host_admin import is_files, is_open, known
from dev.host_answers import FAILED, Answer, answer_of, with_headers
from dev.host_app import Function, HostJson, Unusable, load, read_host_json, read_local_settings
from dev.host_routes import decoded, encoded, normalized, pairs, query
from dev.host_timer import now
from dev.host_wire import Message, Server

log = logging.getLogger("dev.host")

_invocation: contextvars.ContextVar[str] = contextvars.ContextVar("invocation", default="host")


class Context(func.Context):
    """What a function sees as ``context``."""

    def __init__(self, function: Function, folder: Path) -> None:
        self._function = function
        self._folder = folder
        self._id = _invocation.get().partition(" ")[2]

    @property
    def invocation_id(self) -> str:
        """The invocation's id."""
        return self._id

    @property
    def function_name(self) -> str:
        """The function's name."""
        return self._function.name

    @property
    def function_directory(self) -> str:
        """The app's folder."""
        return str(self._folder)

    @property
    def trace_context(self) -> Any:
        """Nothing is traced here."""
        return None

    @property
    def thread_local_storage(self) -> Any:
        """The worker's; nothing is kept in it here."""
        return threading.local()

    @property
    def retry_context(self) -> Any:
        """Nothing is retried here."""
        return None


# -- serving

_THREADS = 1000
"""Where ``PYTHON_THREADPOOL_THREAD_COUNT`` does not say, as the host sets it; they come as they are needed."""


class Host:
    """One app, served."""

    def __init__(
        self,
        folder: Path,
        functions: Sequence[Function],
        settings: HostJson,
        *,
        function_key: str | None,
        master_key: str | None,
    ) -> None:
        self._folder = folder
        self._functions = functions
        self._settings = settings
        self._function_key = function_key
        self._master_key = master_key
        threads = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
        self._pool = concurrent.futures.ThreadPoolExecutor(int(threads) if threads.isdigit() and int(threads) else _THREADS)
        self._jobs: set[concurrent.futures.Future[Any]] = set()

    async def handle(self, message: Message) -> Answer:
        """Answers one request."""
        path = normalized(message.path)
        answer = self._admin(message, decoded(path).lower()[1:].removesuffix("/")) or await self._routed(message, path)
        return with_headers(answer, self._settings.headers)

    async def _routed(self, message: Message, path: str) -> Answer:
        for function in self._functions:
            if function.template is None or (function.methods and message.method not in function.methods):
                continue
            route = function.template.match(decoded(path))
            if route is None:
                continue
            if not self._may_call(function, message):
                return Answer(status=401)
            if function.disabled and (self._master_key is None or not _same(self._key_of(message), self._master_key)):
                return Answer(status=404)
            return await self._call_http(function, message, path, route)
        return _homepage() if path == "/" else Answer(status=404)

    def _may_call(self, function: Function, message: Message) -> bool:
        if function.auth_level == "ANONYMOUS" or (self._function_key is None and self._master_key is None):
            return True
        allowed = [self._master_key] if function.auth_level == "ADMIN" else [self._function_key, self._master_key]
        return any(_same(self._key_of(message), key) for key in allowed)

    def _key_of(self, message: Message) -> str | None:
        if "x-functions-key" in message.headers:
            return message.headers["x-functions-key"].partition(",")[0]  # the first of several
        return next((value for name, value in pairs(message.query[1:]) if name.lower() == "code"), None)

    async def _call_http(self, function: Function, message: Message, path: str, route: dict[str, str]) -> Answer:
        origin = f"http://{message.headers.get('host', '')}"
        datum = Datum(
            {
                "method": Datum(message.method, "string"),
                "url": Datum(origin + encoded(path) + message.query, "string"),
                "headers": {name: Datum(value, "string") for name, value in message.headers.items()},
                "query": {name: Datum(value, "string") for name, value in query(message.query[1:]).items()},
                "params": {name: Datum(value, "string") for name, value in route.items()},
                "body": Datum(message.body, "bytes"),
            },
            "http",
        )
        try:
            if function.plain:
                raise TypeError(f"a request cannot be handed over as text: {function.argument}")
            returned = await self._call(function, HttpRequestConverter.decode(datum, trigger_metadata={}))
            return answer_of(returned)
        except TimeoutError:
            log.error("%s took longer than functionTimeout allows", function.name)
        except Exception:
            log.exception("%s failed", function.name)
        return FAILED

    async def _call(self, function: Function, argument: Any) -> Any:
        token = _invocation.set(f"{function.name} {uuid.uuid4()}")
        try:
            arguments = {function.argument: argument}
            if function.wants_context:
                arguments["context"] = Context(function, self._folder)
            limit = self._settings.timeout.total_seconds() if self._settings.timeout is not None else None
            if inspect.iscoroutinefunction(function.call):
                return await asyncio.wait_for(function.call(**arguments), limit)
            work = contextvars.copy_context()
            job = self._pool.submit(lambda: work.run(function.call, **arguments))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
            return await asyncio.wait_for(asyncio.wrap_future(job), limit)
        finally:
            _invocation.reset(token)

    @property
    def abandoned(self) -> bool:
        """Whether a sync function still runs whose request was already answered: nothing can end its thread."""
        return bool(self._jobs)

    # -- /admin

    def _admin(self, message: Message, route: str) -> Answer | None:
        """What the host answers by its own routes under ``/admin`` and ``/runtime``; None where it has none.

        Order: the route with its method, the key (401, 403), the body (415, 400), the function (404).
        """
        if is_open(message.method, route):
            silent = (("Cache-Control", "no-store,no-cache"), ("Pragma", "no-cache")) if route == "admin/host/ping" else ()
            return Answer(status=200, headers=silent)
        files = is_files(route)
        if not files and not known(message.method, route):
            return None
        refusal = self._may_administer(message)
        if refusal is not None:
            return Answer(status=401) if files else refusal
        if route == "admin/host/status":
            return _json(self._status())
        if route == "admin/functions":
            return _json([self._described(one) for one in self._functions])
        parts = route.split("/")
        if parts[1] == "functions" and len(parts) == 3 and message.method in {"GET", "POST"}:
            function = next((one for one in self._functions if one.name.lower() == parts[2]), None)
            if message.method == "POST":
                return self._invoke(message, function)
            return _json(self._described(function)) if function is not None else Answer(status=404)
        log.warning("This host does not know %s %s", message.method, message.path)
        return Answer(status=501)

    def _invoke(self, message: Message, function: Function | None) -> Answer:
        media_type = message.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in {"application/json", "text/json"} and not re.fullmatch(r"application/[^/]+\+json", media_type):
            return Answer(status=415)
        try:
            given = json.loads(message.body)
        except ValueError:
            return Answer(status=400)
        if not isinstance(given, dict) or isinstance(_member(given, "input"), dict | list):
            return Answer(status=400)
        if function is None:
            return Answer(status=404)
        if function.kind == "timerTrigger":
            self._start(function, past_due=False)
        return Answer(status=202)

    def _may_administer(self, message: Message) -> Answer | None:
        if self._function_key is None and self._master_key is None:
            return None
        key = self._key_of(message)
        if _same(key, self._master_key):
            return None
        if _same(key, self._function_key):
            return Answer(status=403)
        return Answer(status=401, headers=(("WWW-Authenticate", "Bearer"),))

    def _status(self) -> dict[str, Any]:
        return {
            "id": "dev",
            "state": "Running",
            "version": "4.0.0.0",
            "versionDetails": "dev/host.py",
            "platformVersion": "",
            "processUptime": 0,
        }

    def _described(self, function: Function) -> dict[str, Any]:
        return {
            "name": function.name,
            "language": "python",
            "isDisabled": function.disabled,
            "config": {"bindings": [{"type": function.kind}]},
        }

    # -- timers

    def start_timers(self) -> list["asyncio.Task[None]"]:
        """Starts what fires by the clock; the tasks run until they are cancelled."""
        return [asyncio.ensure_future(self._tick(one)) for one in self._functions if one.schedule and not one.disabled]

    async def _tick(self, function: Function) -> None:
        assert function.schedule is not None
        if function.run_on_startup:
            self._start(function, past_due=False)
        due = function.schedule.after(now())
        while True:
            await asyncio.sleep(max(0.0, (due - now()).total_seconds()))
            if now() < due:
                continue
            self._start(function, past_due=now() - due > timedelta(seconds=1))
            due = function.schedule.after(max(due, now() - timedelta(seconds=1)))

    def _start(self, function: Function, *, past_due: bool) -> None:
        task = asyncio.ensure_future(self._run_timer(function, past_due=past_due))
        _running.add(task)
        task.add_done_callback(_running.discard)

    async def _run_timer(self, function: Function, *, past_due: bool) -> None:
        data = json.dumps({"Schedule": {"AdjustForDST": True}, "ScheduleStatus": None, "IsPastDue": past_due})
        timer = data if function.plain else TimerRequestConverter.decode(Datum(data, "json"), trigger_metadata={})
        try:
            if await self._call(function, timer) is not None:
                raise TypeError("a timer's function has nobody to return a value to")
        except TimeoutError:
            log.error("%s took longer than functionTimeout allows", function.name)
        except Exception:
            log.exception("%s failed", function.name)


_running: set["asyncio.Task[None]"] = set()


def _member(given: dict[str, Any], name: str) -> Any:
    return next((value for key, value in given.items() if key.lower() == name), None)


def _same(given: str | None, wanted: str | None) -> bool:
    return given is not None and wanted is not None and hmac.compare_digest(given.encode(), wanted.encode())


def _json(value: Any) -> Answer:
    return Answer(status=200, headers=(("Content-Type", "application/json; charset=utf-8"),), body=json.dumps(value).encode())


def _homepage() -> Answer:
    if os.environ.get("AzureWebJobsDisableHomepage", "").lower() == "true":
        return Answer(status=204)
    page = "<!DOCTYPE html><html lang='en'><head><title>Function app</title></head><body><h1>It is running</h1></body></html>"
    return Answer(status=200, headers=(("Content-Type", "text/html"),), body=page.encode())


# -- the process


class _Prefixed(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        return f"{time} {record.levelname} [{_invocation.get()}] {super().format(record)}"


def run(argv: Sequence[str]) -> int:
    """The command; see the module.  Returns its exit code when it was told to stop."""
    parser = argparse.ArgumentParser(prog="python -m dev host")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=7071)
    parser.add_argument("--function-key")
    parser.add_argument("--master-key")
    options = parser.parse_args(argv)
    return main(options.folder.resolve(), options.port, options.function_key, options.master_key)


def main(folder: Path, port: int, function_key: str | None = None, master_key: str | None = None) -> int:
    """Serves the app in ``folder`` until SIGTERM or Ctrl-C."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Prefixed("%(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    read_local_settings(folder)
    functions: list[Function] = []
    settings = HostJson()
    try:
        settings = read_host_json(folder)
        functions = load(folder, settings.prefix)
    except Unusable as error:
        log.error("No function is served, every path answers 404:\n%s", error)
    host = Host(folder, functions, settings, function_key=function_key, master_key=master_key)
    try:
        asyncio.run(_serve(host, port, functions))
    except OSError as error:
        print(f"Port {port} cannot be used: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    if host.abandoned:
        _leave()
    return 0


def _leave() -> None:
    """Ends the process without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def _serve(host: Host, port: int, functions: Sequence[Function]) -> None:
    server = Server(host.handle)
    port = await server.start(["127.0.0.1", "::1"], port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    told: set[int] = set()

    def tell(number: int) -> None:
        if number == signal.SIGINT and number in told:  # Ctrl-C for the second time: somebody does not want to wait
            _leave()
        told.add(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, tell, number)
        except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
            with contextlib.suppress(ValueError):
                signal.signal(number, lambda given, _: loop.call_soon_threadsafe(tell, given))
    for one in functions:
        where = (
            f"{','.join(sorted(one.methods)) or '*'} /{one.template.text}"
            if one.template
            else one.schedule and one.schedule.text
        )
        print(f"  {one.name}: {where}", flush=True)
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    timers = host.start_timers()
    await stop.wait()
    for timer in timers:
        timer.cancel()
    await server.stop()
    if _running:
        await asyncio.wait(list(_running))


if __name__ == "__main__":
    threading.current_thread().name = "host"
    sys.exit(run(sys.argv[1:]))
