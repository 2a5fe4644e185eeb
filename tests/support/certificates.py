"""Certificates of invented servers, and the two ends of TLS in front of a PostgreSQL that has none."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.support.loopback import Handler, join, receive, serving


def certificate(
    path: Path,
    *,
    address: str = "127.0.0.1",
    names: Sequence[str] = (),
    days: tuple[int, int] = (-1, 90),
    authority: Path | None = None,
    password: str = "",
) -> Path:
    """Write a new key and its certificate to *path*; it is valid for *days* from now.

    Args:
        authority: what another call wrote, whose key signs; None: it signs itself, and may sign others.
        password: what the key is encrypted with; "" for not at all.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    issuer, signer = (name, key) if authority is None else _signer(authority)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)), *map(x509.DNSName, names)]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    sealed = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


def _signer(authority: Path) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    pem = authority.read_bytes()
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(pem).subject, key


def over_tls(handler: Handler, shown: Path) -> Handler:
    """Have *handler* serve connections with TLS, by the key and certificate in *shown*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)

    async def handle(stream: trio.SocketStream) -> None:
        await handler(
            cast("trio.SocketStream", trio.SSLStream(stream, context, server_side=True, https_compatible=True))
        )

    return handle


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
        async with await trio.open_unix_socket(str(socket)) as server:
            await join(stream, server)

    async with serving(serve) as port:
        yield port
