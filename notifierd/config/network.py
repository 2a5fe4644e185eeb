"""What [network] holds: the proxy, the hosts that are called without it, and the file of further certificates."""

import ipaddress
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from notifierd.config.checks import Check, optional, shown

ENVIRONMENT = "environment"
"""The value of `network.proxy` that has the variables apply."""

PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY")
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
"""The first one that is set applies, as in curl (https://curl.se/docs/manpage.html, "ENVIRONMENT")."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@frozen
class Proxy:
    """An HTTP proxy, which opens connections to other hosts.

    Attributes:
        host: its name, or its address without brackets.
        authorization: the value of Proxy-Authorization, a secret; empty for none.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"http://{authority(self.host, self.port)}"


def authority(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 address in brackets (RFC 3986, section 3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_proxy(text: str) -> Proxy:
    """Parse ``http://user:password@host:port``; the user and the password are percent-encoded.

    Raises:
        ValueError: it has another form. The message does not repeat it, because it may hold a password.
    """
    found = _PROXY.fullmatch(text)
    if not found:
        raise ValueError(
            "is not of the form http://user:password@host:port (user and password are optional and percent-encoded)"
        )
    if found["scheme"].lower() != "http":
        raise ValueError(f"has the scheme {found['scheme']}:// (only http:// is supported)")
    host, port = found["host"].strip("[]"), int(found["port"])
    if not 0 < port <= 65535 or (":" in host and numeric_address(host) is None):  # noqa: PLR2004 - the highest port there is
        raise ValueError("has no valid host and port")
    if found["user"] is None:
        return Proxy(host, port)
    user, password = unquote_to_bytes(found["user"]), unquote_to_bytes(found["password"] or "")
    if b":" in user or any(byte < 0x20 or byte == 0x7F for byte in user + password):  # noqa: PLR2004 - control characters
        raise ValueError("has a colon in the user's name, or a control character (RFC 7617, section 2)")
    return Proxy(host, port, f"Basic {b64encode(user + b':' + password).decode()}")


_PROXY = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"((?P<user>[^:@/\s]*)(:(?P<password>[^@/\s]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?):(?P<port>[0-9]{1,5})/?"
)


@frozen
class Exempt:
    """An entry of `network.no_proxy`: hosts that are called directly.

    Attributes:
        name: a host in lower case; with a dot in front all of its subdomains; "*": every host. Empty if the entry names
            addresses.
        network: the addresses. A name that leads to one of them does not count, because it is not resolved.
        port: the only port; None: all ports.
    """

    name: str = ""
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """Return whether a call to *host* is made directly."""
        if self.port not in {None, port}:
            return False
        if self.name == "*":
            return True
        address = _connected_address(host)
        if address is not None:
            return self.network is not None and address in self.network
        name = plain_name(host)
        return name.endswith(self.name) if self.name.startswith(".") else name == self.name


def parse_exempt(text: str) -> Exempt:
    """Parse a host, ``.suffix`` or ``*.suffix``, an address, a network such as 10.0.0.0/8, or ``host:port``.

    Raises:
        ValueError: it is none of these.
    """
    if text == "*":
        return Exempt("*")
    try:
        return Exempt(network=ipaddress.ip_network(re.sub(r"^\[(.*:.*)\]$", r"\1", text), strict=False))
    except ValueError:
        pass  # a name, or an address with a port
    found = _EXEMPT.fullmatch(text.lower())
    if not found or (port := int(found["port"] or 1)) > 65535 or not port:  # noqa: PLR2004 - the highest port there is
        raise ValueError("neither a host nor an address")
    only = port if found["port"] else None
    if literal := found["v6"] or found["v4"]:
        return Exempt(network=ipaddress.ip_network(literal), port=only)
    return Exempt(found["name"].removeprefix("*").rstrip("."), port=only)


_EXEMPT = re.compile(
    r"(\[(?P<v6>[0-9a-f:.]+)\]|(?P<v4>[0-9]+(\.[0-9]+){3})|"
    r"(?P<name>(\*?\.)?([a-z0-9_-]{1,63}\.)*(?![0-9]+\.?(:|$))[a-z0-9_-]{1,63}\.?))(:(?P<port>[0-9]{1,5}))?"
)
"""A name whose last label is a number would be an address, so it is probably a mistake
(https://url.spec.whatwg.org/#ends-in-a-number-checker)."""


def numeric_address(host: str) -> Address | None:
    """Return the address that *host* is, in any form that connect() takes, such as 127.1; None for a name."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return ipaddress.ip_address(str(found[0][4][0]))
    except (OSError, ValueError):  # ValueError: a name that cannot be written in ASCII, or a label that is too long
        return None


def _connected_address(host: str) -> Address | None:
    """Return `numeric_address`, and the IPv4 address that an IPv6 address maps (RFC 4291, section 2.5.5.2)."""
    address = numeric_address(host)
    return getattr(address, "ipv4_mapped", None) or address


def plain_name(host: str) -> str:
    """Return a host name in lower case, without the dot of the root."""
    return host.lower().rstrip(".")


def _is_here(host: str) -> bool:
    """Return whether *host* is this machine: a loopback address, or localhost (RFC 6761, section 6.3)."""
    address, name = _connected_address(host), plain_name(host)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


@frozen
class Route:
    """Which calls go through a proxy.

    Attributes:
        proxy: None: all calls are made directly.
        origin: the key or the variable that names the proxy.
    """

    proxy: Proxy | None = None
    origin: str = ""
    exempt: tuple[Exempt, ...] = ()

    def proxy_for(self, host: str, port: int) -> Proxy | None:
        """Return the proxy for a call to *host*; None if the call is made directly. Loopback always is."""
        if self.proxy is None or _is_here(host) or any(entry.covers(host, port) for entry in self.exempt):
            return None
        return self.proxy


def read_route(proxy: str, no_proxy: Iterable[str], environ: Mapping[str, str]) -> Route:
    """Make the route from `network.proxy`, `network.no_proxy` and, if the first says so, the variables in *environ*.

    Raises:
        ValueError: the variable's value is no proxy; the message names the variable.
    """
    exempt, origin = [parse_exempt(entry) for entry in no_proxy], "network.proxy"
    if proxy == ENVIRONMENT:
        origin, proxy = _first(PROXY_VARIABLES, environ)
        if proxy and "://" not in proxy:  # as curl reads it
            proxy = f"http://{proxy}"
        exempt += _exempt_by_environment(_first(NO_PROXY_VARIABLES, environ)[1])
    if not proxy:
        return Route()
    try:
        return Route(parse_proxy(proxy), origin, tuple(exempt))
    except ValueError as error:
        raise ValueError(f"the value {error}, from {origin}") from None


def problems_of_route(proxy: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the variable that `network.proxy` refers to."""
    try:
        read_route(proxy, (), environ)
    except ValueError as error:
        yield f"network.proxy: {error}"


def proxy_variable(environ: Mapping[str, str]) -> str:
    """Return the variable that names a proxy; empty if none does."""
    return _first(PROXY_VARIABLES, environ)[0]


def _first(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the first of the variables that is set, and its value; empty if none is."""
    return next(((name, value) for name in names if (value := environ.get(name, "").strip())), ("", ""))


def _exempt_by_environment(text: str) -> Iterator[Exempt]:
    """Yield the entries of NO_PROXY, in which a name stands for its subdomains, too, as in curl.

    Other programs read the variable, too, so entries of a form that only they know are passed over.
    """
    for entry in re.split(r"[\s,]+", text):
        try:
            exempt = parse_exempt(entry)
        except ValueError:
            continue
        yield exempt
        if exempt.name and exempt.name[0] not in "*.":
            yield Exempt(f".{exempt.name}", port=exempt.port)


# Checks --------------------------------------------------------------------------------------------------------------


def _complaint_about_proxy(value: str) -> str:
    try:
        parse_proxy(value)
    except ValueError as error:
        return f"the value {error}"
    return ""


def _is_exempt(value: str) -> bool:
    try:
        parse_exempt(value)
    except ValueError:
        return False
    return True


def _complaint_about_certificates(path: str) -> str:
    """Return why *path* is no file with certificates in PEM; empty if it is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
            return f"{shown(path)} is not a file"
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return f"{shown(path)} holds no certificate in PEM"
    except OSError as error:
        return f"{shown(path)} cannot be read ({error.strerror})"
    except ValueError:  # a null character
        return f"{shown(path)} is not a path"
    return "" if context.cert_store_stats()["x509"] else f"{shown(path)} holds no certificate in PEM"


PROXY = optional(
    Check(
        f'of the form http://user:password@host:port, or "{ENVIRONMENT}"',
        lambda value: value == ENVIRONMENT or not _complaint_about_proxy(value),
        explain=_complaint_about_proxy,
    )
)
NO_PROXY = Check(
    "a host, .suffix, an address or a network such as 10.0.0.0/8; a port may follow a host or an address",
    _is_exempt,
    of_elements=True,
)
CA_FILE = optional(
    Check(
        "a file with certificates in PEM",
        lambda value: not _complaint_about_certificates(value),
        explain=_complaint_about_certificates,
    )
)
