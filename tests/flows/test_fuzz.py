"""What strangers send in cookies, addresses and bodies: it proves nothing, changes nothing, and hides nothing that is true.

Two people are signed in all the while, so "nothing happened" can be seen, and whatever really is theirs has to work wherever it
stands.  Sign-outs that come from elsewhere are ``test_fuzz_channels.py`` and ``test_fuzz_logout_tokens.py``, the way back from
the provider is ``test_fuzz_callback.py``.
``FUZZ=n`` multiplies the examples.
"""

import base64
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.support import forged
from tests.support.forged import MARK, TEXT
from tests.support.fuzzed import COOKIE, FORM, ORIGIN, Flow, Fuzzed, drawn, opened, session_cookie
from tests.support.fuzzed_provider import MANY, ONE, VIC
from tests.support.judged import EVENT


@pytest.fixture(scope="module", params=[ONE, MANY], ids=str)
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """The app with its people, once for each kind of provider."""
    with opened(request.param) as world:
        yield world


# -- the session cookie


def is_shaped(value: str) -> bool:
    """Whether a value could be a session cookie: an account, 16 bytes and 32 bytes, each in the one spelling of base64url."""
    found = re.fullmatch(r"([\w-]{2,267})\.([\w-]{21}[AQgw])\.([\w-]{42}[AEIMQUYcgkosw048])", value, re.ASCII)
    try:
        account = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)).decode("ascii") if found else ""
    except ValueError:
        return False
    same = found is not None and base64.urlsafe_b64encode(account.encode()).rstrip(b"=").decode() == found[1]
    return same and re.fullmatch(r"[\w.~-]{1,200}", account, re.ASCII) is not None


def near(real: str, other: str, at: int, letter: str) -> list[str]:
    """Values that are nearly the real one."""
    (account, name, secret), (account_2, name_2, secret_2) = real.split("."), other.split(".")
    return [
        f"{account}.{name}.{secret_2}", f"{account}.{name_2}.{secret}", f"{account_2}.{name}.{secret}", f"{account}.{secret}.{name}",
        f"{account}.{name}.{'A' * 43}", real.lower(), real.upper(), real.swapcase(), f"{real}=", f"{real}.", f".{real}", f"{real}.{secret}",
        f'"{real}"', f"'{real}'", quote(real.replace(".", "/"), safe=""), real[:-1], real * 2, f"{real},{real}", real.replace(".", "%2e"),
        real[:at] + letter + real[at + 1 :], real[:at], real[at:], f"{real}' or RowKey ne '", "x" * 10_000, MARK, other,
    ]  # fmt: skip


FORGED = st.tuples(st.integers(0, 25), st.integers(0, 120), st.sampled_from(forged.ALPHABET + ".=%'\" é\0"))
SHUFFLED = st.lists(st.integers(0, 11), max_size=5)
VALUES = FORGED | FORGED | SHUFFLED | TEXT
"""A value that is nearly the real cookie, the pieces of two in any order, or any text: ``value_of`` makes it of real ones."""


def value_of(drawn: Any, real: str, other: str) -> str:
    """The cookie's value that was drawn."""
    if isinstance(drawn, tuple):
        which, at, letter = drawn
        return near(real, other, min(at, len(real) - 1), letter)[which]
    pieces = [*real.split("."), *other.split("."), "A" * 22, "A" * 43, "", "=", "YQ", "é"]
    return drawn if isinstance(drawn, str) else ".".join(pieces[at] for at in drawn)


NAMES = [COOKIE, COOKIE, COOKIE, COOKIE.lower(), COOKIE.upper(), f" {COOKIE}", f"{COOKIE}\t", f"{COOKIE}x", f"x{COOKIE}", "session", "", "x", f"{COOKIE}[]"]  # fmt: skip


HEADERS = st.fixed_dictionaries({
    "real": st.sampled_from([0, 1, 1, 1, 2]),
    "others": st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=3),
    "junk": TEXT,
    "times": st.sampled_from([0, 0, 0, 1, 3, 40, 199, 201, 1_000]),
    "order": st.randoms(use_true_random=False),
    "between": st.sampled_from(["; ", "; ", ";", " ;\t", ";;", "; junk; "]),
    "behind": st.sampled_from(["", "", ";", "; =", "; \0", "; é=é"]),
})  # fmt: skip


def header_of(drawn: Mapping[str, Any], real: str, other: str) -> str:
    """The real cookie nowhere, somewhere or twice, among forgeries, junk and another's own."""
    pairs = [(COOKIE, real)] * drawn["real"] + [(name, value_of(value, real, other)) for name, value in drawn["others"]]
    drawn["order"].shuffle(pairs)
    before = drawn["order"].choice([0, drawn["times"]])
    junk = [("junk", drawn["junk"])] * drawn["times"]
    pairs = [*junk[:before], *pairs, *junk[before:]]
    return drawn["between"].join(f"{name}={value}" for name, value in pairs) + drawn["behind"]


def session_values(header: str) -> set[str]:
    """The different values under the session's name that could be one (RFC 6265, section 5.4, read backwards)."""
    pairs = [piece.partition("=") for piece in header.split(";")]
    return {value.strip(" \t") for name, _, value in pairs if name.strip(" \t") == COOKIE and is_shaped(value.strip(" \t"))}


@drawn(10)
@given(
    header=HEADERS,
    who=st.sampled_from([(0, -1), (-1, 0), (0, 1)]),
    accept=st.sampled_from(["*/*", "text/html", "application/json"]),
)
def test_the_real_cookie_is_found_and_no_other_signs_in(
    fuzzed: Fuzzed, header: Any, who: tuple[int, int], accept: str
) -> None:
    """One value that proves itself is 200, anything else 401 and JSON; a sign-out ends what is proven, wherever it stands."""
    fuzzed.restore()
    header = header_of(header, *(fuzzed.devices[which].cookie for which in who))
    values = session_values(header)
    proven = [device for device in fuzzed.devices if device.cookie in values]
    fuzzed.secrets[:] = [device.cookie.rpartition(".")[2] for device in fuzzed.devices]
    answer = fuzzed.me(header, accept=accept)
    fuzzed.clean(answer)
    body = json.loads(answer.get_body())
    if len(values) == 1 and proven:
        assert (answer.status_code, body["session"]["id"]) == (200, proven[0].session_id)
    else:
        assert (answer.status_code, body["status"]) == (401, 401)
        assert answer.headers["Content-Type"] == "application/problem+json"
    answer = fuzzed.send("POST", "/auth/logout", headers={"cookie": header, "sec-fetch-site": "same-origin"})
    assert answer.status_code == 303
    assert session_cookie(answer) is None
    accounts = {device.account for device in proven}
    ended = [device for device in fuzzed.devices if device in proven or (fuzzed.kind is ONE and device.account in accounts)]
    fuzzed.ended(ended, touched=frozenset(accounts), kinds=frozenset({"account"}))
    assert not any(fuzzed.is_signed_in(device) for device in ended)


# -- where a sign-in returns to

LOOPS = {
    f"/auth/{name}" for name in ("login", "logout", "callback", "logged-out", "frontchannel-logout", "backchannel-logout")
}
PIECES = ["/", "//", "\\", "%2f", "%2F", "%5c", "%255c", "%252f", "%25252f", ".", "..", "%2e", "%2e%2E", "@", ":", "\t", "\n", "\r", "\0", "%09", "%0d%0a", "%00", "／", "∕", "⁄", "＼", "。", " ", "?", "#", ";", "%", "%%", "auth", "login", "LOGOUT", "a", "evil.example", "https:", "javascript:", "é", "\u202e", "\ud800", "x" * 300, "/a" * 500]  # fmt: skip


def leads_away(target: str) -> bool:
    """Whether a browser (WHATWG URL, section 4.4) or whoever decodes once more than it should leaves the origin, or loops."""
    for _ in range(4):
        seen = re.sub(r"[\t\r\n]", "", target.strip("".join(map(chr, range(33))))).replace("\\", "/")
        if not seen.startswith("/") or seen.startswith("//"):
            return True
        kept: list[str] = []
        for segment in re.split(r"[?#]", seen)[0][1:].split("/"):
            plain = segment.lower().replace("%2e", ".")
            kept = kept[:-1] if plain == ".." else kept if plain == "." else [*kept, segment]
        path = "/" + "/".join(kept)
        if path.startswith("//") or not path.isprintable() or path.rstrip("/").lower() in LOOPS:
            return True
        target = unquote(target)
    return False


def is_plain(target: str) -> bool:
    """A path of ours that nobody can read in two ways, with its query and fragment."""
    path = re.split(r"[?#]", target)[0]
    good = re.fullmatch(r"(/[a-z0-9_~-][a-z0-9._~-]*)*/?([?][A-Za-z0-9=&%/:._-]*)?(#[a-z]*)?", target) is not None
    return good and target.startswith("/") and len(target) <= 1024 and path.rstrip("/") not in LOOPS


PATHS = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "/" + "".join(pieces)) | TEXT.map("/{}".format) | TEXT
WISHES = st.lists(st.tuples(st.sampled_from(["prompt", "login_hint", "domain_hint", "return_to", "Return_To", "x"]), TEXT | st.sampled_from(["login", "none", "a@b.example", "x" * 400])), max_size=2)  # fmt: skip


@drawn(10)
@given(return_to=PATHS, others=st.just([]) | WISHES, had=st.booleans())
@example(return_to="/orders?id=1&next=%2Fa#top", others=[], had=True)
@example(return_to="/" + "a" * 1023, others=[], had=True)
@example(return_to="/" + "a" * 1024, others=[], had=False)
def test_a_sign_in_returns_to_this_origin(fuzzed: Fuzzed, return_to: str, others: list[tuple[str, str]], had: bool) -> None:
    """The sealed path stays here however often it is decoded, plain paths come through, and a start writes nothing."""
    fuzzed.restore()
    return_to = return_to.encode("utf-8", "replace").decode()
    query = urlencode([("return_to", return_to), *others], errors="replace")
    headers = {"cookie": f"{COOKIE}={fuzzed.vic.cookie}"} if had else {}
    answer = fuzzed.send("GET", f"/auth/login?{query}", headers=headers)
    fuzzed.unchanged()
    assert session_cookie(answer) is None
    named = [name for name, _ in others]
    prompts = [value for name, value in others if name == "prompt"]
    if answer.status_code == 400:
        hints = [value for name, value in others if name.endswith("_hint")]
        silly = any(value not in ("", "login", "select_account", "consent", "none") for value in prompts)
        twice = any(named.count(name) > 1 for name in ("prompt", "login_hint", "domain_hint"))
        assert silly or twice or any(len(value) > 320 or not value.isprintable() for value in hints)
        return
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(str(fuzzed.provider.document["authorization_endpoint"]) + "?")
    sealed = Flow.of(fuzzed, answer).return_to
    assert not leads_away(sealed), sealed
    assert sealed in ("/", return_to)
    assert sealed.isascii()
    assert sealed.isprintable()
    if "return_to" in named or len(return_to) > 1024:
        assert sealed == "/"
    elif is_plain(return_to):
        assert sealed == return_to


# -- everything at once

ROUTES = [
    ("GET", "/"), ("GET", "/auth/login"), ("GET", "/auth/callback"), ("POST", "/auth/callback"), ("GET", "/auth/logout"), ("POST", "/auth/logout"),
    ("GET", "/auth/logged-out"), ("GET", "/auth/frontchannel-logout"), ("POST", "/auth/backchannel-logout"), ("GET", "/auth/me"),
    ("GET", "/auth/sessions"), ("DELETE", "/auth/sessions"), ("DELETE", "/auth/sessions/{id}"), ("POST", "/auth/sessions/end"), ("GET", "/api/profile"),
]  # fmt: skip
SAYS = {
    "sec-fetch-site": ["same-origin", "cross-site", "none", "é"], "sec-fetch-mode": ["navigate", "cors"], "sec-fetch-dest": ["document", "iframe"],
    "origin": [ORIGIN, "null", "https://evil.example"], "accept": ["text/html", "*/*", "application/json;q=é", ",;q=,"], "purpose": ["prefetch"],
    "content-type": [FORM, "application/json", "x"], "transfer-encoding": ["chunked"], "host": ["evil.example", "a\0b"], "x-forwarded-host": ["evil.example"],
    "user-agent": [MARK, "x" * 5_000, "\0"],
}  # fmt: skip


SAID = st.lists(st.sampled_from([(name, value) for name, values in SAYS.items() for value in values]), max_size=5)
FIELDS = ["sid", "logout_token", "state", "code", "id", "all", "return_to", "iss", "error", "session_state"]


@functools.cache
def foreign_token(world: Fuzzed) -> str:
    """A logout token that names Vic's session, by somebody else's key."""
    claims = {**world.id_claims(VIC, "n", sid="vic-1"), "jti": "j", "events": {EVENT: {}}}
    claims.pop("nonce")
    return forged.signed(world, [("alg", "RS256"), ("kid", "rsa")], [*claims.items()], "foreign")


@drawn(8)
@given(
    route=st.sampled_from(ROUTES),
    said=SAID,
    value=VALUES,
    fields=st.lists(st.sampled_from(FIELDS) | st.tuples(TEXT, TEXT), max_size=6),
    query=st.none() | TEXT,
    body=st.none() | st.none() | st.binary(max_size=60),
    of_vic=st.booleans(),
)
def test_pieces_that_prove_nothing_open_no_route(
    fuzzed: Fuzzed, route: tuple[str, str], said: list[tuple[str, str]], value: Any, fields: list[Any], query: str | None, body: bytes | None, of_vic: bool
) -> None:  # fmt: skip
    """A forged cookie, a foreign token, an unknown ``sid`` and a made-up state, anywhere and together: every row is as it was."""
    fuzzed.restore()
    method, path = route
    cookie = value_of(value, fuzzed.vic.cookie, fuzzed.ben.cookie)
    assume(session_values(f"{COOKIE}={cookie}").isdisjoint(device.cookie for device in fuzzed.devices))
    state = "A" * 22
    headers = {**dict(said), "cookie": f"__Secure-signin-{state}={cookie}; {COOKIE}={cookie}"}
    own = {
        "sid": "nobody",
        "logout_token": foreign_token(fuzzed),
        "state": state,
        "id": fuzzed.vic.session_id,
        "iss": fuzzed.vic.issuer,
    }
    pairs = [(field, own.get(field, "/")) if isinstance(field, str) else field for field in fields]
    text = urlencode(pairs, errors="replace")
    path = path.replace("{id}", fuzzed.vic.session_id if of_vic else quote(state[:3] + "'\0"))
    answer = fuzzed.send(
        method,
        f"{path}?{text if query is None else quote(query, safe='&=%;#')}",
        headers=headers,
        body=(text.encode() if body is None else body) if method == "POST" else b"",
    )
    fuzzed.unchanged()
    assert session_cookie(answer) is None
    assert b"fuzzmark" not in answer.get_body()
    assert not answer.headers.get("Location", ORIGIN).startswith("https://evil")
    if path.startswith(("/auth/me", "/auth/sessions")) and method != "POST":
        assert answer.status_code in (401, 403)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert path not in ("/auth/callback", "/auth/backchannel-logout") or answer.status_code in (400, 405, 411)
