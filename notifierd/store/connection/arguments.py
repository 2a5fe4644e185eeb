"""The arguments of asyncpg for a DSN, with TLS as in libpq (PostgreSQL, 34.19)."""

import getpass
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attrs import evolve

from notifierd.config.dsn import BadDsn, Dsn
from notifierd.store.connection.password import password_of

ALPN: Final = ["postgresql"]
"""The protocol that a server demands when TLS begins without a request for it (PostgreSQL 17, 55.2.11)."""


def arguments(dsn: Dsn, connect_timeout: float) -> dict[str, Any]:
    """Return all arguments of asyncpg's ``create_pool``: it takes missing ones from the environment.

    *connect_timeout* is in seconds, and applies if *dsn* names none.

    Raises:
        BadDsn: see `tls_of` and `password_of`; or no user is named, and the user of the process has no name.
    """
    if dsn.user is None:
        try:
            dsn = evolve(dsn, user=getpass.getuser())
        except (KeyError, OSError):  # OSError from Python 3.13 on
            raise BadDsn(
                "names no user, and the process runs as one without a name: write postgresql://user@host/database, "
                "or set PGUSER"
            ) from None
    settings = {"application_name": dsn.application_name or "notifierd"}
    return {
        "host": list(dsn.hosts) or None,
        "port": list(dsn.ports) if dsn.hosts else dsn.ports[0],
        "user": dsn.user,
        "password": password_of(dsn),  # never None: asyncpg would look for a password file
        "database": dsn.database or dsn.user,
        "ssl": tls_of(dsn),
        "direct_tls": dsn.sslnegotiation == "direct",
        "timeout": dsn.connect_timeout or connect_timeout,
        "target_session_attrs": dsn.target_session_attrs,
        "krbsrvname": dsn.krbsrvname,
        "gsslib": dsn.gsslib,
        "server_settings": settings | ({"options": dsn.options} if dsn.options else {}),
    }


def tls_of(dsn: Dsn) -> ssl.SSLContext | str:
    """Return asyncpg's argument ``ssl``: a context if TLS is required, else libpq's sslmode.

    Files that *dsn* does not name are looked up in ~/.postgresql, as libpq does.

    Raises:
        BadDsn: a file cannot be read, or has another content than expected.
    """
    if dsn.hosts and all(host.startswith("/") for host in dsn.hosts):
        return "disable"  # a Unix socket has no TLS, and creating a context takes a millisecond
    if dsn.sslmode not in {"require", "verify-ca", "verify-full"}:
        return dsn.sslmode
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = dsn.sslmode == "verify-full"
    context.set_alpn_protocols(ALPN)
    _trust(context, dsn)
    _show(context, dsn.tls)
    for name, attribute in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        if version := dsn.tls.get(name):
            setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])
    return context


def _trust(context: ssl.SSLContext, dsn: Dsn) -> None:
    """Load the authorities that the server's certificate is verified against; sslmode=require accepts any."""
    root, own = dsn.tls.get("sslrootcert", ""), _below_home("root.crt")
    if root == "system":
        context.load_default_certs()
    elif root or own:
        _load(context, "sslrootcert", root or own)
    elif dsn.sslmode == "require":
        context.verify_mode = ssl.CERT_NONE
        return
    else:
        raise BadDsn(
            f"sslmode={dsn.sslmode}: needs a certificate authority: add sslrootcert= with the file of the provider's "
            "authority, or sslrootcert=system for the authorities of this machine (sslmode=verify-full only)"
        )
    if revoked := dsn.tls.get("sslcrl") or _below_home("root.crl"):
        _load(context, "sslcrl", revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _load(context: ssl.SSLContext, name: str, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise BadDsn(f"{name}: {path} holds no certificate in PEM") from None
    except OSError as error:
        raise BadDsn(f"{name}: {path} cannot be read ({error.strerror})") from None


def _show(context: ssl.SSLContext, tls: Mapping[str, str]) -> None:
    """Load the client certificate, if there is one."""
    certificate = tls.get("sslcert") or _below_home("postgresql.crt")
    if not certificate:
        return
    key = tls.get("sslkey") or _below_home("postgresql.key") or None
    for name, path in (("sslcert", certificate), ("sslkey", key)):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise BadDsn(f"{name}: {path} cannot be read ({error.strerror})") from None
    try:
        context.load_cert_chain(certificate, key, lambda: tls.get("sslpassword", ""))
    except ssl.SSLError:
        raise BadDsn(
            f"sslcert: {certificate} and its key are not a pair in PEM, or the key's password (sslpassword) is wrong"
        ) from None


def _below_home(name: str) -> str:
    with suppress(RuntimeError, KeyError, OSError):  # there is no home, or it cannot be read
        path = Path.home() / ".postgresql" / name
        if path.exists():
            return str(path)
    return ""
