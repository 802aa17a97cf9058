"""Builds everything once from the settings: the only place that knows all wings.

Building does no I/O and imports nothing heavy, so a cold instance can answer a front-channel logout at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime

from shared import limits
from shared.flows.access import Access
from shared.flows.audit import Audit
from shared.flows.channels import Channels
from shared.flows.pending import PendingSeal
from shared.flows.sign_in import SignIn
from shared.flows.sign_out import SignOut
from shared.flows.site import Site
from shared.flows.sweep import Sweep
from shared.provider.client import Provider
from shared.provider.graph import Graph
from shared.provider.values import ProviderSettings
from shared.settings import Settings
from shared.store.azure_table import AzureTables, StorageAccount
from shared.store.index import Index
from shared.store.metering import Metered
from shared.store.sealing import KeyRing, digest
from shared.store.sessions import Sessions
from shared.store.table import Table
from shared.web.cookies import CookieNames

_INDEX_THREADS = 16
_SWEEP_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """Everything, built."""

    site: Site
    provider: Provider
    sessions: Sessions
    sign_in: SignIn
    access: Access
    sign_out: SignOut
    channels: Channels
    sweep: Sweep
    graph: Graph
    check_storage: Callable[[], None]


def now() -> datetime:
    """The time, aware, UTC: read here and passed on."""
    return datetime.now(UTC)


def build(settings: Settings) -> App:
    """Everything for these settings, with its tables in Azure Table Storage."""
    storage = settings.storage
    tables = AzureTables(
        StorageAccount(
            connection_string=storage.connection_string,
            table_service_uri=storage.table_service_uri,
            client_id=storage.client_id,
            managed_identity=storage.managed_identity,
        ),
        settings.table_prefix,
    )
    return assemble(
        settings,
        sessions_table=tables.table("sessions"),
        index_table=tables.table("index"),
        check_storage=tables.check,
    )


def assemble(settings: Settings, *, sessions_table: Table, index_table: Table, check_storage: Callable[[], None]) -> App:
    """Everything for these settings and tables."""
    # The remaining quarter of the threads is for those who wait for nobody but storage: sign-outs, whatever hangs.
    places = limits.Places(settings.threads // 2)
    provider = Provider(
        ProviderSettings(
            authority=settings.authority,
            oidc=settings.oidc,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            client_certificate=settings.client_certificate,
            client_certificate_password=settings.client_certificate_password,
            client_managed_identity=settings.client_managed_identity,
            redirect_uri=settings.redirect_uri,
            scopes=settings.scopes,
            response_mode=settings.response_mode,
        ),
        places=places,
        revocations=limits.Places(settings.threads // 4),
    )
    app = app_hash(settings)
    ring = KeyRing(settings.sealing_keys)
    index = Index(table=Metered(index_table), app=app, parallel=_Threads("index", _INDEX_THREADS))
    sessions = Sessions(
        table=Metered(sessions_table),
        index=index,
        ring=ring,
        app=app,
        issuer=provider.configured_issuer(),
        idle=settings.idle,
        absolute=settings.absolute,
        per_account=settings.sessions_per_account,
        not_before=settings.not_before,
    )
    site = Site(
        origin=settings.origin,
        https=settings.https,
        cookies=CookieNames(session=settings.cookie_name),
        sign_out_scope=settings.sign_out_scope,
        response_mode=settings.response_mode,
        scopes=settings.scopes,
    )
    audit = Audit(ring.pseudonym)
    return App(
        site=site,
        provider=provider,
        sessions=sessions,
        sign_in=SignIn(site=site, provider=provider, sessions=sessions, seal=PendingSeal(ring, app), audit=audit),
        access=Access(site=site, provider=provider, sessions=sessions, audit=audit, clock=now, places=places),
        sign_out=SignOut(site=site, provider=provider, sessions=sessions, audit=audit, idle=settings.idle),
        channels=Channels(site=site, provider=provider, sessions=sessions, index=index, audit=audit),
        sweep=Sweep(sessions=sessions, index=index, parallel=_Threads("sweep", _SWEEP_THREADS)),
        graph=Graph(settings.graph_endpoint, places=places),
        check_storage=check_storage,
    )


def app_hash(settings: Settings) -> str:
    """What marks the rows of this app among those of others that share the tables: 16 hex digits."""
    return digest(settings.authority, settings.client_id)[:16]


class _Threads:
    """Calls at once, in threads of their own: the worker's pool may be full of those who wait for us.

    What waits for calls in one of these must not itself be a call in the same one.
    """

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    def __call__(self, calls: Sequence[Callable[[], object]]) -> None:
        if len(calls) == 1:
            calls[0]()
            return
        # Each call takes the request's deadline and counters along.
        futures: list[Future[object]] = [self._pool.submit(copy_context().run, call) for call in calls]
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise failures[0]
