"""The routes: what a request means, which flow it starts, and which page or JSON answers.

One function a route, named as in ``function_app.py``.  Each takes the built app, the request and the time.  Errors are raised;
``front.py`` turns them into answers.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from shared import limits
from shared.app import App
from shared.errors import (
    AppError,
    BadRequest,
    BodyTooLarge,
    Busy,
    MethodNotAllowed,
    NotFound,
    NotSignedIn,
    ProviderFailed,
    ProviderUnavailable,
    StorageUnavailable,
    TokenInvalid,
)
from shared.flows.access import Session
from shared.flows.sign_out import Device
from shared.web import pages
from shared.web.devices import describe_user_agent
from shared.web.messages import Request, Response

log = logging.getLogger(__name__)

Route = Callable[[App, Request, datetime], Response]


# -- pages


def home(app: App, request: Request, now: datetime) -> Response:
    """``GET /``: who is signed in, and their devices."""
    session = app.access.session(request, now)
    if session is None:
        return Response.html(200, pages.home(name=None, username=None, devices=[]))
    try:
        devices = app.sign_out.devices(request, now)
    except NotSignedIn:
        return Response.html(200, pages.home(name=None, username=None, devices=[]))
    views = [_view(device) for device in devices]
    return Response.html(200, pages.home(name=session.user.name, username=session.user.username, devices=views))


def _view(device: Device) -> pages.DeviceView:
    return pages.DeviceView(
        id=device.id,
        this=device.this,
        signed_in_at=device.signed_in_at,
        last_used_at=device.last_used_at,
        expires_at=device.expires_at,
        device=describe_user_agent(device.user_agent),
    )


def profile(app: App, session: Session) -> Callable[[Request], Response]:
    """``GET /api/profile``: what Graph says of the user, as a page for people and as JSON for everybody else."""
    found = app.graph.me(session.token())
    return lambda request: Response.html(200, pages.profile(found)) if request.wants_html else Response.json(200, found)


# -- sign-in


def login(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/login``."""
    return app.sign_in.login(request, now)


def callback(app: App, request: Request, now: datetime) -> Response:
    """``POST /auth/callback``, ``GET`` where ``RESPONSE_MODE=query``.

    A sign-in that failed for good takes its cookie along; one that failed for now can be answered again.
    """
    try:
        return app.sign_in.callback(request, now)
    except AppError as error:
        state = app.sign_in.state_of(request)
        response = failure(error, request)
        if state is None or error.status >= 500 or error.status == 405:  # noqa: PLR2004
            raise
        log.info("sign-in refused: %s: %s", error.code, error)
        return response.with_cookie(app.site.cookies.clear_flow(state))


# -- sign-out


def logout(app: App, request: Request, now: datetime) -> Response:
    """``POST /auth/logout``."""
    request.require_body()
    request.require_same_origin(app.site.origin)
    return _logout(app, request, now)


def logout_page(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/logout``: signs out on a navigation of this origin, asks otherwise."""
    if request.is_same_origin_navigation:
        return _logout(app, request, now)
    return Response.html(200, pages.sign_out_question())


def _logout(app: App, request: Request, now: datetime) -> Response:
    try:
        return app.sign_out.logout(request, now)
    except StorageUnavailable as error:
        if not request.wants_html:
            raise
        log.error("a sign-out could not be done: %s", error)  # noqa: TRY400 - the error's text is the whole story
        response = Response.html(error.status, pages.sign_out_failed())
        return response.with_header("Retry-After", str(error.retry_after))


def logged_out(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/logged-out``: a harmless page that claims nothing that did not happen."""
    return Response.html(200, pages.signed_out(still_signed_in=app.sign_out.is_signed_in(request, now)))


def frontchannel_logout(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/frontchannel-logout``: always the same answer, framable by the provider."""
    own = app.channels.front_channel(request, now)
    response = Response.html(200, pages.front_channel())
    return response.with_cookie(app.site.cookies.clear_session()) if own else response


def backchannel_logout(app: App, request: Request, now: datetime) -> Response:
    """``POST /auth/backchannel-logout`` (OpenID Connect Back-Channel Logout 1.0, section 2.8)."""
    try:
        request.require_body()
        app.channels.back_channel(request, now)
    except (BadRequest, TokenInvalid, BodyTooLarge) as error:
        log.warning("back-channel logout refused: %s: %s", error.code, error)
        return Response.json(400, {"error": "invalid_request", "error_description": "The logout token was refused."})
    except (StorageUnavailable, ProviderUnavailable, ProviderFailed, Busy) as error:
        # Keys that are none say nothing about the token, however they fail: it has not been refused.
        log.error("back-channel logout failed: %s: %s", error.code, error)  # noqa: TRY400
        response = Response.json(503, {"error": "temporarily_unavailable"})
        return response.with_header("Retry-After", str(error.retry_after or ProviderUnavailable.retry_after))
    return Response.json(200, {})


# -- who is signed in, and where


def me(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/me``."""
    session = app.access.session(request, now)
    if session is None:
        raise NotSignedIn("no live session for this cookie")
    user, row = session.user, session.row
    return Response.json(
        200,
        {
            "name": user.name,
            "username": user.username,
            "account": user.account,
            "sub": user.sub,
            "oid": user.oid,
            "tid": user.tid,
            "session": {
                "id": row.id,
                "signed_in_at": _text(row.created_at),
                "auth_time": _text(row.auth_time),
                "expires_at": _text(row.expires_at),
                "idle_expires_at": _text(row.idle_expires_at),
            },
        },
    )


def sessions(app: App, request: Request, now: datetime) -> Response:
    """``GET /auth/sessions``."""
    devices = [
        {
            "id": device.id,
            "this": device.this,
            "signed_in_at": _text(device.signed_in_at),
            "last_used_at": _text(device.last_used_at),
            "expires_at": _text(device.expires_at),
            "device": describe_user_agent(device.user_agent),
        }
        for device in app.sign_out.devices(request, now)
    ]
    return Response.json(200, {"sessions": devices})


def end_session(app: App, request: Request, now: datetime) -> Response:
    """``DELETE /auth/sessions/{id}``."""
    request.require_same_origin(app.site.origin)
    session_id = request.path.rstrip("/").rpartition("/")[2]
    own = app.sign_out.end_device(request, session_id, now)
    return _ended(app, 1, own=own)


def end_sessions(app: App, request: Request, now: datetime) -> Response:
    """``DELETE /auth/sessions``."""
    request.require_same_origin(app.site.origin)
    return _ended(app, app.sign_out.end_everywhere(request, now), own=True)


def _ended(app: App, ended: int, *, own: bool) -> Response:
    response = Response.json(200, {"ended": ended})
    return response.with_cookie(app.site.cookies.clear_session()) if own else response


def end_sessions_form(app: App, request: Request, now: datetime) -> Response:
    """``POST /auth/sessions/end``: the same for a page's form, ``id`` or ``all``.  A device that is gone is a success."""
    request.require_body()
    request.require_same_origin(app.site.origin)
    form = request.form()
    session_id, everything = form.one("id"), form.one("all")
    if (session_id is None) is (everything is None):
        raise BadRequest("id or all, one of them")
    if session_id is not None:
        try:
            own = app.sign_out.end_device(request, session_id, now)
        except NotFound:
            own = False
        if not own:
            return Response.redirect(303, app.site.origin + "/")
    if everything is not None:
        app.sign_out.end_everywhere(request, now)
    return Response.redirect(303, app.site.logged_out_url).with_cookie(app.site.cookies.clear_session())


# -- administrators and operators


def admin_sign_out(app: App, request: Request, now: datetime) -> Response:
    """``POST /auth/admin/sign-out``; the host has checked the function key."""
    request.require_body()
    return Response.json(200, app.channels.administrator(request.json(), now))


def health(app: App, request: Request, now: datetime) -> Response:
    """``GET /health``: storage and provider reachable; no secrets."""
    del request, now
    state: dict[str, str] = {}
    checks: dict[str, Callable[[], None]] = {"storage": app.check_storage, "provider": app.provider.healthy}
    for name, check in checks.items():
        try:
            with limits.within(limits.STORAGE):
                check()
            state[name] = "ok"
        except AppError as error:
            log.error("health: %s: %s", error.code, error)  # noqa: TRY400
            state[name] = error.code
    healthy = set(state.values()) == {"ok"}
    return Response.json(200 if healthy else 503, {"status": "ok" if healthy else "unavailable", **state})


# -- errors


JSON: frozenset[Route] = frozenset({me, sessions, end_session, end_sessions, backchannel_logout, admin_sign_out})
"""Routes for programs: their errors are JSON, too, whatever ``Accept`` says."""


def failure(error: AppError, request: Request, *, json: bool = False) -> Response:
    """An error as a page for people and as ``application/problem+json`` for everybody else."""
    as_page = request.wants_html and not json
    response = Response.html(error.status, pages.error(error)) if as_page else Response.problem(error)
    if isinstance(error, MethodNotAllowed):
        response = response.with_header("Allow", error.allowed)
    return response.with_header("Retry-After", str(error.retry_after)) if error.retry_after is not None else response


def settings_fault(faults: tuple[str, ...]) -> Response:
    """``GET /health`` of an app that is not configured: the faults by name."""
    return Response.json(503, {"status": "settings_invalid", "faults": list(faults)})


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
