"""Sign-outs against refreshes and renewals on real storage: how many rows come back?

    python -m benchmarks.race [--rounds 200] [--without-guard]

Each round signs in, then lets three threads refresh tokens and slide the idle limit, in a loop, against one sign-out of the
account.  ``--without-guard`` writes tokens as most session stores do, whether the row is still there or not: it shows what the
ETag is for.
"""

import argparse
import secrets
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dev.stack import azurite_ready, launch_azurite
from shared.errors import AppError
from shared.store.azure_table import AzureTables, StorageAccount
from shared.store.index import Index
from shared.store.rows import Claim, Identity, secret_hash
from shared.store.sealing import KeyRing
from shared.store.sessions import NewSession, Sessions
from shared.store.table import Merge, Operation, Replace, Table, Upsert

_WINDOW = 0.3
"""Seconds that a round lasts at most."""


class Unguarded:
    """A table without the rule: an update becomes an insert where the row is gone."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __getattr__(self, name: str) -> object:
        return getattr(self._table, name)

    def write(self, partition: str, operation: Operation) -> str:
        """Writes updates of sessions unconditionally."""
        if isinstance(operation, Replace | Merge) and operation.key != "!":
            row = self._table.read(partition, operation.key)
            values = operation.values if isinstance(operation, Replace) or row is None else {**row.values, **operation.values}
            return self._table.write(partition, Upsert(key=operation.key, values=values))
        return self._table.write(partition, operation)


def run(connection_string: str, *, rounds: int, guarded: bool = True) -> tuple[int, int]:
    """Runs the rounds; returns in how many of them a session row was left, and how many refreshes were written in all."""
    tables = AzureTables(StorageAccount(connection_string=connection_string), f"race{secrets.token_hex(4)}")
    sessions_table: Table = tables.table("sessions")
    index = Index(table=tables.table("index"), app="race")
    sessions = Sessions(
        table=sessions_table if guarded else Unguarded(sessions_table),  # type: ignore[arg-type]
        index=index,
        ring=KeyRing([("k", secrets.token_bytes(32))]),
        app="race",
        issuer="issuer",
        idle=timedelta(minutes=60),
        absolute=timedelta(hours=12),
        per_account=50,
        not_before=None,
    )
    left = written = 0
    for number in range(rounds):
        account = f"user-{number}.tenant"
        claim = _sign_in(sessions, account)
        counts = [0, 0, 0]
        go = threading.Barrier(4)
        threads = [threading.Thread(target=_use, args=(sessions, claim, go, counts, place)) for place in range(3)]
        for thread in threads:
            thread.start()
        go.wait()
        time.sleep(secrets.randbelow(15) / 1000)
        sessions.end_account(account, now=datetime.now(UTC))
        for thread in threads:
            thread.join()
        written += sum(counts)
        left += any(row.key != "!" for row in sessions_table.list(account, columns=["App"]))
    return left, written


def _sign_in(sessions: Sessions, account: str) -> Claim:
    now = datetime.now(UTC)
    hashed = secret_hash(secrets.token_urlsafe(32))
    identity = Identity(
        issuer="issuer",
        sub=account,
        oid=None,
        tid=None,
        sid=secrets.token_hex(8),
        name="",
        username="",
        login_hint=None,
        home_account_id=account,
        user_agent="",
        issued_at=now.timestamp(),
        id_token=None,
    )
    new = NewSession(
        account=account,
        secret_hash=hashed,
        flow_started_at=now,
        auth_time=now,
        identity=identity,
        cache=b"x" * 10_000,
        session_state=None,
        backchannel=False,
        had=None,
    )
    row, _ = sessions.create(new, now=now)
    return Claim(account=account, session_id=row.id, secret_hash=hashed)


def _use(sessions: Sessions, claim: Claim, go: threading.Barrier, counts: list[int], place: int) -> None:
    """Refreshes and slides until the session is gone, as requests in flight do: each from a row read before."""
    go.wait()
    end = time.monotonic() + _WINDOW
    while time.monotonic() < end:
        try:
            row = sessions.read(claim)
            if row is None:
                return
            leased = sessions.take_lease(row, now=datetime.now(UTC))
            if leased is not None:
                time.sleep(0.002)
                sessions.write_tokens(leased, secrets.token_bytes(10_000))
                counts[place] += 1
            sessions.slide(row, now=datetime.now(UTC) + timedelta(minutes=30))
        except AppError:
            continue


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--without-guard", action="store_true")
    options = parser.parse_args()
    azurite = azurite_ready(launch_azurite(Path(tempfile.mkdtemp())))
    try:
        left, written = run(azurite.connection_string, rounds=options.rounds, guarded=not options.without_guard)
    finally:
        azurite.child.stop()
    print(f"{options.rounds} sign-outs against {written} refreshes: rows left in {left} rounds")


if __name__ == "__main__":
    main()
