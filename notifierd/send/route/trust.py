"""The certificates that a server's is verified against: those of the system, and those of `network.ca_file`."""

import re
import ssl
from functools import lru_cache
from pathlib import Path

from notifierd.model.errors import ConfigError


def trusted(ca_file: str, *, http: bool = True) -> ssl.SSLContext:
    """Return a context that trusts the system's certificates and those of *ca_file*; empty: no others.

    HTTP has a context of its own, because its ALPN is set on the context, and mail servers may reject a client that
    offers another protocol than theirs (RFC 7301, section 3.2).

    The system's are those of OpenSSL, which the variables SSL_CERT_FILE and SSL_CERT_DIR move elsewhere. If there are
    none, as in a slim container image, it trusts those of the package certifi. They are loaded again only after a file
    has changed.

    Raises:
        ConfigError: *ca_file* cannot be read any more.
    """
    paths = ssl.get_default_verify_paths()
    try:
        return _load(ca_file, http, tuple(_stamp(path) for path in (paths.cafile, paths.capath, ca_file) if path))
    except OSError:
        raise ConfigError((f"network.ca_file: {ca_file} cannot be read any more",)) from None


@lru_cache(maxsize=2)
def _load(ca_file: str, _http: bool, _stamps: tuple[object, ...]) -> ssl.SSLContext:  # noqa: FBT001 - a part of the cache's key
    """Load the certificates. This takes 13 ms and a megabyte where the system has them in one file."""
    context = ssl.create_default_context()
    if not _place(context):
        import certifi  # noqa: PLC0415 - most systems have certificates

        context.load_verify_locations(cafile=certifi.where())
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    # What Python 3.13 sets and earlier versions do not: the first, as curl does, so that an authority between the root
    # and the server can be trusted; not the second, which rejects the certificates of some devices that inspect TLS.
    # https://docs.python.org/3/library/ssl.html#ssl.create_default_context
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _stamp(path: str) -> tuple[object, ...]:
    """Return what changes with the content of a file, or with the names in a folder."""
    stat = Path(path).stat()
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


def system_store() -> str:
    """Return the file or the folder with the system's certificates; empty if there are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return _place(context)


def _place(context: ssl.SSLContext) -> str:
    """Return where *context*, whose default certificates were loaded, has them from; empty if there are none.

    OpenSSL reads a file at once, but of a folder only the certificates that a connection needs, by names made of their
    hashes: https://docs.openssl.org/3.0/man3/SSL_CTX_load_verify_locations/.
    """
    paths = ssl.get_default_verify_paths()
    if context.cert_store_stats()["x509"]:
        return paths.cafile or ""
    hashed = re.compile(r"[0-9a-f]{8}\.\d+")
    try:
        found = paths.capath and any(hashed.fullmatch(each.name) for each in Path(paths.capath).iterdir())
    except OSError:
        return ""
    return paths.capath if found else ""
