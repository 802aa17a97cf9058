"""The operator's command over the in-memory twin: what it reads, what it says, and what it answers to the shell."""

import base64
import io
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import admin
from shared.app import App, app_hash, assemble, now
from shared.errors import StorageUnavailable
from shared.settings import load
from shared.store.rows import hashed_account_key
from shared.store.table import Merge
from tests.support.small_store import Store, raising

KEY = ("k", os.urandom(32))
ENVIRON = {
    "OIDC_AUTHORITY": "https://127.0.0.1:1/tenant/v2.0",
    "CLIENT_ID": "client",
    "CLIENT_SECRET": "secret",
    "REDIRECT_URI": "https://app.example/auth/callback",
    "TOKEN_STORE": "UseDevelopmentStorage=true",
    "SEALING_KEYS": "k:" + base64.b64encode(KEY[1]).decode(),
}
ISSUER = "https://127.0.0.1:1/tenant/v2.0"
MINUTE = timedelta(minutes=1)


class Operator:
    """Somebody at a shell, and what is stored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.store = Store(keys=[KEY], app=app_hash(load(ENVIRON)), issuer=ISSUER)
        self.built: list[Any] = []
        self._path = tmp_path / "accounts.txt"
        for name, value in ENVIRON.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(admin, "build", self.build)

    def build(self, settings: Any) -> App:
        self.built.append(settings)
        sessions, index = self.store.tables
        return assemble(settings, sessions_table=sessions, index_table=index, check_storage=lambda: None)

    def sign_out(self, *lines: str) -> int:
        self._path.write_text("\n".join(lines), "utf-8")
        return admin.main(["sign-out", str(self._path)])


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Operator:
    """With good settings in the environment."""
    return Operator(monkeypatch, tmp_path)


def test_each_line_is_an_account_by_any_name(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """Account, ``oid,tid``, ``sub:``, JSON; blank lines and comments do not count; each line has its answer."""
    store = operator.store
    for account in ("a.t", "b.t", "c.t", "d.t", "stays.t"):
        store.sign_in(account)
    store.sign_in("b.t")
    done = operator.sign_out(
        "\ufeff# all of them", "", "  a.t ", "b , t", "sub:c.t", '{"account": "d.t"}', "  # stays.t", "x.t"
    )
    assert done == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "a.t: 1 ended", "b , t: 2 ended", "sub:c.t: 1 ended", '{"account": "d.t"}: 1 ended', "x.t: 0 ended",
    ]  # fmt: skip
    assert err == "5 accounts signed out, 5 sessions ended, 0 accounts failed\n"
    assert [account for account in ("a.t", "b.t", "c.t", "d.t", "stays.t") if len(store.tables[0].list(account)) > 1] == [
        "stays.t"
    ]


def test_lines_that_fail_fail_alone(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """Malformed, or storage down for one of them: the others are done, and the shell learns that not all was."""
    operator.store.sign_in("a.t")
    operator.store.sign_in("b.t")
    real = operator.store.tables
    operator.store.tables = operator.store.meddled(before=[raising(StorageUnavailable("down"))]).tables
    assert operator.sign_out("a.t", "{no json", "b.t", ",") == 1
    out, err = capsys.readouterr()
    codes = [line.split(": ")[1] for line in out.splitlines()]
    assert codes == [StorageUnavailable.code, "invalid_request", "1 ended", "invalid_request"]
    assert err.splitlines()[-1] == "1 accounts signed out, 1 sessions ended, 3 accounts failed"
    operator.store.tables = real
    assert operator.sign_out("a.t") == 0  # again, until it works


def test_lines_from_standard_input(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``-`` instead of a file."""
    operator.store.sign_in("a.t")
    monkeypatch.setattr("sys.stdin", io.StringIO("a.t\n"))
    assert admin.main(["sign-out", "-"]) == 0
    assert capsys.readouterr().out == "a.t: 1 ended\n"


def test_a_terminal_sees_how_far_it_is(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar that ends full; a log gets none."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    operator.sign_out("a.t", "b.t")
    err = capsys.readouterr().err
    assert f"[{'#' * 15}{'.' * 15}] 1/2" in err
    assert f"[{'#' * 30}] 2/2\n" in err


def test_an_accounts_sessions_are_shown_without_tokens(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """Live, expired, or not to be opened with these keys."""
    store, at = operator.store, now()
    live, _ = store.sign_in(now=at, user_agent="Fire\x1b[2Jfox", cache=b"tokens")
    old, _ = store.sign_in(now=at - 61 * MINUTE, user_agent="Edge")
    odd, _ = store.sign_in(now=at)
    store.tables[0].write("a.t", Merge(key=odd.id, values={"KeyId": "another"}, etag=odd.etag))
    assert admin.main(["sessions", "a.t"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == {live.id, old.id, odd.id}
    times = "  ".join(f"{time:%Y-%m-%d %H:%M:%SZ}" for time in (live.created_at, live.idle_expires_at, live.expires_at))
    assert lines[live.id] == f"{live.id}  live     {times}  Fire?[2Jfox"
    assert " expired " in lines[old.id]
    assert lines[old.id].endswith("  Edge")
    assert " live " in lines[odd.id]
    assert lines[odd.id].endswith("(does not open with these keys)")
    assert len(store.tables[0].list("a.t")) == 4  # looking changes nothing


def test_what_is_wrong_with_other_settings_does_not_matter(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be why the app is down; its keys, if they are there, have to be keys."""
    for name in ("SESSION_COOKIE_NAME", "SESSION_IDLE_MINUTES", "REDIRECT_URI", "SCOPES", "GRAPH_ENDPOINT", "RESPONSE_MODE"):
        monkeypatch.setenv(name, '"')
    assert admin.main(["sessions", "a.t"]) == 0
    monkeypatch.setenv("SEALING_KEYS", "no key")
    assert admin.main(["sessions", "a.t"]) == 2


def test_sessions_are_listed_by_any_name(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """By account, by ``oid,tid`` (guests too), by ``sub``, as JSON; nobody's are said to be none."""
    guest, _ = operator.store.sign_in("guest.home", oid="g", tid="t")
    odd, _ = operator.store.sign_in(hashed_account_key(ISSUER, "some/one"))
    for wish, found in (("guest.home", guest), ("g,t", guest), ("sub:some/one", odd), ('{"oid": "g", "tid": "t"}', guest)):
        assert admin.main(["sessions", wish]) == 0
        assert capsys.readouterr().out.startswith(found.id)
    assert admin.main(["sessions", "nobody"]) == 0
    assert capsys.readouterr() == ("", "no sessions\n")
    assert admin.main(["sessions", "{"]) == 1


def test_settings_from_a_file_go_before_the_environment(
    operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ``Values`` of a ``local.settings.json``, numbers and all."""
    file = tmp_path / "local.settings.json"
    file.write_text(
        json.dumps({"IsEncrypted": False, "Values": {"CLIENT_ID": "other", "TOKEN_STORE_TABLE_PREFIX": 7}}), "utf-8-sig"
    )
    assert admin.main(["--settings", str(file), "sessions", "a.t"]) == 2
    assert "TOKEN_STORE_TABLE_PREFIX must be letters and digits" in capsys.readouterr().err
    file.write_text(json.dumps({"Values": {"CLIENT_ID": "other", "TOKEN_STORE_TABLE_PREFIX": "theirs"}}), "utf-8-sig")
    assert admin.main(["--settings", str(file), "sessions", "a.t"]) == 0
    assert (operator.built[0].client_id, operator.built[0].table_prefix) == ("other", "theirs")
    file.write_text("{}")
    assert admin.main(["--settings", str(file), "sessions", "a.t"]) == 0
    assert operator.built[1].client_id == "client"


def test_neither_keys_nor_secrets_are_needed(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """References to a key vault mean nothing on an operator's machine; which app and which tables is enough."""
    row, _ = operator.store.sign_in("a.t", now=now())
    for name in ("CLIENT_CERTIFICATE", "SEALING_KEYS"):
        monkeypatch.setenv(name, "@Microsoft.KeyVault(SecretUri=https://vault.example/secrets/x)")
    monkeypatch.setenv("CLIENT_CERTIFICATE_PASSWORD", "@Microsoft.KeyVault(SecretUri=https://vault.example/secrets/y)")
    monkeypatch.delenv("CLIENT_SECRET")
    monkeypatch.delenv("REDIRECT_URI")
    assert admin.main(["sessions", "a.t"]) == 0
    assert row.id in capsys.readouterr().out
    assert operator.sign_out("a.t") == 0
    assert capsys.readouterr().out == "a.t: 1 ended\n"
    assert [found.key for found in operator.store.tables[0].list("a.t")] == ["!"]


def test_what_cannot_begin_says_why(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """2: a file that is not there or no JSON, settings with faults; 1: storage that is down."""
    assert admin.main(["sign-out", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("{")
    assert admin.main(["--settings", str(tmp_path / "broken.json"), "sessions", "a.t"]) == 2

    def down(_: Any) -> App:
        raise StorageUnavailable("no storage")

    monkeypatch.setattr(admin, "build", down)
    assert admin.main(["sessions", "a.t"]) == 1
    assert f"{StorageUnavailable.code}: no storage" in capsys.readouterr().err
    monkeypatch.setenv("SEALING_KEYS", "k:short")
    monkeypatch.delenv("CLIENT_ID")
    assert admin.main(["sessions", "a.t"]) == 2
    err = capsys.readouterr().err
    assert "SEALING_KEYS" in err
    assert "CLIENT_ID" in err
