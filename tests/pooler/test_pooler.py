"""notifierd behind a real PgBouncer: in each mode, with pools of 1, 2 and 10 connections; and its limits in force."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from attrs import evolve

from notifierd.demo.postgres import Cluster
from notifierd.model.errors import LedgerUnavailable, StatementRefused
from notifierd.store.connection import guards
from notifierd.store.connection.advice import advice
from notifierd.store.database import Connection, Database, open_database
from tests.experiments.crash import opened
from tests.support.daemon_process import OPEN, TODAY, running_service
from tests.support.faults import until
from tests.support.pooler import running_pooler
from tests.support.processes import DAY, Place, invent, run, write_config
from tests.support.processes import until as wait_until

OURS = "lock_timeout,idle_in_transaction_session_timeout,statement_timeout,plan_cache_mode,tcp_keepalives_idle"
POOLS = [(mode, size) for mode in ("session", "transaction") for size in (1, 2, 10)]


@pytest.fixture
def database_name(database: str) -> str:
    return database.partition("?")[0].rpartition("/")[2]


# A day ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1]}")
def pooled(request: pytest.FixtureRequest, place: Place) -> Iterator[Place]:
    """A place behind a pooler, whose session mode lends each of our connections one of its own."""
    mode, size = request.param
    with running_pooler(place.cluster, mode, [place.role], pool_size=size) as pooler:
        place = evolve(place, pooler=pooler)
        place.configure(database={"pool_size": size if mode == "session" else 4})
        yield place


def test_the_commands_that_look_and_a_run(pooled: Place):
    rows = invent(6)
    pooled.load(rows)
    findings = run("check", cwd=pooled.folder).out
    assert "there is a pooler" in findings
    assert "bad" not in {line.split()[0] for line in findings.splitlines()}, findings
    assert len(run("plan", "--day", str(DAY), cwd=pooled.folder, code=0).out.splitlines()) > 6
    assert pooled.once("--dry-run").report["status"] == "dry-run"
    report = pooled.once().report
    assert (report["status"], report["email"]["sent"]) == ("completed", len(pooled.mails()))
    assert report["email"]["sent"] == report["email"]["planned"] == 12
    assert pooled.once().report["email"]["sent"] == 12
    assert len(pooled.mails()) == 12
    assert run("status", cwd=pooled.folder, code=0).err == ""


async def test_a_daemons_day(pooled: Place):
    pooled.load(invent(4, day=TODAY))
    pooled.configure(window=OPEN, database={"pool_size": 1})
    async with running_service(pooled) as service:
        await service.ready()
        await until(lambda: service.shows("sleeping until"), "the end of the run")
        service.process.terminate()
        await service.ended(0)
    assert dict(pooled.states()) == {"sent": 8}
    assert len(pooled.mails()) == 8


async def test_a_standby_that_takes_over(place: Place):
    """Two daemons over a pool of two connections: the one that has the day is killed, the other ends it."""
    with running_pooler(place.cluster, "transaction", [place.role], pool_size=2) as pooler:
        place = evolve(place, pooler=pooler)
        place.load(invent(20, day=TODAY))
        place.configure(window=OPEN, limits={"email": 1, "email_per_second": 4.0})
        async with running_service(place) as first:
            await first.ready()
            await until(lambda: bool(place.mails()), "the first mail")
            async with running_service(place) as second:
                await second.ready()
                first.process.kill()
                await until(lambda: second.shows("sleeping until"), "the end of the run")
                second.process.terminate()
                await second.ended(0)
    told = [mail.delivery_id for mail in place.mails()]
    assert len(set(told)) == 40
    assert dict(place.states()) == {"sent": 40}


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_killed_at_random_moments_it_loses_nobody_and_doubles_nobody(mode: str, tmp_path: Path):
    with opened(tmp_path, successor=None, pool_mode=mode, keys=True, seed=5) as fuzz:
        assert [line for _ in range(3) for line in fuzz.round().broken] == []


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_db_init_and_db_migrate(cluster: Cluster, database_name: str, tmp_path: Path, mode: str):
    with running_pooler(cluster, mode, ["postgres"], pool_size=1) as pooler:
        dsn = pooler.dsn(database_name, "postgres")
        done = run("db", "init", "--preset", "keikakun", "--dsn", dsn, cwd=tmp_path, code=0)
        assert done.out.endswith("schema notifierd: ready\n")
        assert run("db", "migrate", "--dsn", dsn, cwd=tmp_path, code=0).out == "up to date\n"
        assert run("db", "status", "--dsn", dsn, cwd=tmp_path, code=0).err == ""


def test_the_roles_own_limits_hold_between_transactions(cluster: Cluster, database_name: str, tmp_path: Path):
    """A client that sets nothing itself has them, in a connection that the pooler opened after ``db init``."""
    role = f"limited_{database_name}"
    cluster.psql(f"create role {role} login")
    dsn = cluster.dsn(database_name)
    try:
        told = run("db", "init", "--preset", "keikakun", "--role", role, "--dsn", dsn, cwd=tmp_path, code=0).out
        assert f"role {role}: has these limits in the database {database_name}: lock_timeout = 2s, " in told
        with running_pooler(cluster, "transaction", [role], pool_size=1) as pooler:
            write_config(tmp_path, {"database": {"dsn": pooler.dsn(database_name, role), "pooler": True}})
            assert own_settings(cluster, pooler.dsn(database_name, role)) == "2s|pg_catalog\n"
            assert "limits are not in force" not in run("check", cwd=tmp_path).out
    finally:
        cluster.psql(f"drop owned by {role} cascade", database_name)
        cluster.psql(f"drop role {role}")


# Recognised ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
@pytest.mark.parametrize("further", ["", f"ignore_startup_parameters = {OURS}"], ids=["refusing", "ignoring"])
def test_a_pooler_that_no_key_names_is_recognised(
    cluster: Cluster, database_name: str, tmp_path: Path, mode: str, further: str
):
    with running_pooler(cluster, mode, ["postgres"], pool_size=1, further=further) as pooler:
        write_config(tmp_path, {"database": {"dsn": pooler.dsn(database_name, "postgres")}})
        done = run("status", cwd=tmp_path, code=3)
        assert done.err == f"notifierd: the database is unreachable (database_unavailable:pooler): {advice('pooler')}\n"
        assert f"unreachable (pooler): {advice('pooler')}" in run("check", cwd=tmp_path).out
        assert own_settings(cluster, pooler.dsn(database_name, "postgres")) == own_settings(cluster)


def own_settings(cluster: Cluster, dsn: str = "postgres") -> str:
    """The limits and the path of a connection that asked for none."""
    return cluster.psql("select current_setting('lock_timeout'), current_setting('search_path')", dsn)


def test_a_pooler_that_lends_its_connections_for_a_statement_is_refused(
    cluster: Cluster, database_name: str, tmp_path: Path
):
    with running_pooler(cluster, "statement", ["postgres"]) as pooler:
        dsn = pooler.dsn(database_name, "postgres")
        write_config(tmp_path, {"database": {"dsn": dsn, "pooler": True}})
        for command in (["status"], ["db", "status", "--dsn", dsn]):
            done = run(*command, cwd=tmp_path, code=3)
            assert re.fullmatch(r"notifierd: .*:statement_pooling\): .* set pool_mode = transaction .*\n", done.err)


@pytest.mark.parametrize(
    ("database", "user", "cause"),
    [("nowhere", "postgres", "3D000"), ("postgres", "ghost", "28000"), ("postgres", "stranger", "28P01")],
)
async def test_what_a_pooler_refuses_is_told_like_what_the_server_refuses(
    cluster: Cluster, database: str, user: str, cause: str
):
    with (
        running_pooler(cluster, "transaction", ["postgres", "ghost"]) as pooler,
        pytest.raises(LedgerUnavailable, match=rf"^database_unavailable:{cause}$"),
    ):
        async with open_database(pooler.dsn(database, user), pooler=True):
            pass


# Limits in force -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["directly", "session", "transaction"])
def way(request: pytest.FixtureRequest, cluster: Cluster, database_name: str) -> Iterator[str]:
    """Three ways to the same database, each as a DSN."""
    if request.param == "directly":
        yield cluster.dsn(database_name)
        return
    with running_pooler(cluster, request.param, ["postgres"], pool_size=1) as pooler:
        yield f"{pooler.dsn(database_name, 'postgres')}&pgbouncer=true"


@asynccontextmanager
async def locked(cluster: Cluster, database_name: str) -> AsyncIterator[None]:
    """Hold a lock on the one row of a table for the length of the block."""
    cluster.psql("create table public.held (number int); insert into public.held values (1)", database_name)
    async with open_database(cluster.dsn(database_name), pool_size=1) as other, trio.open_nursery() as nursery:
        held, let_go = trio.Event(), asyncio.Event()

        async def hold(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute("set local idle_in_transaction_session_timeout = 0")
                await connection.execute("update public.held set number = 2")
                held.set()
                await let_go.wait()

        nursery.start_soon(lambda: other.unit(hold, patience=60))
        await held.wait()
        yield
        let_go.set()


async def test_a_lock_that_somebody_holds_is_waited_for_two_seconds(way: str, cluster: Cluster, database_name: str):
    async with locked(cluster, database_name), open_database(way, pool_size=1) as database:
        with pytest.raises(StatementRefused, match=r"^database_refused:55P03$"):
            await database.write("update public.held set number = 3")


async def test_a_statement_that_takes_too_long_is_ended(way: str):
    async with open_database(way, pool_size=1, statement_timeout=0.2) as database:
        with pytest.raises(StatementRefused, match=r"^database_refused:57014$"):
            await database.fetch("select pg_sleep(60)")
        with pytest.raises(StatementRefused, match=r"^database_refused:57014$"):
            await database.write("select pg_sleep(60)", timeout=0.3)
        await database.write("select pg_sleep(0.3)", timeout=30)


async def test_a_transaction_that_waits_for_us_is_ended_and_lets_its_locks_go(
    way: str, cluster: Cluster, database_name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guards, "IDLE_TIMEOUT", "300ms")
    cluster.psql("create table public.held (number int); insert into public.held values (1)", database_name)
    locks = "select count(*) from pg_locks where relation = 'held'::regclass"

    async def idle(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("update public.held set number = 2")
            wait_until(lambda: cluster.psql(locks, database_name) == "0\n", "the end of the transaction")
            await connection.execute("select 1")

    async with open_database(way, pool_size=1) as database:
        with pytest.raises(LedgerUnavailable):
            await database.unit(idle)
        assert (await database.fetch("select number from public.held"))[0]["number"] == 1


async def test_names_times_and_plans_are_as_ever_and_nothing_stays_with_the_connection(
    way: str, cluster: Cluster, database_name: str
):
    names = ("search_path", "timezone", "plan_cache_mode", "lock_timeout", "idle_in_transaction_session_timeout")
    async with open_database(way, pool_size=1) as database:
        (row,) = await database.fetch(f"select {', '.join(f'current_setting($${name}$$) as {name}' for name in names)}")
    assert tuple(row) == ("pg_catalog", "UTC", "force_generic_plan", "2s", "10s")
    assert own_settings(cluster, way.partition("&pgbouncer")[0]) == own_settings(cluster)


async def test_what_is_opened_to_look_cannot_write(way: str):
    async with open_database(way, pool_size=1, read_only=True) as database:
        with pytest.raises(StatementRefused, match=r"^database_refused:25006$"):
            await database.write("create table public.mine ()")
    async with open_database(way, pool_size=1) as database:
        await database.write("create table public.mine ()")


async def test_a_unit_that_is_cancelled_gives_its_connection_back(way: str):
    async with open_database(way, pool_size=1) as database:
        for _ in range(3):
            with trio.move_on_after(0.2) as scope:
                await database.fetch("select pg_sleep(60)")
            assert scope.cancelled_caught
        assert await numbers(database) == [7, 8]


async def numbers(database: Database) -> list[int]:
    """What came of a unit with a transaction within it that was undone."""

    async def unit(connection: Connection) -> list[int]:
        await connection.execute("create temporary table mine (number int) on commit drop; insert into mine values (7)")
        with suppress(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("insert into mine values (9)")
                raise ZeroDivisionError
        async with connection.transaction():
            await connection.execute("insert into mine values (8)")
            rows = await connection.fetch("select number from mine order by 1")
        return [row["number"] for row in rows]

    async def whole(connection: Connection) -> list[int]:
        if connection.is_in_transaction():
            return await unit(connection)
        async with connection.transaction():
            return await unit(connection)

    return await database.unit(whole)
