"""A real HTTPS provider, new for each test; keys and certificates are made once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import limits
from shared.provider.client import Provider
from shared.provider.values import ProviderSettings
from tests.provider.fake_provider import CLIENT_ID, SECRET, FakeProvider, make_certificates, make_keys, serve


@pytest.fixture(scope="session")
def keys() -> dict[str, Any]:
    """The provider's private keys by ``kid``."""
    return make_keys()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The CA's certificate; key and certificate for localhost."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def op(certificates: tuple[Path, Path], keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """The provider; whoever makes an ``Http`` from now on trusts its certificate."""
    ca, own = certificates
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
    server, provider = serve(own, keys)
    yield provider
    provider.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(op: FakeProvider) -> Callable[..., Provider]:
    """Makes the front door to ``op``, with settings changed as given; ``places`` and ``revocations`` go to the door itself."""

    def make(*, places: limits.Places = limits.PLENTY, revocations: limits.Places = limits.PLENTY, **changes: Any) -> Provider:
        settings: dict[str, Any] = {
            "authority": op.authority,
            "oidc": False,
            "client_id": CLIENT_ID,
            "client_secret": SECRET,
            "redirect_uri": "https://app.example/auth/callback",
            "scopes": ("User.Read",),
            "response_mode": "form_post",
            **changes,
        }
        return Provider(ProviderSettings(**settings), places=places, revocations=revocations)

    return make
