"""A value that is fetched and kept: when it is asked for again, and who waits."""

import threading
import time
from collections.abc import Callable  # noqa: TC003 -- no cycle to break here

import pytest

from shared import limits
from shared.errors import ProviderFailed, ProviderUnavailable
from shared.provider.kept import AFTER_FAILURE, LONGEST, Kept


class Source:
    """Counts fetches, fails when it is told to, and tells the time."""

    def __init__(self) -> None:
        self.fetches = 0
        self.now = 1000.0
        self.error: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def fetch(self) -> str:
        """The next value."""
        self.fetches += 1
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return f"value {self.fetches}"

    def kept(self) -> Kept[str]:
        """A keeper of this source."""
        return Kept(self.fetch, max_age=3600, pause=30, clock=lambda: self.now)


def test_it_is_fetched_once_an_hour() -> None:
    """And not at all by looking."""
    source = Source()
    kept = source.kept()
    assert kept.peek() is None
    assert [kept.get() for _ in range(3)] == ["value 1"] * 3
    source.now += 3599
    assert kept.get() == "value 1"
    source.now += 1
    assert kept.get() == "value 2"
    assert kept.peek() == "value 2"
    assert source.fetches == 2


@pytest.mark.parametrize("error", [ProviderUnavailable("down"), ProviderFailed("html")])
def test_the_old_value_serves_while_the_provider_is_down(error: Exception) -> None:
    """And the provider is asked every 30 seconds, not by every request."""
    source = Source()
    kept = source.kept()
    kept.get()
    source.now += 3600
    source.error = error
    assert [kept.get() for _ in range(5)] == ["value 1"] * 5
    assert source.fetches == 2
    source.now += 31
    assert kept.get() == "value 1"
    assert source.fetches == 3
    source.error = None
    source.now += 31
    assert kept.get() == "value 4"


def test_without_a_value_a_failure_is_remembered_for_a_moment() -> None:
    """A provider that hangs must not take one thread after the other."""
    source = Source()
    kept = source.kept()
    source.error = ProviderFailed("html")
    for _ in range(3):
        with pytest.raises(ProviderFailed, match="html"):
            kept.get()
    assert source.fetches == 1
    source.now += AFTER_FAILURE
    source.error = None
    assert kept.get() == "value 2"


def test_a_newer_value_is_fetched_at_most_every_pause() -> None:
    """For what the value lacks; at once the first time, whoever asks again too soon is told to come back."""
    source = Source()
    kept = source.kept()
    first = kept.get()
    second = kept.newer(first)
    assert second == "value 2"
    assert kept.newer(first) == "value 2"
    with pytest.raises(ProviderUnavailable):
        kept.newer(second)
    source.now += 30
    source.error = ProviderUnavailable("down")
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            kept.newer(second)
    assert source.fetches == 3
    assert kept.get() == "value 2"


def test_one_fetches_and_the_others_use_what_is_there() -> None:
    """While one thread renews, nobody waits; while the first value comes, they wait a little and no longer than they may."""
    source = Source()
    kept = source.kept()
    under_way, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        under_way.set()
        assert go_on.wait(10)

    source.meanwhile = hang
    fetcher = threading.Thread(target=kept.get)
    fetcher.start()
    assert under_way.wait(10)
    with pytest.raises(ProviderUnavailable), limits.within(0.05):
        kept.get()
    go_on.set()
    fetcher.join()
    assert kept.get() == "value 1"
    source.now += 3600
    under_way.clear()
    go_on.clear()
    fetcher = threading.Thread(target=kept.get)
    fetcher.start()
    assert under_way.wait(10)
    assert kept.get() == "value 1"
    go_on.set()
    fetcher.join()
    assert kept.get() == "value 2"
    assert source.fetches == 2


def test_those_who_waited_share_the_first_value() -> None:
    """Twenty requests on a cold instance are one fetch."""
    source = Source()
    kept = source.kept()
    barrier = threading.Barrier(20)
    found: list[str] = []

    def get() -> None:
        barrier.wait(10)
        found.append(kept.get())

    threads = [threading.Thread(target=get) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["value 1"] * 20


def test_a_renewal_is_not_waited_for_long() -> None:
    """The request that happens to renew has little time for it."""
    source = Source()
    kept = source.kept()
    kept.get()
    left: list[float] = []
    source.meanwhile = lambda: left.append(limits.left(100))
    source.now += 3600
    kept.get()
    assert left[0] <= 2


def test_confirming_asks_unless_it_was_just_asked() -> None:
    """An old value is no sign of life."""
    source = Source()
    kept = source.kept()
    assert kept.confirm(60) == "value 1"
    assert kept.confirm(60) == "value 1"
    source.now += 60
    source.error = ProviderUnavailable("down")
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            kept.confirm(60)
    assert source.fetches == 2
    assert kept.get() == "value 1"


def test_whoever_confirms_waits_for_nobody() -> None:
    """A flood of health checks while the provider hangs takes one thread; the others say what was known last."""
    source = Source()
    kept = source.kept()
    under_way, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        under_way.set()
        assert go_on.wait(10)

    source.meanwhile = hang
    for known in (False, True):
        under_way.clear()
        go_on.clear()
        asker = threading.Thread(target=kept.confirm, args=(60,))
        asker.start()
        assert under_way.wait(10)
        if known:
            assert kept.confirm(60) == "value 1"
        else:
            with pytest.raises(ProviderUnavailable, match="another request"):
                kept.confirm(60)
        go_on.set()
        asker.join()
        source.now += 60
    assert source.fetches == 2


def test_whoever_had_no_time_keeps_nobody_from_asking() -> None:
    """A page that gives the provider a moment, and gets no answer, does not make sign-ins fail that would wait for it."""
    source = Source()
    kept = source.kept()

    def time_runs_out() -> None:
        if limits.left(limits.PROVIDER) < 1:
            time.sleep(limits.left(1))
            raise ProviderUnavailable("timeout")

    source.meanwhile = time_runs_out
    with limits.within(0.05), pytest.raises(ProviderUnavailable, match=r"^timeout$"):
        kept.get()
    with limits.within(0.05), pytest.raises(ProviderUnavailable, match="a moment ago"):
        kept.get()
    assert kept.get() == "value 2"


def test_a_very_old_value_serves_no_more() -> None:
    """While the provider cannot be asked, a key that it has withdrawn counts for a day and not for ever."""
    source = Source()
    kept = source.kept()
    kept.get()
    source.error = ProviderUnavailable("down")
    source.now += LONGEST - 1
    assert kept.get() == "value 1"
    source.now += 31
    with pytest.raises(ProviderUnavailable):
        kept.get()
    source.now += AFTER_FAILURE
    source.error = None
    assert kept.get() == f"value {source.fetches}"
