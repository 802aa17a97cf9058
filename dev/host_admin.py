"""The host's own routes under ``/admin`` and ``/runtime``: which there are, and who may call them.

What the few that a developer needs do is ``host.py``.
"""

import re

_NAME = "[^/]+"
_ROUTES = [
    (methods, re.compile(pattern))
    for methods, pattern in (
        ("GET", "admin/functions"),
        ("GET PUT POST DELETE", f"admin/functions/{_NAME}"),
        ("GET", f"admin/functions/{_NAME}/(status|keys)"),
        ("GET POST PUT DELETE", f"admin/functions/{_NAME}/keys/{_NAME}"),
        ("GET", "admin/host/(status|processes|config|drain/status|keys|functionkeys|systemkeys|extensions|extensions/jobs)"),
        ("GET", f"admin/host/extensions/jobs/{_NAME}"),
        ("GET", r"admin/host/extensionbundle/v1/(templates|bindings|resources(\.[^/]+)?)"),
        ("POST", "admin/host/(drain|resume|scale/status|log|debug|synctriggers|restart|extensions)"),
        ("PUT", "admin/host/(state|extensions)"),
        ("DELETE", f"admin/host/extensions/{_NAME}"),
        ("GET POST PUT DELETE", f"admin/host/(keys|functionkeys|systemkeys)/{_NAME}"),
        ("GET", "admin/instance/info"),
        ("POST", "admin/instance/assign"),
        ("GET PUT POST DELETE OPTIONS", f"runtime/webhooks/{_NAME}(/.*)?"),
    )
]
"""The routes that need the master key, with their methods; this host does what little of them a developer needs."""


_OPEN = [
    (methods, re.compile(pattern))
    for methods, pattern in (("GET POST", "admin/host/ping"), ("GET", "admin/instance/http-health"), ("", "admin/warmup"))
]
"""The routes that answer everybody; where no method stands, all."""


def is_open(method: str, route: str) -> bool:
    """Whether the host answers this route, written as for ``known``, without a key."""
    return any((not methods or method in methods.split()) and pattern.fullmatch(route) for methods, pattern in _OPEN)


def is_files(route: str) -> bool:
    """Whether it is below the app's files: all methods, and no challenge in the refusal."""
    return route == "admin/vfs" or route.startswith("admin/vfs/")


def known(method: str, route: str) -> bool:
    """Whether the host has this route, in lower case and without slashes around it, for this method."""
    return any(method in methods.split() and pattern.fullmatch(route) for methods, pattern in _ROUTES)
