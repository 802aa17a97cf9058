"""The one error tree: every error knows the status to answer, a stable code and the text the public may read.

What happened in detail is the exception's message: it goes to the log and never to the public, and it holds no token,
cookie or secret.  How an error becomes a page or ``application/problem+json`` is ``web/pages`` and ``web/messages``.
"""

from typing import ClassVar


class AppError(Exception):
    """The root.  ``detail`` (the message) is for the log; ``public`` is for the page."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    public: ClassVar[str] = "Something went wrong on our side. Please try again in a moment."
    retry_after: ClassVar[int | None] = None
    """Seconds for ``Retry-After``, where trying again later makes sense."""


# -- the request cannot be served as it was sent


class BadRequest(AppError):
    """The request is malformed."""

    status = 400
    code = "invalid_request"
    public = "The request is not valid. Nothing was changed."


class SignInStateInvalid(BadRequest):
    """The callback belongs to no sign-in that this browser started, or to one that is over."""

    code = "sign_in_state_invalid"
    public = "This sign-in was not started in this browser, or it took too long. Please sign in again."


class SignInRefused(BadRequest):
    """The provider answered the authorization request with an error (RFC 6749, 4.1.2.1)."""

    code = "sign_in_refused"
    public = "The sign-in was cancelled or refused by the identity provider. Please try again."


class CodeRefused(BadRequest):
    """The token endpoint refused the authorization code (RFC 6749, 5.2)."""

    code = "code_refused"
    public = "The identity provider did not accept this sign-in. Please sign in again."


class TokenInvalid(BadRequest):
    """An ID token or logout token failed a check; the message names claim and reason, never the token."""

    code = "token_invalid"
    public = "The identity provider's answer could not be verified. Please sign in again."


class NotSignedIn(AppError):
    """No session: no cookie, a cookie that proves nothing, or a session that has ended."""

    status = 401
    code = "not_signed_in"
    public = "You are not signed in."


class CrossSite(AppError):
    """A change was asked for by another origin, or by one that does not say which it is."""

    status = 403
    code = "cross_site_request"
    public = "This request did not come from this site. Nothing was changed."


class NotFound(AppError):
    """There is no such thing, or it is somebody else's."""

    status = 404
    code = "not_found"
    public = "There is nothing here."


class MethodNotAllowed(AppError):
    """The route exists; this method is not the configured one, which is ``allowed``."""

    status = 405
    code = "method_not_allowed"
    public = "This address does not accept that method."

    def __init__(self, detail: str, *, allowed: str) -> None:
        super().__init__(detail)
        self.allowed = allowed


class SignedOutMeanwhile(AppError):
    """A sign-out came while this sign-in was under way, and the sign-out wins."""

    status = 409
    code = "signed_out_meanwhile"
    public = "You were signed out meanwhile. Please sign in again."


class LengthRequired(AppError):
    """The body was sent chunked and reached us empty: the Functions host drops it."""

    status = 411
    code = "length_required"
    public = "The request's body did not arrive: please send it with a Content-Length."


class BodyTooLarge(AppError):
    """The body is over the limit for a form."""

    status = 413
    code = "body_too_large"
    public = "The request is too large. Nothing was changed."


# -- we, or those we need, cannot serve it now


class InteractionRequired(AppError):
    """The provider wants to see the user (consent, MFA, claims challenge); the session stays.

    ``claims`` is the challenge to repeat in the authorization request, ``scopes`` those that were wanted.
    """

    status = 401
    code = "interaction_required"
    public = "Please sign in again to go on."

    def __init__(self, detail: str = "", *, claims: str | None = None, scopes: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.claims = claims
        self.scopes = scopes


class RefreshTokenDead(AppError):
    """The provider refused the refresh token for good (``invalid_grant``): the session has to end."""

    status = 401
    code = "session_ended"
    public = "Your session has ended. Please sign in again."


class ProviderFailed(AppError):
    """The provider answered with something that is not an answer (HTML, 500, no ID token)."""

    status = 502
    code = "provider_failed"
    public = "The identity provider did not answer properly. Please try again in a moment."


class ProviderUnavailable(AppError):
    """The provider did not answer in time, or not at all."""

    status = 503
    code = "provider_unavailable"
    public = "The identity provider does not answer. Please try again in a moment."
    retry_after = 5


class StorageUnavailable(AppError):
    """Storage did not answer in time, or refused: nobody is signed in or out by guess."""

    status = 503
    code = "storage_unavailable"
    public = "This could not be done right now. Please try again in a moment."
    retry_after = 5


class Busy(AppError):
    """Too many requests wait for the provider already; the rest of the threads are for sign-outs."""

    status = 503
    code = "busy"
    public = "Too many requests are waiting. Please try again in a moment."
    retry_after = 1


class SettingsInvalid(AppError):
    """The settings have faults; ``faults`` names each, never with a secret's value."""

    status = 503
    code = "settings_invalid"
    public = "This app is not configured yet. Its operator finds the reason at /health and in the log."
    retry_after = 60

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
