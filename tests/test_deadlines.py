"""Time that is left, and places for those who wait."""

import threading
from contextvars import copy_context

import pytest

from shared import limits
from shared.errors import Busy


def test_an_inner_limit_never_lengthens_an_outer_one() -> None:
    """What is left is the least of all limits, and comes back with the outer one."""
    assert limits.left(7) == 7
    with limits.within(0):
        with limits.within(60):
            assert limits.left(60) == 0
        assert limits.left(1) == 0
    assert limits.left(7) == 7


def test_places_are_as_many_as_there_are() -> None:
    """Who comes when all are taken is told so at once, and a place that was given up is free again."""
    places = limits.Places(2)
    inside, leave = threading.Barrier(3), threading.Event()

    def stay() -> None:
        with places.one():
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=stay) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    with pytest.raises(Busy), places.one():
        pytest.fail("a third place of two")
    leave.set()
    for thread in threads:
        thread.join()
    with places.one():
        pass


def test_a_failure_gives_the_place_back() -> None:
    """However the work in it ended."""
    places = limits.Places(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), places.one():
            raise ZeroDivisionError


def test_who_has_a_place_needs_no_other() -> None:
    """A refresh that has to fetch the metadata first holds one, not two; another thread's place is not ours."""
    places, others = limits.Places(1), limits.Places(1)
    with places.one(), others.one(), places.one():
        refused: list[Busy] = []

        def elsewhere() -> None:
            try:
                with places.one():
                    pass
            except Busy as error:
                refused.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(refused) == 1
        # A thread that works for this request brings the request's context along.
        helper = threading.Thread(target=copy_context().run, args=(elsewhere,))
        helper.start()
        helper.join()
        assert len(refused) == 1
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_there_is_always_one_place() -> None:
    """Half of a pool of one thread is still one."""
    with limits.Places(0).one():
        pass
