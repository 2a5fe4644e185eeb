"""The password file, as libpq reads it (PostgreSQL, 34.16).

asyncpg's own reader fails on a line with too few fields, keeps escapes as they are, and warns on stderr.
"""

import re
import stat
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from notifierd.config.dsn import BadDsn, Dsn

LARGEST: Final = 1 << 20
"""The most bytes of a password file."""

_ENTRY: Final = re.compile(r"((?:\\.|[^:\\])*):" * 4 + r"(.*)")
"""host:port:database:user:password, in which a backslash escapes a colon and itself."""


def password_of(dsn: Dsn) -> str:
    """Return the password that *dsn* has, or that a password file has for it; "" for none.

    The file in the home directory counts only if it is fit to be used, as for libpq.

    Raises:
        BadDsn: the file that *dsn* names cannot be used.
    """
    if dsn.password is not None:
        return dsn.password
    if dsn.passfile is not None:
        return _found(dsn, _read(Path(dsn.passfile)))
    with suppress(BadDsn, RuntimeError, KeyError):  # there is none, or no home
        return _found(dsn, _read(Path.home() / ".pgpass"))
    return ""


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise BadDsn(f"passfile: {path} is not a file")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadDsn(f"passfile: others may read {path}: chmod 600")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BadDsn(f"passfile: {path} cannot be read ({error.strerror})") from None
    if len(data) > LARGEST:
        raise BadDsn(f"passfile: {path} is larger than {LARGEST:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadDsn(f"passfile: {path} is not UTF-8") from None


def _found(dsn: Dsn, text: str) -> str:
    names = ({dsn.database or dsn.user}, {dsn.user})
    # A folder of sockets goes by its own name, and by that of this machine.
    places = [
        ({host, "localhost"} if host.startswith("/") else {host}, str(port))
        for host, port in zip(dsn.hosts or ("/",), dsn.ports, strict=True)
    ]
    entries = [entry.groups() for line in text.splitlines() if line[:1] != "#" and (entry := _ENTRY.fullmatch(line))]
    for hosts, port in places:
        for *fields, password in entries:
            wanted: tuple[Container[str | None], ...] = (hosts, {port}, *names)
            if all(field == "*" or _unescaped(field) in these for field, these in zip(fields, wanted, strict=True)):
                return _unescaped(password)
    return ""


def _unescaped(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field)
