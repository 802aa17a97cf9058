"""The local provider is what it says: an OpenID Provider in the shape of an Entra tenant, with what tests turn on it."""

import base64
import json
import queue
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
import requests
from playwright.sync_api import Browser

from dev import stack as local
from tests.support.stack import Provider
from tests.support.user_agent import Page, UserAgent

SCOPE = "User.Read openid profile offline_access"


@dataclass(slots=True)
class Relay:
    """A relying party that only listens: it answers 200 and remembers what it was sent."""

    origin: str
    client_id: str
    provider: Provider
    received: "queue.Queue[tuple[str, str, dict[str, str], dict[str, str]]]" = field(default_factory=queue.Queue)

    def next(self, path: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """The next request to ``path``: method, headers, parameters of query or form."""
        while True:
            method, address, headers, values = self.received.get(timeout=10)
            if address == path:
                return method, headers, values

    def authorize(self, agent: UserAgent, **changes: str) -> Page:
        """Opens an authorization request, whose answer comes as a query unless ``changes`` say otherwise."""
        values = {
            "client_id": self.client_id,
            "redirect_uri": f"{self.origin}/auth/callback",
            "response_type": "code",
            "response_mode": "query",
            "scope": SCOPE,
            "state": "the-state",
            "nonce": "the-nonce",
        } | changes
        return agent.open(f"{self.metadata()['authorization_endpoint']}?{urlencode(values)}")

    def metadata(self) -> dict[str, Any]:
        """The provider's metadata, as MSAL would get it."""
        return get(self.provider, f"{self.provider.issuer}/.well-known/openid-configuration").json()

    def token(self, **values: str) -> requests.Response:
        """A token request with the client's secret in the form, as MSAL sends it."""
        form = {"client_id": self.client_id, "client_secret": local.CLIENT_SECRET} | values
        session = requests.Session()
        session.trust_env = False
        with session:
            return session.post(self.metadata()["token_endpoint"], data=form, verify=str(self.provider.bundle), timeout=10)

    def signed_in(self, agent: UserAgent, user: str = "alice", **changes: str) -> dict[str, Any]:
        """Signs in and redeems the code: the token response, and the callback's parameters as ``callback``."""
        page = self.authorize(agent, **changes)
        if page.path.startswith("/login/"):
            agent.choose(user)
        _, _, callback = self.next("/auth/callback")
        answer = self.token(
            grant_type="authorization_code", code=callback["code"], redirect_uri=f"{self.origin}/auth/callback"
        )
        assert answer.status_code == 200, answer.text
        return answer.json() | {"callback": callback}

    def claims(self, id_token: str) -> dict[str, Any]:
        """The ID token's claims, with signature, issuer and audience checked against the published keys."""
        keys = jwt.PyJWKSet.from_dict(get(self.provider, self.metadata()["jwks_uri"]).json())
        key = next(key for key in keys.keys if key.key_id == jwt.get_unverified_header(id_token)["kid"])
        return jwt.decode(id_token, key, algorithms=["RS256"], audience=self.client_id, issuer=self.provider.issuer)


def get(provider: Provider, url: str, **headers: str) -> requests.Response:
    """A GET that trusts the throw-away authority and nothing of this machine's environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, verify=str(provider.bundle), timeout=10)


@pytest.fixture
def relay(provider: Provider) -> Iterator[Relay]:
    """A registered app with a front-channel and no back-channel address, which sees what the provider sends to it."""
    relay = Relay("", f"relay-{secrets.token_hex(4)}", provider)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            text = parts.query or self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            values = {name: ",".join(several) for name, several in parse_qs(text).items()}
            relay.received.put((self.command, parts.path, dict(self.headers), values))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        relay.origin = f"http://localhost:{server.server_address[1]}"
        provider.register(local.client(relay.origin, client_id=relay.client_id))
        yield relay
        server.shutdown()
        thread.join()


def test_metadata_sends_browsers_to_http_and_msal_to_https(relay: Relay) -> None:
    """The tenant's metadata is under its issuer; what browsers visit is http on 127.0.0.1, the rest https."""
    metadata = relay.metadata()
    assert (
        metadata["issuer"]
        == relay.provider.issuer
        == f"https://127.0.0.1:{urlsplit(relay.provider.issuer).port}/{local.TENANT}/v2.0"
    )
    for name in ("authorization_endpoint", "end_session_endpoint"):
        assert metadata[name].startswith(f"{relay.provider.browser}/{local.TENANT}/v2.0/")
    for name in ("token_endpoint", "jwks_uri", "userinfo_endpoint"):
        assert metadata[name].startswith(f"{relay.provider.issuer}/")
    assert metadata["authorization_response_iss_parameter_supported"] is True
    assert metadata["id_token_signing_alg_values_supported"] == ["RS256"]
    assert "revocation_endpoint" not in metadata
    assert "backchannel_logout_supported" not in metadata


def test_metadata_names_what_entra_lacks_when_switched_on(relay: Relay) -> None:
    """Revocation and back-channel logout are in the metadata only where a test wants them."""
    relay.provider.switch(revocation_endpoint=True, backchannel_logout_supported=True)
    metadata = relay.metadata()
    assert metadata["revocation_endpoint"].startswith("https://")
    assert metadata["backchannel_logout_supported"] is True
    assert metadata["backchannel_logout_session_supported"] is True


def test_it_listens_on_loopback_under_its_own_names_only(provider: Provider) -> None:
    """Another site's name that points to 127.0.0.1 is refused, and so is a page that reaches for the control routes."""
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(provider.another_app, headers={"Host": "evil.example"}, timeout=10).status_code == 421
        for header in ({"Origin": "http://localhost:1"}, {"Sec-Fetch-Site": "same-origin"}):
            assert session.get(f"{provider.browser}/test/counters", headers=header, timeout=10).status_code == 403


def test_signs_in_with_the_claims_of_an_entra_tenant(relay: Relay, agent: UserAgent) -> None:
    """Code flow: iss and session_state in the callback, client_info beside the tokens, Entra's claims in the ID token."""
    tokens = relay.signed_in(agent, "alice")
    callback = tokens["callback"]
    assert callback["state"] == "the-state"
    assert callback["iss"] == relay.provider.issuer
    claims = relay.claims(tokens["id_token"])
    assert claims["name"] == "Alice Example"
    assert claims["preferred_username"] == "alice@example.test"
    assert claims["tid"] == local.TENANT
    assert claims["ver"] == "2.0"
    assert claims["nonce"] == "the-nonce"
    assert claims["login_hint"].startswith("O.")
    assert claims["sid"] == callback["session_state"] == relay.provider.sessions("alice")[-1]["clients"][relay.client_id]
    info = json.loads(base64.urlsafe_b64decode(tokens["client_info"] + "=="))
    assert info == {"uid": claims["oid"], "utid": claims["tid"]}
    assert set(tokens["scope"].split()) == set(SCOPE.split())


def test_anybody_signs_in_by_name(relay: Relay, agent: UserAgent) -> None:
    """The login page has a free field; the same name is the same person on every device."""
    first = relay.claims(relay.signed_in(agent, "Zoë Nobody")["id_token"])
    again = relay.claims(relay.signed_in(UserAgent(), "Zoë Nobody")["id_token"])
    assert first["name"] == "Zoë Nobody"
    assert first["sub"] == again["sub"]
    assert first["sid"] != again["sid"]


def test_a_described_user_has_exactly_those_claims(relay: Relay, agent: UserAgent) -> None:
    """Guests and odd subjects: sub of any characters, a home account that differs from oid and tid, claims left out."""
    relay.provider.user(
        "odd", sub="a/b#?\\ü", oid=None, uid="home-user", utid="home-tenant", login_hint=None, claims={"groups": ["g"]}
    )
    tokens = relay.signed_in(agent, "odd")
    claims = relay.claims(tokens["id_token"])
    assert claims["sub"] == "a/b#?\\ü"
    assert "oid" not in claims
    assert "login_hint" not in claims
    assert json.loads(base64.urlsafe_b64decode(tokens["client_info"] + "==")) == {"uid": "home-user", "utid": "home-tenant"}


def test_form_post_submits_itself_with_a_cross_site_post(relay: Relay, agent: UserAgent) -> None:
    """The default of the product: the code arrives in a form from the provider's site."""
    relay.authorize(agent, response_mode="form_post")
    agent.choose("alice")
    method, headers, values = relay.next("/auth/callback")
    assert method == "POST"
    assert headers["Sec-Fetch-Site"] == "cross-site"
    assert headers["Origin"] == relay.provider.browser
    assert values.keys() == {"code", "state", "iss", "session_state"}


@pytest.mark.parametrize(("prompt", "asked"), [("", False), ("none", False), ("login", True), ("select_account", True)])
def test_single_sign_on_and_prompt(relay: Relay, agent: UserAgent, prompt: str, *, asked: bool) -> None:
    """A second sign-in in the same browser asks nobody, unless prompt says so."""
    relay.signed_in(agent, "alice")
    page = relay.authorize(agent, **({"prompt": prompt} if prompt else {}))
    assert page.path.startswith("/login/") is asked
    if asked:
        agent.choose("alice")
    assert "code" in relay.next("/auth/callback")[2]


def test_prompt_none_without_a_session_and_a_cancelled_login_are_errors(relay: Relay, agent: UserAgent) -> None:
    """The callback gets the error and the state, and no code."""
    relay.authorize(agent, prompt="none")
    values = relay.next("/auth/callback")[2]
    assert (values["error"], values["state"]) == ("login_required", "the-state")
    relay.authorize(agent)
    agent.submit(cancel="yes")
    assert relay.next("/auth/callback")[2]["error"] == "access_denied"


def test_consent_is_asked_when_the_app_wants_it(relay: Relay, agent: UserAgent) -> None:
    """prompt=consent shows what is asked for; everything else is granted silently."""
    relay.signed_in(agent, "alice")
    page = relay.authorize(agent, prompt="consent")
    assert "User.Read" in page.text
    agent.submit(consent="yes")
    assert "code" in relay.next("/auth/callback")[2]


def test_login_hint_of_another_user_asks_for_that_user(relay: Relay, agent: UserAgent) -> None:
    """A hint that names the signed-in user goes through; another one shows the login page, that user first."""
    relay.signed_in(agent, "alice")
    assert not relay.authorize(agent, login_hint="alice@example.test").path.startswith("/login/")
    page = relay.authorize(agent, login_hint="bob@example.test")
    assert page.document.forms[0].buttons == [("user", "bob")]


def test_signing_in_as_another_user_signs_the_first_one_out(relay: Relay, agent: UserAgent) -> None:
    """Changing users in one browser ends the first one's session, with front-channel logout."""
    sid = relay.claims(relay.signed_in(agent, "alice")["id_token"])["sid"]
    relay.authorize(agent, prompt="select_account")
    agent.choose("bob")
    assert relay.next("/auth/frontchannel-logout")[2] == {"sid": sid}
    assert "code" in relay.next("/auth/callback")[2]


def test_refresh_tokens_rotate_and_reuse_ends_the_grant(relay: Relay, agent: UserAgent) -> None:
    """Each refresh token works once; using one again revokes what came after it."""
    tokens = relay.signed_in(agent, "alice")
    second = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"], scope=SCOPE).json()
    assert second["refresh_token"] != tokens["refresh_token"]
    assert second["client_info"] == tokens["client_info"]
    reused = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    assert relay.token(grant_type="refresh_token", refresh_token=second["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_scope_without_consent_is_refused_as_entra_does(relay: Relay, agent: UserAgent) -> None:
    """invalid_grant with the suberror consent_required: the user has to come back."""
    tokens = relay.signed_in(agent, "alice")
    answer = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"], scope="openid Mail.Read").json()
    assert (answer["error"], answer["suberror"]) == ("invalid_grant", "consent_required")


def test_graph_checks_the_bearer_token(relay: Relay, agent: UserAgent) -> None:
    """/me answers for whom the token was issued to, and for nobody without a token, an expired one or one of another scope."""
    me = f"{relay.provider.graph}/me"
    tokens = relay.signed_in(agent, "bob")
    person = get(relay.provider, me, Authorization=f"Bearer {tokens['access_token']}").json()
    assert (person["displayName"], person["userPrincipalName"]) == ("Bob Example", "bob@example.test")
    assert person["id"] == relay.claims(tokens["id_token"])["oid"]
    for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {tokens['access_token']}"}):
        assert get(relay.provider, me, **header).status_code == 401
    narrow = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"], scope="openid").json()
    assert get(relay.provider, me, Authorization=f"Bearer {narrow['access_token']}").status_code == 403


def test_graph_challenges_until_the_user_came_back_with_the_claims(relay: Relay, agent: UserAgent) -> None:
    """Continuous access evaluation: 401 with claims, refused at refresh too, satisfied by a sign-in that carries them."""
    me = f"{relay.provider.graph}/me"
    tokens = relay.signed_in(agent, "alice")
    relay.provider.switch(graph="challenge")
    answer = get(relay.provider, me, Authorization=f"Bearer {tokens['access_token']}")
    challenge = answer.headers["WWW-Authenticate"]
    assert answer.status_code == 401
    assert 'error="insufficient_claims"' in challenge
    claims = base64.b64decode(challenge.partition('claims="')[2].partition('"')[0]).decode()
    assert json.loads(claims)["access_token"]["nbf"]["essential"] is True
    refused = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"], claims=claims).json()
    assert refused["error"] == "interaction_required"
    tokens = relay.signed_in(agent, "alice", claims=claims)
    assert get(relay.provider, me, Authorization=f"Bearer {tokens['access_token']}").status_code == 200


def test_access_tokens_have_the_lifetime_and_size_that_was_asked_for(relay: Relay, agent: UserAgent) -> None:
    """For tests of expiry and of large caches; a padded token still works."""
    relay.provider.switch(access_token_ttl=7, access_token_bytes=5000)
    tokens = relay.signed_in(agent, "alice")
    assert tokens["expires_in"] == 7
    assert len(tokens["access_token"]) == 5000
    assert (
        get(relay.provider, f"{relay.provider.graph}/me", Authorization=f"Bearer {tokens['access_token']}").status_code == 200
    )


def sign_out(relay: Relay, agent: UserAgent, **values: str) -> Page:
    """Opens the end_session_endpoint, as the product's redirect does."""
    given = {
        "client_id": relay.client_id,
        "post_logout_redirect_uri": f"{relay.origin}/auth/logged-out",
        "state": "out",
    } | values
    return agent.open(f"{relay.metadata()['end_session_endpoint']}?{urlencode(given)}")


@pytest.mark.parametrize("hint", ["logout_hint", "id_token_hint"])
def test_a_hint_signs_out_without_a_question(relay: Relay, agent: UserAgent, hint: str) -> None:
    """Frames to every app, then back to the app with the state; the provider's session is over."""
    tokens = relay.signed_in(agent, "alice")
    claims = relay.claims(tokens["id_token"])
    page = sign_out(relay, agent, **{hint: claims["login_hint"] if hint == "logout_hint" else tokens["id_token"]})
    method, headers, values = relay.next("/auth/frontchannel-logout")
    assert (method, values) == ("GET", {"sid": claims["sid"]})
    assert headers["Sec-Fetch-Dest"] == "iframe"
    assert relay.next("/auth/logged-out")[2] == {"state": "out"}
    assert page.url == f"{relay.origin}/auth/logged-out?state=out"
    assert relay.authorize(agent).path.startswith("/login/")


@pytest.mark.parametrize("hints", [{}, {"logout_hint": "alice@example.test"}])
def test_without_the_right_hint_the_user_is_asked(relay: Relay, agent: UserAgent, hints: dict[str, str]) -> None:
    """The account picker of Entra, which a user name as the hint does not spare; leaving it leaves the session."""
    relay.signed_in(agent, "alice")
    page = sign_out(relay, agent, **hints)
    assert "Pick an account" in page.text
    relay.authorize(agent, prompt="none")
    assert "code" in relay.next("/auth/callback")[2]
    sign_out(relay, agent, **hints)
    agent.submit(logout="yes")
    relay.next("/auth/frontchannel-logout")
    assert relay.authorize(agent).path.startswith("/login/")


def test_sign_out_without_a_session_comes_straight_back(relay: Relay, agent: UserAgent) -> None:
    """Nothing to end, nobody to ask."""
    assert sign_out(relay, agent).url == f"{relay.origin}/auth/logged-out?state=out"


def test_an_address_that_is_not_registered_is_not_redirected_to(relay: Relay, agent: UserAgent) -> None:
    """As at Entra, post_logout_redirect_uri has to be registered, and so has redirect_uri."""
    assert sign_out(relay, agent, post_logout_redirect_uri=f"{relay.origin}/elsewhere").status == 400
    assert relay.authorize(agent, redirect_uri=f"{relay.origin}/elsewhere").status == 400


def test_frontchannel_frames_carry_iss_when_switched_on(relay: Relay, agent: UserAgent) -> None:
    """Entra sends sid alone; other providers send both."""
    relay.provider.switch(iss_in_frontchannel=True)
    tokens = relay.signed_in(agent, "alice")
    sid = relay.claims(tokens["id_token"])["sid"]
    sign_out(relay, agent, id_token_hint=tokens["id_token"])
    assert relay.next("/auth/frontchannel-logout")[2] == {"sid": sid, "iss": relay.provider.issuer}


def test_frontchannel_page_goes_on_by_script_or_by_link(relay: Relay, agent: UserAgent) -> None:
    """A browser waits for the frames or three seconds; the link is for those without script."""
    tokens = relay.signed_in(agent, "alice")
    history = sign_out(relay, agent, id_token_hint=tokens["id_token"]).history
    page = next(page for page in history if page.frames)
    assert page.document.frames == [f"{relay.origin}/auth/frontchannel-logout?sid={relay.claims(tokens['id_token'])['sid']}"]
    assert "3000" in "".join(page.document.scripts)
    assert ("Continue", f"{relay.origin}/auth/logged-out?state=out", "continue") in page.document.links


def test_another_app_signs_out_elsewhere(relay: Relay, agent: UserAgent) -> None:
    """The demo app signs in by single sign-on, and signing out there calls our front-channel address."""
    sid = relay.claims(relay.signed_in(agent, "alice")["id_token"])["sid"]
    agent.open(relay.provider.another_app)
    assert "Alice Example" in agent.click("Sign in").text
    page = agent.click("Sign out")
    assert relay.next("/auth/frontchannel-logout")[2] == {"sid": sid}
    assert page.url == relay.provider.another_app
    assert "Not signed in" in page.text


def test_another_app_is_signed_out_from_here(relay: Relay, agent: UserAgent) -> None:
    """It has a front-channel address of its own."""
    agent.open(relay.provider.another_app)
    agent.click("Sign in")
    agent.choose("alice")
    tokens = relay.signed_in(agent, "alice")
    sign_out(relay, agent, id_token_hint=tokens["id_token"])
    assert "Not signed in" in agent.open(relay.provider.another_app).text


def test_backchannel_logout_comes_first_and_is_signed(relay: Relay, agent: UserAgent) -> None:
    """For a client with a back-channel address: a logout token with sub and sid, before the frames."""
    relay.provider.register(local.client(relay.origin, client_id=relay.client_id, backchannel=True))
    tokens = relay.signed_in(agent, "alice")
    claims = relay.claims(tokens["id_token"])
    with relay.provider.counting() as counted:
        sign_out(relay, agent, id_token_hint=tokens["id_token"])
    method, path, _, values = relay.received.get(timeout=10)
    assert (method, path) == ("POST", "/auth/backchannel-logout")
    logout = relay.claims(values["logout_token"])
    assert jwt.get_unverified_header(values["logout_token"])["typ"] == "logout+jwt"
    assert (logout["sub"], logout["sid"]) == (claims["sub"], claims["sid"])
    assert logout["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert {"jti", "iat", "exp"} <= logout.keys()
    assert "nonce" not in logout
    assert relay.next("/auth/frontchannel-logout")[2] == {"sid": claims["sid"]}
    assert counted["backchannel"] == {"sent": 1, "accepted": 1, "refused": 0}
    assert counted["frontchannel"] == 1


def test_logout_tokens_of_any_kind_can_be_made(relay: Relay) -> None:
    """Right ones verify against the published keys; wrong ones are wrong as asked."""
    token = relay.provider.logout_token(client_id=relay.client_id, sub="s", sid="x")
    assert relay.claims(token)["sid"] == "x"
    changed = relay.provider.logout_token(
        client_id="other", sub="s", claims={"jti": None, "nonce": "n"}, header={"typ": None, "jku": "https://evil"}
    )
    body = jwt.decode(changed, options={"verify_signature": False})
    assert (body["aud"], body["nonce"]) == ("other", "n")
    assert "jti" not in body
    assert jwt.get_unverified_header(changed).keys() == {"alg", "kid", "jku"}
    assert jwt.get_unverified_header(relay.provider.logout_token(key="none"))["alg"] == "none"
    assert jwt.get_unverified_header(relay.provider.logout_token(key="hmac"))["alg"] == "HS256"
    published = {key["kid"] for key in get(relay.provider, relay.metadata()["jwks_uri"]).json()["keys"]}
    assert jwt.get_unverified_header(relay.provider.logout_token(key="unknown"))["kid"] not in published


def test_keys_rotate(relay: Relay, agent: UserAgent) -> None:
    """New tokens have the new key; old ones still verify, also as a hint at sign-out."""
    old = relay.signed_in(agent, "alice")["id_token"]
    kid = relay.provider.rotate_keys()
    new = relay.signed_in(agent, "alice")["id_token"]
    assert jwt.get_unverified_header(new)["kid"] == kid != jwt.get_unverified_header(old)["kid"]
    assert relay.claims(old)["sub"] == relay.claims(new)["sub"]
    assert "Pick an account" not in sign_out(relay, agent, id_token_hint=old).text


@pytest.mark.parametrize(
    ("mode", "status", "content"),
    [("400", 400, "invalid_grant"), ("500", 500, ""), ("503", 503, ""), ("html", 200, "<!DOCTYPE html>")],
)
def test_the_token_endpoint_fails_as_switched(relay: Relay, agent: UserAgent, mode: str, status: int, content: str) -> None:
    """A failure leaves the refresh token as it was, so that a retry is possible."""
    tokens = relay.signed_in(agent, "alice")
    relay.provider.switch(token_refresh=mode)
    answer = relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert answer.status_code == status
    assert content in answer.text
    relay.provider.switch(token_refresh="ok")
    assert relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).status_code == 200


@pytest.mark.parametrize("mode", ["hang", "drop", "drip"])
def test_an_endpoint_that_never_answers(relay: Relay, mode: str) -> None:
    """A hanging, dropping or dripping endpoint ends with the client's patience."""
    url = relay.metadata()["jwks_uri"]
    relay.provider.switch(jwks=mode)
    with requests.Session() as session:
        session.trust_env = False
        if mode == "drip":
            with session.get(url, verify=str(relay.provider.bundle), timeout=1, stream=True) as answer:
                assert [answer.raw.read(1) for _ in range(3)] == [b" "] * 3
            return
        with pytest.raises((requests.ConnectionError, requests.Timeout)):
            session.get(url, verify=str(relay.provider.bundle), timeout=0.5)


def test_the_token_answer_changes_as_switched(relay: Relay, agent: UserAgent) -> None:
    """No ID token, no refresh token, no client_info, no sid, a megabyte, an ID token with other claims, header and key."""
    switch = relay.provider.switch
    switch(omit_id_token=True, omit_refresh_token=True, client_info=False, token_endpoint="big")
    tokens = relay.signed_in(agent, "alice")
    assert not {"id_token", "refresh_token", "client_info"} & tokens.keys()
    assert len(tokens["padding"]) == 1024 * 1024
    relay.provider.reset()
    switch(
        sid_claim=False,
        session_state="other",
        id_token={"claims": {"aud": "x", "exp": None}, "header": {"kid": "k"}, "key": "unknown"},
    )
    tokens = relay.signed_in(agent, "alice")
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert claims["aud"] == "x"
    assert not {"exp", "sid"} & claims.keys()
    assert jwt.get_unverified_header(tokens["id_token"]) == {"alg": "RS256", "kid": "k"}
    assert tokens["callback"]["session_state"].startswith("state-of-")


def test_counters_count(relay: Relay, agent: UserAgent) -> None:
    """Requests by endpoint, token requests by grant type."""
    with relay.provider.counting() as counted:
        tokens = relay.signed_in(agent, "alice")
        relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        relay.claims(tokens["id_token"])
        get(relay.provider, f"{relay.provider.graph}/me")
    assert counted["token"] == {"authorization_code": 1, "refresh_token": 1}
    assert (counted["jwks"], counted["graph"], counted["authorize"]) == (1, 1, 1)


def test_revocation_ends_the_refresh_token_and_is_counted(relay: Relay, agent: UserAgent) -> None:
    """RFC 7009, where the metadata names it."""
    relay.provider.switch(revocation_endpoint=True)
    tokens = relay.signed_in(agent, "alice")
    form = {"token": tokens["refresh_token"], "client_id": relay.client_id, "client_secret": local.CLIENT_SECRET}
    with relay.provider.counting() as counted, requests.Session() as session:
        session.trust_env = False
        endpoint = relay.metadata()["revocation_endpoint"]
        assert session.post(endpoint, data=form, verify=str(relay.provider.bundle), timeout=10).status_code == 200
    assert counted["revocation"] == 1
    assert relay.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).status_code == 400


def test_wrong_switches_and_clients_are_refused_by_name(provider: Provider) -> None:
    """A typing error in a test is no silent success."""
    with pytest.raises(ValueError, match="no such switch: tokn"):
        provider.switch(tokn="500")
    with pytest.raises(ValueError, match="graph must be one of"):
        provider.switch(graph="maybe")
    with pytest.raises(ValueError, match="redirect_uris"):
        provider.register({"client_id": "x", "redirect_uris": "not a list"})


@pytest.mark.browser
def test_the_pages_scripts_work_in_a_real_browser(relay: Relay, chromium: Browser) -> None:
    """The form posts itself, the sign-out goes on as soon as the frames have loaded, and the console stays empty."""
    said: list[str] = []
    with chromium.new_context() as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{relay.provider.another_app}/sign-in")
        page.get_by_role("button", name="Alice").click()
        values = {
            "client_id": relay.client_id,
            "response_type": "code",
            "response_mode": "form_post",
            "scope": SCOPE,
            "nonce": "n",
        }
        values["redirect_uri"] = f"{relay.origin}/auth/callback"
        page.goto(f"{relay.metadata()['authorization_endpoint']}?{urlencode(values)}")
        assert relay.next("/auth/callback")[0] == "POST"
        # Without timers only the frames themselves can move the page on.
        page.add_init_script("window.setTimeout = () => 0")
        page.goto(relay.provider.another_app)
        page.get_by_role("link", name="Sign out").click()
        page.wait_for_url(relay.provider.another_app)
        assert "Not signed in" in page.inner_text("body")
    assert relay.next("/auth/frontchannel-logout")[1].get("Cookie") is None
    assert said == []
