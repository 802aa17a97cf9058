"""Sealed values open with their key, in their place, and nowhere else."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.store.sealing import OVERHEAD, BrokenSealError, KeyRing, UnknownKeyError, digest

OLD, NEW = ("old", os.urandom(32)), ("new", os.urandom(32))
PLACE = ("session", "1", "app", "account", "id", "hash", "Identity")


@given(plain=st.binary(max_size=2000), place=st.lists(st.text(max_size=20), min_size=1, max_size=7))
def test_what_was_sealed_opens_in_its_place(plain: bytes, place: list[str]) -> None:
    """Any bytes come back unchanged, in any place, with 28 bytes of overhead."""
    ring = KeyRing([NEW])
    sealed = ring.seal(plain, *place)
    assert ring.open("new", sealed, *place) == plain
    assert len(sealed) == len(plain) + OVERHEAD


@pytest.mark.parametrize("position", range(len(PLACE)))
def test_moved_values_do_not_open(position: int) -> None:
    """Each part of the place is bound: version, app, table, both keys, the secret's hash and the property."""
    ring = KeyRing([NEW])
    sealed = ring.seal(b"token", *PLACE)
    moved = [*PLACE]
    moved[position] += "x"
    with pytest.raises(BrokenSealError):
        ring.open("new", sealed, *moved)


@given(st.data())
def test_changed_values_do_not_open(data: st.DataObject) -> None:
    """Flipping any bit, or cutting anywhere, breaks the seal."""
    ring = KeyRing([NEW])
    sealed = bytearray(ring.seal(b"refresh token", *PLACE))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(sealed) - 1))
        sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        sealed = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    with pytest.raises(BrokenSealError):
        ring.open("new", bytes(sealed), *PLACE)


def test_the_first_key_seals_and_every_key_opens() -> None:
    """Rotation: the new key goes last everywhere, then first, then the old one leaves."""
    before, between, after = KeyRing([OLD, NEW]), KeyRing([NEW, OLD]), KeyRing([NEW])
    sealed = before.seal(b"x", *PLACE)
    assert (before.current, between.current) == ("old", "new")
    assert between.open("old", sealed, *PLACE) == b"x"
    assert before.open("new", between.seal(b"y", *PLACE), *PLACE) == b"y"
    with pytest.raises(UnknownKeyError):
        after.open("old", sealed, *PLACE)


def test_a_key_id_does_not_stand_for_another_key() -> None:
    """A value that names another key of the ring does not open."""
    ring = KeyRing([NEW, OLD])
    with pytest.raises(BrokenSealError):
        ring.open("old", ring.seal(b"x", *PLACE), *PLACE)


def test_the_form_never_changes() -> None:
    """Old and new releases run side by side and read each other's rows: a change here needs a new version of the rows."""
    assert digest("ab", "c") == "601d5476e2ccfe2c87a2bba7a322659734a05749d5b5aa781f513e4912db0d5f"
    ring = KeyRing([("k1", bytes(range(32)))])
    assert ring.pseudonym("o.t \ud800") == "e4dd28976a7daf28"
    sealed = bytes.fromhex("0000000000000000000000007ad3debbdbefeaa277e2c64f1c26f62ca23d296ae1")
    assert ring.open("k1", sealed, *PLACE) == b"token"


def test_digest_separates_its_parts() -> None:
    """("ab", "c") and ("a", "bc") are different things."""
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert len(digest("\ud800", "é")) == 64


def test_pseudonyms_are_stable_and_keyed() -> None:
    """The same account has the same pseudonym in every process with that key, and another one with another key."""
    assert KeyRing([NEW]).pseudonym("a") == KeyRing([NEW, OLD]).pseudonym("a") != KeyRing([OLD]).pseudonym("a")
