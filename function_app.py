"""The route table: every function of the app, and nothing else.  What a route does is ``shared/routes.py``."""

import os

import azure.functions as func

from shared import routes
from shared.flows.access import Session
from shared.front import Front

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
auth = Front(os.environ)


@app.route("/", methods=["GET"])
def home(req: func.HttpRequest) -> func.HttpResponse:
    """Who is signed in, and their devices."""
    return auth.serve(req, routes.home)


@app.route("auth/login", methods=["GET"])
def auth_login(req: func.HttpRequest) -> func.HttpResponse:
    """To the provider."""
    return auth.serve(req, routes.login)


@app.route("auth/callback", methods=["GET", "POST"])
def auth_callback(req: func.HttpRequest) -> func.HttpResponse:
    """Back from the provider."""
    return auth.serve(req, routes.callback)


@app.route("auth/logout", methods=["GET"])
def auth_logout_page(req: func.HttpRequest) -> func.HttpResponse:
    """Signs out on a navigation of this origin, asks otherwise."""
    return auth.serve(req, routes.logout_page)


@app.route("auth/logout", methods=["POST"])
def auth_logout(req: func.HttpRequest) -> func.HttpResponse:
    """Signs out."""
    return auth.serve(req, routes.logout)


@app.route("auth/logged-out", methods=["GET"])
def auth_logged_out(req: func.HttpRequest) -> func.HttpResponse:
    """Where the provider returns to after its own sign-out."""
    return auth.serve(req, routes.logged_out)


@app.route("auth/frontchannel-logout", methods=["GET"])
def auth_frontchannel_logout(req: func.HttpRequest) -> func.HttpResponse:
    """The provider's iframe: ``sid`` has signed out elsewhere."""
    return auth.serve(req, routes.frontchannel_logout)


@app.route("auth/backchannel-logout", methods=["POST"])
def auth_backchannel_logout(req: func.HttpRequest) -> func.HttpResponse:
    """The provider's server: a ``logout_token``."""
    return auth.serve(req, routes.backchannel_logout)


@app.route("auth/me", methods=["GET"])
def auth_me(req: func.HttpRequest) -> func.HttpResponse:
    """The user and the session, as JSON."""
    return auth.serve(req, routes.me)


@app.route("auth/sessions", methods=["GET"])
def auth_sessions(req: func.HttpRequest) -> func.HttpResponse:
    """The user's own devices."""
    return auth.serve(req, routes.sessions)


@app.route("auth/sessions", methods=["DELETE"])
def auth_sessions_end_all(req: func.HttpRequest) -> func.HttpResponse:
    """Signs out everywhere."""
    return auth.serve(req, routes.end_sessions)


@app.route("auth/sessions/{id}", methods=["DELETE"])
def auth_sessions_end_one(req: func.HttpRequest) -> func.HttpResponse:
    """Signs one device out."""
    return auth.serve(req, routes.end_session)


@app.route("auth/sessions/end", methods=["POST"])
def auth_sessions_end_form(req: func.HttpRequest) -> func.HttpResponse:
    """The same for a page's form."""
    return auth.serve(req, routes.end_sessions_form)


@app.route("auth/admin/sign-out", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def auth_admin_sign_out(req: func.HttpRequest) -> func.HttpResponse:
    """An administrator signs accounts out; the host checks the function key."""
    return auth.serve(req, routes.admin_sign_out)


@app.route("api/profile", methods=["GET"])
@auth.login_required(scopes=["User.Read"])
def api_profile(req: func.HttpRequest, session: Session) -> func.HttpResponse:
    """The example of a protected API: calls Graph with the user's token."""
    return auth.reply(req, routes.profile(auth.app(), session))


@app.route("health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    """Whether storage and provider can be reached."""
    return auth.health(req)


@app.timer_trigger(schedule="0 */15 * * * *", arg_name="timer", run_on_startup=False)
def sweep(timer: func.TimerRequest) -> None:  # noqa: ARG001 - the host binds it by name
    """Every 15 minutes: what expired goes from storage."""
    auth.sweep()
