"""Certificates of invented servers, and the two ends of TLS in front of a PostgreSQL that has none."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.loopback import receive, serving


def certificate(path: Path, *, address: str = "127.0.0.1", days: tuple[int, int] = (-1, 90)) -> Path:
    """Write a new key, and a certificate of its own for it, to *path*; it is valid for *days* from now."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@asynccontextmanager
async def tls_in_front_of(socket: Path, shown: Path, *, clients: Path | None = None) -> AsyncIterator[int]:
    """Speak TLS, with the certificate in *shown*, in front of PostgreSQL's Unix socket; yield the port on 127.0.0.1.

    Args:
        clients: the certificate that a client has to show.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients) if clients else None)
    context.load_cert_chain(shown)
    context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_NONE

    async def serve(client: trio.SocketStream) -> None:
        if len(await receive(client)) != 8:  # PostgreSQL, 55.7: SSLRequest; a cancel request comes without TLS
            return
        await client.send_all(b"S")
        stream = trio.SSLStream(client, context, server_side=True)
        async with await trio.open_unix_socket(str(socket)) as server, trio.open_nursery() as nursery:

            async def pass_on(source: trio.abc.ReceiveStream, to: trio.abc.SendStream) -> None:
                try:
                    while data := await source.receive_some():
                        await to.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(pass_on, stream, server)
            nursery.start_soon(pass_on, server, stream)

    async with serving(serve) as port:
        yield port
