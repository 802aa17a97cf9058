"""The audit's records: one line of JSON, and nothing in it that opens anything or names anybody."""

import json
import time
from typing import Any

import pytest

from shared.flows.audit import Audit, measured
from shared.store.memory_table import MemoryTable
from shared.store.metering import Metered
from shared.store.sealing import KeyRing


def written(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What the log holds, record by record."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "shared.audit"]


def test_a_record_says_what_happened_what_it_cost_and_to_whom_by_pseudonym(caplog: pytest.LogCaptureFixture) -> None:
    """Event, cause, keyed hash of the account, sessions ended, storage requests and milliseconds of this request."""
    caplog.set_level("INFO")
    ring = KeyRing([("k", bytes(range(32)))])
    table = Metered(MemoryTable())
    table.read("before", "x")
    with measured():
        for _ in range(3):
            table.read("a.t", "x")
        time.sleep(0.05)
        Audit(ring.pseudonym).record("sign_out", cause="user", account="oid.tenant", ended=2)
    (record,) = written(caplog)
    assert 50 <= record.pop("milliseconds") < 10_000
    assert record == {
        "event": "sign_out",
        "cause": "user",
        "account": ring.pseudonym("oid.tenant"),
        "sessions_ended": 2,
        "storage_requests": 3,
    }
    assert "oid" not in caplog.text
    assert KeyRing([("k", bytes(32))]).pseudonym("oid.tenant") != record["account"] != ring.pseudonym("another")


def test_each_request_is_measured_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """And what happens outside of one has no time."""
    caplog.set_level("INFO")
    audit, table = Audit(str), Metered(MemoryTable())
    with measured():
        table.read("a", "x")
        with measured():
            audit.record("sign_in", cause="callback", account="a", ended=0)
        audit.record("sign_out", cause="device", account="a", ended=1)
    audit.record("sign_out", cause="sweep", account="a", ended=0)
    inner, outer, outside = written(caplog)
    assert (inner["storage_requests"], outer["storage_requests"]) == (0, 1)
    assert outside["milliseconds"] is None
