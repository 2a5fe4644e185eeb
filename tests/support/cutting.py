"""A database whose connection is cut after any statement of a look, and what a look writes."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import define, frozen

from notifierd.store.database import Connection, Database

T = TypeVar("T")


def cut_after(db: Database, statements: int) -> "Cutting":
    """The same database, whose connection is cut after so many statements."""
    return Cutting(db._pool, db._loop, db.guards, db.pooled, db._turns, left=statements)  # noqa: SLF001


@define
class Cutting(Database):
    """A database whose connection is cut after so many statements."""

    left: int = 0

    async def unit(self, work: Callable[[Connection], Awaitable[T]], *, patience: float | None = None) -> T:
        async def cut(connection: Connection) -> T:
            return await work(_Cut(connection, self))  # type: ignore[arg-type]

        return await super().unit(cut, patience=patience)


@frozen
class _Cut:
    _connection: Any
    _db: Cutting

    def transaction(self) -> Any:
        return self._connection.transaction()

    async def fetch(self, sql: str, *args: object) -> Any:
        return await self._then_cut(self._connection.fetch(sql, *args))

    async def execute(self, sql: str, *args: object) -> Any:
        return await self._then_cut(self._connection.execute(sql, *args))

    async def _then_cut(self, statement: Awaitable[T]) -> T:
        answer = await statement
        self._db.left -= 1
        if self._db.left == 0:
            self._connection.terminate()
            raise OSError
        return answer


async def written(db: Database) -> Counter[tuple[Any, ...]]:
    """All that a look wrote, without times."""
    tables = {
        "feedback": "delivery_id, status, code, address_key, grounds",
        "holds": "staff_id, address_key, reason, since, until",
        "feedback_looks": "provider, complete_until, result",
        "runs": "counts, untold",
        "deliveries": "id, state, provider, provider_message_id, audit_missing",
        "look_lease": "holder",
    }
    found = Counter(("audit", *row) for row in await db.fetch("select target_id from app.audit_log"))
    for name, what in tables.items():
        found.update((name, *row) for row in await db.fetch(f"select {what} from notifierd.{name}"))
    return found
