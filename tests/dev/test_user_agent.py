"""The browser without a screen is as strict as a real one where our promises depend on it."""

import pytest

from tests.support.user_agent import CookieJar, _Document

APP = "http://localhost:7071"


def sent(jar: CookieJar, url: str, *, cross_site: bool = False, top_level_get: bool = True) -> str | None:
    """The Cookie header."""
    return jar.header(url, cross_site=cross_site, top_level_get=top_level_get)


@pytest.mark.parametrize(
    ("attributes", "get", "post"),
    [
        ("SameSite=Lax", True, False),
        ("SameSite=Strict", False, False),
        ("SameSite=None; Secure", True, True),
        ("", True, False),
    ],
)
def test_same_site_decides_what_goes_across_sites(attributes: str, *, get: bool, post: bool) -> None:
    """A cross-site navigation carries Lax and None, a cross-site POST None alone; the site's own requests all."""
    jar = CookieJar()
    jar.set(f"{APP}/", f"session=x; Path=/; {attributes}")
    assert sent(jar, f"{APP}/a") == "session=x"
    assert (sent(jar, f"{APP}/a", cross_site=True) is not None) is get
    assert (sent(jar, f"{APP}/a", cross_site=True, top_level_get=False) is not None) is post


@pytest.mark.parametrize(
    "header",
    [
        "a=1; SameSite=None",
        "__Secure-a=1; Path=/",
        "__Host-a=1; Secure; Path=/auth",
        "__Host-a=1; Secure; Path=/; Domain=localhost",
        "=1; Path=/",
    ],
)
def test_cookies_that_a_browser_refuses(header: str) -> None:
    """None without Secure, prefixes without what they promise, a Domain, no name."""
    jar = CookieJar()
    jar.set(f"{APP}/auth/x", header)
    assert jar.refused == [header]
    assert sent(jar, f"{APP}/auth/x") is None


def test_secure_works_over_http_on_loopback_and_nowhere_else() -> None:
    """As in Chromium and Firefox."""
    jar = CookieJar()
    jar.set(f"{APP}/", "__Secure-a=1; Secure; Path=/")
    jar.set("http://example.org/", "b=1; Secure; Path=/")
    assert sent(jar, f"{APP}/") == "__Secure-a=1"
    assert jar.refused == ["b=1; Secure; Path=/"]


def test_the_hosts_own_rendering_is_understood() -> None:
    """An empty domain is none, attributes are lower case."""
    jar = CookieJar()
    jar.set(f"{APP}/", "a=1; domain=; path=/; samesite=lax")
    assert sent(jar, f"{APP}/x") == "a=1"


def test_paths_hosts_and_ports() -> None:
    """A cookie goes below its path, to its host, at any port."""
    jar = CookieJar()
    jar.set(f"{APP}/", "a=1; Path=/auth")
    assert [sent(jar, f"{APP}{path}") for path in ("/auth", "/auth/x", "/authx", "/")] == ["a=1", "a=1", None, None]
    assert sent(jar, "http://localhost:8080/auth") == "a=1"
    assert sent(jar, "http://127.0.0.1:7071/auth") is None


def test_max_age_zero_deletes_the_cookie_of_that_path() -> None:
    """And no other one."""
    jar = CookieJar()
    jar.set(f"{APP}/", "a=1; Path=/")
    jar.set(f"{APP}/", "a=2; Path=/auth")
    jar.set(f"{APP}/", "a=; Path=/; Max-Age=0")
    assert sent(jar, f"{APP}/auth/x") == "a=2"
    assert "a" in jar
    jar.set(f"{APP}/", "a=; Path=/auth; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    assert "a" not in jar


def test_forms_links_and_frames_are_found() -> None:
    """What a person can press, by name, value and text; scripts are no text."""
    document = _Document(
        '<title>T</title><a id=i href="/x">Go <b>on</b></a><form id=f method=post action=/p><input name=n value=v></form>'
        '<button form=f name=b value=1>Press  me</button><iframe src="http://other/"></iframe><script>"no text"</script>'
    )
    assert document.title == "T"
    assert document.links == [("Go on", "/x", "i")]
    assert document.frames == ["http://other/"]
    form = document.forms[0]
    assert (form.action, form.method, form.fields, form.buttons, form.labels) == (
        "/p",
        "post",
        {"n": "v"},
        [("b", "1")],
        ["Press me"],
    )
    assert "no text" not in document.text
