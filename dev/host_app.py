"""The app that is served: host.json, local.settings.json, and the functions of ``function_app.py`` in the host's order.

Which of them gets a path is ``host_routes.py``; calling them is ``host.py``.
"""

import importlib
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.functions as func

from dev.host_routes import Template
from dev.host_timer import Schedule

log = logging.getLogger("dev.host")

_TIMEOUT = timedelta(minutes=5)


class Unusable(Exception):
    """The app cannot be indexed: no function of it is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of the app."""

    name: str
    call: Callable[..., Any]
    argument: str
    wants_context: bool
    kind: str
    """``httpTrigger`` or ``timerTrigger``."""
    methods: frozenset[str] = frozenset()
    auth_level: str = "FUNCTION"
    template: Template | None = None
    schedule: Schedule | None = None
    run_on_startup: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJson:
    """What this host follows of host.json."""

    prefix: str = "api"
    headers: dict[str, str] = field(default_factory=dict)
    timeout: timedelta | None = _TIMEOUT


def read_host_json(folder: Path) -> HostJson:
    """Reads host.json.

    Raises:
        Unusable: it is missing or no JSON.
    """
    try:
        settings = json.loads((folder / "host.json").read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Unusable(f"host.json: {error}") from error
    http = settings.get("extensions", {}).get("http", {})
    timeout: timedelta | None = _TIMEOUT
    if "functionTimeout" in settings:
        text = str(settings["functionTimeout"])
        hours, minutes, seconds = (float(part) for part in text.split(":")) if text != "-1" else (0, 0, 0)
        timeout = timedelta(hours=hours, minutes=minutes, seconds=seconds) if text != "-1" else None
    return HostJson(
        prefix=str(http.get("routePrefix", "api")).strip("/"),
        headers={str(name): str(value) for name, value in http.get("customHeaders", {}).items()},
        timeout=timeout,
    )


def read_local_settings(folder: Path) -> None:
    """Puts ``Values`` of local.settings.json into the environment where nothing is set yet, as ``func start`` does."""
    path = folder / "local.settings.json"
    if not path.exists():
        return
    try:
        values = json.loads(path.read_text("utf-8-sig")).get("Values", {})
    except ValueError as error:
        log.error("local.settings.json is no JSON: %s", error)
        return
    for name, value in values.items():
        os.environ.setdefault(name, str(value))


def load(folder: Path, prefix: str) -> list[Function]:
    """Imports the app and indexes its functions, in the order in which routes are tried.

    Raises:
        Unusable: an import fails, or one signature is wrong; then no function is served at all.
    """
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        module = importlib.import_module("function_app")
        apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
        if len({id(app) for app in apps}) != 1:
            raise Unusable("function_app.py has to define one FunctionApp")
        registered = apps[0].get_functions()
    except Unusable:
        raise
    except BaseException as error:
        raise Unusable(traceback.format_exc()) from error
    functions: list[Function] = []
    for one in sorted(
        registered, key=lambda one: str(one.get_function_name()).upper()
    ):  # "_" after letters, as .NET ignores case
        try:
            functions.append(_without_conflict(_indexed(one, prefix), functions))
        except ValueError as error:
            log.error("%s is not served: %s", one.get_function_name(), error)
    return functions


def _indexed(registered: Any, prefix: str) -> Function:
    """The function as the host serves it.

    Raises:
        ValueError: the host does not serve it, but the others.
        Unusable: its signature is wrong.
    """
    name = registered.get_function_name()
    call = registered.get_user_function()
    trigger = registered.get_trigger()
    inputs = {binding.name for binding in registered.get_bindings() if binding.name != "$return"}
    wants_context = _check_signature(name, call, inputs, trigger)
    common: dict[str, Any] = {"name": name, "call": call, "argument": trigger.name, "wants_context": wants_context}
    if trigger.type == "timerTrigger":
        schedule = Schedule(os.path.expandvars(_setting(trigger.schedule)))
        return Function(
            **common, kind="timerTrigger", schedule=schedule, run_on_startup=bool(getattr(trigger, "run_on_startup", False))
        )
    if trigger.type != "httpTrigger":
        raise ValueError(f"this host has no {trigger.type}")
    route = str(trigger.route or "").strip() or name
    if route.strip("/").lower().startswith(("admin", "runtime")):  # so does "administrators", whatever the prefix
        raise ValueError(f"the host keeps routes that begin with admin or runtime for itself: {route}")
    return Function(
        **common,
        kind="httpTrigger",
        template=Template("/".join(part for part in (prefix, route.strip("/")) if part)),
        methods=frozenset(str(getattr(method, "value", method)).upper() for method in trigger.methods or ()),
        auth_level=str(getattr(trigger.auth_level, "value", trigger.auth_level) or "FUNCTION").upper(),
    )


def _without_conflict(function: Function, others: Sequence[Function]) -> Function:
    """The function itself.

    Raises:
        ValueError: another has its route and one of its methods, or its name.
    """
    for other in others:
        if other.name.lower() == function.name.lower():
            raise ValueError("its name is taken")
        same = other.template and function.template and other.template.text.lower() == function.template.text.lower()
        if same and (not other.methods or not function.methods or other.methods & function.methods):
            raise ValueError(f"its route is {other.name}'s: {other.template and other.template.text}")
    return function


def _setting(text: str) -> str:
    """``%NAME%`` stands for a setting."""
    return os.environ.get(text[1:-1], text) if text.startswith("%") and text.endswith("%") and len(text) > 2 else text


def _check_signature(name: str, call: Callable[..., Any], bound: set[str], trigger: Any) -> bool:
    """Whether the function wants its context.

    Raises:
        Unusable: its parameters are not the bindings'.
    """
    parameters = dict(inspect.signature(call).parameters)
    context = parameters.pop("context", None)
    if context is not None and context.annotation not in (inspect.Parameter.empty, func.Context, "func.Context", "Context"):
        raise Unusable(f"{name}: the context parameter is expected to be of type azure.functions.Context")
    if missing := bound - parameters.keys():
        raise Unusable(f"{name}: bound, but no parameter: {', '.join(sorted(missing))}")
    if extra := parameters.keys() - bound:
        raise Unusable(f"{name}: a parameter, but not bound: {', '.join(sorted(extra))}")
    wanted = {"httpTrigger": func.HttpRequest, "timerTrigger": func.TimerRequest}.get(trigger.type)
    annotation = parameters[trigger.name].annotation
    annotated = isinstance(annotation, type) and annotation is not inspect.Parameter.empty
    if wanted is not None and annotated and not issubclass(annotation, wanted):
        raise Unusable(f"{name}: {trigger.name} is expected to be of type {wanted.__name__}")
    return context is not None
