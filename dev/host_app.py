"""The app that is served: host.json, local.settings.json, and the functions of ``function_app.py`` in the host's order.

Which of them gets a path is ``host_routes.py``; calling them is ``host.py``.
"""

import importlib
import inspect
import json
import logging
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.functions as func

from dev.host_routes import Template
from dev.host_timer import Schedule, time_span

log = logging.getLogger("dev.host")

_TIMEOUT = timedelta(minutes=30)
"""Where host.json does not say; a consumption plan has 5 minutes."""
_NAME = re.compile(r"(?!host$)[a-z][a-z0-9_-]{0,127}", re.IGNORECASE)
_BINDING_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,127}|\$return")
_TYPES = {"httpTrigger": "azure.functions.HttpRequest", "timerTrigger": "azure.functions.TimerRequest"}
_BINDINGS = {*_TYPES, "http"}


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
    disabled: bool = False
    """By a setting: called by nobody but the holder of the master key."""
    plain: bool = False
    """Its parameter is a ``str`` or ``bytes``: the worker hands it the binding's data as they come."""


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
        try:
            timeout = time_span(text) if text != "-1" else None
        except ValueError as error:
            raise Unusable(f"host.json, functionTimeout: {error}") from error
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
        module = importlib.import_module(Path(os.environ.get("PYTHON_SCRIPT_FILE_NAME") or "function_app.py").stem)
        apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
        if len(apps) != 1:
            raise Unusable(f"function_app.py has to define one FunctionApp, under one name, at its top level: {len(apps)}")
        registered = apps[0].get_functions()
    except Unusable:
        raise
    except BaseException as error:
        raise Unusable(traceback.format_exc()) from error
    functions: list[Function] = []
    signatures = {one.get_function_name(): _checked_signature(one) for one in registered}  # one wrong, and none is served
    for one in sorted(registered, key=lambda one: str(one.get_function_name()).upper()):  # "_" after letters, as in .NET
        try:
            common = signatures[one.get_function_name()]
            functions.append(_without_conflict(_indexed(one, common, prefix), functions))
        except ValueError as error:
            log.error("%s is not served: %s", one.get_function_name(), error)
    return functions


def _indexed(registered: Any, common: dict[str, Any], prefix: str) -> Function:
    """The function as the host serves it; ``common`` is what its signature told.

    Raises:
        ValueError: the host does not serve it, but the others.
    """
    name = common["name"]
    trigger = registered.get_trigger()
    if not _NAME.fullmatch(name):
        raise ValueError("a function's name is letters, digits, _ and -, and begins with a letter")
    for binding in registered.get_bindings():
        if not _BINDING_NAME.fullmatch(binding.name):
            raise ValueError(f"a binding's name is letters and digits: {binding.name}")
        if binding.type not in _BINDINGS:
            raise ValueError(f"this host has no {binding.type}")
    disabled = any(
        os.environ.get(f"AzureWebJobs{mark}{name}{mark}Disabled", "").lower() in {"true", "1"} for mark in (".", "_", "__")
    )
    common = {**common, "disabled": disabled}
    if trigger.type == "timerTrigger":
        schedule = Schedule(_resolved(trigger.schedule))
        return Function(
            **common, kind="timerTrigger", schedule=schedule, run_on_startup=bool(getattr(trigger, "run_on_startup", False))
        )
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


def _resolved(text: str) -> str:
    """The text with settings in the place of their ``%NAME%``.

    Raises:
        ValueError: there is no such setting.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ValueError(f"there is no setting {found[1]}")
        return os.environ[found[1]]

    return re.sub("%([^%]+)%", value, text)


def _checked_signature(registered: Any) -> dict[str, Any]:
    """What the worker takes from a function's signature, as it checks it.

    Raises:
        Unusable: parameters or annotations are not the bindings'.
    """
    name, call, trigger = registered.get_function_name(), registered.get_user_function(), registered.get_trigger()
    bindings = {binding.name: binding for binding in registered.get_bindings()}
    returned = bindings.pop("$return", None)
    parameters = dict(inspect.signature(call).parameters)
    try:
        annotations = typing.get_type_hints(call)
    except Exception as error:
        raise Unusable(f"{name}: an annotation that names nothing: {error}") from error
    wants_context = "context" in parameters and "context" not in bindings
    if wants_context:
        del parameters["context"]
        given = annotations.get("context", func.Context)
        if not isinstance(given, type) or given.__name__ != "Context":
            raise Unusable(f"{name}: the context parameter is expected to be of type azure.functions.Context")
    if missing := bindings.keys() - parameters.keys():
        raise Unusable(f"{name}: bound, but no parameter: {', '.join(sorted(missing))}")
    if extra := parameters.keys() - bindings.keys():
        raise Unusable(f"{name}: a parameter, but not bound: {', '.join(sorted(extra))}")
    given = annotations.get(trigger.name)
    plain = given in (str, bytes)
    converters = typing.cast("Any", func).get_binding_registry()
    converter = converters.get(trigger.type)
    if given is not None and not plain and converter is not None:
        if not isinstance(given, type):
            raise Unusable(f"{name}: the annotation of {trigger.name} is no type: {given!r}")
        if not converter.check_input_type_annotation(given):
            wanted = _TYPES.get(trigger.type, trigger.type)
            raise Unusable(f"{name}: {trigger.name} is expected to be of type {wanted}, not {given.__name__}")
    if returned is not None and "return" in annotations:
        given = annotations["return"]
        if not isinstance(given, type):
            raise Unusable(f"{name}: the annotation of what it returns is no type: {given!r}")
        if not converters.get(returned.type).check_output_type_annotation(given):
            raise Unusable(f"{name}: it is expected to return azure.functions.HttpResponse or str, not {given.__name__}")
    return {"name": name, "call": call, "argument": trigger.name, "wants_context": wants_context, "plain": plain}
