"""A name server for the tests' own names (RFC 1035)."""

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

Zone = Mapping[str, Sequence[Sequence[str]]]
"""For each name the addresses that it has when it is asked for the first time, the second, and so on; the last stay."""

Asked = Counter[tuple[str, str]]
"""How often each name was asked for its A, and for its AAAA."""

_TYPES: Final = {1: "A", 28: "AAAA"}
_HEADER: Final = 12
_NO_ERROR, _NAME_ERROR = b"\x81\x80", b"\x81\x83"


class _Answerer(socketserver.BaseRequestHandler):
    def __init__(self, zone: Zone, asked: Asked, *call: object) -> None:
        self.zone, self.asked = zone, asked
        super().__init__(*call)  # type: ignore[arg-type] # socketserver's own three

    def handle(self) -> None:
        query, sock = self.request
        end = query.index(b"\0", _HEADER) + 1
        name, question = _name(query[_HEADER:end]), query[_HEADER : end + 4]
        kind = _TYPES.get(int.from_bytes(question[-4:-2], "big"), "other")
        answers = self.zone.get(name, [()])
        addresses = map(ip_address, answers[min(self.asked[name, kind], len(answers) - 1)])
        self.asked[name, kind] += 1
        found = [_record(address) for address in addresses if kind == ("A" if address.version == 4 else "AAAA")]
        counts = bytes([0, 1, 0, len(found), 0, 0, 0, 0])
        head = query[:2] + (_NO_ERROR if name in self.zone else _NAME_ERROR) + counts
        sock.sendto(head + question + b"".join(found), self.client_address)


def _name(labels: bytes) -> str:
    """Read a name as it stands in a question, each label after its length."""
    found = []
    while labels[0]:
        found.append(labels[1 : labels[0] + 1].decode().lower())
        labels = labels[labels[0] + 1 :]
    return ".".join(found)


def _record(address: IPv4Address | IPv6Address) -> bytes:
    kind = 1 if address.version == 4 else 28
    lives, length = (0).to_bytes(4, "big"), len(address.packed).to_bytes(2, "big")
    return b"\xc0\x0c" + bytes([0, kind, 0, 1]) + lives + length + address.packed  # the name is that at offset 12


@contextmanager
def name_server(zone: Zone) -> Iterator[Asked]:
    """Answer on port 53 of the loopback of the network that the caller is in now, for the block."""
    asked: Asked = Counter()
    with socketserver.UDPServer(("127.0.0.1", 53), partial(_Answerer, zone, asked)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()
