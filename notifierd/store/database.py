"""PostgreSQL for the rest of the package: the only module that imports asyncpg and trio-asyncio.

A database unit is one asyncio coroutine, from acquiring the connection to releasing it. A Trio scope that is cancelled
in between cancels the coroutine, which then cleans up after itself. If acquire and release were two steps on Trio's
side, a cancellation between them would lose the connection, and the pool would soon hang for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg
import structlog
import trio
import trio_asyncio
from attrs import define, field
from trio_asyncio import aio_as_trio

from notifierd.model.errors import UNENCODABLE, LedgerUnavailable, StatementRefused
from notifierd.model.reasons import Reason

T = TypeVar("T")
Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[Row] | asyncpg.pool.PoolConnectionProxy[Row]"  # generic in the stubs only

SEARCH_PATH = "pg_catalog"
"""The only schema in which names without a schema are looked up. PostgreSQL could otherwise prefer a function or an
operator that somebody created in another schema, because its argument types match better (CVE-2018-1058). All other
names are qualified with their schema."""
LOCK_TIMEOUT = "2s"
IDLE_TIMEOUT = "10s"
"""How long a transaction may be idle; shorter than a lease. If a process is cut off or stopped inside a transaction,
its locks would otherwise block the day for every process until the server gives up the connection, which takes
hours."""
KEEPALIVE = "60s"
"""How often the server probes an idle connection, so that no firewall or NAT on the way drops it."""
CONNECT_TIMEOUT = 10.0
DEAD_AFTER = 5.0
"""Seconds to wait for an answer beyond the server's own limit. After that, the connection counts as broken."""

_OUT_OF_REACH = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.InvalidCatalogNameError,
)
_OUR_CANCELLATION = "57014"
"""query_canceled: ``statement_timeout`` raises it. The server works, and the statement was rolled back."""

_OF_THE_CONNECTION = {"25006", "26000", "42P05"}
"""Refusals that the same connection may repeat for ever, but a new connection would not: of a server that has become a
replica (read_only_sql_transaction), and of a pooler that switched to another server connection, where a prepared
statement is missing (invalid_sql_statement_name) or exists already (duplicate_prepared_statement)."""

log = structlog.get_logger(__name__)


@define
class StatementCounts:
    """Statements sent that name a table or view of the schema ``notifierd``, without lease and migration checks."""

    read: int = 0
    write: int = 0


@define
class Database:
    """A pool of connections, and the count of the statements sent over it.

    A unit leaves its connection here for the next unit, instead of releasing it to the pool: asyncpg releases a
    connection in a task of its own, and the result of the unit would wait for several turns of the event loop.
    """

    _pool: "asyncpg.Pool[Row]"
    _loop: trio_asyncio.BaseTrioEventLoop
    _patience: float
    _turns: asyncio.Semaphore
    _at_hand: "list[asyncpg.pool.PoolConnectionProxy[Row]]" = field(factory=list)
    statements: StatementCounts = field(factory=StatementCounts)

    async def read(self, sql: str, *args: object) -> list[Row]:
        """Run a statement that only reads; return its rows.

        Raises:
            LedgerUnavailable: no answer.
            StatementRefused: the statement was refused.
        """
        self.statements.read += 1
        return await self.fetch(sql, *args)

    async def write(self, sql: str, *args: object, timeout: float | None = None) -> list[Row]:  # noqa: ASYNC109 - the server's own limit, not a scope of ours
        """Run a statement that writes, in a transaction of its own; return its rows.

        *timeout* sets ``statement_timeout`` in seconds for this statement alone. It is meant for a long statement,
        which is then also planned for its actual arguments. None keeps the connection's own timeout.

        Raises:
            LedgerUnavailable: no answer; the statement may have been carried out.
            StatementRefused: the statement was refused; nothing was written.
        """
        self.statements.write += 1

        async def unit(connection: Connection) -> list[Row]:
            if timeout is None:
                return await connection.fetch(sql, *args)
            async with connection.transaction():
                long = f"set local statement_timeout = {int(timeout * 1000)}; set local plan_cache_mode = auto"
                await connection.execute(long)
                return await connection.fetch(sql, *args)

        return await self.unit(unit, patience=None if timeout is None else timeout + DEAD_AFTER)

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Run a statement that is not counted: for the lease, the catalogue or the migration check."""

        async def unit(connection: Connection) -> list[Row]:
            return await connection.fetch(sql, *args)

        return await self.unit(unit)

    async def unit(self, work: Callable[[Connection], Awaitable[T]], *, patience: float | None = None) -> T:
        """Run *work*, an asyncio function, on a connection of the pool.

        *patience* limits the whole unit, in seconds; None stands for the connection's ``statement_timeout`` plus
        DEAD_AFTER. Trio enforces it: asyncpg's own limit would cost a timer for each statement, and asyncio timers are
        expensive under trio_asyncio.

        Raises:
            LedgerUnavailable: no connection, or it broke.
            StatementRefused: PostgreSQL refused a statement of *work*.
        """

        async def whole() -> T:
            async with self._turns:
                connection = await self._acquire()
                try:
                    answer = await work(connection)
                except BaseException as error:  # a release waits until the cancelled statement has ended
                    if getattr(error, "sqlstate", None) in _OF_THE_CONNECTION:
                        connection.terminate()
                    await self._pool.release(connection, timeout=CONNECT_TIMEOUT)
                    raise
                with suppress(asyncpg.InterfaceError):  # the connection broke meanwhile, and the pool already has it
                    if connection.is_in_transaction():  # left open by mistake: the pool rolls it back
                        await self._pool.release(connection)
                    else:
                        self._at_hand.append(connection)
                return answer

        try:
            with trio.move_on_after(self._patience if patience is None else patience):
                # Name the pool's loop: the task's current loop may belong to another database, or be missing.
                result: T = await aio_as_trio(whole, loop=self._loop)()
                return result
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise translated(error) from None
        raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("TimeoutError"))

    async def _acquire(self) -> "asyncpg.pool.PoolConnectionProxy[Row]":
        """Return the connection that the last unit left if it is still open, else one of the pool."""
        while self._at_hand:
            connection = self._at_hand.pop()
            with suppress(asyncpg.InterfaceError):  # the pool already has it
                if not connection.is_closed():
                    return connection
                await self._pool.release(connection)
        return await self._pool.acquire()


def translated(error: BaseException) -> LedgerUnavailable | StatementRefused:
    """Return *error* as one of our own errors, without its text, in which asyncpg quotes names and addresses."""
    if isinstance(error, ValueError) and isinstance(error, asyncpg.InterfaceError):
        return StatementRefused(Reason.DATABASE_REFUSED.of(UNENCODABLE))
    state = getattr(error, "sqlstate", None)
    if isinstance(error, _OUT_OF_REACH) and state != _OUR_CANCELLATION:
        return LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of(state or type(error).__name__))
    constraint = getattr(error, "constraint_name", None)
    return StatementRefused(Reason.DATABASE_REFUSED.of(state, *([constraint] if constraint else [])))


@asynccontextmanager
async def open_database(
    dsn: str, *, pool_size: int = 4, statement_timeout: float = 30.0, read_only: bool = False
) -> AsyncIterator[Database]:
    """Connect to *dsn*, and keep a pool of at most *pool_size* connections open.

    Args:
        read_only: have PostgreSQL refuse every write.

    Raises:
        LedgerUnavailable: no connection could be made; its reason ends with the SQLSTATE, or with ``dsn`` where *dsn*
            itself is invalid.
    """
    async with _asyncio_loop() as loop:
        # If a unit is cancelled while it releases its connection, asyncpg finishes the release in a task that nobody
        # awaits. When that task fails, trio_asyncio's default handler would end the whole nursery of this loop with
        # its error.
        loop.set_exception_handler(_note)
        settings = {
            "application_name": "notifierd",
            "lock_timeout": LOCK_TIMEOUT,
            "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
            "statement_timeout": str(int(statement_timeout * 1000)),
            "tcp_keepalives_idle": KEEPALIVE,
            "timezone": "UTC",
            # Otherwise PostgreSQL plans a statement with arrays anew each time, which takes longer than one
            # reservation runs.
            "plan_cache_mode": "force_generic_plan",
        }
        if read_only:
            settings["default_transaction_read_only"] = "on"
        try:
            pool = await aio_as_trio(_make_pool)(dsn, pool_size, settings)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            unread = isinstance(error, ValueError) and not isinstance(error, OSError)  # a certificate error is both
            name = "dsn" if unread else type(error).__name__
            raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of(getattr(error, "sqlstate", None) or name)) from None
        try:
            yield Database(pool, loop, statement_timeout + DEAD_AFTER, asyncio.Semaphore(pool_size))
        finally:
            pool.terminate()


@asynccontextmanager
async def _asyncio_loop() -> AsyncIterator[trio_asyncio.BaseTrioEventLoop]:
    """Run an asyncio loop for the block; the block's exception comes out as it was raised.

    trio_asyncio has two nurseries, and each wraps the exception in a group, which ``except LedgerUnavailable`` of a
    caller would not catch.
    """
    raised: BaseException | None = None
    try:
        async with trio_asyncio.open_loop() as loop:
            try:
                yield loop
            except BaseException as error:
                raised = error
                raise
    except BaseExceptionGroup as group:
        inner: BaseException = group
        while inner is not raised and isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
            inner = inner.exceptions[0]
        if raised is None or inner is not raised:
            raise
    else:
        return
    raise raised  # raised here, so that no exception group becomes its context


def _note(_loop: object, context: Mapping[str, object]) -> None:
    """Log a failure in a callback or a task that nobody awaits, without its text, which may quote a row."""
    log.warning("database_trouble_unheard", error=type(context.get("exception")).__name__)


async def _make_pool(dsn: str, size: int, settings: dict[str, str]) -> "asyncpg.Pool[Row]":
    """Create the pool inside the asyncio loop: asyncpg looks up the loop when the pool is created, not when awaited."""
    pool: asyncpg.Pool[Row] | None = await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        timeout=CONNECT_TIMEOUT,
        server_settings=settings,
        statement_cache_size=100,
        # With a lifetime, asyncpg starts a timer at each release, and trio_asyncio keeps cancelled timers until they
        # are due: 20 MB of them in a large run.
        max_inactive_connection_lifetime=0,
        init=_restrict,
        reset=_keep,
    )
    assert pool is not None  # noqa: S101 - asyncpg's stub says None for a pool whose loop closes while it is made
    return pool


async def _restrict(connection: "asyncpg.Connection[Row]") -> None:
    """Restrict a new connection's search_path to SEARCH_PATH; the role's own stays the default, for ``db init``."""
    await connection.execute(f"set search_path = {SEARCH_PATH}")


async def _keep(_connection: Connection) -> None:
    """Skip asyncpg's reset when a connection is released: no unit changes anything beyond its transaction.

    The reset clears all settings, locks, cursors and listeners on the server, which is a third of the cost of a small
    unit. asyncpg still rolls back a transaction that was left open.
    """


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return *rows* as *width* columns for ``unnest``, also when there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
