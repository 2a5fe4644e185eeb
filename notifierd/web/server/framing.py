"""Check a request's head (RFC 9112) more strictly than h11, which accepts much that is malformed.

If a proxy and its server disagree about where a message ends, a body can hide somebody else's request (request
smuggling: RFC 9112, section 11.2). So everything ambiguous is refused, and the connection is closed.
"""

import re
from typing import Final, NoReturn

import h11

MOST_LINES: Final = 100
"""The most lines of a head: each takes time to parse, and a browser behind two proxies sends forty."""

_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/([0-9]\.[0-9])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
"""A field: its name, followed at once by the colon, and a value without control characters (sections 5 and 5.1; RFC
9110, 5.5)."""


def check(received: bytes) -> None:
    """Check that the part of a request *received* so far, up to the end of its head, is well-formed.

    Raises:
        h11.RemoteProtocolError: it is not; the error has the status to answer.
    """
    head, end, _ = received.partition(b"\r\n\r\n")
    *whole, last = head.split(b"\r\n")
    if len(whole) >= MOST_LINES:
        raise h11.RemoteProtocolError("too many lines", error_status_hint=431)
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b"").removesuffix(b"\r"):
        _refuse("a bare CR or LF")  # section 2.2
    if end:
        _check_head([*whole, last])


def _check_head(lines: list[bytes]) -> None:
    request_line, *rest = lines
    found = _REQUEST_LINE.fullmatch(request_line)
    if not found:
        _refuse("no request line")
    if not found[1].startswith(b"1."):
        raise h11.RemoteProtocolError("another version", error_status_hint=505)
    if request_line.startswith(b"CONNECT "):  # we are not a proxy: RFC 9110, section 9.1
        raise h11.RemoteProtocolError("a tunnel", error_status_hint=501)
    fields = [field for line in rest if (field := _FIELD.fullmatch(line))]
    if len(fields) < len(rest):
        _refuse("a field that is none")  # or one that is folded over two lines: section 5.2
    lengths = [field[2].strip(b" \t") for field in fields if field[1].lower() == b"content-length"]
    codings = [field[2].strip(b" \t") for field in fields if field[1].lower() == b"transfer-encoding"]
    if len(lengths) > 1 or not all(re.fullmatch(rb"[0-9]{1,18}", length) for length in lengths):
        _refuse("not one length")  # section 6.3, rule 5
    if codings and (lengths or found[1] == b"1.0"):
        _refuse("two framings")  # section 6.1
    if len(codings) > 1:
        _refuse("several codings")


def _refuse(why: str) -> NoReturn:
    raise h11.RemoteProtocolError(why, error_status_hint=400)
