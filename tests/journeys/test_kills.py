"""The promise under load, on four real host processes that are killed at random: what was signed out stays signed out.

``KILLS=10000`` in the environment makes it that many sign-outs; docs/decisions.md has the figures of such a run.
"""

import contextlib
import http.client
import os
import random
import secrets
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from dev import stack as local
from dev.processes import Child
from dev.stack import ROOT
from tests.support.stack import App, Stack
from tests.support.user_agent import Page, UserAgent

pytestmark = pytest.mark.stack

SIGN_OUTS = int(os.environ.get("KILLS", "300"))
WORKERS = 6
BROKEN = (OSError, http.client.HTTPException, AssertionError, ValueError)


class Hosts:
    """Four processes of one app, one of which dies every second or so."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.killed = 0
        self._folder = folder
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def one(self) -> str:
        return random.choice(self.app.urls)

    def _kill(self) -> None:
        while not self._stopping.wait(random.uniform(0.5, 2.0)):
            place = random.randrange(len(self.app.urls))
            port = int(self.app.urls[place].rpartition(":")[2])
            self.app.processes[place].kill()
            self.killed += 1
            self.app.processes[place] = Child(
                f"Host {place} again",
                local.host_command(ROOT, port),
                log=self._folder / f"again-{self.killed}.log",
                env=local.environment(self.app.settings),
                cwd=ROOT,
            )


def until(work: "object", seconds: float = 60) -> Page:
    """Tries again while hosts are down or storage is in doubt."""
    end = time.monotonic() + seconds
    while True:
        try:
            page: Page = work()  # type: ignore[operator]
            if page.status < 500:
                return page
        except BROKEN:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "no answer in a minute"
        time.sleep(0.05)


def test_what_was_signed_out_stays_signed_out(stack: Stack, tmp_path: Path) -> None:
    """Sign-ins, refreshes and sign-outs on four processes, with kills: no row, no cookie and no token comes back."""
    app = stack.start_app(processes=4)
    stack.provider.switch(access_token_ttl=60, frontchannel=False)  # every use of a token is a refresh
    left = iter(range(SIGN_OUTS))
    lock = threading.Lock()
    done: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    def lives(hosts: Hosts) -> None:
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                one_life(app, hosts, done)
        except BaseException as error:
            failures.append(error)

    with Hosts(app, tmp_path) as hosts:
        threads = [threading.Thread(target=lives, args=(hosts,)) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        killed = hosts.killed
    assert failures == []
    assert len(done) == SIGN_OUTS
    assert killed >= SIGN_OUTS // 100
    rows = {(entity["PartitionKey"], entity["RowKey"]) for entity in app.entities("sessions")}
    assert [row for row in rows if row[1] != "!"] == []
    for _, cookie in random.sample(done, min(50, len(done))):
        assert (
            until(
                lambda cookie=cookie: UserAgent().request(
                    "GET", f"{hosts.one()}/auth/me", headers={"Cookie": f"session={cookie}"}
                )
            ).status
            == 401
        )
    print(f"{SIGN_OUTS} sign-outs, {killed} kills, 0 rows left")


def one_life(app: App, hosts: Hosts, done: list[tuple[str, str]]) -> None:
    """Somebody signs in, uses tokens from several places at once, and signs out meanwhile."""
    login = f"life-{secrets.token_hex(6)}"
    agent = UserAgent(timeout=20)
    while "session" not in {cookie.name for cookie in agent.cookies.live()}:
        with contextlib.suppress(*BROKEN):
            agent.sign_in(app.url, login, return_to="/auth/logged-out")
        time.sleep(0.02)
    value = next(cookie.value for cookie in agent.cookies.live() if cookie.name == "session")
    header = {"Cookie": f"session={value}"}

    def use() -> None:
        for _ in range(3):
            with contextlib.suppress(*BROKEN):
                UserAgent(timeout=20).request(
                    "GET",
                    f"{hosts.one()}/api/profile",
                    mode="cors",
                    dest="empty",
                    headers={"Accept": "application/json", **header},
                )

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    time.sleep(random.uniform(0, 0.1))
    origin = {"Origin": app.url, "Sec-Fetch-Site": "same-origin"}
    page = until(
        lambda: UserAgent(timeout=20).request("POST", f"{hosts.one()}/auth/logout", form={}, headers={**header, **origin})
    )
    assert page.status == 303
    done.append((login, value))
    for user in users:
        user.join()
