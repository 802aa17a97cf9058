"""The front door: every request comes in here and every answer leaves here.

Owns what is the same for all routes: the time limit, the audit's measurements, errors into answers, security headers, and
``login_required`` for those who write functions.  What a route does is ``routes.py``.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from shared import limits, routes
from shared.app import App, build, now
from shared.errors import AppError, InteractionRequired, NotSignedIn, RefreshTokenDead, SettingsInvalid
from shared.flows.access import Session
from shared.flows.audit import measured
from shared.routes import Route
from shared.settings import load
from shared.web.functions import HttpFunction, HttpRequest, HttpResponse, add_headers, http_response, request_of, shown_as
from shared.web.headers import secured
from shared.web.messages import Request, Response
from shared.web.urls import safe_return_to

log = logging.getLogger(__name__)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ALSO_THEIRS = (
    "cache-control",
    "referrer-policy",
    "x-content-type-options",
    "x-frame-options",
    "strict-transport-security",
)
"""Our headers that go on the answers of protected functions too; what their pages may load is theirs to say."""


class Front:
    """The front door of one app.

    ``environ`` is read when it is built, without any I/O: faults in the settings are logged in one record and answered on
    every route, and the app starts all the same.
    """

    def __init__(self, environ: Mapping[str, str], *, builder: Callable[..., App] = build) -> None:
        self._builder = builder
        self._app: App | None = None
        self._lock = threading.Lock()
        self._faults: tuple[str, ...] = ()
        self._settings = None
        try:
            self._settings = load(environ)
        except SettingsInvalid as error:
            self._faults = error.faults
            log.error("the settings have faults, no route but /health will answer: %s", error)  # noqa: TRY400
        if environ.get("WEBSITE_AUTH_ENABLED", "").lower() == "true":
            log.warning("Easy Auth is switched on as well: it signs users in beside this app and owns /.auth/*")

    # -- routes

    def serve(self, req: HttpRequest, route: Route) -> HttpResponse:
        """Answers one request by one route."""
        request = request_of(req)
        with limits.within(limits.REQUEST):
            answer = self._answer(route.__name__, request, lambda app: route(app, request, now()), json=route in routes.JSON)
            return http_response(self._secured(answer, route))

    def health(self, req: HttpRequest) -> HttpResponse:
        """``GET /health``: also where the settings have faults."""
        if self._faults:
            return http_response(self._secured(routes.settings_fault(self._faults), routes.health))
        return self.serve(req, routes.health)

    def sweep(self) -> None:
        """The timer: what expired goes."""
        if self._faults:
            return
        with measured():
            self.app().sweep.run(now())

    def app(self) -> App:
        """The app, built when it is first needed.

        Raises:
            SettingsInvalid: the settings have faults.
        """
        if self._settings is None:
            raise SettingsInvalid(self._faults)
        if self._app is None:
            with self._lock:
                if self._app is None:
                    self._app = self._builder(self._settings)
        return self._app

    def reply(self, req: HttpRequest, answer: Callable[[Request], Response]) -> HttpResponse:
        """A protected function's answer with all of our headers, for a page of ours."""
        with limits.within(limits.REQUEST):
            return http_response(self._secured(answer(request_of(req)), None))

    # -- for those who write functions

    def login_required(self, scopes: Sequence[str] = ()) -> Callable[[Callable[..., Any]], HttpFunction]:
        """Lets only signed-in users reach a function, and hands it their ``Session`` as ``session``.

        A browser's navigation without a session goes to sign in and comes back; an API call gets 401.  A change (anything but
        GET, HEAD, OPTIONS) has to come from this origin.  What the provider or the API wants to see the user for
        (consent, MFA, a claims challenge) becomes a new sign-in likewise.  The function, plain or ``async``, returns an
        ``HttpResponse``; our headers go on it where it does not set them itself.

        Args:
            scopes: what ``session.token()`` asks for; default: the settings' ``SCOPES``.
        """
        wanted = tuple(scopes)

        def decorate(function: Callable[..., Any]) -> HttpFunction:
            def protected(req: HttpRequest) -> HttpResponse:
                request = request_of(req)
                found: list[HttpResponse] = []

                def call(session: Session) -> None:
                    answer = function(req, session)
                    if inspect.iscoroutine(answer):
                        answer = asyncio.run(answer)
                    if not isinstance(answer, HttpResponse):  # here, where it becomes our 500: the worker's has no headers
                        raise TypeError(f"a protected function has to return an HttpResponse, not {type(answer).__name__}")
                    found.append(answer)

                with limits.within(limits.REQUEST):
                    answer = self._answer(function.__name__, request, lambda app: self._enter(app, request, wanted, call))
                    response = self._secured(answer, None)
                return add_headers(found[0], response, _ALSO_THEIRS) if found else http_response(response)

            return shown_as(function, protected)  # type: ignore[no-any-return]

        return decorate

    def _enter(self, app: App, request: Request, scopes: tuple[str, ...], function: Callable[[Session], None]) -> Response:
        session: Session | None = None
        try:
            if request.method not in _SAFE:
                request.require_same_origin(app.site.origin)
            session = app.access.session(request, now(), scopes)
            if session is None:
                return self._sign_in_again(app, request, NotSignedIn("no live session for this cookie"), scopes=scopes)
            function(session)
            return Response.json(200, {})  # the function's own answer goes out in its place
        except (NotSignedIn, RefreshTokenDead) as error:
            return self._sign_in_again(app, request, error, scopes=scopes)
        except InteractionRequired as error:
            hint = session.row.identity.username if session is not None else None
            return self._sign_in_again(
                app, request, error, scopes=(*scopes, *error.scopes), claims=error.claims, login_hint=hint or None
            )

    def _sign_in_again(self, app: App, request: Request, error: AppError, **wish: Any) -> Response:
        """Sends a browser's navigation to sign in and back; raises the error for everybody else."""
        if not (request.method == "GET" and request.is_top_level_navigation and request.wants_html):
            raise error
        return_to = safe_return_to(request.path + (f"?{request.query}" if request.query else ""))
        return app.sign_in.begin(request, now(), return_to=return_to, **wish)

    # -- what is the same for all

    def _answer(self, name: str, request: Request, work: Callable[[App], Response], *, json: bool = False) -> Response:
        """Does the work and turns errors into answers, for a route of ``json`` into JSON whatever the client takes.

        The log has the route's name: a path may hold an id, a query more.
        """
        try:
            with limits.within(limits.REQUEST), measured():
                return work(self.app())
        except AppError as error:
            level = logging.INFO if error.status < 500 else logging.ERROR  # noqa: PLR2004
            log.log(level, "%s answered %d %s: %s", name, error.status, error.code, error)
            return routes.failure(error, request, json=json)
        except Exception:
            log.exception("%s failed", name)
            return routes.failure(AppError(), request, json=json)

    def _secured(self, response: Response, route: Route | None) -> Response:
        settings = self._settings
        if settings is None:
            return secured(response, https=False, form_action=(), frame_ancestors=())
        framable = route is routes.frontchannel_logout
        # A cold instance asks the provider for a page that somebody may go on from, not for an iframe that nobody looks at.
        is_page = response.content_type.startswith("text/html")
        origins = self._provider_origins(ask=not framable) if is_page and self._app is not None else ()
        return secured(response, https=settings.https, form_action=origins, frame_ancestors=origins if framable else ())

    def _provider_origins(self, *, ask: bool) -> tuple[str, ...]:
        """Where our forms end up (a form's redirect counts for ``form-action``) and who may frame the front-channel answer.

        A cold instance may ask the provider, briefly; while it does not answer, the authority's own origin has to do.
        """
        provider = self.app().provider
        urls = [provider.configured_issuer()]
        metadata = provider.metadata_if_known()
        if metadata is None and ask:
            try:
                with limits.within(limits.REVOCATION):
                    metadata = provider.metadata()
            except AppError as error:
                log.info("the provider's addresses are not known yet: %s", error)
        if metadata is not None:
            urls += [metadata.authorization_endpoint, metadata.end_session_endpoint or ""]
        parts = [urlsplit(url) for url in urls if url]
        return tuple(dict.fromkeys(f"{part.scheme}://{part.netloc}" for part in parts if part.netloc))
