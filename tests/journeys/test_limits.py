"""Time and memory have limits, whatever hangs and however long it runs."""

import threading
import time
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.user_agent import UserAgent

pytestmark = pytest.mark.stack


def resident(pid: int) -> int:
    """Megabytes of memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_under_120_mb_after_a_thousand_sign_ins(stack: Stack) -> None:
    """Nothing of a session stays in the process."""
    app = stack.start_app()

    def some(number: int) -> None:
        for n in range(125):
            agent = UserAgent()
            agent.sign_in(app.url, f"many-{number}-{n}", return_to="/auth/logged-out")
            assert "session" in agent.cookies

    threads = [threading.Thread(target=some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([e for e in app.entities("sessions") if e["RowKey"] != "!"]) == 1000
    assert resident(app.processes[0].pid) < 120


def test_a_hanging_provider_leaves_threads_for_sign_outs(stack: Stack) -> None:
    """Half of the pool waits for tokens, the rest of those get 503 at once, and a sign-out takes its usual time."""
    app = stack.start_app({"PYTHON_THREADPOOL_THREAD_COUNT": "8"})
    stack.provider.switch(access_token_ttl=60)
    waiting, leaving = [UserAgent() for _ in range(12)], UserAgent()
    for number, agent in enumerate(waiting):
        agent.sign_in(app.url, f"waiting-{number}")
    leaving.sign_in(app.url, "leaving")
    stack.provider.switch(token_refresh="hang")
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda agent=agent: statuses.append(agent.fetch(f"{app.url}/api/profile").status))
        for agent in waiting
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    began = time.monotonic()
    page = leaving.request("POST", f"{app.url}/auth/logout", initiator=f"{app.url}/", form={})
    assert page.status == 303
    assert time.monotonic() - began < 3
    for thread in threads:
        thread.join()
    assert set(statuses) == {503}
    assert time.monotonic() - began < 14
    assert all(agent.fetch(f"{app.url}/auth/me").status == 200 for agent in waiting)
