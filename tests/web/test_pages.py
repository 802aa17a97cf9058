"""Pages are well-formed, say what is true, and escape whatever they are given."""

from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from shared.errors import AppError, NotSignedIn
from shared.web import pages
from shared.web.devices import describe_user_agent
from shared.web.headers import secured
from shared.web.messages import Response

MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{{7*7}}"
TIME = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
VOID = {"meta", "input", "br", "link"}


class Checker(HTMLParser):
    """Reads a page and notes what a screen reader or an attacker would."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def device(**changes: object) -> pages.DeviceView:
    values = {
        "id": MARKUP,
        "this": True,
        "signed_in_at": TIME,
        "last_used_at": TIME,
        "expires_at": TIME,
        "device": MARKUP,
        **changes,
    }
    return pages.DeviceView(**values)  # type: ignore[arg-type]


class Hostile(AppError):
    code = MARKUP
    public = MARKUP


PAGES: dict[str, Callable[[], str]] = {
    "home": lambda: pages.home(name=MARKUP, username=MARKUP, devices=[device(), device(this=False)]),
    "home, nobody": lambda: pages.home(name=None, username=None, devices=[]),
    "home, no name": lambda: pages.home(name="", username="", devices=[]),
    "profile": lambda: pages.profile({MARKUP: MARKUP, "list": [MARKUP], "none": None}),
    "signed out": lambda: pages.signed_out(still_signed_in=False),
    "still signed in": lambda: pages.signed_out(still_signed_in=True),
    "question": pages.sign_out_question,
    "failed": pages.sign_out_failed,
    "error": lambda: pages.error(Hostile()),
    "front-channel": pages.front_channel,
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_well_formed_and_escape_everything(name: str) -> None:
    """Every element is closed, markup in any value stays text, there is no script, no style and no inline handler."""
    checker = Checker()
    checker.feed(PAGES[name]())
    assert checker.open == []
    names = [tag for tag, _ in checker.tags]
    assert not {"script", "img", "style", "iframe"} & set(names)
    assert not any(
        attribute.startswith("on") or attribute == "style" for _, attributes in checker.tags for attribute in attributes
    )
    assert dict(checker.tags)["html"] == {"lang": "en"}
    assert names.count("title") == 1
    assert "49" not in checker.text


@pytest.mark.parametrize("name", [name for name in PAGES if name != "front-channel"])
def test_pages_have_one_heading_and_a_main_landmark(name: str) -> None:
    """A screen reader finds the page's one heading and its main part; every button says what it does."""
    checker = Checker()
    checker.feed(PAGES[name]())
    names = [tag for tag, _ in checker.tags]
    assert names.count("h1") == names.count("main") == 1
    assert all(attributes.get("method") == "post" for tag, attributes in checker.tags if tag == "form")


@pytest.mark.parametrize("name", PAGES)
def test_what_describes_an_element_is_there(name: str) -> None:
    """Buttons that read alike are told apart by the row they name; every id is there once."""
    checker = Checker()
    checker.feed(PAGES[name]())
    ids = [attributes["id"] for _, attributes in checker.tags if "id" in attributes]
    named = [
        identifier
        for _, attributes in checker.tags
        for relation in ("aria-describedby", "aria-labelledby")
        for identifier in (attributes.get(relation) or "").split()
    ]
    assert len(ids) == len(set(ids))
    assert set(named) <= set(ids)
    buttons = [attributes.get("aria-describedby") for tag, attributes in checker.tags if tag == "button"]
    described = [text for text in buttons if text]
    assert len(described) == len(set(described))


def test_a_device_is_shown_with_its_times() -> None:
    """In UTC, said so, and for machines too; the id goes back in the form that ends it."""
    page = pages.home(name="Alice", username="alice@example.com", devices=[device(id="s1", device="Firefox on Windows")])
    assert '<time datetime="2026-11-23T08:00Z">2026-11-23 08:00 UTC</time>' in page
    assert '<input type="hidden" name="id" value="s1">' in page
    assert "Firefox on Windows (this one)" in page
    assert "Signed in as Alice" in page
    assert "alice@example.com" in page


def test_who_has_no_name_is_greeted_by_the_username_once() -> None:
    """Nobody is called by an empty name, nor twice by the same."""
    assert pages.home(name="", username="bob@example.com", devices=[]).count("bob@example.com") == 1
    assert "You are signed in<" in pages.home(name="", username="", devices=[])
    assert "You are not signed in<" in pages.home(name=None, username=None, devices=[])


def test_a_profile_reads_as_words() -> None:
    """Lists as words, empty values and OData's own not at all, and an empty profile says so."""
    page = pages.profile({"@odata.context": "x", "displayName": "Alice", "businessPhones": ["+1", "+2"], "mail": None})
    assert "<dt>businessPhones</dt><dd>+1, +2</dd>" in page
    assert "odata" not in page
    assert "mail" not in page
    assert "It is empty" in pages.profile({"mail": None})
    assert "<dl>" not in pages.profile({})


def test_sign_out_pages_say_what_is_true() -> None:
    """No page claims a sign-out that did not happen."""
    assert "signed out in this browser" in pages.signed_out(still_signed_in=False)
    assert "still signed in" in pages.signed_out(still_signed_in=True)
    assert "not signed out yet" in pages.sign_out_failed()


def test_an_error_page_shows_the_stable_code_and_not_the_detail() -> None:
    """The detail is for the log."""
    page = pages.error(NotSignedIn("detail with a token"))
    assert "not_signed_in" in page
    assert "token" not in page


@pytest.mark.parametrize("https", [True, False])
def test_every_answer_carries_the_headers(https: bool) -> None:
    """CSP without anything inline, nobody frames us, no referrer to others, no sniffing, no storing; HSTS where https."""
    headers = dict(
        secured(Response.html(200, "x"), https=https, form_action=("https://idp.example",), frame_ancestors=()).headers
    )
    policy = headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; base-uri 'none'; form-action 'self' https://idp.example; frame-ancestors 'none'"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers.get("Strict-Transport-Security") == ("max-age=31536000" if https else None)


def test_the_front_channel_answer_is_framable_by_the_provider_alone() -> None:
    """``frame-ancestors`` names it, and no ``X-Frame-Options`` contradicts."""
    headers = dict(
        secured(Response.html(200, "x"), https=True, form_action=(), frame_ancestors=("https://idp.example",)).headers
    )
    assert "frame-ancestors https://idp.example" in headers["Content-Security-Policy"]
    assert not {"X-Frame-Options", "Cross-Origin-Resource-Policy"} & set(headers)


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:153.0) Gecko/20100101 Firefox/153.0", "Firefox on Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36", "Chrome on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 Mobile/15E148 Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 16; Pixel 9) AppleWebKit/537.36 Chrome/156.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 15_0) AppleWebKit/605.1.15 Version/19.0 Safari/605.1.15", "Safari on macOS"),
        ("curl/8.0", "Unknown browser"), ("", "Unknown browser"), ("x" * 10_000 + "Firefox/1", "Unknown browser"), ("Android", "Unknown browser on Android"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 CriOS/156.0 Mobile/15E148 Safari/604.1", "Chrome on iPhone"),
        ("Mozilla/5.0 (iPad; CPU OS 19_0 like Mac OS X) AppleWebKit/605.1.15 FxiOS/153.0 Mobile/15E148 Safari/605.1.15", "Firefox on iPad"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 EdgiOS/156.0 Mobile Safari/604.1", "Edge on iPhone"),
        ("Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 SamsungBrowser/30.0 Chrome/156.0.0.0 Mobile Safari/537.36", "Samsung Internet on Android"),
        ("Mozilla/5.0 (Linux; U; Android 4.0) AppleWebKit/534.30 Version/4.0 Mobile Safari/534.30", "Unknown browser on Android"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/605.1.15 Version/19.0 Safari/605.1.15", "Unknown browser on Linux"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 15_0) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36 OPR/120.0", "Opera on macOS"),
        ("Mozilla/5.0 (X11; CrOS x86_64 1) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36", "Chrome on ChromeOS"),
    ],
)  # fmt: skip
def test_devices_are_named_in_words(user_agent: str, words: str) -> None:
    """What the user reads in the list; nothing is guessed."""
    assert describe_user_agent(user_agent) == words
