"""The house's import rules, read from the code itself."""

import ast
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "shared").rglob("*.py"))
WINGS = ("store", "provider", "web")
SDK_IMPORTERS = {
    "azure.functions": {"shared/web/functions.py"},
    "azure.data": {"shared/store/azure_table.py"},
    "azure.core": {"shared/store/azure_table.py", "shared/store/transport.py"},
    "azure.identity": {"shared/store/azure_table.py"},
    "msal": {"shared/provider/msal_client.py"},
    "jwt": {"shared/provider/keys.py"},
    "requests": {"shared/provider/http.py"},
}


def imports(module: str) -> set[str]:
    """The dotted names that a module imports, wherever in it; type-checking imports do not run and do not count."""
    tree = ast.parse((ROOT / module).read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where things are"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("module", MODULES)
def test_wings_know_nothing_of_each_other_nor_of_what_stands_above(module: str) -> None:
    """``store``, ``provider`` and ``web`` import the common ground and themselves, nothing else of ours."""
    wing = module.split("/")[1]
    if wing not in WINGS:
        return
    allowed = {"shared", "shared.errors", "shared.limits", f"shared.{wing}"}
    for name in imports(module):
        if within(name, "shared"):
            assert any(
                name == a or (a == f"shared.{wing}" and within(name, a)) or (within(name, a) and a != "shared")
                for a in allowed
            ), name


@pytest.mark.parametrize("module", MODULES)
def test_each_sdk_has_its_importer(module: str) -> None:
    """An SDK's name stands in one module: nothing else has to change with it."""
    for name in imports(module):
        for sdk, importers in SDK_IMPORTERS.items():
            assert not within(name, sdk) or module in importers, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("shared/flows/")])
def test_flows_stand_below_the_front_door(module: str) -> None:
    """Flows know the wings and each other, never the routes, the app or the front door."""
    for name in imports(module):
        assert not any(within(name, above) for above in ("shared.app", "shared.front", "shared.routes", "shared.settings"))


def test_importing_the_app_loads_nothing_heavy() -> None:
    """A cold instance answers a front-channel logout without paying for MSAL, PyJWT, requests or Jinja2."""
    code = (
        "import sys, function_app; "
        "print([m for m in ('msal', 'jwt', 'requests', 'jinja2', 'azure.identity') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_cold_front_channel_logout_loads_nothing_heavy() -> None:
    """The first request of an instance ends the session that ``sid`` names, or says that storage is down, and asks nobody else.

    While the provider is not known, its authority's own origin may frame the answer.
    """
    code = """
import json, os, sys
import azure.functions as func
os.environ.update(json.loads(sys.argv[1]))
import function_app
from shared.app import assemble, now
from shared.store.memory_table import MemoryTable
from tests.support.small_store import new_session

ISSUER = os.environ["OIDC_AUTHORITY"]

def asked(sid):
    request = func.HttpRequest("GET", f"http://x/auth/frontchannel-logout?sid={sid}", headers={"Accept": accept}, body=b"")
    answer = function_app.auth_frontchannel_logout(request)
    return [answer.status_code, answer.headers["Content-Security-Policy"].rpartition("frame-ancestors ")[2]]

accept = "*/*"
results = [asked("mine")]  # storage is where nobody listens
function_app.auth._app = None
function_app.auth._builder = lambda settings: assemble(
    settings, sessions_table=MemoryTable(), index_table=MemoryTable(), check_storage=lambda: None
)
app = function_app.auth.app()
app.sessions.create(new_session(now=now(), issuer=ISSUER, sid="mine"), now=now())
accept = "text/html"
results += [asked("nobody"), asked("mine"), len(app.sessions.listing("a.t").rows)]
heavy = [m for m in ("msal", "jwt", "requests", "urllib3", "jinja2", "azure.identity") if m in sys.modules]
print(json.dumps([results, heavy]))
"""
    environ = {
        "OIDC_AUTHORITY": "https://127.0.0.1:1/tenant/v2.0",
        "CLIENT_ID": "client",
        "CLIENT_SECRET": "secret",
        "REDIRECT_URI": "https://app.example/auth/callback",
        "TOKEN_STORE": "AccountName=a;AccountKey=a2V5;TableEndpoint=http://127.0.0.1:1/a",
        "SEALING_KEYS": "k:" + base64.b64encode(os.urandom(32)).decode(),
    }
    command = [sys.executable, "-c", code, json.dumps(environ)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    results, heavy = json.loads(found.stdout)
    framed = [200, "https://127.0.0.1:1"]
    assert results == [[503, "'none'"], framed, framed, 0]
    assert heavy == []
