"""PostgreSQL for the rest of the package: the only importer of asyncpg and trio-asyncio.

A database unit is one asyncio coroutine, from acquiring the connection to giving it back: a Trio scope that is
cancelled in between then cancels the coroutine, which cleans up after itself. (Two Trio-side steps, acquire and
release, lose the connection at a cancellation, and soon the pool hangs for ever.)
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
"""Where names without a schema are looked for: a function or an operator that somebody made in another schema could be
preferred for its argument types (CVE-2018-1058). All else is named in full."""
LOCK_TIMEOUT = "2s"
IDLE_TIMEOUT = "10s"
"""How long a transaction may wait for us. A process that is cut off or stopped in one would keep its locks, and so the
day from everybody, for as long as the server takes its line for good: hours. Shorter than a lease."""
KEEPALIVE = "60s"
"""How soon the server asks whether an idle connection still stands, so that nothing on the way forgets it."""
CONNECT_TIMEOUT = 10.0
DEAD_AFTER = 5.0
"""Seconds beyond the server's own limit after which an answer is not waited for any more: the line is broken."""

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
"""query_canceled: what ``statement_timeout`` raises. The server works; the statement was carried back."""

_OF_THE_CONNECTION = {"25006", "26000", "42P05"}
"""Refusals that the same connection may repeat for ever, while a new one would not: a server that has become a replica
(read_only_sql_transaction), and a pooler that gave us another server connection, where a prepared statement is missing
(invalid_sql_statement_name) or stands already (duplicate_prepared_statement)."""

log = structlog.get_logger(__name__)


@define
class StatementCounts:
    """Statements sent that name a table or view of schema ``notifierd``, lease and migration checks apart."""

    read: int = 0
    write: int = 0


@define
class Database:
    """A pool of connections, and the count of what went over it.

    A connection that a unit is done with stays at hand for the next, and is not given back: the pool has a task of
    asyncio's do that, and the answer would wait for several turns of all that goes on.
    """

    _pool: "asyncpg.Pool[Row]"
    _loop: trio_asyncio.BaseTrioEventLoop
    _patience: float
    _turns: asyncio.Semaphore
    _at_hand: "list[asyncpg.pool.PoolConnectionProxy[Row]]" = field(factory=list)
    statements: StatementCounts = field(factory=StatementCounts)

    async def read(self, sql: str, *args: object) -> list[Row]:
        """Run a statement that only reads, and return its rows.

        Raises:
            LedgerUnavailable: no answer.
            StatementRefused: the statement was refused.
        """
        self.statements.read += 1
        return await self.fetch(sql, *args)

    async def write(self, sql: str, *args: object, timeout: float | None = None) -> list[Row]:  # noqa: ASYNC109 - the server's own limit, not a scope of ours
        """Run a statement that writes, in a transaction of its own, and return its rows.

        *timeout* is seconds of ``statement_timeout`` for this statement alone, which is then a long one, and planned
        for the very arguments; None stands for the connection's own.

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
        """Run a statement that does not count: the lease, the catalogue, a migration's look."""

        async def unit(connection: Connection) -> list[Row]:
            return await connection.fetch(sql, *args)

        return await self.unit(unit)

    async def unit(self, work: Callable[[Connection], Awaitable[T]], *, patience: float | None = None) -> T:
        """Run *work*, an asyncio function, on a connection of the pool.

        *patience* is in seconds, for the whole of it; None stands for the connection's ``statement_timeout`` and
        DEAD_AFTER. It is Trio's: asyncpg's own limit would be a timer for each statement, and those are dear here.

        Raises:
            LedgerUnavailable: no connection, or it broke.
            StatementRefused: PostgreSQL refused a statement of *work*.
        """

        async def whole() -> T:
            async with self._turns:
                connection = await self._acquire()
                try:
                    answer = await work(connection)
                except BaseException as error:  # giving back waits for the end of a statement that was cancelled
                    if getattr(error, "sqlstate", None) in _OF_THE_CONNECTION:
                        connection.terminate()
                    await self._pool.release(connection, timeout=CONNECT_TIMEOUT)
                    raise
                with suppress(asyncpg.InterfaceError):  # it broke meanwhile, and the pool took it back
                    if connection.is_in_transaction():  # left open by mistake: the pool has it rolled back
                        await self._pool.release(connection)
                    else:
                        self._at_hand.append(connection)
                return answer

        try:
            with trio.move_on_after(self._patience if patience is None else patience):
                # The pool's own loop: the task's current one may be another database's, or none.
                result: T = await aio_as_trio(whole, loop=self._loop)()
                return result
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise translated(error) from None
        raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("TimeoutError"))

    async def _acquire(self) -> "asyncpg.pool.PoolConnectionProxy[Row]":
        """The connection that a unit left last, if it still stands; else one of the pool."""
        while self._at_hand:
            connection = self._at_hand.pop()
            with suppress(asyncpg.InterfaceError):  # likewise
                if not connection.is_closed():
                    return connection
                await self._pool.release(connection)
        return await self._pool.acquire()


def translated(error: BaseException) -> LedgerUnavailable | StatementRefused:
    """*error* as one of ours, without its text: asyncpg quotes the failing row, names and addresses and all."""
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
    """Connect to *dsn* and keep a pool of at most *pool_size* connections open.

    Args:
        read_only: have PostgreSQL refuse whatever would write.

    Raises:
        LedgerUnavailable: no connection could be made; its reason ends with the SQLSTATE, or with ``dsn`` where *dsn*
            itself is no good.
    """
    async with _asyncio_loop() as loop:
        # A unit that is cancelled while it gives its connection back leaves that to a task of asyncpg's, which may
        # fail, and which nobody waits for: trio_asyncio would end this loop's whole nursery with its error.
        loop.set_exception_handler(_note)
        settings = {
            "application_name": "notifierd",
            "lock_timeout": LOCK_TIMEOUT,
            "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
            "statement_timeout": str(int(statement_timeout * 1000)),
            "tcp_keepalives_idle": KEEPALIVE,
            "timezone": "UTC",
            # PostgreSQL would plan a statement with arrays anew each time: for one reservation, longer than it runs.
            "plan_cache_mode": "force_generic_plan",
        }
        if read_only:
            settings["default_transaction_read_only"] = "on"
        try:
            pool = await aio_as_trio(_make_pool)(dsn, pool_size, settings)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            unread = isinstance(error, ValueError) and not isinstance(error, OSError)  # a bad certificate is both
            name = "dsn" if unread else type(error).__name__
            raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of(getattr(error, "sqlstate", None) or name)) from None
        try:
            yield Database(pool, loop, statement_timeout + DEAD_AFTER, asyncio.Semaphore(pool_size))
        finally:
            pool.terminate()


@asynccontextmanager
async def _asyncio_loop() -> AsyncIterator[trio_asyncio.BaseTrioEventLoop]:
    """Run an asyncio loop for the block, whose exception comes out as it was raised.

    trio_asyncio's two nurseries wrap it in a group each, which no caller's ``except LedgerUnavailable`` would see.
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
    raise raised  # out here, where no group becomes its context


def _note(_loop: object, context: Mapping[str, object]) -> None:
    """Log what went wrong in a callback or a task that nobody waits for; not its text, which may quote a row."""
    log.warning("database_trouble_unheard", error=type(context.get("exception")).__name__)


async def _make_pool(dsn: str, size: int, settings: dict[str, str]) -> "asyncpg.Pool[Row]":
    """Make the pool inside the asyncio loop: asyncpg looks for the loop when it is made, not when it is awaited."""
    pool: asyncpg.Pool[Row] | None = await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        timeout=CONNECT_TIMEOUT,
        server_settings=settings,
        statement_cache_size=100,
        # Each time that a connection comes back, asyncpg would have a timer end it if it is not used in these seconds,
        # and trio_asyncio keeps timers that were cancelled until their time: 20 MB of them in a large run.
        max_inactive_connection_lifetime=0,
        init=_restrict,
        reset=_keep,
    )
    assert pool is not None  # noqa: S101 - asyncpg's stub says None for a pool whose loop closes while it is made
    return pool


async def _restrict(connection: "asyncpg.Connection[Row]") -> None:
    """Have a new connection look for names in SEARCH_PATH only. Its own path stays the default, for ``db init``."""
    await connection.execute(f"set search_path = {SEARCH_PATH}")


async def _keep(_connection: Connection) -> None:
    """Leave a connection as it is when it comes back: a unit sets nothing beyond its transaction.

    asyncpg would have the server forget all settings, locks, cursors and listeners: a third of what a small unit costs.
    A transaction that was left open it still rolls back.
    """


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """*rows* turned into *width* columns, for ``unnest``: also when there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
