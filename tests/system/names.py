"""A name server for one name (RFC 1035)."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Final

NAME: Final = "api.mail.example.jp"
ADDRESS: Final = IPv4Address("127.0.0.1")

_QNAME: Final = b"".join(bytes([len(label)]) + label.encode() for label in NAME.split(".")) + b"\0"
_A: Final = b"\0\1"
_HEADER: Final = 12
_NO_ERROR, _NAME_ERROR = b"\x81\x80", b"\x81\x83"


class _Answerer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, sock = self.request
        name, _, rest = query[_HEADER:].partition(b"\0")
        question = name + b"\0" + rest[:4]
        is_known = question[:-4].lower() == _QNAME
        has_address = is_known and question[-4:-2] == _A
        answer = b"\xc0\x0c" + question[-4:] + bytes([0, 0, 0, 60, 0, 4]) + ADDRESS.packed  # the name is at offset 12
        counts = bytes([0, 1, 0, int(has_address), 0, 0, 0, 0])
        head = query[:2] + (_NO_ERROR if is_known else _NAME_ERROR) + counts
        sock.sendto(head + question + (answer if has_address else b""), self.client_address)


@contextmanager
def name_server() -> Iterator[None]:
    """Answer on port 53 of the loopback of the network that the caller is in now, for the block."""
    with socketserver.UDPServer(("127.0.0.1", 53), _Answerer) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
