"""The database, when Trio cancels what works on it, and when nothing may be written."""

import gc
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from notifierd.demo.postgres import Cluster
from notifierd.model.errors import UNENCODABLE, LedgerUnavailable, StatementRefused
from notifierd.store import database as db
from tests.support.proxy import a_door

SOCKET = ".s.PGSQL.5432"


async def test_cancelled_while_a_connection_is_given_back_it_harms_nothing_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """asyncpg leaves giving back to a task that outlives the unit's cancellation, and fails when its time is up."""
    monkeypatch.setattr(db, "CONNECT_TIMEOUT", 0.6)
    async with a_door(cluster.socket_dir / SOCKET) as door:

        async def cut_off(connection: db.Connection) -> None:
            door.hush()  # so that what is asked of the server from now on is never answered
            await connection.execute("select 1", timeout=0.1)

        async with db.open_database(f"postgresql://postgres@127.0.0.1:{door.port}/postgres") as database:
            with trio.move_on_after(0.3) as unit:
                await database.unit(cut_off)
            await trio.sleep(0.6)
            gc.collect()  # asyncio tells of an error that nobody fetched when its task is forgotten
            await trio.lowlevel.checkpoint()
            door.speak()
            assert (await database.fetch("select 1 as one"))[0]["one"] == 1
    assert unit.cancelled_caught


async def test_a_database_that_is_opened_read_only_refuses_what_would_write(database: str) -> None:
    async with db.open_database(database, read_only=True) as opened:
        assert (await opened.read("select 1 as one"))[0]["one"] == 1
        for statement in ("create table public.mine ()", "update pg_class set relname = relname"):
            with pytest.raises(StatementRefused, match="25006"):
                await opened.write(statement)


async def test_a_server_whose_certificate_is_not_trusted_is_out_of_reach_and_the_dsn_is_good(tmp_path: Path) -> None:
    """Python's error for it is a ValueError, too, as one for a DSN that cannot be read is."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(self_signed(tmp_path / "server.pem"))

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(8)  # PostgreSQL, 55.7: SSLRequest
        await stream.send_all(b"S")
        with suppress(trio.BrokenResourceError):
            await trio.SSLStream(stream, server, server_side=True).do_handshake()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        port = listener.socket.getsockname()[1]
        trusted = self_signed(tmp_path / "trusted.pem")
        dsn = f"postgresql://a@127.0.0.1:{port}/a?sslmode=verify-full&sslrootcert={trusted}"
        with pytest.raises(LedgerUnavailable, match=r"^database_unavailable:certificate_untrusted$"):
            async with db.open_database(dsn):
                pass
        nursery.cancel_scope.cancel()


def self_signed(path: Path) -> Path:
    """Write a new key, and a certificate of its own for it, to *path*."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


async def test_a_transaction_that_a_unit_leaves_open_is_rolled_back(database: str) -> None:
    async def leave_open(connection: db.Connection) -> None:
        await connection.execute("begin")
        await connection.execute("insert into public.mine default values")

    with capture_logs() as logs:
        async with db.open_database(database, pool_size=1) as opened:
            await opened.write("create table public.mine ()")
            await opened.unit(leave_open)
            assert (await opened.fetch("select count(*) as rows from public.mine"))[0]["rows"] == 0
    assert [entry["event"] for entry in logs] == ["database_trouble_unheard"]


async def test_connections_that_break_while_they_are_at_hand_are_replaced(database: str) -> None:
    """As many as the pool has, each of them left at hand by a unit: killed by the server, then dropped by ourselves."""
    async with db.open_database(database, pool_size=2) as opened:
        for end in (killed_by_the_server, dropped):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(opened.fetch, "select pg_sleep(0.1)")
            await end(opened)
            with trio.fail_after(60):
                for _ in range(3):
                    assert await asked(opened) == 1


async def killed_by_the_server(opened: db.Database) -> None:
    with suppress(LedgerUnavailable):
        await opened.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'notifierd'"
        )


async def dropped(opened: db.Database) -> None:
    async def unit(connection: db.Connection) -> None:
        connection.terminate()

    await opened.unit(unit)


async def asked(opened: db.Database) -> int:
    """What a unit answers that finds a connection which stands; one that broke in mid-answer is asked again."""
    while True:
        with suppress(LedgerUnavailable):
            (row,) = await opened.fetch("select 1 as one")
            return int(row["one"])


@pytest.mark.parametrize(
    ("spoiling", "sqlstate"),
    [("deallocate all", "26000"), ("set default_transaction_read_only = on", "25006")],
)
async def test_a_connection_that_would_refuse_for_ever_is_replaced_after_its_first_refusal(
    spoiling: str, sqlstate: str, database: str
) -> None:
    """As behind a pooler that gave us another server connection, and after a switchover that made a replica of ours."""
    async with db.open_database(database, pool_size=1) as opened:
        await opened.write("create table public.mine (number int)")
        insert = "insert into public.mine values ($1)"
        await opened.write(insert, 1)
        await opened.unit(lambda connection: connection.execute(spoiling))
        with pytest.raises(StatementRefused, match=sqlstate):
            await opened.write(insert, 2)
        await opened.write(insert, 3)
        assert [row["number"] for row in await opened.read("select number from public.mine")] == [1, 3]


@pytest.mark.parametrize("state", ["22001", "22P02", "23503", "23505", UNENCODABLE])
def test_a_refusal_that_names_a_value_or_a_constraint_is_about_the_row(state: str):
    assert StatementRefused(f"database_refused:{state}:a_constraint").about_row


@pytest.mark.parametrize(
    "state",
    [
        "0A000",
        "25006",
        "26000",
        "40001",
        "40P01",
        "42501",
        "42P01",
        "42P05",
        "55P03",
        "57014",
        "58030",
        "P0001",
        "XX000",
    ],
)
def test_any_other_refusal_is_not(state: str):
    assert not StatementRefused(f"database_refused:{state}").about_row
    assert not LedgerUnavailable("database_unavailable:22003").about_row
