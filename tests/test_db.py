"""The database, when Trio cancels what works on it, and when nothing may be written."""

import pytest
import trio

from notifierd.db import Connection, open_database
from notifierd.demo.postgres import Cluster
from notifierd.errors import StatementRefused
from tests.proxy import a_door

SOCKET = ".s.PGSQL.5432"


async def test_cancelled_while_a_connection_is_given_back_it_ends_in_good_order(cluster: Cluster):
    """asyncpg leaves giving back to a task that outlives the unit's cancellation, and fails when the pool goes."""
    async with a_door(cluster.socket_dir / SOCKET) as door:

        async def cut_off(_connection: Connection) -> None:
            door.hush()  # so that what is asked of the server from now on is never answered

        with trio.CancelScope() as scope:
            async with open_database(f"postgresql://postgres@127.0.0.1:{door.port}/postgres") as db:
                with trio.move_on_after(0.2) as unit:
                    await db.unit(cut_off)
                scope.cancel()
    assert unit.cancelled_caught
    assert scope.cancel_called


async def test_a_database_that_is_opened_read_only_refuses_what_would_write(database: str) -> None:
    async with open_database(database, read_only=True) as db:
        assert (await db.read("select 1 as one"))[0]["one"] == 1
        for statement in ("create table mine ()", "update pg_class set relname = relname"):
            with pytest.raises(StatementRefused, match="25006"):
                await db.write(statement)
