"""How the ways to a database go wrong, each made for real: on a server, in a database, on the network, in a file."""

import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio
from attrs import field, frozen

from notifierd.demo.application import rows_sql, tables_sql
from notifierd.demo.postgres import Cluster
from tests.support.certificates import certificate, tls_in_front_of
from tests.support.loopback import receive, serving
from tests.support.processes import PASSWORD, Template, invent, run, until
from tests.support.proxy import a_door
from tests.support.warm import Warm

SOCKET = ".s.PGSQL.5432"
MOST_CONNECTIONS = 20

# Root may read everything; without these capabilities it is refused like anybody (capabilities(7)).
AS_ANYBODY: Sequence[str] = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

HBA = """
local all locked,hashed,expired scram-sha-256
local all peered peer
local all rejected reject
"""
ROLES = f"""
create role locked login password '{PASSWORD}';
create role expired login password '{PASSWORD}' valid until '2020-01-01';
set password_encryption = 'md5';
create role hashed login password '{PASSWORD}';
reset password_encryption;
create role peered login; create role rejected login; create role barred nologin;
create role outsider login; create role crowded login connection limit 0;
create role reader login; alter role reader set default_transaction_read_only = on;
create database closed; revoke connect on database closed from public;
create database full_up connection limit 0;
create database shut allow_connections false;
create database empty;
select pg_reload_conf()
"""


@frozen
class Stage:
    """A server of its own with roles that are refused for different reasons, and a database to copy."""

    cluster: Cluster
    template: Template
    folder: Path
    commands: Warm

    @property
    def names(self) -> dict[str, str]:
        """What stands in a DSN for what is different each time."""
        return {"host": str(self.cluster.socket_dir), "folder": str(self.folder), "password": PASSWORD}


@frozen
class Way:
    """What a command is run with: the configured DSN, variables, further keys of [database], and what runs it."""

    dsn: str
    environ: Mapping[str, str] = field(factory=dict)
    keys: Mapping[str, object] = field(factory=dict)
    by: Sequence[str] = ()


Made = Callable[[Stage], AbstractAsyncContextManager[Way]]


def prepare(cluster: Cluster) -> None:
    """Make the roles and databases in *cluster*."""
    hba = cluster.data_dir / "pg_hba.conf"
    hba.write_text(f"{HBA}{hba.read_text()}")
    cluster.psql(ROLES)


# ------------------------------------------------------------------------------------------------- an address


def at(dsn: str, *, by: Sequence[str] = (), **environ: str) -> Made:
    """Configure *dsn*."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        variables = {name: value.format(**stage.names) for name, value in environ.items()}
        yield Way(dsn.format(**stage.names), variables, by=by)

    return made


def with_file(name: str, content: str, dsn: str, *, mode: int = 0o600, **environ: str) -> Made:
    """Configure *dsn* beside a file; a command that is not privileged uses it."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        path = stage.folder / name
        path.write_text(content)
        path.chmod(mode)
        async with at(dsn, by=() if mode & 0o400 else AS_ANYBODY, **environ)(stage) as way:
            yield way
        path.chmod(0o600)

    return made


def in_shut_folder(dsn: str) -> Made:
    """Configure *dsn* beside a folder that nobody may enter, ``{folder}/shut``."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        (stage.folder / "shut").mkdir(mode=0)
        async with at(dsn, by=AS_ANYBODY)(stage) as way:
            yield way
        (stage.folder / "shut").chmod(0o700)

    return made


@asynccontextmanager
async def abandoned_socket(stage: Stage) -> AsyncIterator[Way]:
    """Leave a socket behind that nobody listens on, as a killed server does."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stage.folder / SOCKET))
    yield Way(f"postgresql://postgres@/postgres?host={stage.folder}")


# ------------------------------------------------------------------------------------------------- what answers there


def saying(answer: bytes, parameters: str = "sslmode=disable") -> Made:
    """Answer the first words of a client with *answer*, and go away."""

    async def answer_once(stream: trio.SocketStream) -> None:
        await receive(stream)
        await stream.send_all(answer)

    return served(answer_once, parameters)


def served(handler: Callable[[trio.SocketStream], Awaitable[None]], parameters: str) -> Made:
    """Let *handler* be the server."""

    @asynccontextmanager
    async def made(_stage: Stage) -> AsyncIterator[Way]:
        async with serving(handler) as port:
            yield Way(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/postgres?{parameters}")

    return made


async def silence(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def greeting(stream: trio.SocketStream) -> None:
    """Speak first, as an SSH server does."""
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await trio.sleep_forever()


async def without_end(stream: trio.SocketStream) -> None:
    """Never stop speaking."""
    await receive(stream)
    while True:
        await stream.send_all(b"N" * 4096)
        await trio.sleep(0.01)


async def yes_to_tls(stream: trio.SocketStream) -> None:
    """Agree to TLS, and then speak something else."""
    await receive(stream)
    await stream.send_all(b"S")
    await receive(stream)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def error(sqlstate: str, message: str) -> bytes:
    """Return an ErrorResponse (PostgreSQL, 55.7)."""
    body = (
        b"".join(
            b"%c%s\0" % (kind, text.encode()) for kind, text in zip(b"SCM", ("FATAL", sqlstate, message), strict=True)
        )
        + b"\0"
    )
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


AUTHENTICATION_GSS = b"R" + (8).to_bytes(4, "big") + (7).to_bytes(4, "big")


def tls(
    parameters: str,
    *,
    address: str = "127.0.0.1",
    days: tuple[int, int] = (-1, 90),
    host: str = "127.0.0.1",
    clients: bool = False,
) -> Made:
    """Put TLS in front of PostgreSQL, with a certificate for *address*; *parameters* may name the files below.

    ``{shown}`` is the server's certificate, ``{other}`` another one, ``{ours}`` the one that a server that demands
    *clients* knows, ``{locked}`` the same with a key under a password, and ``{garbage}`` no certificate.
    """

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        files = {
            "shown": certificate(stage.folder / "shown.pem", address=address, days=days),
            "other": certificate(stage.folder / "other.pem"),
            "ours": certificate(stage.folder / "ours.pem"),
            "locked": certificate(stage.folder / "locked.pem", password="another-password"),
            "garbage": stage.folder / "garbage.pem",
            "folder": stage.folder,
        }
        files["garbage"].write_text("no certificate\n")
        known = files["ours"] if clients else None
        async with tls_in_front_of(stage.cluster.socket_dir / SOCKET, files["shown"], clients=known) as port:
            yield Way(f"postgresql://postgres@{host}:{port}/postgres?{parameters.format(**files)}")

    return made


@asynccontextmanager
async def without_tls(stage: Stage) -> AsyncIterator[Way]:
    """Demand TLS of a server that has none."""
    async with a_door(stage.cluster.socket_dir / SOCKET) as door:
        yield Way(f"postgresql://postgres@127.0.0.1:{door.port}/postgres?sslmode=require")


# ------------------------------------------------------------------------------------------------- the server's state


@asynccontextmanager
async def full(stage: Stage) -> AsyncIterator[Way]:
    """Take all connections that the server has for those who are no superusers."""
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS - 3):
            stack.enter_context(connected(stage.cluster, "outsider"))
        yield Way(f"postgresql://outsider@/postgres?host={stage.cluster.socket_dir}")


@asynccontextmanager
async def shutting_down(stage: Stage) -> AsyncIterator[Way]:
    """Stop the server while a client is connected, for which it waits ("smart shutdown")."""
    process = stage.cluster.pid
    assert process is not None
    with connected(stage.cluster, "postgres"):
        os.kill(process, 15)
        until(lambda: refuses(stage.cluster), "the shutdown")
        yield Way(f"postgresql://postgres@/postgres?host={stage.cluster.socket_dir}")
    stage.cluster.stop()
    stage.cluster.start()


def refuses(cluster: Cluster) -> bool:
    with ExitStack() as stack:
        try:
            stack.enter_context(connected(cluster, "postgres"))
        except (AssertionError, OSError):
            return True
    return False


@asynccontextmanager
async def standby(stage: Stage) -> AsyncIterator[Way]:
    """Let the server be a standby, which takes no writes."""
    signal = stage.cluster.data_dir / "standby.signal"
    database = f"{stage.template.database}_standby"
    stage.cluster.create_database(database, template=stage.template.database)
    stage.cluster.stop()
    signal.touch()
    stage.cluster.start()
    yield Way(stage.cluster.dsn(database, stage.template.role))
    stage.cluster.stop()
    signal.unlink()
    stage.cluster.start()
    stage.cluster.drop_database(database)


@contextmanager
def connected(cluster: Cluster, user: str) -> Iterator[None]:
    """Hold a connection of *user*'s open (PostgreSQL, 55.2.1)."""
    body = struct.pack("!i", 196608) + f"user\0{user}\0database\0postgres\0\0".encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(cluster.socket_dir / SOCKET))
        client.sendall(struct.pack("!i", len(body) + 4) + body)
        assert client.recv(1) == b"R"
        yield


# ------------------------------------------------------------------------------------------------- a database


def in_database(script: str, *, user: str = "{role}", parameters: str = "", **keys: object) -> Made:
    """Run *script* as the superuser in a fresh database with an office, the schema, its views and the daemon's role."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        database = f"{stage.template.database}_copy"
        stage.cluster.create_database(database, template=stage.template.database)
        try:
            stage.cluster.psql(rows_sql(invent(1)), database)
            names = {"role": stage.template.role, "database": database}
            stage.cluster.psql(_filled(script, names), database)
            yield Way(stage.cluster.dsn(database, _filled(user, names)) + parameters, keys=keys)
        finally:
            stage.cluster.drop_database(database)

    return made


def meanwhile(function: str) -> Made:
    """Let a view be slow, and call *function* of PostgreSQL's for the process that reads it."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        async with in_database(SLOW)(stage) as way, trio.open_nursery() as nursery:
            database = way.dsn.partition("?")[0].rpartition("/")[2]

            async def strikes() -> None:
                strike = (
                    f"select {function}(pid) from pg_stat_activity"
                    f" where datname = '{database}' and state = 'active' and query ~ 'notifierd.offices'"
                )
                while True:
                    await trio.to_thread.run_sync(stage.cluster.psql, strike)
                    await trio.sleep(0.1)

            nursery.start_soon(strikes)
            yield way
            nursery.cancel_scope.cancel()

    return made


SLOW = (
    "create or replace view notifierd.offices as select id, name::text as name from public.offices "
    "where pg_catalog.pg_sleep(20) is not null"
)
"""An office that takes twenty seconds to read."""


@asynccontextmanager
async def locked(stage: Stage) -> AsyncIterator[Way]:
    """Lock a table behind a view."""
    async with in_database("")(stage) as way:
        database = way.dsn.partition("?")[0].rpartition("/")[2]
        command = [str(stage.cluster.bin_dir / "psql"), "-XqAt", "-d", stage.cluster.dsn(database)]
        script = "begin; lock table public.offices; select 1;\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin
            assert holder.stdout
            holder.stdin.write(script)
            holder.stdin.flush()
            assert holder.stdout.readline() == "1\n"
            yield way
            holder.stdin.close()


def encoded(encoding: str, script: str) -> Made:
    """Make a database in *encoding* with the application's tables, and run *script* in it."""

    @asynccontextmanager
    async def made(stage: Stage) -> AsyncIterator[Way]:
        database = f"encoded_{encoding.lower()}"
        stage.cluster.psql(
            f"create database {database} template template0 encoding '{encoding}' locale_provider libc locale 'C'"
        )
        try:
            dsn = stage.cluster.dsn(database)
            stage.cluster.psql(f"set client_encoding = 'SQL_ASCII'; {tables_sql()}", database)
            run("db", "init", "--preset", "keikakun", "--dsn", dsn, cwd=stage.folder, code=0)
            stage.cluster.psql(script, database)
            yield Way(dsn)
        finally:
            stage.cluster.drop_database(database)

    return made


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text
