"""PostgreSQL for the rest of the package: the only module that imports asyncpg and trio-asyncio.

A database unit is one asyncio coroutine, from acquiring the connection to releasing it. A Trio scope that is cancelled
in between cancels the coroutine, which then cleans up after itself. If acquire and release were two steps on Trio's
side, a cancellation between them would lose the connection, and the pool would soon hang.
"""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import structlog
import trio
import trio_asyncio
from attrs import define, field
from trio_asyncio import aio_as_trio

from notifierd.config.dsn import BadDsn, read_dsn
from notifierd.model.errors import UNENCODABLE, ConfigError, LedgerUnavailable, StatementRefused, certificate_reason
from notifierd.model.reasons import Reason
from notifierd.store.connection.arguments import arguments
from notifierd.store.connection.guards import KEEPALIVE, Guards

T = TypeVar("T")
Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[Row] | asyncpg.pool.PoolConnectionProxy[Row]"  # generic in the stubs only

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
"""Refusals that the same connection may repeat for ever, but a new connection would not. They come from a server that
has become a replica (read_only_sql_transaction), or from a pooler that switched to another server connection, where a
prepared statement is missing (invalid_sql_statement_name) or exists already (duplicate_prepared_statement)."""

_POOLER_ERRORS: Final = {
    "unsupported startup parameter": "pooler",
    "statement pooling mode": "statement_pooling",
    "authentication failed": "28P01",
    'database ".*" does not exist|no such database': "3D000",
    'role ".*" does not exist|no such user': "28000",
    "no more connections|too many connections": "53300",
}
"""Texts of PgBouncer, which gives the same SQLSTATE, 08P01, for a dozen causes; and the cause, or its SQLSTATE in
PostgreSQL."""

log = structlog.get_logger(__name__)


@define
class StatementCounts:
    """Statements sent that name a table or view of the schema ``notifierd``, without lease and migration checks."""

    read: int = 0
    write: int = 0


@define
class Database:
    """A pool of connections, and the count of the statements sent over it.

    Attributes:
        guards: the settings that every statement runs with.
        pooled: whether each unit is a transaction that makes these settings itself, as behind a pooler.

    A unit leaves its connection here for the next unit, instead of releasing it to the pool: asyncpg releases a
    connection in a task of its own, and the result of the unit would wait for several turns of the event loop.
    """

    _pool: "asyncpg.Pool[Row]"
    _loop: trio_asyncio.BaseTrioEventLoop
    guards: Guards
    pooled: bool
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
                limit = f"set local statement_timeout = {int(timeout * 1000)}"
                await connection.execute(f"{limit}; set local plan_cache_mode = force_custom_plan")
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
                    answer = await self._guarded(work, connection)
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
            with trio.move_on_after(self.guards.statement_timeout + DEAD_AFTER if patience is None else patience):
                # Name the pool's loop: the task's current loop may belong to another database, or be missing.
                result: T = await aio_as_trio(whole, loop=self._loop)()
                return result
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise translated(error) from None
        raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("TimeoutError"))

    async def _guarded(self, work: Callable[[Connection], Awaitable[T]], connection: Connection) -> T:
        """Do *work*; behind a pooler, in a transaction, for which the pooler keeps one server connection."""
        if not self.pooled:
            return await work(connection)
        async with connection.transaction(readonly=self.guards.read_only):
            await connection.execute(self.guards.local)
            return await work(connection)

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
        return LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of(_cause(error)))
    constraint = getattr(error, "constraint_name", None)
    reason = Reason.DATABASE_REFUSED.of(state, *([constraint] if constraint else []))
    return StatementRefused(reason, int(getattr(error, "position", None) or 0))


def _cause(error: BaseException) -> str:
    """Return why the database was not reached: a key of `advice`, a SQLSTATE, or the name of the exception."""
    match error:
        case asyncpg.ConnectionDoesNotExistError(__cause__=ssl.SSLError()):  # the server's alert, after the handshake
            return "tls_failed"
        case asyncpg.ProtocolViolationError() | asyncpg.ConnectionDoesNotExistError():
            matching = (cause for pattern, cause in _POOLER_ERRORS.items() if re.search(pattern, str(error)))
            return next(matching, error.sqlstate)
        case asyncpg.PostgresError():
            return error.sqlstate or type(error).__name__
        case ssl.SSLCertVerificationError():
            return certificate_reason(error)
        case ssl.SSLError():
            return "tls_failed"
        case ConnectionError() if type(error) is ConnectionError:  # asyncpg raises it if the server refuses TLS
            return "no_tls"
        case asyncpg.TargetServerAttributeNotMatched():
            return "no_writable_host"
        case _:
            return type(error).__name__


@asynccontextmanager
async def open_database(
    dsn: str,
    *,
    pool_size: int = 4,
    statement_timeout: float = 30.0,
    read_only: bool = False,
    pooler: bool = False,
) -> AsyncIterator[Database]:
    """Connect to *dsn*, and keep a pool of at most *pool_size* connections open.

    Args:
        read_only: have PostgreSQL refuse every write.
        pooler: whether a pooler is between. Then each unit is a transaction that makes its settings itself, and no
            statement is prepared under a name.

    Raises:
        LedgerUnavailable: no connection could be made; its reason ends with the cause, see `advice`.
        ConfigError: *dsn*, a PG* variable, or a file that one of them names, is invalid.
    """
    guards = Guards(statement_timeout, read_only)
    try:
        place = read_dsn(dsn, os.environ)
        where = arguments(place, CONNECT_TIMEOUT)
    except BadDsn as error:
        raise ConfigError((f"database.dsn: {error}",)) from None
    pooled = pooler or place.pooler
    async with _asyncio_loop() as loop:
        # If a unit is cancelled while it releases its connection, asyncpg finishes the release in a task that nobody
        # awaits. When that task fails, trio_asyncio's default handler would end the whole nursery of this loop with
        # its error.
        loop.set_exception_handler(_note)
        try:
            pool = await aio_as_trio(_make_pool)(where, pool_size, guards, pooled=pooled)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of(_cause(error))) from None
        try:
            yield Database(pool, loop, guards, pooled, asyncio.Semaphore(pool_size))
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


async def _make_pool(where: dict[str, Any], size: int, guards: Guards, *, pooled: bool) -> "asyncpg.Pool[Row]":
    """Create the pool inside the asyncio loop: asyncpg looks up the loop when the pool is created, not when awaited."""

    async def prepare(connection: "asyncpg.Connection[Row]") -> None:
        await (_require_pooling if pooled else _restrict)(connection, guards)

    if not pooled:  # a pooler refuses startup parameters that it does not know, or forgets their values
        where["server_settings"] |= guards.settings | {"tcp_keepalives_idle": KEEPALIVE}
    pool: asyncpg.Pool[Row] | None = await asyncpg.create_pool(
        **where,
        min_size=1,
        max_size=size,
        statement_cache_size=0 if pooled else 100,
        # With a lifetime, asyncpg starts a timer at each release, and trio_asyncio keeps cancelled timers until they
        # are due: 20 MB of them in a large run.
        max_inactive_connection_lifetime=0,
        init=prepare,
        reset=_keep,
    )
    assert pool is not None  # noqa: S101 - asyncpg's stub says None for a pool whose loop closes while it is made
    return pool


async def _restrict(connection: "asyncpg.Connection[Row]", guards: Guards) -> None:
    """Check that a new connection has its limits, and restrict its search_path to SEARCH_PATH: see `Guards.settle`.

    Raises:
        LedgerUnavailable: the limits are not in force, because a pooler ignores startup parameters. A limit that is
            set now would stay with a server connection that the pooler gives to another client next.
    """
    if await connection.execute(guards.settle) != "SELECT 1":
        raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("pooler"))


async def _require_pooling(connection: "asyncpg.Connection[Row]", guards: Guards) -> None:
    """Check that the pooler keeps a server connection for at least one transaction."""
    async with connection.transaction(readonly=guards.read_only):
        await connection.execute(guards.local)


async def _keep(_connection: Connection) -> None:
    """Skip asyncpg's reset when a connection is released: no unit changes anything beyond its transaction.

    The reset clears all settings, locks, cursors and listeners on the server, which is a third of the cost of a small
    unit. asyncpg still rolls back a transaction that was left open.
    """


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return *rows* as *width* columns for ``unnest``, also when there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
