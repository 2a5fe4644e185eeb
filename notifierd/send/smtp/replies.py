"""The replies of a mail server: RFC 5321, section 4.2, with the enhanced codes of RFC 2034. Pure, and bounded."""

import re

from attrs import define, field, frozen

LINE_BYTES = 2000
"""The longest line of a reply. RFC 5321, section 4.5.3.1.5, allows 512; some servers exceed it."""

REPLY_LINES = 100
"""The most lines of a reply. An EHLO has about ten."""


class NotSmtp(Exception):
    """What arrived is not a reply, or exceeds a limit."""


@frozen
class Reply:
    """A reply, which may have several lines.

    Attributes:
        code: from 200 to 599.
        lines: their texts without the code; they may quote addresses.
    """

    code: int
    lines: tuple[str, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """All lines as one."""
        return " ".join(self.lines)

    @property
    def kind(self) -> int:
        """The first digit of the code (RFC 5321, section 4.2.1)."""
        return self.code // 100

    @property
    def enhanced(self) -> tuple[int, int] | None:
        """Subject and detail of the enhanced status code (RFC 3463, section 2); None if there is none."""
        found = _ENHANCED.match(self.lines[0]) if self.lines else None
        return (int(found["subject"]), int(found["detail"])) if found and int(found["kind"]) == self.kind else None

    @property
    def codes(self) -> tuple[str, ...]:
        """The code, and the enhanced one if there is one, as in ``("550", "5.1.1")``."""
        enhanced = self.enhanced
        return (str(self.code), f"{self.kind}.{enhanced[0]}.{enhanced[1]}") if enhanced else (str(self.code),)


_ENHANCED = re.compile(r"(?P<kind>[245])\.(?P<subject>\d{1,3})\.(?P<detail>\d{1,3})(?!\S)", re.ASCII)


@define
class Replies:
    """Splits what arrives into replies."""

    _buffer: bytearray = field(factory=bytearray, init=False)
    _code: int | None = field(default=None, init=False)
    _lines: list[str] = field(factory=list, init=False)

    @property
    def pending(self) -> bool:
        """Whether something has arrived that no reply contained yet."""
        return bool(self._buffer or self._lines)

    @property
    def is_whole(self) -> bool:
        """Whether a whole reply has arrived, or something that cannot become one."""
        *lines, rest = self._buffer.split(b"\n")
        return len(lines) > REPLY_LINES or len(rest) > LINE_BYTES or any(line[3:4] != b"-" for line in lines)

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._buffer += data

    def next(self) -> Reply | None:
        """Return the next reply; None if it is not complete.

        Raises:
            NotSmtp: it cannot become a reply any more.
        """
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            if reply := self._add(line):
                return reply
        if len(self._buffer) > LINE_BYTES:
            raise NotSmtp
        return None

    def _add(self, line: bytes) -> Reply | None:
        """Add a line; return the reply that it ends, if it does."""
        found = _LINE.fullmatch(line)
        if found is None or len(line) > LINE_BYTES or len(self._lines) == REPLY_LINES:
            raise NotSmtp
        code = int(found["code"])
        if self._code not in {None, code}:  # RFC 5321, section 4.2.1: all lines have the same code
            raise NotSmtp
        self._code = code
        self._lines.append((found["text"] or b"").decode("ascii", "replace"))
        if found["more"] == b"-":
            return None
        reply = Reply(code, tuple(self._lines))
        self._code, self._lines = None, []
        return reply


_LINE = re.compile(rb"(?P<code>[2-5][0-9]{2})(?:(?P<more>[ -])(?P<text>.*))?", re.DOTALL)
