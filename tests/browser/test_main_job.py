"""The main job in a real browser: sign in, see the profile, sign out here or elsewhere, nothing left."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.app import build
from shared.settings import load
from tests.support.stack import App, Stack
from tests.support.user_agent import UserAgent

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

pytestmark = pytest.mark.browser

ARTIFACTS = Path(__file__).parent.parent.parent / "test-artifacts"


class Visit:
    """A browser with one tab, which remembers what went wrong in it and what was asked of the app."""

    def __init__(self, browser: "Browser", app: App, **options: object) -> None:
        self.app = app
        self.context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[Request] = []
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self.asked.append(request) if request.url.startswith(app.url) else None)

    def sign_in(self, user: str = "Alice") -> None:
        self.page.goto(f"{self.app.url}/")
        self.page.get_by_role("link", name="Sign in").click()
        self.page.get_by_role("button", name=user).click()
        self.page.wait_for_url(f"{self.app.url}/")

    def shot(self, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png")

    def cookie(self) -> str:
        return next(c["value"] for c in self.context.cookies(self.app.url) if c["name"] == "session")

    def account(self) -> str:
        return str(self.context.request.get(f"{self.app.url}/auth/me").json()["account"])


@pytest.fixture
def visit(chromium: "Browser", stack: Stack) -> Iterator[Visit]:
    """A browser at an app whose client has no back-channel address."""
    visit = Visit(chromium, stack.start_app())
    yield visit
    visit.context.close()


def nothing_left(app: App, account: str, cookie: str) -> None:
    """The old cookie is worthless; the tables hold the account row and its pointer, and after the sweep nothing."""
    assert UserAgent().request("GET", f"{app.url}/auth/me", headers={"Cookie": f"session={cookie}"}).status == 401
    assert [e["RowKey"] for e in app.entities("sessions") if e["PartitionKey"] == account] == ["!"]
    assert [e["PartitionKey"][:4] for e in app.entities("index")] == ["exp:"]
    build(load(app.settings)).sweep.run(datetime.now(UTC) + timedelta(hours=2))
    assert app.entities("sessions") == []
    assert app.entities("index") == []


def test_sign_in_profile_sign_out_here(visit: Visit) -> None:
    """Home, provider, home, profile, sign-out, signed-out page; every page looked at, no complaint of the browser."""
    visit.page.goto(f"{visit.app.url}/")
    visit.shot("1-not-signed-in")
    visit.sign_in()
    assert visit.page.get_by_role("heading", level=1).inner_text() == "Signed in as Alice Example"
    visit.shot("2-signed-in")
    account, cookie = visit.account(), visit.cookie()
    visit.page.get_by_role("link", name="Your profile").click()
    assert "Alice Example" in visit.page.inner_text("main")
    visit.shot("3-profile")
    visit.page.get_by_role("link", name="Back").click()
    visit.page.get_by_role("button", name="Sign out", exact=True).click()
    visit.page.wait_for_url(f"{visit.app.url}/auth/logged-out*")
    assert visit.page.get_by_role("heading", level=1).inner_text() == "You are signed out in this browser"
    visit.shot("4-signed-out")
    assert not [c for c in visit.context.cookies(visit.app.url) if c["name"] == "session"]
    assert visit.complaints == []
    visit.page.go_back()
    assert "Signed in as" not in visit.page.inner_text("main")
    nothing_left(visit.app, account, cookie)


def test_sign_out_in_another_app_reaches_us_without_our_cookie(visit: Visit, stack: Stack) -> None:
    """The provider's hidden iframe is on another site: no cookie comes along, and the sign-out happens all the same."""
    visit.sign_in()
    account, cookie = visit.account(), visit.cookie()
    visit.page.goto(f"{stack.provider.another_app}/sign-in")
    visit.asked.clear()
    visit.page.goto(f"{stack.provider.another_app}/sign-out")
    visit.page.wait_for_load_state("networkidle")
    frames = [request for request in visit.asked if "/auth/frontchannel-logout" in request.url]
    assert len(frames) == 1
    assert "cookie" not in frames[0].all_headers()
    answer = frames[0].response()
    assert answer is not None
    assert answer.status == 200
    assert visit.complaints == []
    visit.shot("5-signed-out-elsewhere")
    visit.page.goto(f"{visit.app.url}/")
    assert visit.page.get_by_role("heading", level=1).inner_text() == "You are not signed in"
    visit.shot("6-not-signed-in-any-more")
    nothing_left(visit.app, account, cookie)


def test_pages_work_without_script(chromium: "Browser", visit: Visit) -> None:
    """Devices' buttons, the question and the sign-out need none."""
    visit.sign_in()
    other = Visit(chromium, visit.app)
    other.sign_in()
    plain = chromium.new_context(java_script_enabled=False, storage_state=visit.context.storage_state())
    page = plain.new_page()
    page.goto(f"{visit.app.url}/")
    assert page.get_by_role("row").count() == 3
    page.get_by_role("row").filter(has_not_text="this one").get_by_role("button").click()
    assert page.get_by_role("row").count() == 2
    other.page.goto(f"{visit.app.url}/")
    assert other.page.get_by_role("heading", level=1).inner_text() == "You are not signed in"
    page.goto(f"{visit.app.url}/auth/logout")
    assert page.get_by_role("heading", level=1).inner_text() == "Do you want to sign out?"
    page.screenshot(path=ARTIFACTS / "7-question.png")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(lambda url: not url.startswith(visit.app.url))  # the provider's page, which goes on by script
    page.goto(f"{visit.app.url}/")
    assert page.get_by_role("heading", level=1).inner_text() == "You are not signed in"
    plain.close()
    other.context.close()


def test_nobody_but_the_provider_frames_us(visit: Visit) -> None:
    """A page of another origin shows neither our home page nor the front-channel answer."""
    visit.sign_in()
    frames = "".join(f'<iframe src="{visit.app.url}{path}"></iframe>' for path in ("/", "/auth/frontchannel-logout?sid=x"))
    visit.context.route("http://foreign.example/", lambda route: route.fulfill(body=frames, content_type="text/html"))
    visit.page.goto("http://foreign.example/")
    visit.page.wait_for_load_state("networkidle")
    assert len(visit.page.frames) == 3
    assert all(frame.url.startswith("chrome-error:") for frame in visit.page.frames[1:])


def test_two_tabs_sign_in_at_once(visit: Visit) -> None:
    """Each comes back to its own page."""
    second = visit.context.new_page()
    visit.page.goto(f"{visit.app.url}/auth/login?return_to=/?tab=1")
    second.goto(f"{visit.app.url}/auth/login?return_to=/?tab=2")
    visit.page.get_by_role("button", name="Alice").click()
    visit.page.wait_for_url(f"{visit.app.url}/?tab=1")
    second.get_by_role("button", name="Alice").click()
    second.wait_for_url(f"{visit.app.url}/?tab=2")
    assert "Signed in as Alice" in second.inner_text("main")


def test_response_mode_query_in_the_browser(chromium: "Browser", stack: Stack) -> None:
    """The answer in the address bar works likewise."""
    visit = Visit(chromium, stack.start_app({"RESPONSE_MODE": "query"}))
    visit.sign_in("Bob")
    assert "Signed in as Bob" in visit.page.inner_text("main")
    assert visit.complaints == []
    visit.context.close()


def test_an_error_page_says_what_to_do(visit: Visit) -> None:
    """A callback out of nowhere."""
    visit.page.goto(f"{visit.app.url}/auth/callback?state=x")
    assert visit.page.get_by_role("heading", level=1).inner_text() == "That did not work"
    visit.shot("8-error")
