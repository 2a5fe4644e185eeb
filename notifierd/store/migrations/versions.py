"""Which migrations there are, which of them a database has, and whether this program may use that schema."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from attrs import field, frozen

from notifierd import __version__
from notifierd.model.errors import SchemaMissing, SchemaNewer, StatementRefused
from notifierd.store.database import Connection, Database

_NOT_PERMITTED: Final = "42501"

# The column `since` came with migration 0009.
_APPLIED: Final = "select m.version, to_jsonb(m) ->> 'since' as since from notifierd.migrations m"

_SINCE: Final = re.compile(r"^-- Since: (\d+(?:\.\d+)*)$", re.MULTILINE)

_RELATIONS: Final = """
select c.relname::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'notifierd' and c.relkind in ('v', 'r', 'm', 'p', 'f')
"""


@frozen
class Migration:
    """A step from one version of the schema to the next.

    A migration after which older programs still work names the oldest one in a line of its own: ``-- Since: 0.4.0``.
    """

    version: int
    name: str
    sql: str = field(repr=False)

    @property
    def since(self) -> str | None:
        """The oldest program that may use the schema after this step; None: only one that knows the step."""
        found = _SINCE.search(self.sql)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def migrations() -> tuple[Migration, ...]:
    """Return all migrations of this program, in order."""
    found = ((re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name), file) for file in Path(__file__).parent.iterdir())
    steps = [Migration(int(name[1]), name[2], file.read_text(encoding="utf-8")) for name, file in found if name]
    return tuple(sorted(steps, key=lambda step: step.version))


async def pending(db: Database, steps: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Return those of *steps* (None: `migrations`) that were not applied yet: all of them if there is no schema.

    Raises:
        SchemaNewer: a newer program made this schema.
        SchemaMissing: the role may not read it.
        LedgerUnavailable: no answer.
    """
    done = await applied(db)
    known = migrations() if steps is None else steps
    _refuse_newer(done, known)
    return tuple(step for step in known if step.version not in done)


async def require_current(db: Database, steps: Sequence[Migration] | None = None, program: str = __version__) -> None:
    """Check that *steps* (None: `migrations`) were applied to the schema, and no others that *program* may not use.

    The newest migration that was applied says which programs may use the schema. Two uncounted statements.

    Raises:
        SchemaNewer: a newer program made this schema, and it is not for *program*.
        SchemaMissing: not all of *steps* were applied, or the role may not read the schema; the message says what to
            do.
        LedgerUnavailable: no answer.
    """
    done = await applied(db)
    known = migrations() if steps is None else steps
    since = done.get(max(done, default=0))
    if since is None or _number(program) < _number(since):
        _refuse_newer(done, known)
    waiting = tuple(step for step in known if step.version not in done)
    if waiting and waiting[0].version == 1:
        raise SchemaMissing("the schema notifierd is not in this database: run `notifierd db init`")
    if waiting:
        names = ", ".join(map(str, waiting))
        raise SchemaMissing(f"the schema notifierd is older than this program: run `notifierd db migrate` ({names})")


async def schema_exists(db: Database) -> bool:
    """Return whether there is a schema, of whatever version."""
    return any(row["name"] == "migrations" for row in await db.fetch(_RELATIONS))


async def applied(db: Database) -> dict[int, str | None]:
    """Return the versions that were applied to the schema, each with its `since`; none where there is no schema."""
    if not await schema_exists(db):
        return {}
    try:
        return {row["version"]: row["since"] for row in await db.fetch(_APPLIED)}
    except StatementRefused as error:
        if error.sqlstate != _NOT_PERMITTED:
            raise
    raise SchemaMissing(
        "the schema notifierd exists, but the connected role may not use it: "
        "run `notifierd db init --dsn ADMIN --role NAME` with that role's name"
    )


def _refuse_newer(done: Iterable[int], known: Sequence[Migration]) -> None:
    version, newest = max(done, default=0), max(step.version for step in known)
    if version > newest:
        raise SchemaNewer(
            f"the schema notifierd is too new (version {version}, this program knows {newest}): upgrade notifierd"
        )


def _number(version: str) -> tuple[int, ...]:
    """Return the numbers of a version as something that can be compared."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


async def relations(connection: Connection) -> set[str]:
    """Return the names of the tables and views in the schema."""
    return {row["name"] for row in await connection.fetch(_RELATIONS)}
