"""A browser without a screen: cookies, redirects, forms and ``Sec-Fetch-*`` headers as browsers treat them.

    agent = UserAgent()
    page = agent.open("http://localhost:7071/")           # typed into the address bar
    page = agent.click("Sign in")                          # a link of the page, by text or address
    page = agent.submit(user="alice")                      # the form that has such a button or field
    page = agent.sign_in("http://localhost:7071", "alice") # all of it, from /auth/login to where it ends
    page = agent.sign_out("http://localhost:7071")
    page = agent.fetch("http://localhost:7071/auth/me")    # a script of that same site; no redirects
    page = agent.request("GET", url, initiator="http://127.0.0.1:9", dest="image")  # anything else

What it knows of cookies: host-only (no port), ``Path``, ``Secure`` (which http on loopback satisfies), ``Max-Age``, ``Expires``,
``SameSite`` against the site that caused the request, and that frames on another site neither get nor set any.  The prefixes
``__Secure-`` and ``__Host-`` are checked.  ``Domain`` is not supported: a cookie that names one is refused, as none of ours does.

It runs no script, but does what the provider's pages have scripts for: a form that submits itself is submitted, hidden
frames are loaded, and the page goes on.  Several agents are several devices.
"""

import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from tests.support import silence

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 20
CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:153.0) Gecko/20100101 Firefox/153.0"


def origin_of(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def site_of(url: str) -> tuple[str, str]:
    """Scheme and host: our hosts are no deeper than a registrable domain, and ports do not matter."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or ""


@dataclass(slots=True, kw_only=True)
class Cookie:
    """A stored cookie."""

    name: str
    value: str
    host: str
    path: str
    secure: bool
    http_only: bool
    same_site: str
    expires: float | None
    """Seconds since the epoch; None lives as long as the browser."""


class CookieJar:
    """The cookies of one browser."""

    def __init__(self) -> None:
        self.all: list[Cookie] = []
        self.refused: list[str] = []
        """``Set-Cookie`` headers that a browser would not have taken."""

    def __getitem__(self, name: str) -> Cookie:
        """The one cookie of that name."""
        found = [cookie for cookie in self.live() if cookie.name == name]
        assert len(found) == 1, f"{len(found)} cookies named {name}"
        return found[0]

    def __contains__(self, name: str) -> bool:
        return any(cookie.name == name for cookie in self.live())

    def live(self) -> list[Cookie]:
        """Those that have not expired."""
        now = time.time()
        self.all = [cookie for cookie in self.all if cookie.expires is None or cookie.expires > now]
        return self.all

    def put(self, url: str, name: str, value: str, *, path: str = "/") -> None:
        """Plants a cookie by hand."""
        self.set(url, f"{name}={value}; Path={path}")

    def set(self, url: str, header: str) -> None:
        """Takes a ``Set-Cookie`` header, as RFC 6265bis has it, or remembers that it was refused."""
        parts = urlsplit(url)
        pair, *rest = header.split(";")
        name, _, value = (part.strip() for part in pair.partition("="))
        attributes: dict[str, str] = {}
        for text in rest:
            key, _, argument = text.strip().partition("=")
            attributes[key.strip().lower()] = argument.strip()
        secure = "secure" in attributes
        trustworthy = parts.scheme == "https" or parts.hostname in _LOOPBACK
        path = attributes.get("path", "")
        if not path.startswith("/"):
            path = parts.path.rpartition("/")[0] or "/"
        same_site = attributes.get("samesite", "").lower() or "lax"
        wrong = (
            not name
            or (secure and not trustworthy)
            or (same_site == "none" and not secure)
            or (name.lower().startswith("__secure-") and not secure)
            or (name.lower().startswith("__host-") and not (secure and path == "/"))
            or attributes.get("domain", "") != ""
        )
        if wrong:
            self.refused.append(header)
            return
        self.all = [c for c in self.live() if (c.name, c.host, c.path) != (name, parts.hostname, path)]
        cookie = Cookie(
            name=name,
            value=value,
            host=parts.hostname or "",
            path=path,
            secure=secure,
            http_only="httponly" in attributes,
            same_site=same_site,
            expires=_expiry(attributes),
        )
        if cookie.expires is None or cookie.expires > time.time():
            self.all.append(cookie)

    def header(self, url: str, *, cross_site: bool, top_level_get: bool) -> str | None:
        """The ``Cookie`` header for a request, or None."""
        parts = urlsplit(url)
        trustworthy = parts.scheme == "https" or parts.hostname in _LOOPBACK

        def goes(cookie: Cookie) -> bool:
            base = cookie.path.rstrip("/")
            allowed = not cross_site or cookie.same_site == "none" or (cookie.same_site == "lax" and top_level_get)
            in_path = parts.path == cookie.path or (parts.path or "/").startswith(f"{base}/")
            return cookie.host == parts.hostname and in_path and (not cookie.secure or trustworthy) and allowed

        cookies = sorted(filter(goes, self.live()), key=lambda cookie: -len(cookie.path))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies) or None


def _expiry(attributes: Mapping[str, str]) -> float | None:
    if "max-age" in attributes:
        return time.time() + int(attributes["max-age"])
    if "expires" in attributes:
        return parsedate_to_datetime(attributes["expires"]).timestamp()
    return None


@dataclass(slots=True)
class Form:
    """A form of a page; ``buttons`` are those with a name."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """The texts of all its buttons."""


class _Document(HTMLParser):
    """Collects what can be clicked, submitted or loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.title = ""
        self.forms: list[Form] = []
        self.links: list[tuple[str, str, str]] = []  # text, href, id
        self.frames: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._by_id: dict[str, Form] = {}
        self._open: Form | None = None
        self._button: Form | None = None
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(values.get("action", ""), values.get("method", "get").lower())
            self.forms.append(self._open)
            self._by_id[values.get("id", "")] = self._open
        owner = self._by_id.get(values["form"]) if "form" in values else self._open
        if owner is not None and "name" in values:
            if tag == "button" or values.get("type") == "submit":
                owner.buttons.append((values["name"], values.get("value", "")))
            elif tag in {"input", "textarea"}:
                owner.fields[values["name"]] = values.get("value", "")
        if tag == "button":
            self._button = owner
            if owner is not None:
                owner.labels.append("")
        if tag == "a" and "href" in values:
            self.links.append(("", values["href"], values.get("id", "")))
        if tag == "iframe" and "src" in values:
            self.frames.append(values["src"])
        if tag in {"script", "style", "title", "a", "button"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        if tag == "a" and "a" in self._inside:
            text, href, identity = self.links[-1]
            self.links[-1] = (" ".join(text.split()), href, identity)
        if tag == "button" and self._button is not None:
            self._button.labels[-1] = " ".join(self._button.labels[-1].split())
            self._button = None
        if tag in self._inside:
            self._inside.remove(tag)

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts.append(data)
            return
        if "style" in self._inside:
            return
        if "title" in self._inside:
            self.title += data
            return
        if "a" in self._inside:
            text, href, identity = self.links[-1]
            self.links[-1] = (text + data, href, identity)
        if "button" in self._inside and self._button is not None:
            self._button.labels[-1] += data
        self.text += data


@dataclass(slots=True, kw_only=True)
class Page:
    """An answer.  ``history`` are the answers that led here by redirect or by themselves, oldest first."""

    url: str
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    sent: Mapping[str, str]
    """The request's headers."""
    history: list["Page"] = field(default_factory=list)
    frames: list["Page"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode("utf-8", "replace")

    @property
    def path(self) -> str:
        """The address without its origin."""
        parts = urlsplit(self.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    @property
    def document(self) -> _Document:
        """The body as HTML: ``title``, ``text``, ``forms``, ``links``, ``frames``."""
        return _Document(self.text)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The header of that name; of several the last."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name.lower()), None)

    @property
    def set_cookies(self) -> list[str]:
        """All ``Set-Cookie`` headers."""
        return [value for key, value in self.headers if key.lower() == "set-cookie"]


class UserAgent:
    """One browser on one device.

    Args:
        user_agent: the header of that name.
        bundle: a file of authorities to trust for https; http needs none.
        timeout: seconds that an answer may take.
    """

    def __init__(self, *, user_agent: str = CHROMIUM, bundle: str | None = None, timeout: float = 30) -> None:
        self.cookies = CookieJar()
        self.page: Page | None = None
        self._user_agent = user_agent
        self._tls = ssl.create_default_context(cafile=bundle) if bundle else None
        self._timeout = timeout

    # -- as a person uses it

    def open(self, url: str, *, follow: bool = True) -> Page:
        """An address typed into the address bar; redirects and self-submitting pages are followed."""
        return self._navigate("GET", url, initiator=None, follow=follow)

    def click(self, link: str, *, follow: bool = True) -> Page:
        """A link of the current page, by its text, id or address."""
        page = self._current()
        links = [href for text, href, identity in page.document.links if link in {text, href, identity}]
        assert links, f"no link {link!r} on {page.url}: {page.document.links}"
        return self._navigate("GET", urljoin(page.url, links[0]), initiator=page.url, follow=follow)

    def submit(self, *, button: str | None = None, action: str | None = None, follow: bool = True, **fields: str) -> Page:
        """Submits the one form of the current page that has all these fields (by name, a button's by its value as well).

        ``button`` picks a form by the text of a button, ``action`` by where it goes.  Without anything: the first form.
        """
        page = self._current()
        for form in page.document.forms:
            pressed = [(name, value) for name, value in form.buttons if fields.get(name) == value]
            known = {name for name, _ in pressed} | form.fields.keys()
            named = action is None or urljoin(page.url, form.action).endswith(action)
            if fields.keys() <= known and (button is None or button in form.labels) and named:
                break
        else:
            raise AssertionError(f"no such form on {page.url}: {page.document.forms}")
        values = {**form.fields, **fields}
        target = urljoin(page.url, form.action)
        if form.method == "get":
            return self._navigate("GET", f"{target.partition('?')[0]}?{urlencode(values)}", initiator=page.url, follow=follow)
        return self._navigate("POST", target, form=values, initiator=page.url, follow=follow)

    def sign_in(self, app: str, user: str = "alice", *, return_to: str = "/", **parameters: str) -> Page:
        """Signs in at the app, from ``/auth/login`` to the page it ends on; an existing session at the provider is used.

        ``user``: one with a button on the provider's login page, or any other name.
        """
        page = self.open(f"{app}/auth/login?{urlencode({'return_to': return_to, **parameters})}")
        if urlsplit(page.url).path.startswith("/login/"):
            page = self.choose(user)
        return page

    def choose(self, user: str, *, follow: bool = True) -> Page:
        """Picks the user on the provider's login page, which is the current one."""
        if any(("user", user) in form.buttons for form in self._current().document.forms):
            return self.submit(user=user, follow=follow)
        return self.submit(name=user, follow=follow)

    def sign_out(self, app: str, *, follow: bool = True) -> Page:
        """Signs out at the app with the form of its home page, and goes where that leads."""
        self.open(f"{app}/")
        return self.submit(action="/auth/logout", follow=follow)

    # -- as scripts, frames and other sites use it

    def fetch(self, url: str, method: str = "GET", *, initiator: str | None = None, json_body: Any = None) -> Page:
        """A script's request, by default one of the same site; redirects are not followed."""
        headers = {} if json_body is None else {"Content-Type": "application/json"}
        return self.request(
            method,
            url,
            initiator=initiator or origin_of(url),
            mode="cors",
            dest="empty",
            headers={"Accept": "application/json", **headers},
            body=None if json_body is None else json.dumps(json_body).encode(),
        )

    def frame(self, url: str, *, inside: str) -> Page:
        """A frame on a page of ``inside``; on another site it has no cookies and keeps none."""
        return self.request("GET", url, initiator=inside, dest="iframe")

    def request(
        self,
        method: str,
        url: str,
        *,
        initiator: str | None = None,
        mode: str = "navigate",
        dest: str = "document",
        form: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        cross_site: bool | None = None,
    ) -> Page:
        """One request and its answer, nothing followed.

        ``initiator``: the address of the page that causes it; None is the address bar.  ``headers`` go before our own; an
        empty value leaves one out.  ``cross_site`` says that a redirect on the way was on another site.
        """
        same_site = initiator is None or site_of(initiator) == site_of(url)
        cross = (not same_site) if cross_site is None else cross_site
        framed = dest == "iframe"
        sent = {
            "User-Agent": self._user_agent,
            "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "Accept-Encoding": "identity",
        }
        sent |= {"Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        if initiator is None:
            sent["Sec-Fetch-Site"] = "none"
        elif cross:
            sent["Sec-Fetch-Site"] = "cross-site"
        else:
            sent["Sec-Fetch-Site"] = "same-origin" if origin_of(initiator) == origin_of(url) else "same-site"
        if initiator is not None and method not in {"GET", "HEAD"}:
            sent["Origin"] = origin_of(initiator)
        cookies = None
        if not (framed and cross):
            safe = method in {"GET", "HEAD"} and mode == "navigate" and dest == "document"
            cookies = self.cookies.header(url, cross_site=cross, top_level_get=safe)
        if cookies:
            sent["Cookie"] = cookies
        if form is not None:
            body = urlencode(form).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        sent = {name: value for name, value in {**sent, **(headers or {})}.items() if value != ""}
        page = self._exchange(method, url, sent, body)
        silence.saw([sent.get("Cookie", ""), *(cookie.partition(";")[0].partition("=")[2] for cookie in page.set_cookies)])
        silence.saw_fields(form.items() if isinstance(form, Mapping) else form or ())
        silence.saw_address(url)
        silence.saw_address(page.header("Location") or "")
        if not (framed and cross):
            for header in page.set_cookies:
                self.cookies.set(url, header)
        return page

    # -- how

    def _current(self) -> Page:
        assert self.page is not None, "no page is open"
        return self.page

    def _navigate(
        self, method: str, url: str, *, initiator: str | None, follow: bool, form: Mapping[str, str] | None = None
    ) -> Page:
        history: list[Page] = []
        cross = initiator is not None and site_of(initiator) != site_of(url)
        while True:
            page = self.request(method, url, initiator=initiator, form=form, cross_site=cross)
            page.history, self.page = list(history), page
            assert len(history) < _MOST_REDIRECTS, f"redirected too often: {[past.url for past in history]}"
            if not follow:
                return page
            location = page.header("Location")
            if page.status in _REDIRECTS and location is not None:
                history.append(page)
                url = urljoin(url, location)
                if page.status not in {307, 308} and method not in {"GET", "HEAD"}:
                    method, form = "GET", None
                # The whole chain counts for Sec-Fetch-Site; once it left the site it does not become same-site again.
                cross = cross or (initiator is not None and site_of(initiator) != site_of(url))
                continue
            step = self._by_itself(page)
            if step is None:
                return page
            history.append(page)
            method, url, form = step
            initiator = page.url
            cross = site_of(initiator) != site_of(url)

    def _by_itself(self, page: Page) -> tuple[str, str, Mapping[str, str] | None] | None:
        """What the scripts of the provider's pages would do now: method, address, form."""
        if "html" not in (page.header("Content-Type") or "") or "<script" not in page.text:
            return None
        document = page.document
        script = "".join(document.scripts)
        if document.frames and "location.replace" in script:
            page.frames.extend(self.frame(urljoin(page.url, frame), inside=page.url) for frame in document.frames)
            return "GET", next(href for _, href, identity in document.links if identity == "continue"), None
        if ".submit()" in script or ".click()" in script:
            form = document.forms[0]
            return "POST", urljoin(page.url, form.action), {**form.fields, **dict(form.buttons)}
        return None

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Page:
        parts = urlsplit(url)
        connection = self._connection(parts)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", parts.netloc)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None or method not in {"GET", "HEAD", "DELETE"}:
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Page(url=url, status=answer.status, headers=answer.getheaders(), body=answer.read(), sent=dict(headers))
        finally:
            connection.close()

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        # localhost is ::1 as well, where nobody listens.
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(host, parts.port, timeout=self._timeout)
