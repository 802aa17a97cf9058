"""The pages: plain HTML that reads well without style sheets or script.  Every value is escaped by Jinja2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from shared.errors import AppError

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A row of the list of devices; ``device`` is in words."""

    id: str
    this: bool
    signed_in_at: datetime
    last_used_at: datetime
    expires_at: datetime
    device: str


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - 77 ms, when the first page is shown

    environment = Environment(
        loader=PackageLoader("shared.web", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # the templates came with the deployment: no look at the files for each page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"utc": _utc, "words": _words}
    return environment


def _utc(value: datetime, form: str) -> str:
    return value.astimezone(UTC).strftime(form)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _page(template: str, /, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def home(*, name: str | None, username: str | None, devices: Sequence[DeviceView]) -> str:
    """Who is signed in and where; a link to sign in for everybody else."""
    return _page("home.html", name=name, username=username, devices=devices)


def profile(found: Mapping[str, Any]) -> str:
    """What Graph says of the user."""
    shown = {key: value for key, value in found.items() if value not in (None, "", []) and not key.startswith("@")}
    return _page("profile.html", profile=shown)


def signed_out(*, still_signed_in: bool) -> str:
    """Where the provider returns to: says what is true of this browser now."""
    return _page("signed_out.html", still_signed_in=still_signed_in)


def sign_out_question() -> str:
    """One button, for a sign-out that somebody else's page may have asked for."""
    return _page("sign_out_question.html")


def sign_out_failed() -> str:
    """Says that the sign-out is not done."""
    return _page("sign_out_failed.html")


def error(error: AppError) -> str:
    """What went wrong, in public words, and what to do."""
    return _page("error.html", error=error)


def front_channel() -> str:
    """The answer in the provider's iframe: always the same bytes."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Signed out</title></head><body></body></html>\n'
    )
