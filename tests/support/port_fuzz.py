"""Requests as nobody should send them, and some good ones among them: the same ones for the same seed."""

from collections.abc import Sequence
from random import Random

from attrs import frozen

PATHS = (
    *("/", "/healthz", "/readyz", "/metrics", "/login", "/logout", "/nothing", "/static/page.css", "/static/../x"),
    *("/days/2026-11-24", "/days/0001-01-01", "/days/9999-12-31", "/days/0000-00-00", "/days/2026-W48-2", "/days/"),
    *("/offices/00000000-0000-4000-8000-00000000feed", "/offices/{0}", "/offices/x", "//", "/%00", "/%", "/%zz"),
    *("/?reason=%00", "/?reason=%ff&state=sent", "/?office=x&channel=email", "/?" + "a=b&" * 200, "/?=&&=;"),
    *("/offices/00000000-0000-4000-8000-00000000feed?day=9999-12-31", "/days/2026-11-24?reason='%22--"),
    *("*", "http://localhost/", "localhost:80", "/\\evil", "/ x", "", "?", "/#x", "/\x7f", "/\xff", "/" + "x" * 9_000),
)
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "PRI", "get", "", "G T", "X" * 50)
VERSIONS = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "")
FIELDS = (
    *("Host: localhost", "Host: [::1", "Host: evil.example", "Host : localhost", "Host:", "hOsT: localhost:1"),
    *("Origin: http://[", "Origin: null", "Origin: http://localhost", "Origin: \xff", "Origin: http://[::1]:99999999/"),
    *("Cookie: notifierd=x", "Cookie: =;;==; notifierd", "Cookie: " + "a;" * 500, "Authorization: Bearer"),
    *("Authorization: Bearer x", "Authorization: \t bearer \xff", "Authorization: Basic eA=="),
    *("Content-Length: 7", "Content-Length: 0", "Content-Length: 5, 5", "Content-Length: +7", "Content-Length: -1"),
    *("Content-Length: " + "9" * 18, "Content-Length: " + "9" * 5_000, "Content-Length: 0x7", "Content-Length:"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked"),
    *("Transfer-Encoding: \x0bchunked", "Transfer-Encoding: identity", "Connection: close", "Connection: keep-alive"),
    *("Expect: 100-continue", "Expect: 200-ok", "Upgrade: h2c", "Accept-Language: " + "ja;q=nan," * 90),
    *("Accept-Language: en;q=1e999, ja;q=-1, *;q=x", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"),
    *(
        " folded",
        "\tfolded",
        "no colon",
        ": no name",
        "X: \x00",
        "X: \r",
        "X: a\nY: b",
        "X\xff: y",
        "X: " + "x" * 20_000,
    ),
)
BODIES = (b"", b"", b"token=x", b"token=%ff&to=//evil", b"7\r\ntoken=x\r\n0\r\n\r\n", b"-1\r\n", b"f" * 20 + b"\r\n")
LINE_ENDS = ("\r\n",) * 20 + ("\n", "\r", "\r\r\n", "")


@frozen
class Sent:
    """What a client sends.

    Attributes:
        waits: whether it waits for an answer, or closes at once.
    """

    data: bytes
    waits: bool


def fuzz(seed: int, number: int, fields: Sequence[str] = ()) -> list[Sent]:
    """Make *number* of them; a third bring *fields*, a token, say."""
    chance = Random(seed)
    return [_one(chance, fields) for _ in range(number)]


def _one(chance: Random, fields: Sequence[str]) -> Sent:
    lines = [" ".join((chance.choice(METHODS), chance.choice(PATHS), chance.choice(VERSIONS)))]
    if chance.random() < 0.4:  # a good one, but for what follows
        lines = [f"GET {chance.choice(PATHS[:15])} HTTP/1.1"]
    if chance.random() < 0.8:
        lines.append("Host: localhost")
    if chance.random() < 0.33:
        lines += fields
    lines += chance.choices(FIELDS, k=chance.choice((0, 0, 0, 1, 1, 2, 5, 120 if chance.random() < 0.1 else 3)))
    end = chance.choice(LINE_ENDS)
    data = (end.join(lines) + 2 * end).encode("latin-1") + chance.choice(BODIES)
    match chance.randrange(10):
        case 0:  # cut short
            data = data[: chance.randrange(len(data) + 1)]
        case 1:  # with a byte that was changed on the way
            at = chance.randrange(len(data))
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 2:
            data = chance.randbytes(chance.randrange(300))
        case 3:  # several, one after the other
            data = data * chance.randrange(2, 5)
    return Sent(data, waits=chance.random() < 0.8)
