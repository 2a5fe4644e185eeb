"""The way to the database and what goes wrong on it, each made for real: one line with the cause and the way out.

What is wrong with the address itself is in test_dsn.py.
"""

import pwd
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from attrs import frozen

from notifierd.cli.terminal import exit_codes
from notifierd.demo.postgres import Cluster
from notifierd.model.errors import ConfigError
from notifierd.store import database as db
from notifierd.store.connection.advice import advice
from notifierd.store.schema import status
from tests.support.certificates import certificate, tls_in_front_of
from tests.support.loopback import receive, serving
from tests.support.processes import PASSWORD, Done, Place, invent, run, write_config
from tests.support.proxy import a_door

SOCKET = ".s.PGSQL.5432"


@pytest.fixture(scope="module")
def roles(cluster: Cluster) -> Iterator[None]:
    """Make roles that are refused for different reasons."""
    hba = cluster.data_dir / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"local all locked scram-sha-256\n{before}")
    cluster.psql(
        f"create role locked login password '{PASSWORD}'; create role barred nologin; create role outsider login;"
        "create role crowded login connection limit 0; create role reader login;"
        "alter role reader set default_transaction_read_only = on; create database closed;"
        "revoke connect on database closed from public; select pg_reload_conf()"
    )
    yield
    hba.write_text(before)
    cluster.psql("drop database closed; drop role locked, barred, outsider, crowded, reader; select pg_reload_conf()")


@frozen
class Asked:
    """``db status`` of a DSN as the command line has it, in this process: what it said, and its exit code."""

    capsys: pytest.CaptureFixture[str]

    async def __call__(self, dsn: str) -> Done:
        code = 0
        try:
            with exit_codes():
                async with db.open_database(dsn, pool_size=1, pooler=True) as database:
                    click.echo("\n".join((await status(database)).lines()))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        said = self.capsys.readouterr()
        assert PASSWORD not in said.out + said.err
        return Done(code, said.out, said.err, 0.0)

    async def out_of_reach(self, dsn: str, cause: str) -> None:
        done = await self(dsn)
        assert done.err == f"notifierd: the database is unreachable (database_unavailable:{cause}): {advice(cause)}\n"
        assert (done.code, done.out) == (3, "")
        assert advice(cause) != advice("no such cause")


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Asked(capsys)


async def test_a_good_address_is_answered(asked: Asked, cluster: Cluster, roles):
    host = cluster.socket_dir
    for dsn in (
        f"postgresql://postgres@/postgres?host={host}",
        f"postgresql://locked:{PASSWORD}@/postgres?host={host}",
        f"postgresql://postgres@/postgres?host=/nowhere,{host}&target_session_attrs=read-write",
        f"postgresql://postgres@/postgres?host={host}&application_name=me&options=-c%20search_path%3Dapp",
        f"postgresql://postgres@/postgres?host={host}&keepalives=1&keepalives_idle=30&gssencmode=prefer",
        f"postgresql://postgres@/postgres?host={host}&load_balance_hosts=random&connect_timeout=3",
    ):
        done = await asked(dsn)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("schema notifierd: not there")


@pytest.mark.parametrize(
    ("dsn", "cause"),
    [
        (f"postgresql://locked:not-{PASSWORD}@/postgres?host={{host}}", "28P01"),
        ("postgresql://postgres@/nowhere?host={host}", "3D000"),
        ("postgresql://nobody_there@/postgres?host={host}", "28000"),
        ("postgresql://barred@/postgres?host={host}", "28000"),
        ("postgresql://outsider@/closed?host={host}", "42501"),
        ("postgresql://crowded@/postgres?host={host}", "53300"),
        ("postgresql://postgres@/postgres?host={host}&options=-c%20no_such_setting%3D1", "42704"),
        ("postgresql://postgres@/postgres?host={host}&options=-c%20work_mem%3Dmuch", "22023"),
        ("postgresql://reader@/postgres?host={host}&target_session_attrs=read-write", "no_writable_host"),
        ("postgresql://postgres@/postgres?host=/nowhere", "FileNotFoundError"),
        ("postgresql://me@127.0.0.1:1/postgres", "ConnectionRefusedError"),
        ("postgresql://me@nowhere.invalid/postgres", "gaierror"),
    ],
)
async def test_what_the_server_or_the_network_refuses(asked: Asked, cluster: Cluster, roles, dsn: str, cause: str):
    await asked.out_of_reach(dsn.format(host=cluster.socket_dir), cause)


async def test_a_server_that_says_nothing_is_waited_for_as_long_as_the_address_says(asked: Asked):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/postgres?connect_timeout=1"
        await asked.out_of_reach(dsn, "TimeoutError")


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


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "08003"),
        (b"", "08003"),
        (error("57P03", "the database system is starting up"), "57P03"),
        (error("57P01", "terminating connection due to administrator command"), "57P01"),
        (error("08P01", "unsupported startup parameter: lock_timeout"), "pooler"),
        (error("08P01", "query_wait_timeout"), "08P01"),
        (AUTHENTICATION_GSS, "InternalClientError"),
    ],
)
async def test_what_is_no_server_or_not_now(asked: Asked, answer: bytes, cause: str):
    """It does without TLS, as most poolers on the same machine."""

    async def answer_once(stream: trio.SocketStream) -> None:
        await receive(stream)
        await stream.send_all(answer)

    async with serving(answer_once) as port:
        await asked.out_of_reach(f"postgresql://me@127.0.0.1:{port}/postgres?sslmode=disable", cause)


async def test_a_server_without_tls_is_told_from_one_that_is_away(asked: Asked, cluster: Cluster):
    async with a_door(cluster.socket_dir / SOCKET) as door:
        dsn = f"postgresql://postgres@127.0.0.1:{door.port}/postgres"
        assert (await asked(dsn)).code == 0
        await asked.out_of_reach(f"{dsn}?sslmode=require", "no_tls")


async def test_a_server_that_says_yes_to_tls_and_does_not_speak_it(asked: Asked):
    async def answer(stream: trio.SocketStream) -> None:
        await receive(stream)
        await stream.send_all(b"S")
        await receive(stream)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(answer) as port:
        await asked.out_of_reach(f"postgresql://me@127.0.0.1:{port}/postgres?sslmode=require", "tls_failed")


@pytest.mark.parametrize(
    ("made", "parameters", "cause"),
    [
        ({}, "sslmode=require", ""),
        ({}, "sslmode=verify-full&sslrootcert={shown}", ""),
        ({}, "sslmode=require&channel_binding=require&sslrootcert={shown}", ""),
        ({"address": "192.0.2.1"}, "sslmode=verify-ca&sslrootcert={shown}", ""),
        ({"address": "192.0.2.1"}, "sslmode=verify-full&sslrootcert={shown}", "certificate_name"),
        ({}, "sslmode=verify-full&sslrootcert={other}", "certificate_untrusted"),
        ({}, "sslmode=require&sslrootcert={other}", "certificate_untrusted"),
        ({}, "sslrootcert=system", "certificate_untrusted"),
        ({}, "sslmode=require&channel_binding=require", "certificate_untrusted"),
        ({"days": (-9, -1)}, "sslmode=verify-full&sslrootcert={shown}", "certificate_expired"),
        ({"days": (1, 9)}, "sslmode=verify-full&sslrootcert={shown}", "certificate_not_yet_valid"),
        ({}, "sslmode=require&ssl_min_protocol_version=TLSv1.3", ""),
    ],
)
async def test_tls(asked: Asked, cluster: Cluster, tmp_path: Path, made: dict[str, Any], parameters: str, cause: str):
    shown, other = certificate(tmp_path / "shown.pem", **made), certificate(tmp_path / "other.pem")
    async with tls_in_front_of(cluster.socket_dir / SOCKET, shown) as port:
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?{parameters.format(shown=shown, other=other)}"
        if cause:
            await asked.out_of_reach(dsn, cause)
        else:
            done = await asked(dsn)
            assert (done.code, done.err) == (0, "")


async def test_a_certificate_of_ours_is_shown_to_a_server_that_asks(asked: Asked, cluster: Cluster, tmp_path: Path):
    shown, ours = certificate(tmp_path / "shown.pem"), certificate(tmp_path / "ours.pem")
    async with tls_in_front_of(cluster.socket_dir / SOCKET, shown, clients=ours) as port:
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={shown}"
        done = await asked(f"{dsn}&sslcert={ours}")
        assert (done.code, done.err) == (0, "")
        done = await asked(dsn)
        assert done.code == 3
        assert re.fullmatch(r"notifierd: the database is unreachable \(\S+\): .*\n", done.err)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ("sslmode=verify-full", "sslmode=verify-full: needs a certificate authority: add sslrootcert=.*"),
        ("sslmode=verify-ca", "sslmode=verify-ca: needs a certificate authority: .*"),
        (
            "sslmode=verify-full&sslrootcert=/nowhere.pem",
            r"sslrootcert: /nowhere.pem cannot be read \(No such file .*\)",
        ),
        ("sslmode=verify-full&sslrootcert={text}", r"sslrootcert: \S+ holds no certificate in PEM"),
        ("sslmode=require&sslcrl=/nowhere.pem&sslrootcert={good}", r"sslcrl: /nowhere.pem cannot be read \(.*\)"),
        ("sslmode=require&sslcert=/nowhere.pem", r"sslcert: /nowhere.pem cannot be read \(.*\)"),
        ("sslmode=require&sslcert={good}&sslkey=/nowhere.pem", r"sslkey: /nowhere.pem cannot be read \(.*\)"),
        ("sslmode=require&sslcert={good}&sslkey={other}", r"sslcert: \S+ and its key are not a pair in PEM, or .*"),
    ],
)
async def test_files_for_tls_are_looked_at_before_anything_is_called(
    asked: Asked, tmp_path: Path, parameters: str, complaint: str
):
    (tmp_path / "text.pem").write_text("no certificate\n")
    good, other = certificate(tmp_path / "good.pem"), certificate(tmp_path / "other.pem")
    parameters = parameters.format(text=tmp_path / "text.pem", good=good, other=other)
    done = await asked(f"postgresql://me:{PASSWORD}@127.0.0.1:1/app?{parameters}")
    assert re.fullmatch(rf"notifierd: database\.dsn: {complaint}\n", done.err), done.err
    assert done.code == 2


@pytest.mark.parametrize(
    ("dsn", "complaint"),
    [
        (f"postgresql://me:{PASSWORD}@db:99999/app", "--dsn: port: is not a number from 1 to 65535"),
        (f"postgresql://me:{PASSWORD}#x@db/app", "--dsn: the value contains a #.*%23"),
    ],
)
def test_an_address_that_is_no_good_is_exit_2(tmp_path: Path, dsn: str, complaint: str):
    done = run("db", "status", "--dsn", dsn, cwd=tmp_path, code=2)
    assert re.fullmatch(rf"notifierd: {complaint}\n", done.err), done.err


async def test_variables_of_libpq_are_taken_or_refused_by_name(
    asked: Asked, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PGHOST", str(cluster.socket_dir))
    monkeypatch.setenv("PGUSER", "postgres")
    done = await asked("")
    assert (done.code, done.err) == (0, "")
    monkeypatch.setenv("PGSERVICE", "app")
    done = await asked("")
    assert done.err.startswith("notifierd: database.dsn: PGSERVICE: service files are not read: write the host")
    assert done.code == 2


async def test_a_process_whose_user_has_no_name_says_what_to_write(monkeypatch: pytest.MonkeyPatch):
    def no_such_user(_uid: int) -> object:
        raise KeyError

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    with pytest.raises(ConfigError, match=r"^database\.dsn: names no user.* set PGUSER$"):
        async with db.open_database("postgresql://db/app"):
            pass


# ------------------------------------------------------------------------------------------------ statements


def refused(done: Done, state: str) -> None:
    assert done.err == f"notifierd: the database refused a statement (database_refused:{state}): {advice(state)}\n"
    assert done.code == 2
    assert advice(state) != advice("no such state")


def test_a_view_that_is_too_slow(place: Place):
    place.load(invent(1))
    place.sql(
        "create or replace view notifierd.offices as select id, name::text as name from public.offices "
        "where pg_catalog.pg_sleep(1) is not null"
    )
    place.configure(database={"statement_timeout": 0.2})
    refused(run("plan", cwd=place.folder), "57014")


def test_a_right_that_was_taken(place: Place):
    place.sql(f"revoke select on notifierd.staff from {place.role}")
    refused(run("plan", cwd=place.folder), "42501")


def test_a_database_where_nothing_can_be_written_is_waited_for_as_one_out_of_reach(place: Place):
    place.load(invent(1))
    place.sql(f"alter role {place.role} in database {place.database} set default_transaction_read_only = on")
    done = place.once(code=3)
    assert done.err.endswith(
        f"notifierd: the database is unreachable (database_unavailable:25006): {advice('25006')}\n"
    )
    assert run("plan", cwd=place.folder, code=0).err == ""
    place.configure(database={"dsn": f"{place.dsn}&target_session_attrs=read-write"})
    done = run("plan", cwd=place.folder, code=3)
    assert done.err.startswith("notifierd: the database is unreachable (database_unavailable:no_writable_host): ")


def test_looking_works_at_an_address_that_demands_a_server_to_write_to(place: Place):
    place.load(invent(1))
    place.configure(database={"dsn": f"{place.dsn}&target_session_attrs=read-write"})
    for command in (("plan",), ("status",), ("once", "--dry-run")):
        assert run(*command, cwd=place.folder, code=0).err == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("alter table office_staffs drop column office_id cascade", r"office_staffs has no column office_id"),
        ("alter table staffs rename column full_name to name", r"staffs has no column full_name"),
    ],
)
def test_db_init_names_the_table_and_the_column_that_the_preset_misses(
    cluster: Cluster, database: str, tmp_path: Path, change: str, complaint: str
):
    cluster.psql(change, database)
    write_config(tmp_path, {"database": {"dsn": database}})
    done = run("db", "init", "--preset", "keikakun", cwd=tmp_path, code=2)
    assert re.fullmatch(
        rf"notifierd: creating the views for keikakun was refused \(SQLSTATE 42703\): .*{complaint}.*\n", done.err
    ), done.err
