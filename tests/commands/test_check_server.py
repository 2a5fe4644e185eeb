"""What ``check`` sees of the server and of the way to it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from notifierd.commands.check_server import look_at_server
from notifierd.commands.finding import Finding, Level
from notifierd.config.settings import DatabaseSettings, Settings
from notifierd.demo.postgres import Cluster
from notifierd.store.connection.advice import advice
from notifierd.store.database import open_database
from notifierd.store.rights import limit
from tests.support.certificates import certificate, tls_in_front_of
from tests.support.checked_database import Place, open_place
from tests.support.proxy import a_door

SOCKET = ".s.PGSQL.5432"


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    async with open_place(cluster, database) as there:
        yield there


def now() -> datetime:
    return datetime.now(UTC)


async def found(dsn: str, *, ahead: float = 0.0, pooler: bool = False) -> dict[str, Finding]:
    """What is found at *dsn* by a machine whose clock is *ahead* by so many seconds, by its subject."""
    settings = Settings(database=DatabaseSettings(dsn=dsn, pooler=pooler))
    async with open_database(dsn, pool_size=1, pooler=pooler) as db:
        findings = await look_at_server(db, settings, lambda: now() + timedelta(seconds=ahead))
    return {finding.subject: finding for finding in findings}


async def test_a_role_that_may_only_read_is_told_with_the_way_out(place: Place):
    assert await place.trouble() == []
    await place.sql(f"alter role {place.role} set default_transaction_read_only = on")
    assert await place.trouble() == [("database", "bad", f"is read-only: {advice('25006')}")]


async def test_row_security_that_hides_everybody_from_the_views_is_found(place: Place):
    owner = f"owner_{place.role}"
    await place.sql(f"create role {owner}; alter view notifierd.staff owner to {owner}")
    await place.sql(f"grant select on staffs, office_staffs to {owner}; alter table staffs enable row level security")
    subject, remedy = "notifierd.staff", f"alter role {owner} bypassrls, or give it a policy for select there"
    hidden = f"row level security of public.staffs hides every row from {owner}, with whose privileges the view reads"
    hidden = f"{hidden}: {remedy}"
    try:
        assert await place.trouble() == [(subject, "bad", hidden)]
        await place.sql("create policy mine on staffs for select using (true)")
        some = (
            f"row level security of public.staffs lets {owner} select by mine only: make sure that these are all rows"
        )
        assert await place.trouble() == [(subject, "warn", f"{some}, or {remedy}")]
        await place.sql(
            "drop policy mine on staffs; create policy theirs on staffs for select to postgres using (true)"
        )
        assert await place.trouble() == [(subject, "bad", hidden)]
        await place.sql(f"alter role {owner} bypassrls")
        assert await place.trouble() == []
    finally:
        await place.sql(f"alter view notifierd.staff owner to postgres; drop owned by {owner}; drop role {owner}")


async def test_row_security_is_no_matter_for_a_tables_owner_unless_it_is_forced(place: Place):
    owner = f"owner_{place.role}"
    await place.sql(
        f"create role {owner}; alter view notifierd.devices owner to {owner};"
        f"alter table push_subscriptions owner to {owner}; alter table push_subscriptions enable row level security"
    )
    try:
        assert await place.trouble() == []
        await place.sql("alter table push_subscriptions force row level security")
        assert [(subject, level) for subject, level, _ in await place.trouble()] == [("notifierd.devices", "bad")] * 2
    finally:
        await place.sql(
            "alter view notifierd.devices owner to postgres; alter table push_subscriptions owner to postgres;"
            f"drop owned by {owner}; drop role {owner}"
        )


@pytest.mark.parametrize(("ahead", "words"), [(90.0, "90 s ahead of"), (-90.0, "90 s behind")])
async def test_clocks_that_differ_are_told(database: str, ahead: float, words: str):
    assert (await found(database))["clock"].level is Level.OK
    clock = (await found(database, ahead=ahead))["clock"]
    assert clock == Finding("clock", Level.WARN, f"this machine is {words} the database: synchronise both with NTP")


async def test_an_encoding_that_lacks_names_is_told(cluster: Cluster, database: str):
    assert (await found(database))["encoding"] == Finding("encoding", Level.OK, "UTF8")
    cluster.psql("create database ascii template template0 encoding 'SQL_ASCII' locale_provider libc locale 'C'")
    try:
        encoding = (await found(cluster.dsn("ascii")))["encoding"]
        assert encoding.level is Level.WARN
        assert encoding.text.startswith("the database's encoding is SQL_ASCII: ")
    finally:
        cluster.drop_database("ascii")


async def test_limits_are_compared_with_what_is_in_force_and_a_needless_pooler_key_is_told(database: str):
    limits = Finding("connection", Level.OK, "limits on locks, statements and idle transactions are in force")
    directly, needlessly = await found(database), await found(database, pooler=True)
    assert directly["connection"] == needlessly["connection"] == limits
    assert directly["database.pooler"].level is Level.OK
    assert needlessly["database.pooler"].level is Level.WARN
    async with open_database(database, pool_size=1) as db:
        db.guards = evolve(db.guards, statement_timeout=7.0)  # as if the server had been told another
        findings = await look_at_server(db, Settings(database=DatabaseSettings(dsn=database)), now)
    wrong = f"statement_timeout is 30s and must be 7000ms: {advice('pooler')}"
    assert Finding("connection", Level.BAD, wrong) in findings


async def test_a_role_whose_own_limits_are_missing_behind_a_pooler_is_told(place: Place):
    async def role_of(dsn: str, *, pooler: bool) -> Finding | None:
        return (await found(dsn, pooler=pooler)).get("role")

    dsn = place.settings.database.dsn
    warning = await role_of(dsn, pooler=True)
    assert warning is not None
    assert warning.level is Level.WARN
    assert warning.text.startswith("its limits are not in force (lock_timeout is 0ms and should be 2s; ")
    assert warning.text.endswith("): run `notifierd db init --dsn ADMIN --role NAME`, and reconnect the pooler")
    assert await role_of(dsn, pooler=False) is None
    await limit(place.admin, place.role)
    assert await role_of(dsn, pooler=True) is None


@pytest.mark.parametrize(
    ("days", "parameters", "level", "text"),
    [
        (90, "sslmode=verify-full&sslrootcert={shown}", "ok", "the certificate of 127.0.0.1 is valid until {until}"),
        (
            90,
            "sslmode=require",
            "ok",
            "the certificate of 127.0.0.1 is valid until {until}, but is not verified (use sslmode=verify-full)",
        ),
        (
            13,
            "sslmode=verify-full&sslrootcert={shown}",
            "warn",
            "the certificate of 127.0.0.1 expires on {until}: renew it",
        ),
        (-1, "sslmode=require", "warn", "the certificate of 127.0.0.1 expired on {until}: renew it"),
    ],
)
async def test_a_certificate_that_expires_within_two_weeks_is_told(
    cluster: Cluster, tmp_path: Path, days: int, parameters: str, level: str, text: str
):
    shown = certificate(tmp_path / "shown.pem", days=(-9, days))
    until = f"{now() + timedelta(days=days):%Y-%m-%d}"
    async with tls_in_front_of(cluster.socket_dir / SOCKET, shown) as port:
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?{parameters.format(shown=shown)}"
        findings = await found(dsn)
    assert findings["database.dsn"] == Finding("database.dsn", Level(level), text.format(until=until))


async def test_plain_text_on_loopback_is_nobodys_concern(cluster: Cluster):
    async with a_door(cluster.socket_dir / SOCKET) as door:
        assert "database.dsn" not in await found(f"postgresql://postgres@127.0.0.1:{door.port}/postgres")
