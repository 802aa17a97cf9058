"""What every flow knows of this app, from the settings: nothing here depends on a request's ``Host`` header."""

from dataclasses import dataclass
from typing import Literal

from shared.store.rows import Claim, secret_hash
from shared.web.cookies import CookieNames, SessionCookie, read
from shared.web.messages import Request

COOKIES_AT_MOST = 32
"""Session cookies of one request that are looked at; nobody has so many, but for those that a neighbour plants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The app as its users see it.  ``origin`` has no trailing slash."""

    origin: str
    https: bool
    cookies: CookieNames
    sign_out_scope: Literal["account", "session"]
    response_mode: Literal["form_post", "query"]
    scopes: tuple[str, ...]

    @property
    def logged_out_url(self) -> str:
        """Where the provider returns to after its own sign-out; registered there as a redirect URI."""
        return f"{self.origin}/auth/logged-out"

    def claims(self, request: Request) -> tuple[Claim, ...]:
        """The different sessions that the request's cookies claim, in the browser's order.

        More than one means that somebody (a neighbouring subdomain, say) planted a cookie of the same name: none of them
        signs anybody in, while a sign-out ends every one that is proven.
        """
        values = dict.fromkeys(read(request.headers.get("cookie"), self.cookies.session))
        decoded = [cookie for value in values if (cookie := SessionCookie.decode(value)) is not None]
        return tuple(map(claim_of, decoded[: COOKIES_AT_MOST + 1]))  # what is no cookie of ours hides none that is

    def claim(self, request: Request) -> Claim | None:
        """The one session that the request's cookies claim; None where there is none or no single one."""
        claims = self.claims(request)
        return claims[0] if len(claims) == 1 else None


def claim_of(cookie: SessionCookie) -> Claim:
    """What a session cookie claims."""
    return Claim(account=cookie.account, session_id=cookie.session_id, secret_hash=secret_hash(cookie.secret))
