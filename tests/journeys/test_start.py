"""An app whose settings have faults starts, says what is wrong and does nothing half."""

import secrets

import pytest

from tests.support.stack import Stack
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack

ROUTES = [
    ("GET", "/"), ("GET", "/auth/login"), ("POST", "/auth/callback"), ("GET", "/auth/callback"), ("POST", "/auth/logout"), ("GET", "/auth/logout"), ("GET", "/auth/logged-out"),
    ("GET", "/auth/frontchannel-logout?sid=x"), ("POST", "/auth/backchannel-logout"), ("GET", "/auth/me"), ("GET", "/auth/sessions"), ("DELETE", "/auth/sessions"),
    ("DELETE", "/auth/sessions/x"), ("POST", "/auth/sessions/end"), ("POST", "/auth/admin/sign-out"), ("GET", "/api/profile"),
]  # fmt: skip


def test_every_route_answers_503_and_health_names_the_faults(stack: Stack) -> None:
    """One ERROR record with all names, no secret anywhere."""
    secret = f"secret-{secrets.token_hex(16)}"
    app = stack.start_app(
        {
            "CLIENT_ID": None,
            "SEALING_KEYS": f"k:{secret}",
            "REDIRECT_URI": "nonsense",
            "CLIENT_SECRET": secret,
            "SIGN_OUT_SCOPE": "all",
        },
        statuses=(503,),
    )
    page = UserAgent().fetch(f"{app.url}/health")
    assert page.status == 503
    faults = " ".join(page.json()["faults"])
    for name in ("CLIENT_ID", "SEALING_KEYS", "REDIRECT_URI", "SIGN_OUT_SCOPE"):
        assert name in faults
    for method, path in ROUTES:
        page = UserAgent().request(method, f"{app.url}{path}", form={} if method == "POST" else None)
        assert page.status == 503, (method, path, page.status)
        assert page.header("retry-after") == "60"
        assert page.header("cache-control") == "no-store"
        assert page.set_cookies == []
    logs = app.logs()
    assert logs.count("the settings have faults") == 1
    assert secret not in logs + faults


def test_the_security_headers_arrive(stack: Stack) -> None:
    """Through the host, on a page, on JSON and in the provider's frame; which answers have which is ``test_function_app.py``."""
    app = stack.start_app()
    for path in ("/", "/auth/me", "/auth/frontchannel-logout"):
        page = UserAgent().request("GET", f"{app.url}{path}", headers={"Accept": "text/html"})
        where = (path, page.status)
        assert page.header("cache-control") == "no-store", where
        assert page.header("x-content-type-options") == "nosniff", where
        assert page.header("referrer-policy") == "same-origin", where
        policy = page.header("content-security-policy") or ""
        assert policy.startswith("default-src 'none'"), where
        framable = path == "/auth/frontchannel-logout"
        assert ("frame-ancestors 'none'" in policy) is not framable, where
        assert (page.header("x-frame-options") == "DENY") is not framable, where
