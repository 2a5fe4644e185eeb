"""Decompress the body of an answer: gzip and deflate, up to a limit, whether the request asked for them or not.

Middleboxes compress answers even if the request says ``Accept-Encoding: identity``.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

MOST_CODINGS = 3
"""The most nested codings that are decompressed: each costs one more pass over the whole body."""

MOST_MEMBERS = 10
"""The most members of one gzip body that are decompressed (RFC 1952, section 2.2): a megabyte could hold 50,000 empty
ones."""

PIECE = 1024
"""Bytes that are decompressed at once. Where the body is damaged, up to this many are decompressed one by one."""

GZIP, ZLIB, RAW = zlib.MAX_WBITS + 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""Window bits for the formats of RFC 1952, RFC 1950 and RFC 1951."""


def unpack(body: bytes, content_encoding: str, bound: int) -> bytes:
    """Return at most *bound* bytes of the decompressed *body*; if it is cut or damaged, what could be decompressed.

    RFC 9110, section 8.4.1. If the body does not have the coding that its header claims, or the coding is unknown, the
    body is returned unchanged: a middlebox may have decompressed it, and left the header.
    """
    codings = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if len(codings) > MOST_CODINGS or not all(name in _CODINGS for name in codings):
        return body
    for name in reversed(codings):
        body = _CODINGS[name](body, bound) or body
    return body


def _gzip(body: bytes, bound: int) -> bytes:
    unpacked = b""
    for _ in range(MOST_MEMBERS):
        member, body = _inflate(body, GZIP, bound - len(unpacked))
        unpacked += member
        if not body or len(unpacked) >= bound:
            break
    return unpacked


def _deflate(body: bytes, bound: int) -> bytes:
    """Decompress the zlib format, as the standard says, or raw deflate, which some servers send under that name.

    Raw deflate has no signature, and plain text can look like it: a body that begins like JSON or HTML stays unchanged.
    """
    if _TEXT.match(body):
        return body
    return _inflate(body, ZLIB, bound)[0] or _inflate(body, RAW, bound)[0]


_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]]|<[!?A-Za-z])")

_CODINGS: Mapping[str, Callable[[bytes, int], bytes]] = MappingProxyType(
    {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate}
)


def _inflate(body: bytes, window: int, bound: int) -> tuple[bytes, bytes]:
    """Return the decompressed *body*, at most *bound* bytes, and what follows its end.

    A zlib error, such as a wrong checksum in the trailer, discards everything that the same call to zlib had
    decompressed. So the piece that failed is decompressed again, byte by byte.
    """
    unpacked, engine, at = bytearray(), zlib.decompressobj(window), 0
    while at < len(body) and len(unpacked) < bound and not engine.eof:
        before, piece = engine.copy(), body[at : at + PIECE]
        try:
            unpacked += engine.decompress(piece, bound - len(unpacked))
        except zlib.error:
            return bytes(unpacked + _byte_by_byte(before, piece, bound - len(unpacked))), b""
        at += len(piece) - len(engine.unconsumed_tail)
    return bytes(unpacked), engine.unused_data + body[at:] if engine.eof else b""


def _byte_by_byte(engine: "zlib._Decompress", piece: bytes, bound: int) -> bytes:
    unpacked = bytearray()
    for position in range(len(piece)):
        try:
            unpacked += engine.decompress(piece[position : position + 1], bound - len(unpacked))
        except zlib.error:
            break
        if len(unpacked) >= bound:
            break
    return bytes(unpacked)
