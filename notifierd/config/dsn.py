"""The database's address, as people and providers write it: a URL of libpq's form, and libpq's PG* variables.

Each parameter of libpq (PostgreSQL, 34.1.2) is honoured, accepted without effect, or refused by name with what to write
instead. None is ignored silently, and none reaches the server as a setting by mistake. The module reads no file and
looks up no name. No complaint repeats a value, which may be a secret.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import unquote

from attrs import field, frozen

_FORM: Final = "postgresql://user:password@host:5432/database"
_HIGHEST_PORT: Final = 65535
_LONGEST_CONNECT_TIMEOUT: Final = 600.0

_SCHEMES: Final = re.compile(r"postgres(ql)?://", re.ASCII)
_SQLALCHEMY: Final = re.compile(r"postgres(ql)?\+\w+://", re.ASCII)

_OTHERS: Final = re.compile(
    r"(mysql|mariadb|sqlite|mongodb|oracle|mssql|sqlserver|redis)\b.*:", re.ASCII | re.IGNORECASE
)

_PERCENT: Final = "percent-encode it: {} as {}"
_PERCENT_ALL: Final = (
    "the password, or another part of the value, contains a character that has another meaning in a URL: "
    "percent-encode it (/ as %2F, # as %23, ? as %3F, @ as %40, : as %3A, % as %25)"
)


class BadDsn(ValueError):
    """The address of the database is invalid; the message says why, and repeats no part of it."""


@frozen
class Dsn:
    """The parsed address of a database.

    Attributes:
        hosts: names, addresses and folders of Unix sockets, to try in order; empty: this machine's sockets.
        ports: one for each host; with no host, at most one.
        user: None for the user that the process runs as.
        sslmode: as libpq names it.
        tls: paths and versions for TLS, under libpq's names; ``sslrootcert`` may be ``system``.
        options: command-line options for the server's session (``-c name=value``).
        connect_timeout: seconds for one connection; None for notifierd's own limit.
        pooler: whether the address itself says that it leads to a pooler.
    """

    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    passfile: str | None = None
    sslmode: str = "prefer"
    sslnegotiation: str = "postgres"
    tls: Mapping[str, str] = field(factory=dict, repr=False)
    options: str | None = None
    application_name: str | None = None
    connect_timeout: float | None = None
    target_session_attrs: str = "any"
    krbsrvname: str | None = None
    gsslib: str | None = None
    pooler: bool = False

    @property
    def is_verified(self) -> bool:
        """Whether the server must prove its identity before notifierd sends anything."""
        return self.sslmode == "verify-full"


Rule = Callable[[str], str | None]
"""Returns what is wrong with a parameter's value, or None."""


def _taken(_value: str) -> None:
    """Accept any value: it is honoured, or has no effect."""


def _refused(advice: str) -> Rule:
    return lambda _value: advice


def _one_of(*allowed: str, otherwise: str = "") -> Rule:
    complaint = otherwise or f"is not {' or '.join(allowed)}"
    return lambda value: None if value in allowed else complaint


def _number(value: str) -> str | None:
    return None if re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value) else "is not a whole number of seconds"


def _tls_version(value: str) -> str | None:
    return None if value in {"TLSv1.2", "TLSv1.3"} else "is not TLSv1.2 or TLSv1.3"


_OFF: Final = "is not supported: leave it out"
_NOT_IN_URL: Final = "is not a parameter of libpq"
_WRITES: Final = "notifierd writes: use read-write or primary, or leave it out"
_NO_SERVICE: Final = "service files are not read: write the host, the user and the database of the service here"
_NO_OAUTH: Final = "OAuth is not supported: use a password or a certificate"
_PROVE_SERVER: Final = "is not supported: leave it out, and verify the server with sslmode=verify-full"
_RATHER_MODE: Final = "write sslmode=require, or better sslmode=verify-full, instead"

_PARAMETERS: Final[Mapping[str, tuple[str | None, Rule]]] = {
    # honoured
    "host": ("PGHOST", _taken),
    "hostaddr": ("PGHOSTADDR", _taken),
    "port": ("PGPORT", _taken),
    "dbname": ("PGDATABASE", _taken),
    "user": ("PGUSER", _taken),
    "password": ("PGPASSWORD", _taken),
    "passfile": ("PGPASSFILE", _taken),
    "options": ("PGOPTIONS", _taken),
    "application_name": ("PGAPPNAME", _taken),
    "connect_timeout": ("PGCONNECT_TIMEOUT", _number),
    "sslmode": ("PGSSLMODE", _one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full")),
    "sslnegotiation": ("PGSSLNEGOTIATION", _one_of("postgres", "direct")),
    "sslrootcert": ("PGSSLROOTCERT", _taken),
    "sslcert": ("PGSSLCERT", _taken),
    "sslkey": ("PGSSLKEY", _taken),
    "sslpassword": (None, _taken),
    "sslcrl": ("PGSSLCRL", _taken),
    "ssl_min_protocol_version": ("PGSSLMINPROTOCOLVERSION", _tls_version),
    "ssl_max_protocol_version": ("PGSSLMAXPROTOCOLVERSION", _tls_version),
    "krbsrvname": ("PGKRBSRVNAME", _taken),
    "gsslib": ("PGGSSLIB", _one_of("gssapi")),
    "channel_binding": ("PGCHANNELBINDING", _one_of("disable", "prefer", "require")),
    "target_session_attrs": ("PGTARGETSESSIONATTRS", _one_of("any", "read-write", "primary", otherwise=_WRITES)),
    "pgbouncer": (None, _one_of("true", "false")),
    # accepted: the server probes idle connections, and every statement has a time limit
    "keepalives": (None, _one_of("0", "1")),
    "keepalives_idle": (None, _number),
    "keepalives_interval": (None, _number),
    "keepalives_count": (None, _number),
    "tcp_user_timeout": (None, _number),
    # accepted: the only value that notifierd supports, or without effect
    "client_encoding": (
        "PGCLIENTENCODING",
        _one_of("UTF8", "utf8", "UTF-8", "utf-8", "auto", otherwise="is always UTF8"),
    ),
    "fallback_application_name": (None, _taken),
    "load_balance_hosts": ("PGLOADBALANCEHOSTS", _one_of("disable", "random")),  # one process has no load to spread
    "gssencmode": (
        "PGGSSENCMODE",
        _one_of("disable", "prefer", otherwise="GSSAPI encryption is not supported: use TLS, sslmode=verify-full"),
    ),
    "gssdelegation": ("PGGSSDELEGATION", _one_of("0", otherwise=_OFF)),
    "replication": (None, _one_of("false", "off", "no", "0", otherwise=_OFF)),
    "sslcompression": ("PGSSLCOMPRESSION", _one_of("0", otherwise=_OFF)),
    "sslsni": ("PGSSLSNI", _one_of("1", otherwise="cannot be switched off: leave it out")),
    "sslcertmode": (
        "PGSSLCERTMODE",
        _one_of("allow", otherwise="leave it out: a configured client certificate is always sent"),
    ),
    "min_protocol_version": ("PGMINPROTOCOLVERSION", _one_of("3.0", otherwise="only protocol 3.0 is supported")),
    "max_protocol_version": ("PGMAXPROTOCOLVERSION", _one_of("3.0", "3.2", "latest")),
    # refused
    "service": ("PGSERVICE", _refused(_NO_SERVICE)),
    "servicefile": (None, _refused(_NO_SERVICE)),
    "require_auth": ("PGREQUIREAUTH", _refused(_PROVE_SERVER)),
    "requirepeer": ("PGREQUIREPEER", _refused("is not supported: leave it out")),
    "requiressl": ("PGREQUIRESSL", _refused(_RATHER_MODE)),
    "sslcrldir": ("PGSSLCRLDIR", _refused("folders of revocation lists are not read: name one file as sslcrl")),
    "sslkeylogfile": (None, _refused("TLS keys are never written to a file: leave it out")),
    "scram_client_key": (None, _refused("use a password")),
    "scram_server_key": (None, _refused("use a password")),
    "oauth_issuer": (None, _refused(_NO_OAUTH)),
    "oauth_client_id": (None, _refused(_NO_OAUTH)),
    "oauth_client_secret": (None, _refused(_NO_OAUTH)),
    "oauth_scope": (None, _refused(_NO_OAUTH)),
    # refused: other drivers' parameters
    "database": (None, _refused(f"{_NOT_IN_URL}: write it as the path, {_FORM}")),
    "ssl": (None, _refused(_RATHER_MODE)),
    "sslaccept": (None, _refused(_RATHER_MODE)),
    "schema": (None, _refused(f"{_NOT_IN_URL}: set it on the role (alter role ... set search_path = ...)")),
    "connection_limit": (None, _refused(f"{_NOT_IN_URL}: set database.pool_size")),
    "pool_timeout": (None, _refused(f"{_NOT_IN_URL}: leave it out")),
    "statement_cache_size": (None, _refused(f"{_NOT_IN_URL}: leave it out; database.pooler = true is for poolers")),
    "prepareThreshold": (None, _refused(f"{_NOT_IN_URL}: leave it out; database.pooler = true is for poolers")),
    "statement_timeout": (None, _refused(f"{_NOT_IN_URL}: set database.statement_timeout")),
}
"""For each parameter: its environment variable, and the rule for its value."""

_FOR_TLS: Final = (
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_STRICT: Final = ("require", "verify-ca", "verify-full")


def read_dsn(text: str, environ: Mapping[str, str]) -> Dsn:
    """Parse *text*, a URL or empty; *environ* supplies what it leaves out.

    Raises:
        BadDsn: the address is invalid; the message says why, and what to write.
    """
    given = _of_url(text) if text else {}
    origin = {name: name for name in given}
    for name, (variable, _rule) in _PARAMETERS.items():
        if variable and name not in given and environ.get(variable):
            given[name], origin[name] = environ[variable], variable
    for name, value in given.items():
        if name not in _PARAMETERS:
            raise BadDsn(f"{_printable(name)}: {_unknown(name)}")
        if complaint := _PARAMETERS[name][1](value):
            raise BadDsn(f"{origin[name]}: {complaint}")
    return _made_of(given, origin)


def _made_of(given: Mapping[str, str], origin: Mapping[str, str]) -> Dsn:
    hosts, ports = _places(given, origin)
    sslmode = given.get("sslmode", "prefer")
    tls = {name: given[name] for name in _FOR_TLS if name in given}
    if given.get("channel_binding") == "require":
        # The driver does not bind SCRAM to TLS. A verified certificate proves the same: the identity of the server.
        if any(host.startswith("/") for host in hosts) or not hosts:
            raise BadDsn(f"{origin['channel_binding']}: a Unix socket has no TLS to bind to: leave it out")
        sslmode, tls = "verify-full", {"sslrootcert": "system", **tls}
    elif tls.get("sslrootcert") == "system":
        if given.get("sslmode", "verify-full") != "verify-full":
            raise BadDsn(f"{origin['sslrootcert']}: needs sslmode=verify-full, otherwise any certificate passes")
        sslmode = "verify-full"
    if sslmode not in _STRICT:
        for name in tls:
            raise BadDsn(f"{origin[name]}: has no effect without TLS: add sslmode=verify-full, verify-ca or require")
        if given.get("sslnegotiation") == "direct":
            raise BadDsn(f"{origin['sslnegotiation']}: direct needs sslmode=require, verify-ca or verify-full")
    if "sslkey" in tls and "sslcert" not in tls:
        raise BadDsn(f"{origin['sslkey']}: needs sslcert, the certificate that the key is for")
    seconds = float(given.get("connect_timeout", 0))
    return Dsn(
        hosts=hosts,
        ports=ports,
        user=given.get("user"),
        password=given.get("password"),
        database=given.get("dbname"),
        passfile=given.get("passfile"),
        sslmode=sslmode,
        sslnegotiation=given.get("sslnegotiation", "postgres"),
        tls=tls,
        options=given.get("options"),
        application_name=given.get("application_name"),
        connect_timeout=min(seconds, _LONGEST_CONNECT_TIMEOUT) if seconds > 0 else None,
        target_session_attrs=given.get("target_session_attrs", "any"),
        krbsrvname=given.get("krbsrvname"),
        gsslib=given.get("gsslib"),
        pooler=given.get("pgbouncer") == "true",
    )


def _places(given: Mapping[str, str], origin: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the hosts and their ports."""
    if "host" in given and "hostaddr" in given:
        raise BadDsn(f"{origin['hostaddr']}: give the host or its address, as host, and not both")
    name = "hostaddr" if "hostaddr" in given else "host"
    hosts = tuple(host.strip("[]") for host in given[name].split(",")) if given.get(name) else ()
    if not all(hosts):
        raise BadDsn(f"{origin[name]}: one of several hosts is empty")
    if not all(map(_is_host, hosts)):
        raise BadDsn(f"{origin[name]}: is not a host's name: its parts have 1 to 63 characters (RFC 1035, 2.3.4)")
    if any("@" in host for host in hosts):
        raise BadDsn(f"{origin[name]}: contains an @. {_PERCENT.format('an @ of the user or the password', '%40')}")
    ports = tuple(_port(port, origin["port"]) for port in given["port"].split(",")) if "port" in given else (5432,)
    if len(ports) == 1:
        ports *= max(len(hosts), 1)
    if len(ports) != max(len(hosts), 1):
        raise BadDsn(f"{origin['port']}: give one port for all hosts, or one for each")
    return hosts, ports


def _is_host(host: str) -> bool:
    """Return whether a host can be looked up: Python does it by the name's A-labels, and raises if it has none."""
    try:
        host.encode("idna")
    except UnicodeError:
        return host.startswith("/")
    return True


def _port(text: str, origin: str) -> int:
    if not text:
        return 5432
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= _HIGHEST_PORT:
        raise BadDsn(f"{origin}: is not a number from 1 to {_HIGHEST_PORT}")
    return int(text)


# ------------------------------------------------------------------------------------------------------------- the URL


def _of_url(text: str) -> dict[str, str]:
    """Return the parameters in a URL, by their names in libpq."""
    scheme = _SCHEMES.match(text)
    if not scheme:
        raise BadDsn(_other_form(text))
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise BadDsn(f"the value contains a space or a line break: {_PERCENT.format('a space of the password', '%20')}")
    rest, hash_, _fragment = text[scheme.end() :].partition("#")
    if hash_:
        raise BadDsn(f"the value contains a #, which ends a URL: {_PERCENT.format('a # of the password', '%23')}")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "@" in path or "@" in query.partition("&")[0].partition("=")[0]:
        raise BadDsn(_PERCENT_ALL)
    login, at, places = authority.rpartition("@")
    if "@" in login:
        raise BadDsn(f"the value contains several @: {_PERCENT.format('an @ of the user or the password', '%40')}")
    given: dict[str, str] = {}
    if at:
        user, colon, password = login.partition(":")
        given |= {"user": _decoded(user)} if user else {}
        given |= {"password": _decoded(password)} if colon else {}
    given |= _of_hosts(places)
    if path:
        given["dbname"] = _decoded(path)
    further = dict(_of_query(query))
    if not at and "@" in query and not further.keys() <= _PARAMETERS.keys():
        raise BadDsn(_PERCENT_ALL)
    return given | further


def _of_hosts(places: str) -> dict[str, str]:
    if not places:
        return {}
    hosts, ports = [], []
    for place in places.split(","):
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]*\]|[^:\[\]]*)(?::(.*))?", place)
        if not found:
            raise BadDsn(f"host: is not a name or an address, or the port is not a number. If neither: {_PERCENT_ALL}")
        if found[2] and not re.fullmatch(r"[0-9]+", found[2]):
            raise BadDsn(f"port: is not a number. If it is none: {_PERCENT_ALL}")
        hosts.append(_decoded(found[1]))
        ports.append(found[2] or "")
    given = {"host": ",".join(hosts)} if any(hosts) else {}
    return given | ({"port": ",".join(ports)} if any(ports) else {})


def _of_query(query: str) -> Iterable[tuple[str, str]]:
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals:
            raise BadDsn(f"the value: a part after the ? is not of the form name=value. If it is none: {_PERCENT_ALL}")
        yield _decoded(name), _decoded(value)


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise BadDsn(f"the value contains a % without two digits: {_PERCENT.format('a % of the password', '%25')}")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadDsn("the value: what is percent-encoded is not UTF-8") from None
    if "\0" in decoded:
        raise BadDsn("the value contains %00, which is not allowed")
    return decoded


def _other_form(text: str) -> str:
    """Return what is wrong with a text that is not a URL of PostgreSQL."""
    if _SQLALCHEMY.match(text):
        return f"the value names a driver, as SQLAlchemy does: write {_FORM}"
    if text.startswith("jdbc:"):
        return f"the value has JDBC's form: write {_FORM}"
    if re.match(r"\s*\w+\s*=", text):
        return f"the value is a list of name=value: write it as a URL, {_FORM}"
    other = "" if not _OTHERS.match(text) else ": it is the address of another kind of database, and not of PostgreSQL"
    return f"the value is not of the form {_FORM}{other}"


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _PARAMETERS, n=1, cutoff=0.8)
    if near:
        return f"unknown parameter (did you mean {near[0]}?)"
    return f"unknown parameter: leave it out; write a server setting as options=-c%20{_printable(name)}%3D..."


def _printable(name: str) -> str:
    """Return *name* if it looks like a parameter, else a placeholder: it may be a part of a password."""
    return name if re.fullmatch(r"[A-Za-z_][\w.-]{0,40}", name, re.ASCII) else "a name"
