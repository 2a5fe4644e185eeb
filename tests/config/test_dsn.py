"""What a database's address may say: each parameter is honoured, without effect, or refused by name with a way out."""

import re
from typing import Any

import pytest
from attrs import evolve

from notifierd.config.dsn import BadDsn, Dsn, read_dsn

PASSWORD = "pass-of-the-tests"
URL = f"postgresql://me:{PASSWORD}@db.example.jp:5433/app"
READ = Dsn(hosts=("db.example.jp",), ports=(5433,), user="me", password=PASSWORD, database="app")


@pytest.mark.parametrize(
    ("parameters", "read"),
    [
        ("", {}),
        ("?host=/cloudsql/a-project:asia-northeast1:db", {"hosts": ("/cloudsql/a-project:asia-northeast1:db",)}),
        ("?user=other&password=p%40&dbname=further", {"user": "other", "password": "p@", "database": "further"}),
        ("?passfile=/etc/pgpass", {"passfile": "/etc/pgpass"}),
        ("?options=-c%20search_path%3Dapp", {"options": "-c search_path=app"}),
        ("?application_name=reminders", {"application_name": "reminders"}),
        ("?connect_timeout=15", {"connect_timeout": 15.0}),
        ("?connect_timeout=0", {}),
        ("?sslmode=require", {"sslmode": "require"}),
        ("?sslmode=require&sslnegotiation=direct", {"sslmode": "require", "sslnegotiation": "direct"}),
        ("?sslmode=verify-ca&sslrootcert=/a.pem", {"sslmode": "verify-ca", "tls": {"sslrootcert": "/a.pem"}}),
        ("?sslrootcert=system", {"sslmode": "verify-full", "tls": {"sslrootcert": "system"}}),
        (
            "?sslmode=require&channel_binding=require",  # as Neon hands it out
            {"sslmode": "verify-full", "tls": {"sslrootcert": "system"}},
        ),
        ("?sslmode=require&channel_binding=prefer", {"sslmode": "require"}),
        (
            "?sslmode=require&sslcert=/c.pem&sslkey=/k.pem&sslpassword=x",
            {"sslmode": "require", "tls": {"sslcert": "/c.pem", "sslkey": "/k.pem", "sslpassword": "x"}},
        ),
        ("?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("?target_session_attrs=primary", {"target_session_attrs": "primary"}),
        ("?pgbouncer=true", {"pooler": True}),
        ("?pgbouncer=false", {}),
        ("?krbsrvname=pg&gsslib=gssapi", {"krbsrvname": "pg", "gsslib": "gssapi"}),
        ("?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=9000", {}),
        ("?gssencmode=disable&gssdelegation=0&replication=false&sslcompression=0&sslsni=1&sslcertmode=allow", {}),
        ("?load_balance_hosts=random&client_encoding=UTF8&fallback_application_name=x", {}),
        ("?min_protocol_version=3.0&max_protocol_version=latest", {}),
    ],
)
def test_what_is_honoured_or_without_effect(parameters: str, read: dict[str, Any]):
    assert read_dsn(URL + parameters, {}) == evolve(READ, **read)


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql:///app", (), (5432,)),
        ("postgresql://:6432/app", (), (6432,)),
        ("postgres://a/app", ("a",), (5432,)),
        ("postgresql://a:1,b:2/app", ("a", "b"), (1, 2)),
        ("postgresql://a,b:2/app", ("a", "b"), (5432, 2)),
        ("postgresql:///app?host=a,b&port=6432", ("a", "b"), (6432, 6432)),
        ("postgresql://[2001:db8::1]:6432/app", ("2001:db8::1",), (6432,)),
        ("postgresql:///app?host=2001:db8::1", ("2001:db8::1",), (5432,)),
        ("postgresql://%2Fvar%2Frun%2Fpg/app", ("/var/run/pg",), (5432,)),
        ("postgresql:///app?hostaddr=192.0.2.1", ("192.0.2.1",), (5432,)),
        ("postgresql://me:p[w:x@a/app", ("a",), (5432,)),
    ],
)
def test_where_it_leads(url: str, hosts: tuple[str, ...], ports: tuple[int, ...]):
    assert (read_dsn(url, {}).hosts, read_dsn(url, {}).ports) == (hosts, ports)


REFUSED = [
    # parameters
    ("service=app", "service: service files are not read: write the host"),
    ("servicefile=/a", "servicefile: service files are not read"),
    ("require_auth=scram-sha-256", "require_auth: is not supported: leave it out, and .* sslmode=verify-full"),
    ("requirepeer=postgres", "requirepeer: is not supported"),
    ("requiressl=1", "requiressl: write sslmode=require"),
    ("ssl=true", "ssl: write sslmode=require"),
    ("sslaccept=strict", "sslaccept: write sslmode=require"),
    ("sslmode=no-verify", "sslmode: is not disable or allow or prefer or require or verify-ca or verify-full"),
    ("sslrootcert=/a.pem", "sslrootcert: has no effect without TLS: add sslmode=verify-full"),
    ("sslcert=/a.pem", "sslcert: has no effect without TLS"),
    ("sslmode=require&sslkey=/a.pem", "sslkey: needs sslcert"),
    ("sslmode=require&sslrootcert=system", "sslrootcert: needs sslmode=verify-full"),
    ("sslmode=require&ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version: is not TLSv1.2"),
    ("sslnegotiation=direct", "sslnegotiation: direct needs sslmode=require"),
    ("sslcrldir=/a", "sslcrldir: .* name one file as sslcrl"),
    ("sslcompression=1", "sslcompression: is not supported"),
    ("sslsni=0", "sslsni: cannot be switched off"),
    ("sslcertmode=require", "sslcertmode: leave it out"),
    ("sslkeylogfile=/a", "sslkeylogfile: .* leave it out"),
    ("gssencmode=require", "gssencmode: .* use TLS"),
    ("gsslib=sspi", "gsslib: is not gssapi"),
    ("host=/run&channel_binding=require", "channel_binding: a Unix socket has no TLS"),
    ("channel_binding=perhaps", "channel_binding: is not disable or prefer or require"),
    ("target_session_attrs=standby", "target_session_attrs: notifierd writes: use read-write"),
    ("target_session_attrs=read-only", "target_session_attrs: notifierd writes"),
    ("load_balance_hosts=best", "load_balance_hosts: is not disable or random"),
    ("client_encoding=EUC_JP", "client_encoding: is always UTF8"),
    ("replication=database", "replication: is not supported"),
    ("connect_timeout=soon", "connect_timeout: is not a whole number"),
    ("min_protocol_version=3.2", "min_protocol_version: only protocol 3.0"),
    ("scram_client_key=x", "scram_client_key: use a password"),
    ("oauth_issuer=https://id.example.jp", "oauth_issuer: .* use a password"),
    ("hostaddr=192.0.2.1", "hostaddr: give the host or its address"),
    ("port=99999", "port: is not a number from 1 to 65535"),
    ("port=1,2", "port: give one port for all hosts, or one for each"),
    # other drivers' words, and what is nobody's
    ("schema=app", "schema: .*alter role"),
    ("connection_limit=5", "connection_limit: .* database.pool_size"),
    ("statement_cache_size=0", "statement_cache_size: .* database.pooler"),
    ("statement_timeout=5", "statement_timeout: .* database.statement_timeout"),
    ("database=app", "database: .* write it as the path"),
    ("ssl_mode=require", r"ssl_mode: unknown parameter \(did you mean sslmode\?\)"),
    ("search_path=app", "search_path: unknown parameter: .* options=-c%20search_path%3D"),
    ("sslmode", "the value: a part after the . is not of the form name=value"),
]


@pytest.mark.parametrize(("parameters", "complaint"), REFUSED, ids=[each for each, _ in REFUSED])
def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(parameters: str, complaint: str):
    assert_refused(f"{URL}?{parameters}", complaint)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (f"mysql://me:{PASSWORD}@db/app", "is not of the form postgresql://.*: it is the address of another kind"),
        (f"sqlite+pysqlite:///{PASSWORD}", "is not of the form postgresql://.*: it is the address of another kind"),
        (f"postgresql+asyncpg://me:{PASSWORD}@db/app", "names a driver, as SQLAlchemy does: write postgresql://"),
        (f"jdbc:postgresql://db/app?password={PASSWORD}", "has JDBC's form: write postgresql://"),
        (f"host=db user=me password={PASSWORD}", "is a list of name=value: write it as a URL"),
        ("app", "is not of the form postgresql://"),
        (f"postgresql://me:{PASSWORD}/x@db/app", "percent-encode it .*/ as %2F"),
        (f"postgresql://me:{PASSWORD}#x@db/app", "# of the password as %23"),
        (f"postgresql://me:{PASSWORD}?x@db/app", "percent-encode it .*[?] as %3F"),
        (f"postgresql://me:{PASSWORD}?x=y@db/app", "percent-encode it"),
        (f"postgresql://me:7?{PASSWORD}=y@db/app", "percent-encode it"),
        (f"postgresql://me:{PASSWORD}@x@db/app", "@ of the user or the password as %40"),
        (f"postgresql://me:{PASSWORD}%x@db/app", "% of the password as %25"),
        (f"postgresql://me:{PASSWORD} x@db/app", "space of the password as %20"),
        (f"postgresql://me:{PASSWORD}%00@db/app", "%00"),
        (f"postgresql://me:{PASSWORD}%FF@db/app", "not UTF-8"),
        (f"postgresql://me:{PASSWORD}/db/app", "port: is not a number. .*percent-encode"),
        (f"postgresql://me:{PASSWORD}@db:99999/app", "port: is not a number from 1 to 65535"),
        (f"postgresql://me:{PASSWORD}@db:0/app", "port: is not a number from 1 to 65535"),
        (f"postgresql://me:{PASSWORD}@a,,b/app", "host: one of several hosts is empty"),
        (f"postgresql://me:{PASSWORD}@[db/app", "host: is not a name or an address"),
        (
            f"postgresql://me:{PASSWORD}@{'d' * 64}.jp/app",
            "host: is not a host's name: its parts have 1 to 63 characters",
        ),
        (f"postgresql://me:{PASSWORD}@db..jp/app", "host: is not a host's name"),
    ],
)
def test_a_url_that_cannot_be_read_is_told_with_what_to_write(url: str, complaint: str):
    assert_refused(url, complaint)


def assert_refused(url: str, complaint: str) -> None:
    with pytest.raises(BadDsn) as refused:
        read_dsn(url, {})
    assert re.search(complaint, str(refused.value)), refused.value
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "read"),
    [
        ({"PGHOST": "db.example.jp", "PGPORT": "5433"}, {"hosts": ("db.example.jp",), "ports": (5433,)}),
        ({"PGHOSTADDR": "192.0.2.1"}, {"hosts": ("192.0.2.1",)}),
        ({"PGUSER": "me", "PGPASSWORD": "x", "PGDATABASE": "app"}, {"user": "me", "password": "x", "database": "app"}),
        ({"PGPASSFILE": "/etc/pgpass"}, {"passfile": "/etc/pgpass"}),
        ({"PGOPTIONS": "-c search_path=app"}, {"options": "-c search_path=app"}),
        ({"PGAPPNAME": "reminders", "PGCONNECT_TIMEOUT": "3"}, {"application_name": "reminders", "connect_timeout": 3}),
        ({"PGSSLMODE": "require"}, {"sslmode": "require"}),
        ({"PGTARGETSESSIONATTRS": "read-write"}, {"target_session_attrs": "read-write"}),
        ({"PGSERVICE": "", "PGDATA": "/var/lib/pg"}, {}),
    ],
)
def test_variables_say_what_the_url_does_not(environ: dict[str, str], read: dict[str, Any]):
    expected = {"ports": (5432,)} | read
    assert read_dsn("", environ) == Dsn(**expected)
    assert read_dsn(URL, {"PGPORT": "1", "PGUSER": "other", "PGDATABASE": "other", "PGPASSWORD": "other"}) == READ


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGSERVICE", "app"),
        ("PGREQUIREAUTH", "none"),
        ("PGREQUIREPEER", "postgres"),
        ("PGGSSENCMODE", "require"),
        ("PGSSLMODE", "verify"),
        ("PGSSLCERT", "/c.pem"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGCONNECT_TIMEOUT", "soon"),
    ],
)
def test_a_variable_that_cannot_be_honoured_is_refused_by_its_own_name(variable: str, value: str):
    with pytest.raises(BadDsn, match=f"^{variable}: "):
        read_dsn("postgresql://me@db/app", {variable: value})
    with pytest.raises(BadDsn, match=r"^PGPORT: is not a number"):
        read_dsn("", {"PGPORT": "99999"})
