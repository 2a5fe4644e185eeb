"""What is wrong, and what to do, for each SQLSTATE and each other cause of a database error."""

import re
from collections.abc import Mapping
from typing import Final

_POOLER: Final = "there is a pooler such as PgBouncer in between: set database.pooler = true, or connect past it"
_PRIVILEGE: Final = "a privilege is missing: `notifierd check` shows which"
_CONTRACT: Final = (
    "a view or a table differs from what notifierd expects: `notifierd check` shows which. A table of the application "
    "may have changed behind its view"
)
_READ_ONLY: Final = (
    "the database takes no writes: it is a standby, or the server, the database or the role has "
    "default_transaction_read_only. Name the primary, or all hosts with target_session_attrs=read-write"
)
_RESTARTS: Final = "the server is stopping, starting or recovering: try again in a moment"
_BROKEN: Final = (
    "the connection broke, another program than PostgreSQL answered, or the server demands another client certificate: "
    "check the host, the port and sslcert in database.dsn"
)
_NO_LOGIN: Final = (
    "the connection broke, or the server demands an authentication method that notifierd does not support: use "
    "scram-sha-256, a certificate or a local socket"
)
_NO_ANSWER: Final = (
    "no answer in time: check the host and the port in database.dsn, and whether a firewall lets this machine through"
)
_FULL: Final = "the server has no disk space or memory left: see its log"
_CONFLICT: Final = "it conflicted with another program's transaction: try again"

_ADVICE: Final[Mapping[str, str]] = {
    # the network
    "ConnectionRefusedError": "no program listens there: check the host and the port in database.dsn, and whether "
    "PostgreSQL or the pooler runs",
    "FileNotFoundError": "the socket does not exist: check the host in database.dsn, and whether PostgreSQL runs on "
    "this machine",
    "NotADirectoryError": "the host in database.dsn is a file: name the folder that the socket is in",
    "PermissionError": "this user may not use the socket: check the permissions of its folder",
    "gaierror": "the host's name cannot be resolved: check the host in database.dsn, and this machine's DNS",
    "OSError": "the host cannot be reached: check the host in database.dsn, and this machine's network",
    "TimeoutError": _NO_ANSWER,
    "timeout": _NO_ANSWER,
    "ConnectionResetError": _BROKEN,
    "BrokenPipeError": _BROKEN,
    "08000": _BROKEN,
    "08001": _BROKEN,
    "08003": _BROKEN,
    "08004": _BROKEN,
    "08006": _BROKEN,
    "InterfaceError": _NO_LOGIN,
    "InternalClientError": _NO_LOGIN,
    # TLS
    "no_tls": "the server does not offer TLS, or is not PostgreSQL: set ssl = on there, or sslmode=prefer in "
    "database.dsn if the network is trusted",
    "tls_failed": "the TLS handshake failed: the TLS versions (ssl_min_protocol_version) do not match, or the server "
    "rejected the client certificate (sslcert)",
    "certificate_untrusted": "no trusted authority has signed the server's certificate: name the provider's authority "
    "as sslrootcert, or sslrootcert=system for the authorities of this machine",
    "certificate_expired": "the server's certificate has expired, or this machine's clock is wrong: renew it there",
    "certificate_not_yet_valid": "the server's certificate is not valid yet: check this machine's clock",
    "certificate_name": "the server's certificate is for another name than the host in database.dsn: use the name in "
    "the certificate",
    # authentication
    "28P01": "the server rejected the password: check user and password in database.dsn, or PGPASSWORD and the "
    "password file",
    "28000": "the server rejected the role: it does not exist, may not log in, or pg_hba.conf has no entry for it from "
    "here (perhaps because TLS is off: sslmode=require)",
    "3D000": "the server has no such database: check the name at the end of database.dsn, or create it (createdb)",
    "42501": _PRIVILEGE,
    "53300": "the server has no connection left: raise max_connections there, or lower database.pool_size",
    "55000": "the database takes no connections (alter database ... allow_connections true), or a view cannot be "
    "written to: `notifierd check` shows which",
    "53400": "a limit in the server's configuration is reached: see its log",
    "no_writable_host": "no host in database.dsn takes writes, as target_session_attrs demands: name the primary too",
    # poolers
    "pooler": _POOLER,
    "26000": _POOLER,
    "42P05": _POOLER,
    "statement_pooling": "the pooler assigns a connection for one statement only: set pool_mode = transaction or "
    "session for this database there",
    "08P01": "a pooler has no connection left, or closed one: see its log, and the limits of its pool",
    # the server's state
    "57P01": _RESTARTS,
    "57P02": _RESTARTS,
    "57P03": _RESTARTS,
    "57P04": "the database was dropped: check its name in database.dsn",
    "57P05": _RESTARTS,
    "25P03": "a transaction waited too long for this process: check whether the machine is overloaded",
    "53100": _FULL,
    "53200": _FULL,
    "53000": _FULL,
    # statements
    "25006": _READ_ONLY,
    "57014": "a statement took longer than database.statement_timeout or plan_timeout allows, or was cancelled: a view "
    "may be slow (`notifierd check` names the indexes to add), or the limit is too low",
    "55P03": "another program held a lock for too long: try again, and find out which (pg_locks)",
    "40P01": _CONFLICT,
    "40001": _CONFLICT,
    "42P01": _CONTRACT,
    "42703": _CONTRACT,
    "42883": _CONTRACT,
    "42704": "the server does not know a setting that database.dsn names in options: correct it there",
    "42P16": _CONTRACT,
    "3F000": _CONTRACT,
    "22023": "the server rejects the value of a setting that database.dsn names in options: correct it there",
}


def advice(cause: str) -> str:
    """Return what *cause* means and what to do; *cause* is the SQLSTATE or the code that a reason ends with."""
    return _ADVICE.get(cause, "see `notifierd check`, or the server's log at this time")


def absent_column(script: str, position: int) -> str:
    """Return which column of which table is missing: the one at *position* (from 1) of *script*, a preset's views."""
    found = re.compile(r"(?:(\w+)\.)?(\w+)").match(script, position - 1) if position else None
    if not found:
        return "a column that the views need is missing: the preset does not fit this version of the application"
    alias, column = found.groups()
    after = rf'"\w+"\."(\w+)" {alias}\b' if alias else r'\bfrom "\w+"\."(\w+)"'
    named = re.compile(after).search(script, position - 1)
    table = named[1] if named else "a table of the application"
    return f"{table} has no column {column}: the preset does not fit this version of the application"
