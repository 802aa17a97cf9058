"""What must be in no log: everything secret that the tests' browsers and providers have seen, and a way to look for it.

Browsers (``user_agent.py``) and stacks (``stack.py``) hand in what they see; a stack looks through the logs of its hosts when it
stops, so that each journey shows that nothing was said.  The account is not among them: ``test_logs.py`` looks for that.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

_RUN = re.compile(r"[A-Za-z0-9_-]{16,}")
"""Cookies, tokens, codes and names of sessions are made of such; anything shorter is no secret, or could stand for others."""
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+")
_NAMES = frozenset(
    {"code", "state", "nonce", "session_state", "sid", "id_token_hint", "logout_token", "logout_hint", "login_hint"}
)
_seen: set[str] = set()


def saw(secrets: Iterable[str]) -> None:
    """Remembers the parts of secrets."""
    for secret in secrets:
        _seen.update(_RUN.findall(secret))


def saw_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Remembers those of a form's or an address's parameters that are secret."""
    saw(value for name, value in fields if name in _NAMES)


def saw_address(url: str) -> None:
    """Remembers the secret parameters of an address."""
    saw_fields(parse_qsl(urlsplit(url).query))


def leaks(log: str) -> list[str]:
    """The lines of a log that hold something secret."""
    return [line for line in log.splitlines() if _JWT.search(line) or not _seen.isdisjoint(_RUN.findall(line))]
