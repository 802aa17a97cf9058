"""Addresses: where a sign-in may return to.  Pure functions."""

import re
from urllib.parse import unquote

DEFAULT = "/"
LIMIT = 1024
"""Characters: what the sealed cookie has room for."""
_DECODINGS = 4
_PLAIN = re.compile(r"/[\x21-\x5b\x5d-\x7e]*")
_LOOPS = (
    "/auth/login",
    "/auth/logout",
    "/auth/callback",
    "/auth/frontchannel-logout",
    "/auth/backchannel-logout",
    "/auth/logged-out",
)


def safe_return_to(raw: str | None) -> str:
    """A path of this origin with its query and fragment, or "/" for anything that might lead elsewhere.

    Printable ASCII that begins with one slash and holds no backslash; browsers read backslashes as slashes and drop tabs and
    line ends (WHATWG URL), and what stands behind the resolved dots must not begin with two slashes either, however often
    it is percent-encoded.
    """
    if raw is None or len(raw) > LIMIT or not _PLAIN.fullmatch(raw):
        return DEFAULT
    path = re.split(r"[?#]", raw, maxsplit=1)[0]
    for _ in range(_DECODINGS):
        resolved = _resolved(path)
        if resolved is None or resolved.rstrip("/").lower() in _LOOPS:
            return DEFAULT
        decoded = unquote(path)
        if decoded == path:
            return raw
        path = decoded
    return DEFAULT


def _resolved(path: str) -> str | None:
    """The path without its dots; None where a browser might read another origin into it."""
    if "\\" in path or "//" in path or not path.isprintable():
        return None
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)
