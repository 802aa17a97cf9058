"""Sign-ins under way: what their cookies carry, and that they open for their state, their app and their time only."""

import base64
import os
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.flows.pending import Pending, PendingSeal
from shared.store.rows import Claim
from shared.store.sealing import KeyRing
from shared.web.cookies import from_base64url

START = datetime(2026, 11, 23, 8, 20, 0, 123456, tzinfo=UTC)
RING = KeyRing([("k.1", os.urandom(32)), ("old", os.urandom(32))])
SEAL = PendingSeal(RING, "app1")
PENDING = Pending(
    state="S" * 22,
    flow={"nonce": "n", "code_verifier": "v"},
    return_to="/é?a=b",
    started_at=START,
    had=(Claim(account="a.t", session_id="i", secret_hash="h"),),
)


@pytest.mark.parametrize("had", [(), PENDING.had, PENDING.had * 3], ids=["new", "had", "planted"])
def test_what_was_sealed_comes_back(had: tuple[Claim, ...]) -> None:
    """Flow, return path, start to the microsecond, and the sessions this browser claimed."""
    pending = replace(PENDING, had=had)
    value = SEAL.seal(pending)
    assert SEAL.open(pending.state, value) == pending
    key_id, _, text = value.rpartition(".")
    assert key_id == "k.1"
    assert from_base64url(text)
    assert "nonce" not in repr(pending)


def test_it_opens_for_its_state_and_its_app_only() -> None:
    """Another state, another app, another key, or a changed value: nothing."""
    value = SEAL.seal(PENDING)
    assert SEAL.open("T" * 22, value) is None
    assert PendingSeal(RING, "app2").open(PENDING.state, value) is None
    assert PendingSeal(KeyRing([("k.1", os.urandom(32))]), "app1").open(PENDING.state, value) is None
    for bad in ("", ".", "x", value[:-1], value + "A", value.replace("k.1", "none"), value.replace("k.1", "old"), "k.1.*"):
        assert SEAL.open(PENDING.state, bad) is None


@pytest.mark.parametrize(
    "plain",
    [
        b"no zlib", zlib.compress(b"no json"), zlib.compress(b"[]"), zlib.compress(b"{}"), zlib.compress(b"\xff"),
        zlib.compress(b'{"flow":{},"return_to":"/","started_at":"now","had":[]}'),
        zlib.compress(b'{"flow":{},"return_to":"/","started_at":0,"had":5}'),
        zlib.compress(b'{"flow":{},"return_to":"/","had":[]}'), zlib.compress(b'{"flow":{},"return_to":"/","started_at":0,"had":[["a"]]}'),
    ],
)  # fmt: skip
def test_what_has_another_form_is_nothing(plain: bytes) -> None:
    """As another release may have sealed it: start again, no error."""
    sealed = RING.seal(plain, "pending", "1", "app1", PENDING.state)
    value = "k.1." + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
    assert SEAL.open(PENDING.state, value) is None


def test_the_form_of_a_value_never_changes() -> None:
    """Releases run side by side: a sign-in begins on one and ends on the other."""
    plain = b'{"flow":{"nonce":"n","code_verifier":"v"},"return_to":"/x","started_at":1.5,"had":[["a.t","i","h"]]}'
    sealed = RING.seal(zlib.compress(plain), "pending", "1", "app1", PENDING.state)
    value = "k.1." + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
    started_at = datetime.fromtimestamp(1.5, UTC)
    assert SEAL.open(PENDING.state, value) == replace(PENDING, return_to="/x", started_at=started_at)


def test_a_value_that_no_cookie_holds_is_refused() -> None:
    """3,500 characters: four of them and the rest of the headers have to pass."""

    def sized(length: int) -> Pending:
        return replace(PENDING, return_to="/" + os.urandom(length).hex())

    assert len(SEAL.seal(sized(1024))) <= 3500
    random = [Claim(account="a" * 73, session_id=os.urandom(16).hex(), secret_hash=os.urandom(32).hex()) for _ in range(3)]
    assert len(SEAL.seal(replace(sized(900), had=tuple(random)))) <= 3500
    with pytest.raises(ValueError, match="does not fit"):
        SEAL.seal(sized(3000))


def test_what_unpacks_to_very_much_is_nothing() -> None:
    """16 KB at most, whatever the compressed size."""
    assert SEAL.open(PENDING.state, SEAL.seal(replace(PENDING, return_to="/" + "a" * 16_000))) is not None
    assert SEAL.open(PENDING.state, SEAL.seal(replace(PENDING, return_to="/" + "a" * 17_000))) is None


@pytest.mark.parametrize(
    ("after", "over"),
    [
        (timedelta(0), False), (timedelta(minutes=10), False), (timedelta(minutes=10, microseconds=1), True),
        (timedelta(minutes=-5), False), (timedelta(minutes=-5, microseconds=-1), True),
    ],
)  # fmt: skip
def test_ten_minutes_and_clocks_that_differ(after: timedelta, over: bool) -> None:
    """Neither older than ten minutes, nor further in the future than clocks may differ."""
    assert PENDING.is_over(START + after) is over
