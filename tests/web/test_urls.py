"""A sign-in never returns to another origin."""

import random
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.web.urls import safe_return_to

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ORIGIN = "https://app.example"
ATTACKS = [
    "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "\\/evil.example", "/\t/evil.example", "/\n/evil.example",
    "\t//evil.example", "/\r\n/evil.example", "/\0/evil", "https:evil.example", "https:/evil.example", "https://evil.example", "HTTPS://evil.example",
    "javascript:alert(1)", "data:text/html,x", "/javascript:alert(1)//\\", "https://app.example@evil.example", "@evil.example", "user@evil.example",
    "／／evil.example", "/／evil.example", "/∕evil.example", "/%2F/evil.example", "/%2Fevil.example", "/%252Fevil.example", "/%5Cevil.example",
    "/%255Cevil.example", "/%09/evil.example", "/%0d%0aLocation:%20https://evil.example", "/..//evil.example", "/a/../..//evil.example", "/./\\evil",
    "/%2e%2e//evil.example", "/x/..%2f..%2f/evil.example", "/%25252525252Fevil", " /", "/ x", "", " ", "x", "?x", "#x", "/" + "a" * 20_000,
    "/auth/login", "/auth/logout", "/AUTH/LOGOUT/", "/auth/callback?code=x", "/auth/%6cogout", "/auth/x/../logout",
    "/auth/login/.", "/auth%2Flogout", "/%61uth/login?prompt=none", "/auth/LOGIN#x", "/a/%2e%2E/auth/logout", "/auth/logged-out",
    "/auth/frontchannel-logout?sid=x", "/%00", "/a%0Ab", "/%e2%80%8b", "/%ff%2f%2fevil",
]  # fmt: skip
LOOPS = {"/auth/login", "/auth/logout", "/auth/callback", "/auth/logged-out", "/auth/frontchannel-logout"}
GOOD = [
    "/",
    "/api/profile",
    "/orders?id=1&next=%2Fa",
    "/orders#top",
    "/a/b/",
    "/search?q=https://other.example/",
    "/a%20b",
    "/~user/x.y-z",
]


def where_a_browser_goes(target: str) -> str:
    """The origin a browser ends up at: it drops tabs and line ends and reads backslashes as slashes (WHATWG URL, 4.4)."""
    seen = target.strip("".join(map(chr, range(33)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")
    parts = urlsplit(urljoin(ORIGIN + "/auth/callback", seen))
    return f"{parts.scheme}://{parts.netloc}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_addresses_that_lead_elsewhere_become_the_start_page(attack: str) -> None:
    """Every trick, and every way back into the sign-in or sign-out routes, ends at "/"."""
    assert safe_return_to(attack) == "/"


@pytest.mark.parametrize("good", GOOD)
def test_paths_of_ours_stay_as_they_are(good: str) -> None:
    """Path, query and fragment survive."""
    assert safe_return_to(good) == good


def test_no_address_is_the_start_page() -> None:
    """Without ``return_to`` the user lands at "/"."""
    assert safe_return_to(None) == "/"


@given(st.text(alphabet=st.sampled_from("/\\.%25Ff09aA@:?#\t\r\n\0 é／;"), max_size=12) | st.text(max_size=40))
@example("/..;//evil")
def test_whatever_comes_the_browser_stays_here(raw: str) -> None:
    """However the text is built, the result is a path that a browser resolves to this origin, and it is stable."""
    result = safe_return_to(raw)
    assert result.startswith("/")
    assert result.isascii()
    assert result.isprintable()
    assert where_a_browser_goes(result) == ORIGIN
    assert safe_return_to(result) == result


PIECES = ["/", "/", ".", "..", "%2e", "%2E%2e", "%2F", "%252F", "%5C", "%09", "%00", "%", ";", "@", ":", "?", "#", "a", "auth", "logout", "evil.example"]  # fmt: skip


@pytest.mark.browser
def test_a_real_browser_stays_here(chromium: "Browser") -> None:
    """Chromium itself, asked where each result leads from the callback: this origin, and no sign-in or sign-out route."""
    seeded = random.Random(4)
    built = ["/" + "".join(seeded.choices(PIECES, k=seeded.randint(1, 8))) for _ in range(20_000)]
    kept = sorted({result for raw in [*ATTACKS, *GOOD, *built] if (result := safe_return_to(raw)) == raw})
    assert len(kept) > 1000, "nearly everything was refused: that would prove nothing"
    context = chromium.new_context()
    read = "([from, all]) => all.map(x => { try { const u = new URL(x, from); return [u.origin, u.pathname] } catch { return null } })"
    asked = context.new_page().evaluate(read, [ORIGIN + "/auth/callback", [*kept, *ATTACKS]])
    context.close()
    ends, attacks = asked[: len(kept)], asked[len(kept) :]
    assert [raw for raw, end in zip(kept, ends, strict=True) if end is None or end[0] != ORIGIN] == []
    assert [raw for raw, end in zip(kept, ends, strict=True) if end[1].rstrip("/").lower() in LOOPS] == []
    assert sum(end is None or end[0] != ORIGIN for end in attacks) > 10, "the attacks are none"
