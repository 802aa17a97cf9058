"""Time and memory have limits, whatever hangs and however long it runs."""

import threading
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
