"""Content codings of an answer: gzip and deflate are unpacked, within a bound, whether we asked for them or not.

Middle boxes compress although a request says ``Accept-Encoding: identity``.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

MOST_CODINGS = 3
"""Codings on top of each other that are unpacked: each is one more loop over the whole body."""

MOST_MEMBERS = 10
"""Members of one gzip body that are unpacked (RFC 1952, section 2.2): a megabyte could have 50,000 empty ones."""

PIECE = 1024
"""Bytes that are unpacked at once: where the body breaks off, up to so many are unpacked one by one."""

GZIP, ZLIB, RAW = zlib.MAX_WBITS + 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""Window bits for what RFC 1952, RFC 1950 and RFC 1951 describe."""


def unpack(body: bytes, content_encoding: str, bound: int) -> bytes:
    """Return at most *bound* bytes of what *body* holds; of one that is cut or damaged, what could be unpacked.

    RFC 9110, section 8.4.1. A body that is in no coding that it claims, or in one that is not known, is returned as it
    came: a middle box may have unpacked it, and left the header.
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
    """Unpack what is zlib's format by the standard, and raw deflate where servers take the name by its word.

    Raw deflate has no mark of its own, and a text may be read as such: what begins as JSON or a page is left alone.
    """
    if _TEXT.match(body):
        return body
    return _inflate(body, ZLIB, bound)[0] or _inflate(body, RAW, bound)[0]


_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]]|<[!?A-Za-z])")

_CODINGS: Mapping[str, Callable[[bytes, int], bytes]] = MappingProxyType(
    {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate}
)


def _inflate(body: bytes, window: int, bound: int) -> tuple[bytes, bytes]:
    """Return what *body* holds, *bound* bytes at most, and what follows its end.

    An error loses all that its own call to zlib had unpacked, as with a wrong checksum in a trailer. So the piece it
    comes from is unpacked anew, byte by byte.
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
