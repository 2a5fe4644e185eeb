"""The way to the database and what goes wrong on it, each made for real: one line with the cause and the way out.

What is wrong with the address itself is in test_dsn.py.
"""

import pwd
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import evolve, frozen

from notifierd.demo.postgres import running_postgres
from notifierd.model.errors import ConfigError
from notifierd.store import database as db
from notifierd.store.connection.advice import advice
from tests.support import situations as made
from tests.support.processes import (
    API_KEY,
    DOMAIN,
    PASSWORD,
    Done,
    Tables,
    ended,
    running,
    running_template,
    write_config,
)
from tests.support.situations import (
    MOST_CONNECTIONS,
    Made,
    Stage,
    Way,
    at,
    encoded,
    error,
    in_database,
    in_shut_folder,
    meanwhile,
    prepare,
    saying,
    served,
    tls,
    with_file,
)
from tests.support.warm import warm


@frozen
class Situation:
    """What is wrong, how it is made, a command that meets it, what that says, and its exit code."""

    what: str
    made: Made
    command: str
    words: str
    code: int


def away(what: str, made: Made, cause: str, command: str = "db status") -> Situation:
    """The database is unreachable because of *cause*."""
    words = f"the database is unreachable (database_unavailable:{cause}): {advice(cause)}"
    return Situation(what, made, command, re.escape(words), 3)


def refused(what: str, made: Made, state: str, command: str = "plan") -> Situation:
    """The database refuses a statement with SQLSTATE *state*."""
    words = f"the database refused a statement (database_refused:{state}): {advice(state)}"
    return Situation(what, made, command, re.escape(words), 2)


def bad(what: str, made: Made, words: str, command: str = "db status") -> Situation:
    """Something has to be corrected before *command* can do its work."""
    return Situation(what, made, command, words, 2)


def found(what: str, made: Made, words: str, code: int = 2) -> Situation:
    """A line of ``check`` has *words*."""
    return Situation(what, made, "check", words, code)


HERE = "/postgres?host={host}"
ANY_HOST = "postgresql://me@127.0.0.1:1/postgres"
PASSFILE = "{folder}/pgpass"
FULL = "sslmode=verify-full&sslrootcert={shown}"

OF_THE_ROLE = "alter role {role} in database {database} set"
READ_ONLY = f"{OF_THE_ROLE} default_transaction_read_only = on"
OFFICES = "create or replace view notifierd.offices as select id, name::text as name from public.offices where"
SORTING = (
    f"{OF_THE_ROLE} temp_file_limit = '64kB'; {OF_THE_ROLE} work_mem = '64kB';"
    f"{OFFICES} (select count(distinct random()) from generate_series(1, 100000)) > 0"
)
FAILING = (
    "create function public.fail() returns bool language plpgsql"
    " as $$ begin raise 'x' using errcode = '{state}'; end $$;"
    f"{OFFICES} public.fail()"
)
ID_AS_TEXT = "drop view notifierd.offices; create view notifierd.offices as select id::text, name::text from offices"
WITHOUT_CYCLE = (
    "drop view notifierd.alerts; create view notifierd.alerts as"
    " select office_id, null::uuid as recipient_id, '' as recipient_name, '' as kind, null::date as due_on"
    " from support_plan_cycles"
)
JOINED = (
    "drop view notifierd.devices; create view notifierd.devices as"
    " select p.id, staff_id, endpoint, p256dh_key as p256dh, auth_key as auth"
    " from push_subscriptions p join staffs s on s.id = staff_id; grant select, delete on notifierd.devices to {role}"
)
HIDDEN = (
    "alter table staffs enable row level security; grant select on staffs, office_staffs to outsider;"
    "alter view notifierd.staff owner to outsider"
)
RENAMED = "drop view notifierd.staff; alter table staffs rename column full_name to name"
ALL_VIEWS = "notifierd.offices, notifierd.staff, notifierd.alerts, notifierd.devices, notifierd.audit_log"
EMPTY = at("postgresql://postgres@/empty?host={host}")

NETWORK = [
    away("a name that does not exist", at("postgresql://me@nowhere.invalid/postgres"), "gaierror"),
    bad(
        "a name that is none",
        at(f"postgresql://me@{'a' * 64}.jp/app"),
        r"database\.dsn: host: is not a host's name: .*",
    ),
    away("a port where nobody listens", at(ANY_HOST), "ConnectionRefusedError"),
    away("an IPv6 address where nobody listens", at("postgresql://me@[::1]:1/postgres"), "ConnectionRefusedError"),
    away(
        "an IPv6 address with an interface that does not exist", at("postgresql://me@[fe80::1%25no0]/app"), "gaierror"
    ),
    away("two hosts, and neither listens", at("postgresql://me@127.0.0.1:1,127.0.0.1:2/app"), "ConnectionRefusedError"),
    away("a folder without a socket", at("postgresql://me@/app?host={folder}"), "FileNotFoundError"),
    away("a folder that does not exist", at("postgresql://me@/app?host=/nowhere"), "FileNotFoundError"),
    away(
        "a file in place of the folder",
        with_file("file", "", "postgresql://me@/app?host={folder}/file"),
        "NotADirectoryError",
    ),
    away(
        "a folder that we may not enter", in_shut_folder("postgresql://me@/app?host={folder}/shut"), "PermissionError"
    ),
    away("a socket that a server left behind", made.abandoned_socket, "ConnectionRefusedError"),
    away("a path that is too long for a socket", at(f"postgresql://me@/app?host=/{'a' * 120}"), "OSError"),
]
STRANGERS = [
    away("an HTTP server", saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "08003"),
    away(
        "an HTTP server that is asked for TLS", saying(b"HTTP/1.1 400 Bad Request\r\n\r\n", "sslmode=require"), "no_tls"
    ),
    away("an SSH server", served(made.greeting, "sslmode=disable&connect_timeout=2"), "TimeoutError"),
    away("an SSH server that is asked for TLS", served(made.greeting, "sslmode=require"), "no_tls"),
    away("silence", served(made.silence, "connect_timeout=1"), "TimeoutError"),
    away("bytes without end", served(made.without_end, "sslmode=disable&connect_timeout=1"), "TimeoutError"),
    away("a connection that is closed at once", saying(b""), "08003"),
    away("a connection that is closed when asked for TLS", saying(b"", "sslmode=require"), "no_tls"),
    away("a yes to TLS, and no TLS", served(made.yes_to_tls, "sslmode=require"), "tls_failed"),
    away("GSSAPI", saying(made.AUTHENTICATION_GSS), "InternalClientError"),
    away("a server that is starting up", saying(error("57P03", "the database system is starting up")), "57P03"),
    away(
        "a pooler without our parameters",
        saying(error("08P01", "unsupported startup parameter: lock_timeout")),
        "pooler",
    ),
    away("a pooler without a connection", saying(error("08P01", "query_wait_timeout")), "08P01"),
]
LOGIN = [
    away("a wrong password", at(f"postgresql://locked:not-{{password}}@{HERE}"), "28P01"),
    away("no password", at(f"postgresql://locked@{HERE}"), "28P01"),
    away("a password that has expired", at(f"postgresql://expired:{{password}}@{HERE}"), "28P01"),
    away("an MD5 password, and a server that wants SCRAM", at(f"postgresql://hashed:{{password}}@{HERE}"), "28P01"),
    away("a role for another user of the system", at(f"postgresql://peered@{HERE}"), "28000"),
    away("a role that pg_hba.conf rejects", at(f"postgresql://rejected@{HERE}"), "28000"),
    away("a role that does not exist", at(f"postgresql://nobody_there@{HERE}"), "28000"),
    away("a role that may not log in", at(f"postgresql://barred@{HERE}"), "28000"),
    away("a role without a connection left", at(f"postgresql://crowded@{HERE}"), "53300"),
    away("a database that does not exist", at("postgresql://postgres@/nowhere?host={host}"), "3D000"),
    away("a database that the role may not enter", at("postgresql://outsider@/closed?host={host}"), "42501"),
    away("a database without a connection left", at("postgresql://outsider@/full_up?host={host}"), "53300"),
    away("a database that takes no connections", at("postgresql://outsider@/shut?host={host}"), "55000"),
    away("a server without a connection left", made.full, "53300"),
    away(
        "a setting that does not exist", at(f"postgresql://postgres@{HERE}&options=-c%20no_such_setting%3D1"), "42704"
    ),
    away("a setting of another type", at(f"postgresql://postgres@{HERE}&options=-c%20work_mem%3Dmuch"), "22023"),
    bad(
        "a password file that is not there",
        at(f"postgresql://locked@{HERE}", PGPASSFILE="/nowhere"),
        r"database\.dsn: passfile: /nowhere cannot be read \(No such file or directory\)",
    ),
    away(
        "a password file for another host",
        with_file("pgpass", f"db:5432:app:locked:{PASSWORD}\n", f"postgresql://locked@{HERE}", PGPASSFILE=PASSFILE),
        "28P01",
    ),
    bad(
        "a password file that everybody may read",
        with_file("pgpass", f"*:*:*:*:{PASSWORD}\n", f"postgresql://locked@{HERE}", mode=0o644, PGPASSFILE=PASSFILE),
        r"database\.dsn: passfile: others may read \S+/pgpass: chmod 600",
    ),
    bad(
        "a password file that we may not read",
        with_file("pgpass", "", f"{ANY_HOST}?passfile={{folder}}/pgpass", mode=0),
        r"database\.dsn: passfile: \S+/pgpass cannot be read \(Permission denied\)",
    ),
    bad(
        "a folder as the password file",
        at(f"postgresql://locked@{HERE}", PGPASSFILE="{folder}"),
        r"database\.dsn: passfile: \S+ is not a file",
    ),
    away(
        "a password file of other lines",
        with_file("pgpass", f"no entry\n{PASSWORD}\n", f"postgresql://locked@{HERE}", PGPASSFILE=PASSFILE),
        "28P01",
    ),
]
TLS = [
    away("a server without TLS", made.without_tls, "no_tls"),
    away("a certificate for another address", tls(FULL, address="192.0.2.1"), "certificate_name"),
    away("a certificate for another name", tls(FULL, host="localhost"), "certificate_name"),
    away("a certificate of another authority", tls("sslmode=verify-full&sslrootcert={other}"), "certificate_untrusted"),
    away("another authority, and sslmode=require", tls("sslmode=require&sslrootcert={other}"), "certificate_untrusted"),
    away("an authority that this machine does not know", tls("sslrootcert=system"), "certificate_untrusted"),
    away("one's own authority, and channel_binding", tls("channel_binding=require"), "certificate_untrusted"),
    away("a certificate that has expired", tls(FULL, days=(-9, -1)), "certificate_expired"),
    away("a certificate of tomorrow", tls(FULL, days=(1, 9)), "certificate_not_yet_valid"),
    away("a client certificate that is demanded", tls("sslmode=require", clients=True), "08003"),
    away("a client certificate of a stranger", tls("sslmode=require&sslcert={other}", clients=True), "08003"),
]
FILES = [
    bad(what, tls(parameters), rf"database\.dsn: {complaint}")
    for what, parameters, complaint in (
        (
            "no authority",
            "sslmode=verify-full",
            "sslmode=verify-full: needs a certificate authority: add sslrootcert=.*",
        ),
        ("no authority for verify-ca", "sslmode=verify-ca", "sslmode=verify-ca: needs a certificate authority: add .*"),
        (
            "an authority's file that is not there",
            "sslmode=verify-full&sslrootcert=/nowhere.pem",
            r"sslrootcert: /nowhere\.pem cannot be read \(No such file or directory\)",
        ),
        (
            "an authority's file with something else",
            "sslmode=verify-full&sslrootcert={garbage}",
            r"sslrootcert: \S+ holds no certificate in PEM",
        ),
        (
            "a folder as the authority's file",
            "sslmode=verify-full&sslrootcert={folder}",
            r"sslrootcert: \S+ (cannot be read \(Is a directory\)|holds no certificate in PEM)",
        ),
        (
            "a revocation list that is not there",
            "sslmode=require&sslcrl=/nowhere.pem&sslrootcert={shown}",
            r"sslcrl: /nowhere\.pem cannot be read \(No such file or directory\)",
        ),
        (
            "a client certificate that is not there",
            "sslmode=require&sslcert=/nowhere.pem",
            r"sslcert: /nowhere\.pem cannot be read \(No such file or directory\)",
        ),
        (
            "a key that is not there",
            "sslmode=require&sslcert={ours}&sslkey=/nowhere.pem",
            r"sslkey: /nowhere\.pem cannot be read \(No such file or directory\)",
        ),
        (
            "a key of another certificate",
            "sslmode=require&sslcert={ours}&sslkey={other}",
            r"sslcert: \S+ and its key are not a pair in PEM, or .*",
        ),
        (
            "a key under a password that is not given",
            "sslmode=require&sslcert={locked}",
            r"sslcert: .* or the key's password \(sslpassword\) is wrong",
        ),
        (
            "a key under another password",
            "sslmode=require&sslcert={locked}&sslpassword=x",
            r"sslcert: .* or the key's password \(sslpassword\) is wrong",
        ),
    )
]
FILES.append(
    bad(
        "an authority's file that we may not read",
        with_file("secret.pem", "", f"{ANY_HOST}?sslmode=verify-full&sslrootcert={{folder}}/secret.pem", mode=0),
        r"database\.dsn: sslrootcert: \S+/secret\.pem cannot be read \(Permission denied\)",
    )
)
ADDRESSES = [
    bad(what, at(dsn), rf"database\.dsn: {complaint}.*")
    for what, dsn, complaint in (
        ("a port that is none", f"postgresql://me:{PASSWORD}@db:99999/app", "port: is not a number from 1 to 65535"),
        ("a # in the password", f"postgresql://me:{PASSWORD}#x@db/app", "the value contains a #.*%23"),
        ("a / in the password", f"postgresql://me:{PASSWORD}/x@db/app", ".*percent-encode it"),
        ("another database's URL", f"mysql://me:{PASSWORD}@db/app", "the value is not of the form postgresql://"),
        ("SQLAlchemy's URL", f"postgresql+asyncpg://me:{PASSWORD}@db/app", "the value names a driver"),
        ("a list of name=value", f"host=db user=me password={PASSWORD}", "the value is a list of name=value"),
        ("a service in the URL", "postgresql://me@db/app?service=app", "service: service files are not read: write"),
        ("an unknown parameter", "postgresql://me@db/app?sslmod=require", r"sslmod: unknown parameter \(did you mean"),
    )
]
ADDRESSES.append(
    bad(
        "a service in the environment",
        at("postgresql://me@/app", PGSERVICE="app"),
        r"database\.dsn: PGSERVICE: service files are not read: write the host.*",
    )
)
STATE = [
    away("a server that is shutting down", made.shutting_down, "57P03"),
    found("a standby", made.standby, re.escape(f"database: is a standby: {advice('25006')}")),
    away("a standby, and a run", made.standby, "25006", "once --force"),
    away(
        "no host that takes writes",
        at(f"postgresql://reader@{HERE}&target_session_attrs=read-write"),
        "no_writable_host",
    ),
    away("a role that only reads", in_database(READ_ONLY), "25006", "once --force"),
    found("a role that only reads, looked at", in_database(READ_ONLY), f"database: is read-only: {advice('25006')}"),
    away(
        "a database that is only read",
        in_database("alter database {database} set default_transaction_read_only = on"),
        "25006",
        "once --force",
    ),
    away("a limit on temporary files", in_database(SORTING), "53400", "plan"),
    away("a full disk", in_database(FAILING.replace("{state}", "53100")), "53100", "plan"),
    away("no memory", in_database(FAILING.replace("{state}", "53200")), "53200", "plan"),
    refused("a deadlock", in_database(FAILING.replace("{state}", "40P01")), "40P01"),
    refused("a view that is too slow", in_database(made.SLOW, statement_timeout=0.2), "57014"),
    refused("a table that somebody has locked", made.locked, "55P03"),
    refused("a statement that somebody cancels", meanwhile("pg_cancel_backend"), "57014"),
    Situation(  # the server's last words may be lost together with the connection
        "a connection that somebody terminates",
        meanwhile("pg_terminate_backend"),
        "plan",
        r"the database is unreachable \(database_unavailable:(57P01|08003)\): .*",
        3,
    ),
]
INIT = "db init --preset keikakun"
SCHEMA = [
    bad(
        "no schema",
        in_database("drop schema notifierd cascade"),
        "the schema notifierd is not in this database: run `notifierd db init`",
        "plan",
    ),
    bad(
        "a schema of an older version",
        in_database("delete from notifierd.migrations where version > 1"),
        r"the schema notifierd is older than this program: run `notifierd db migrate` \(.*\)",
        "plan",
    ),
    bad(
        "a schema of a newer version",
        in_database("insert into notifierd.migrations values (9999, 'x')"),
        r"the schema notifierd is too new \(version 9999, .*\): upgrade notifierd",
        "plan",
    ),
    bad(
        "a schema that is somebody else's",
        in_database("", user="outsider"),
        "the schema notifierd belongs to the role postgres: connect as that role .*",
        "db init",
    ),
    bad(
        "a role that may not create a schema",
        in_database("drop schema notifierd cascade", user="outsider"),
        r"creating the schema notifierd was refused \(SQLSTATE 42501\): the connected role needs CREATE .*",
        "db init",
    ),
    bad(
        "a role that may not use the schema",
        in_database("revoke usage on schema notifierd from {role}"),
        "the schema notifierd exists, but the connected role may not use it: run `notifierd db init .*",
        "plan",
    ),
    bad(
        "no application's tables",
        EMPTY,
        "the application's tables are not in this database, or .*search_path: .*",
        INIT,
    ),
    bad("a preset that does not exist", EMPTY, "there is no preset x; the presets are: keikakun", "db init --preset x"),
    bad(
        "a role that does not exist yet", EMPTY, r"there is no role x on this server: create it .*", "db init --role x"
    ),
    bad(
        "a column that the preset misses",
        in_database("alter table office_staffs drop column office_id cascade", user="postgres"),
        r"creating the views for keikakun was refused \(SQLSTATE 42703\): office_staffs has no column office_id: .*",
        INIT,
    ),
    bad(
        "a column that was renamed before",
        in_database(RENAMED, user="postgres"),
        r"creating the views for keikakun was refused \(SQLSTATE 42703\): staffs has no column full_name: .*",
        INIT,
    ),
    bad(
        "a view that is missing",
        in_database("drop view notifierd.staff"),
        "notifierd.staff: the view is missing .*",
        "plan",
    ),
    bad(
        "a view with a column of another type",
        in_database(ID_AS_TEXT),
        "notifierd.offices: column id is text and must be uuid",
        "plan",
    ),
    bad(
        "a view without a column",
        in_database(WITHOUT_CYCLE),
        r"notifierd.alerts: column cycle \(int\) is missing",
        "plan",
    ),
    bad(
        "no views to print",
        in_database(f"drop view {ALL_VIEWS}"),
        "there are no views in the schema notifierd: run `notifierd db init .*",
        "db views --create",
    ),
    refused("a privilege that was revoked", in_database("revoke select on notifierd.staff from {role}"), "42501"),
    refused("a table of the ledger that is missing", in_database("drop table notifierd.deliveries cascade"), "42P01"),
    refused(
        "a column of the ledger that is missing",
        in_database("alter table notifierd.deliveries drop column state cascade"),
        "42703",
    ),
    refused("a function of the ledger that is missing", in_database("drop function notifierd.delivery_id"), "42883"),
    found(
        "a table that is missing, looked at",
        in_database("drop table notifierd.alarms"),
        r"schema: the table notifierd\.alarms is missing: restore it from a backup .*",
    ),
    found(
        "a privilege that was revoked, looked at",
        in_database("revoke delete on notifierd.devices from {role}"),
        r"rights: the role lacks delete on notifierd.devices \(`notifierd db init .*",
    ),
    found(
        "a view that joins",
        in_database(JOINED),
        r"notifierd.devices: delete would be refused: the view must read one table, .*\(SQLSTATE 55000\)",
    ),
    found(
        "row level security",
        in_database(HIDDEN),
        "notifierd.staff: row level security of public.staffs hides every row from outsider, .*: alter role .*",
    ),
]
ENCODINGS = [
    found(
        f"{name}, looked at", encoded(name, "select 1"), f"encoding: the database's encoding is {name}: .*; use UTF8", 0
    )
    for name in ("SQL_ASCII", "LATIN1")
]
SITUATIONS = [*NETWORK, *STRANGERS, *LOGIN, *TLS, *FILES, *ADDRESSES, *STATE, *SCHEMA, *ENCODINGS]

GOOD = [
    at(f"postgresql://postgres@{HERE}"),
    at(f"postgresql://locked:{{password}}@{HERE}"),
    at("postgresql://postgres@/postgres?host=/nowhere,{host}&target_session_attrs=read-write"),
    at(f"postgresql://postgres@{HERE}&application_name=me&options=-c%20search_path%3Dapp"),
    at(f"postgresql://postgres@{HERE}&keepalives=1&keepalives_idle=30&gssencmode=prefer"),
    at(f"postgresql://postgres@{HERE}&load_balance_hosts=random&connect_timeout=3"),
    at("postgresql:///postgres", PGHOST="{host}", PGUSER="postgres"),
    with_file("pgpass", f"*:*:*:locked:{PASSWORD}\n", f"postgresql://locked@{HERE}", PGPASSFILE=PASSFILE),
    tls("sslmode=require"),
    tls("sslmode=verify-full&sslrootcert={shown}"),
    tls("sslmode=require&channel_binding=require&sslrootcert={shown}"),
    tls("sslmode=verify-ca&sslrootcert={shown}", address="192.0.2.1"),
    tls("sslmode=require&ssl_min_protocol_version=TLSv1.3"),
    tls("sslmode=verify-full&sslrootcert={shown}&sslcert={ours}", clients=True),
    tls("sslmode=require&sslcert={locked}&sslpassword=another-password"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("errors")
    options = {"max_connections": str(MOST_CONNECTIONS), "reserved_connections": "0", "wal_level": "replica"}
    with running_postgres(folder, options=options) as cluster, running_template(cluster, folder) as template:
        prepare(cluster)
        with warm() as commands:
            yield Stage(cluster, template, folder, commands)


@pytest.fixture
def stage(server: Stage, tmp_path: Path) -> Stage:
    return evolve(server, folder=tmp_path)


async def told(stage: Stage, way: Way, command: str) -> Done:
    """Run *command* as the one before says; nothing that it prints is secret, and nothing is a traceback."""
    tables: Tables = {
        "database": {"dsn": way.dsn, **way.keys},
        "email": {"sender": f"keikakun <notice@{DOMAIN}>"},
        "email.resend": {"api_key": API_KEY, "base_url": "http://127.0.0.1:1"},
        "push": {"enabled": False},
        "http": {"bind": "127.0.0.1:0"},
    }
    write_config(stage.folder, tables)
    environ = {"HOME": str(stage.folder), **way.environ}
    args = shlex.split(command)
    if not way.by:
        return await trio.to_thread.run_sync(partial(stage.commands.run, *args, cwd=stage.folder, environ=environ))
    with running(*args, cwd=stage.folder, environ=environ, by=way.by) as process:
        return await trio.to_thread.run_sync(partial(ended, process))


@pytest.mark.parametrize("situation", SITUATIONS, ids=[each.what.replace(" ", "-") for each in SITUATIONS])
async def test_what_goes_wrong_is_one_line_with_the_way_out(stage: Stage, situation: Situation):
    async with situation.made(stage) as way:
        done = await told(stage, way, situation.command)
    if situation.command == "check":
        assert re.search(rf"(?m)^(bad|away|warn) +{situation.words}$", done.out), f"{done.out}\n{done.err}"
        assert done.err == ""
    else:
        assert re.fullmatch(rf"notifierd: {situation.words}\n", done.err), f"{done.out}\n{done.err}"
        assert done.out == ""
    assert done.code == situation.code


def test_each_of_more_than_sixty_situations_has_advice_of_its_own():
    assert len({each.what for each in SITUATIONS}) == len(SITUATIONS) > 60
    causes = re.findall(r"database_\w+:(\w+)", re.sub(r"\\", "", "".join(each.words for each in SITUATIONS)))
    assert [cause for cause in causes if advice(cause) == advice("no such cause")] == []


@pytest.mark.parametrize("good", GOOD, ids=map(str, range(len(GOOD))))
async def test_a_good_address_is_answered(stage: Stage, good: Made):
    async with good(stage) as way:
        done = await told(stage, way, "db status")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("schema notifierd: not there")


async def test_looking_works_at_an_address_that_demands_a_server_to_write_to(stage: Stage):
    async with in_database("", parameters="&target_session_attrs=read-write")(stage) as way:
        for command in ("plan", "status", "once --dry-run"):
            done = await told(stage, way, command)
            assert (done.code, done.err) == (0, "")


async def test_a_database_that_is_only_read_can_be_looked_at(stage: Stage):
    script = "alter role {role} in database {database} set default_transaction_read_only = on"
    async with in_database(script)(stage) as way:
        done = await told(stage, way, "plan")
    assert (done.code, done.err) == (0, "")


async def test_a_process_whose_user_has_no_name_says_what_to_write(monkeypatch: pytest.MonkeyPatch):
    def no_such_user(_uid: int) -> object:
        raise KeyError

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    with pytest.raises(ConfigError, match=r"^database\.dsn: names no user.* set PGUSER$"):
        async with db.open_database("postgresql://db/app"):
            pass
