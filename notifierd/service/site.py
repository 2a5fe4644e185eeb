"""Opens the parts that a run works with, from the configuration and a database."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import trio
from attrs import frozen

from notifierd import __version__
from notifierd.config.settings import Settings
from notifierd.model.delivery import Channel
from notifierd.model.errors import ConfigError, LedgerUnavailable
from notifierd.model.reasons import Reason
from notifierd.rules.breaker import Breakers
from notifierd.rules.calendar import Calendar
from notifierd.rules.cluster.membership import Terms
from notifierd.rules.due import Rules
from notifierd.run.context import Limits, RunClock, RunContext
from notifierd.run.progress import Progress
from notifierd.run.stop import Stop
from notifierd.run.transport import Transports
from notifierd.send import Sender
from notifierd.store.contract import is_read_only, system_identifier, view_problems
from notifierd.store.database import Database, StatementCounts, open_database
from notifierd.store.migrations.versions import require_current
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import PostgresSource

if TYPE_CHECKING:
    from notifierd.store.feedback import Feedback
    from notifierd.store.history import Overview


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@cache
def holder_name() -> str:
    """The name of this process in the ledger. It stays the same, so that the process can take its own lease again."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def terms(settings: Settings) -> Terms:
    """What this process says about itself when it joins a day."""
    cluster = settings.cluster
    return Terms(
        shares=cluster.share,
        host=cluster.name or socket.gethostname(),
        version=__version__,
        config_hash=content_hash(settings),
    )


def content_hash(settings: Settings) -> str:
    """Return a hash of each thing that decides which messages are sent, and what they say: `Terms.config_hash`.

    The repr of a table leaves its secrets out.
    """
    names = "window", "content", "email", "push", "safety"
    parts = {"version": __version__} | {name: repr(getattr(settings, name)) for name in names}
    return " ".join(f"{name}={sha256(text.encode()).hexdigest()[:12]}" for name, text in parts.items())


async def require_fit(db: Database, settings: Settings, *, read_only: bool = False) -> None:
    """Check that a run may use the database, or, if *read_only*, that a command may read it.

    Raises:
        LedgerUnavailable: the database takes no writes, which a run waits for as for an unreachable database.
        SchemaMissing: the ledger's schema is missing, or of another version.
        ConfigError: a view does not follow the contract, or this is not the database that ``[safety]`` names.
    """
    if not read_only and await is_read_only(db):
        raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("25006"))
    await _require_cluster(db, settings)
    await require_current(db)
    problems = await view_problems(db, settings.content.audit)
    if problems:
        raise ConfigError(tuple(problems))


async def _require_cluster(db: Database, settings: Settings) -> None:
    if settings.safety.database_id and await system_identifier(db) != settings.safety.database_id:
        raise ConfigError(("safety.database_id: this is another database cluster; nothing was read or sent",))


async def claim_alarm(settings: Settings, day: date, cause: str) -> bool:
    """Call `Ledger.claim_alarm` over a connection of its own. It works in a database that is not fit for a run, too.

    Raises:
        LedgerUnavailable: the database is unreachable.
        StatementRefused: the ledger is missing.
        ConfigError: this is not the database that ``[safety]`` names.
    """
    database = settings.database
    async with open_database(
        database.dsn, pool_size=1, statement_timeout=database.statement_timeout, pooler=database.pooler
    ) as db:
        await _require_cluster(db, settings)
        return await PostgresLedger(db).claim_alarm(day, cause)


@frozen
class PostgresSite:
    """A `Site`: the database of a configuration, open and fit for a run.

    Attributes:
        statements: the number of statements that were sent to it.
    """

    settings: Settings
    ledger: PostgresLedger
    source: PostgresSource
    statements: StatementCounts
    _db: Database

    @property
    def overview(self) -> "Overview":
        """The ledger as people look at it."""
        from notifierd.store.history import Overview  # noqa: PLC0415 - a run does not look back

        return Overview(self._db)

    @property
    def feedback(self) -> "Feedback":
        """The part of the ledger that is about mails after they were accepted."""
        from notifierd.store.feedback import Feedback  # noqa: PLC0415 - a run does not ask what became of mails

        return Feedback(self._db, audit=self.settings.content.audit)

    def open_context(
        self, *, window_left: Callable[[], float], stop: Stop, progress: Progress
    ) -> AbstractAsyncContextManager[RunContext]:
        return open_context(self.settings, self._db, window_left=window_left, stop=stop, progress=progress)


@asynccontextmanager
async def open_site(settings: Settings, *, read_only: bool = False) -> AsyncIterator[PostgresSite]:
    """Connect to the database that *settings* name, and check that it is fit for a run.

    Args:
        read_only: have PostgreSQL refuse every write.

    Raises:
        LedgerUnavailable: the database is unreachable.
        SchemaMissing: see `require_fit`.
        ConfigError: see `require_fit`.
    """
    database = settings.database
    async with open_database(
        database.dsn,
        pool_size=database.pool_size,
        statement_timeout=database.statement_timeout,
        read_only=read_only,
        pooler=database.pooler,
    ) as db:
        await require_fit(db, settings, read_only=read_only)
        ledger = PostgresLedger(db, database.plan_timeout)
        yield PostgresSite(settings, ledger, PostgresSource(db), db.statements, db)


@asynccontextmanager
async def open_context(
    settings: Settings, db: Database, *, window_left: Callable[[], float], stop: Stop, progress: Progress
) -> AsyncIterator[RunContext]:
    """Open the senders, and make the other parts of a run; see `RunContext`.

    Raises:
        ConfigError: *settings* do not allow to make a sender or a template.
    """
    from notifierd.messages.render import Renderer  # noqa: PLC0415 - most commands render no message
    from notifierd.send import _http as http  # noqa: PLC0415 - and send none
    from notifierd.send.open import open_email, open_push  # noqa: PLC0415 - likewise

    rules, limits, renderer = Rules.of(settings), Limits.of(settings.limits), Renderer(settings)
    async with AsyncExitStack() as stack:
        senders: dict[Channel, Sequence[Sender[Any]]] = {
            Channel.EMAIL: [
                await stack.enter_async_context(open_email(provider, settings, now=utc_now))
                for provider in settings.email.providers
            ]
        }
        if rules.push:
            senders[Channel.PUSH] = [await stack.enter_async_context(open_push(settings, now=utc_now))]
        yield RunContext(
            ledger=PostgresLedger(db, settings.database.plan_timeout, settings.content.audit),
            source=PostgresSource(db),
            renderer=renderer,
            rules=rules,
            on_unknown=settings.email.on_unknown,
            transports=Transports.of(senders, limits.calls, Breakers(trio.current_time)),
            clock=RunClock(utc_now, window_left, Calendar(settings.window).day_ends),
            holder=holder_name(),
            limits=limits,
            terms=terms(settings),
            renew_seconds=settings.cluster.renew_seconds,
            retention_days=settings.database.retention_days,
            loads=[renderer.load, *([http.load] * (set(settings.email.providers) != {"smtp"}))],
            stop=stop,
            progress=progress,
        )
