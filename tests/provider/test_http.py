"""The HTTP session: limits that hold, and nothing shared that is one user's."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shared import limits
from shared.errors import ProviderFailed, ProviderUnavailable
from shared.provider import http
from shared.provider.http import Http
from tests.provider.fake_provider import FakeProvider


@pytest.fixture
def caller(op: FakeProvider) -> Iterator[Http]:
    """A session that trusts ``op``."""
    caller = Http()
    yield caller
    caller._session.close()


@pytest.mark.parametrize("fault", ["hang", "drip body", "drip headers"])
def test_a_call_ends_with_the_request_it_serves(op: FakeProvider, caller: Http, fault: str) -> None:
    """Whether nothing comes or a byte now and then: at the deadline it is over."""
    op.faults = {"": fault}
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable), limits.within(0.3):
        caller.get(op.issuer)
    assert 0.25 < time.monotonic() - started < 3


def test_a_call_ends_with_its_own_limit(op: FakeProvider, caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of any request too."""
    monkeypatch.setattr(limits, "PROVIDER", 0.3)
    op.faults = {"": "drip body"}
    with pytest.raises(ProviderUnavailable):
        caller.get(op.issuer)


def test_without_time_nothing_is_asked(op: FakeProvider, caller: Http) -> None:
    """A request that is over makes no more calls."""
    with pytest.raises(ProviderUnavailable), limits.within(0):
        caller.post(f"{op.authority}/token", data={"code": "c"})
    assert op.requests == []


def test_several_addresses_share_the_time(caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with many addresses behind a wall that swallows packets costs no more than one."""
    tried: list[Any] = []

    def swallowed(address: Any, timeout: float) -> Any:
        tried.append(address)
        time.sleep(min(timeout, 0.1))
        raise TimeoutError

    monkeypatch.setattr(
        http.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (f"192.0.2.{n}", 443)) for n in range(1, 200)]
    )
    monkeypatch.setattr(http.socket, "create_connection", swallowed)
    with pytest.raises(ProviderUnavailable), limits.within(0.35):
        caller.get("https://op.example/")
    assert 1 <= len(tried) <= 5


def test_the_next_address_is_tried(op: FakeProvider, caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address that refuses is not the end."""
    port = int(op.origin.rpartition(":")[2])
    monkeypatch.setattr(
        http.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.255", port)), (2, 1, 6, "", ("127.0.0.1", port))]
    )
    assert caller.get(f"{op.issuer}/.well-known/openid-configuration").status_code == 200


def test_an_answer_of_a_megabyte_is_enough(op: FakeProvider, caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte more is refused."""
    monkeypatch.setattr(op, "answer", lambda _: (200, b"x" * http.LARGEST_ANSWER))
    assert len(caller.get(op.issuer).text) == http.LARGEST_ANSWER
    op.faults = {"": "huge"}
    with pytest.raises(ProviderFailed):
        caller.get(op.issuer)


def test_redirects_are_answers(op: FakeProvider, caller: Http) -> None:
    """Codes and secrets go where the metadata says, and nowhere else."""
    op.faults = {"/token": "redirect"}
    assert caller.post(f"{op.authority}/token", data={"code": "c"}).status_code == 302
    assert len(op.requests) == 1


def test_no_cookie_of_one_user_is_sent_for_another(op: FakeProvider, caller: Http) -> None:
    """The session serves everybody."""
    op.headers = {"Set-Cookie": "user=ada; Path=/"}
    caller.get(op.issuer)
    caller.get(op.issuer)
    assert all("Cookie" not in request.headers for request in op.requests)


def test_connections_are_kept(op: FakeProvider, caller: Http) -> None:
    """A TLS handshake costs more than the call; also after an error answer, and with little time left before."""
    opened: list[str] = []
    connect = http._connect

    def counting(host: str, port: int) -> Any:
        opened.append(host)
        return connect(host, port)

    http._connect = counting
    try:
        with limits.within(5):
            caller.get(op.issuer)
        for _ in range(3):
            caller.get(f"{op.issuer}/.well-known/openid-configuration")
    finally:
        http._connect = connect
    assert len(opened) == 1


def test_the_certificate_is_checked(op: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the throw-away CA in the bundle there is no provider."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ProviderUnavailable):
        Http().get(op.issuer)
    assert op.requests == []


def test_the_environment_is_read_once(op: FakeProvider, caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor another bundle that appears later changes anything."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    assert caller.get(f"{op.issuer}/.well-known/openid-configuration").status_code == 200


def test_a_form_is_posted_as_it_is(op: FakeProvider, caller: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """Form encoding, any characters."""
    monkeypatch.setattr(op, "answer", lambda request: (200, request.form))
    form = {"a": "1 2&=+", "b": "Ж"}
    assert json.loads(caller.post(op.issuer, data=form).text) == form


@pytest.mark.parametrize(
    "url", ["https://localhost:1/", "https://no-such-host.invalid/", "https://[::1/", "gopher://x/", "https://ex ample/"]
)
def test_an_address_that_leads_nowhere_is_one_of_two_errors(caller: Http, url: str) -> None:
    """And its query, which may hold a token, is not in the message."""
    with pytest.raises((ProviderUnavailable, ProviderFailed)) as raised:
        caller.get(f"{url}?token=secret")
    assert "secret" not in str(raised.value)
