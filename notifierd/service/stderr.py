"""Standard error as a stream that neither waits nor raises: a run must not depend on the reader of its log.

One thread writes the text of all other threads, and only this thread waits for a slow reader. It is a daemon thread, so
it does not keep the process from ending. O_NONBLOCK would not be enough: it belongs to the open file description, which
the process shares with its parent (open(2)), and a file system that hangs ignores it.
"""

import atexit
import io
import os
import select
import sys
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

MOST_WAITING = 256 * 1024
"""Bytes that may wait for a slow reader: about a thousand lines. Further lines are dropped."""

LAST_SECONDS = 2.0
"""Seconds for which the end of the process waits for a slow reader."""

_PIECE = select.PIPE_BUF
"""The most bytes in one write, unless a line is longer: a pipe that processes share keeps these together (pipe(7))."""


class Patient(io.TextIOBase):
    """A text stream to a file descriptor. `write` queues the text and returns.

    Attributes:
        dropped: the number of lost lines: the descriptor refused them, or the queue was full.
        again: is called by the writing thread with the number of lost lines, once lines can be written again.
    """

    errors: str = "backslashreplace"

    def __init__(self, descriptor: int, encoding: str = "utf-8", *, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self.dropped = 0
        self.again: Callable[[int], object] = lambda _lines: None
        self._descriptor, self._encoding, self._most_waiting = descriptor, encoding, most_waiting
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._untold = 0
        """The number of dropped lines that `again` has not been called with."""
        self._begun = False
        """Whether the last write ended in the middle of a line."""
        self._refused = False
        """Whether the last write failed."""
        self._writing = False
        self._news = Condition()
        self._thread: Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute that may be set
        """The encoding of the locale, as for Python's own streams."""
        return self._encoding

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        """Do nothing: the thread writes anyway."""

    def write(self, text: str) -> int:
        """Queue *text*, or drop it if the queue is full."""
        data = text.encode(self._encoding, self.errors)
        with self._news:
            if self._size + len(data) > self._most_waiting or not self._has_writer():
                self._drop(data)
            elif data:
                self._waiting.append(data)
                self._size += len(data)
                self._news.notify_all()
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until everything is written, at most *seconds*."""
        deadline = monotonic() + seconds
        with self._news:
            while (self._waiting or self._writing) and (left := deadline - monotonic()) > 0:
                self._news.wait(left)

    def _has_writer(self) -> bool:
        if self._thread is None:
            thread = Thread(target=self._keep_writing, name="stderr", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, for now or for good
                return False
            self._thread = thread
        return True

    def _keep_writing(self) -> None:
        while True:
            with self._news:
                while not self._waiting:
                    self._writing = False
                    self._news.notify_all()
                    self._news.wait()
                self._writing = True
                piece = self._take()
            self._write_out(piece)
            with self._news:
                lost = 0 if self._refused or self._waiting else self._untold
                self._untold -= lost
            if lost:
                self.again(lost)

    def _take(self) -> bytes:
        """Take as many whole lines as fit into one write."""
        piece = self._waiting.popleft()
        while self._waiting and len(piece) + len(self._waiting[0]) <= _PIECE:
            piece += self._waiting.popleft()
        self._size -= len(piece)
        return piece

    def _write_out(self, piece: bytes) -> None:
        """Write *piece*, however long the reader takes; drop the part that the descriptor refuses."""
        # End a line that a full disk cut short, so that the next one stands alone.
        rest = b"\n" + piece if self._refused and self._begun else piece
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:  # another process that shares the descriptor has set O_NONBLOCK
                self._wait_for_room()
            except OSError:  # ENOSPC, EPIPE, EIO
                self._refused = True
                with self._news:
                    self._drop(rest[-len(piece) :])
                return
            else:
                self._refused, self._begun = False, rest[written - 1 : written] != b"\n"
                rest = rest[written:]

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll()

    def _drop(self, data: bytes) -> None:
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        self.dropped += lines
        self._untold += lines


def install() -> None:
    """Send everything that this process writes to stderr through a `Patient` stream: log, messages, bars, warnings."""
    _open_standard_descriptors()
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr = stream = Patient(2, encoding)
    atexit.register(stream.drain, LAST_SECONDS)


def _open_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 if they are closed: a database connection with such a number would get the log."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only argument
    os.close(descriptor)


def stand_in() -> Patient | None:
    """Return the stream that `install` put in place of stderr; None if there is another one now."""
    return sys.stderr if isinstance(sys.stderr, Patient) else None


def drain() -> None:
    """Wait until everything is written, at most LAST_SECONDS."""
    if stream := stand_in():
        stream.drain(LAST_SECONDS)


def lines_dropped() -> int:
    """Return the number of lost lines of this process's log."""
    stream = stand_in()
    return stream.dropped if stream else 0
