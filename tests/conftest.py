"""Fixtures for tests on real processes.  Nothing starts until a test asks for it, so that unit tests stay quick.

``azurite``   the emulator, one for the whole run
``provider``  the provider, one for the whole run; its switches and counters are as at the start in every test
``stack``     starts apps (``stack.start_app``), which end with the test
``app``       one app with the usual settings, for the whole run: for tests that need no settings of their own
``agent``     a browser without a screen (``tests/support/user_agent.py``)
``chromium``  a real one, over Playwright, one for each module: ``chromium.new_context()`` in each test

With ``CI`` set, a test of ``azurite``, ``browser`` or ``stack`` that would be skipped fails: what did not run has not passed.
"""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev import stack as local
from tests.support.stack import App, Azurite, Provider, Stack
from tests.support.user_agent import UserAgent

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_provider: list[Provider] = []
_MUST_RUN = ("azurite", "browser", "stack")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure where everything has to be there."""
    report = yield
    if report.skipped and os.environ.get("CI") and any(item.get_closest_marker(name) for name in _MUST_RUN):
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI is set: {call.excinfo.value if call.excinfo else report.longrepr}"
    return report


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """The storage emulator: ``azurite.connection_string``."""
    azurite = local.azurite_ready(local.launch_azurite(tmp_path_factory.mktemp("azurite")))
    yield azurite
    azurite.child.stop()


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The identity provider, with nobody signed in at first."""
    running = local.provider_ready(local.launch_provider(tmp_path_factory.mktemp("provider")))
    _provider.append(Provider(running))
    yield _provider[0]
    _provider.clear()
    running.child.stop()


@pytest.fixture(autouse=True)
def _provider_as_it_was() -> Iterator[None]:
    """Turns everything back that a test turned."""
    for provider in _provider:
        provider.reset()
    yield
    for provider in _provider:
        provider.reset()


@pytest.fixture
def stack(azurite: Azurite, provider: Provider, tmp_path: Path) -> Iterator[Stack]:
    """Starts apps that end with the test."""
    stack = Stack(azurite, provider, tmp_path)
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def app(azurite: Azurite, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One running app with the usual settings; use users of your own name, others use it too."""
    stack = Stack(azurite, provider, tmp_path_factory.mktemp("app"))
    yield stack.start_app()
    stack.stop()


@pytest.fixture
def agent() -> UserAgent:
    """A browser that has not been anywhere."""
    return UserAgent()


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """The machine's Chromium or Chrome, or else the one that Playwright installed.

    Not for the whole run: as long as Playwright is there, no other test can run an event loop.
    """
    from playwright.sync_api import Error, sync_playwright  # unit tests need not wait for it

    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")))
    with sync_playwright() as playwright:
        try:
            # CI runs as root, where Chromium has no sandbox.
            browser = playwright.chromium.launch(executable_path=next(found, None), args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield browser
        browser.close()
