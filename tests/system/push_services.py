"""Every push service there is, and other servers: one with TLS on port 443 of all addresses of a network."""

import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOSTS: Final = ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.notify.windows.com", "*.push.apple.com")

_SECONDS: Final = 10.0
"""A connection that is silent for so long is dropped."""


@frozen
class Request:
    """A request that arrived.

    Attributes:
        address: which was connected to.
        name: that of the TLS handshake (SNI).
        host: the Host header.
        proof: the scheme of the Authorization header.
    """

    address: str
    name: str | None
    host: str
    target: str
    proof: str


@define
class PushServices:
    """What came, and what is answered.

    Attributes:
        forgers: addresses where the server's certificate is that of another name.
        redirects: for each path that is answered by a redirect, its status and where to.
        others: the hosts of servers that are no push services, with the JSON that each answers.
        connected: the address of each connection that arrived.
    """

    folder: Path
    forgers: Sequence[str] = ()
    redirects: dict[str, tuple[int, str]] = field(factory=dict)
    others: dict[str, str] = field(factory=dict)
    connected: list[str] = field(factory=list)
    requests: list[Request] = field(factory=list)

    @property
    def authority(self) -> Path:
        """The certificate of who signed the servers' own."""
        return self.folder / "authority.pem"

    def __attrs_post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        own = _certificate("the tests' authority", (), key, key)
        self.authority.write_bytes(own.public_bytes(Encoding.PEM))
        for who, names in {"true": (*HOSTS, *self.others), "forged": ("evil.example",)}.items():
            theirs = ec.generate_private_key(ec.SECP256R1())
            certificate = _certificate(who, names, theirs, key)
            secret = theirs.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._chain(who).write_bytes(secret + certificate.public_bytes(Encoding.PEM))

    def _chain(self, who: str) -> Path:
        return self.folder / f"{who}.pem"

    def serve(self, connection: socket.socket, address: str) -> None:
        """Answer one request, and close."""
        self.connected.append(address)
        names: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._chain("forged" if address in self.forgers else "true"))
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        connection.settimeout(_SECONDS)
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as stream:
            target, headers = _read(stream)
            proof = headers.get("authorization", "").partition(" ")[0]
            host = headers.get("host", "")
            self.requests.append(Request(address, names[0], host, target, proof))
            status, location = self.redirects.get(target, (201, "/receipt"))
            body = self.others.get(host, "")
            length = f"Content-Length: {len(body)}"
            answer = (f"HTTP/1.1 {status} -", f"Location: {location}", length, "Connection: close")
            stream.sendall("\r\n".join((*answer, "", body)).encode())


def _read(stream: ssl.SSLSocket) -> tuple[str, dict[str, str]]:
    """Read one request whole; its target and its headers."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += stream.recv(65536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    left = int(headers.get("content-length", 0)) - len(body)
    while left > 0 and (more := stream.recv(left)):
        left -= len(more)
    return first.split(" ")[1], headers


class _Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(socketserver.BaseRequestHandler):
    def __init__(self, services: PushServices, *call: object) -> None:
        self.services = services
        super().__init__(*call)  # type: ignore[arg-type] # socketserver's own three

    def handle(self) -> None:
        address = re.sub(r"^::ffff:(?=\d+\.)", "", self.request.getsockname()[0])
        self.services.serve(self.request, str(ip_address(address)))


@contextmanager
def serving(services: PushServices) -> Iterator[None]:
    """Serve in the network that the caller is in now, for the block."""
    with _Server(("::", 443), partial(_Handler, services)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _certificate(
    who: str, names: Sequence[str], key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now, is_authority = datetime.now(UTC), key is authority
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests' authority")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
    return builder.sign(authority, SHA256())
