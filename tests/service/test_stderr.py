"""The stream in stderr's place: what it keeps, what it drops, and that neither costs whoever writes anything."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest
from attrs import define, field

from notifierd.service.stderr import _PIECE, Patient

SOON = 30.0
"""Seconds for what takes a moment."""


@define
class Pipe:
    """A pipe that the stream writes to, and somebody reads or not.

    Attributes:
        told: how many lines the stream says were lost, each time that it says so.
    """

    stream: Patient
    reader: int
    told: "SimpleQueue[int]" = field(factory=SimpleQueue)

    def read(self) -> bytes:
        """What lies there."""
        found = b""
        with suppress(BlockingIOError):
            while data := os.read(self.reader, 65_536):
                found += data
        return found

    def stuff(self) -> int:
        """Write until the pipe is full; how much that took."""
        os.set_blocking(self.stream.fileno(), False)
        size = 0
        with suppress(BlockingIOError):
            while True:
                size += os.write(self.stream.fileno(), b"\n")
        os.set_blocking(self.stream.fileno(), True)
        return size


@pytest.fixture(params=[True, False], ids=["blocking", "nonblocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    """A stream of room for 8,000 bytes; its descriptor may be one that somebody made non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    stream = Patient(writer, most_waiting=8_000)
    made = Pipe(stream, reader)
    stream.again = made.told.put
    made.stuff()
    made.read()
    os.set_blocking(writer, request.param)
    yield made
    made.read()
    stream.drain(SOON)
    os.close(reader)
    os.close(writer)


def test_lines_are_written_in_order(pipe: Pipe):
    for number in range(100):
        pipe.stream.write(f"{number} 青木\n")
    pipe.stream.drain(SOON)
    assert pipe.read().decode() == "".join(f"{number} 青木\n" for number in range(100))
    assert pipe.stream.dropped == 0


def test_what_the_encoding_lacks_is_written_as_an_escape(pipe: Pipe):
    pipe.stream.write("\udc9f\n")
    pipe.stream.drain(SOON)
    assert pipe.read() == b"\\udc9f\n"


def test_what_finds_no_room_is_dropped_and_told_when_lines_go_again(pipe: Pipe):
    """Lines of 100 bytes, of which 80 may wait; one write of theirs is under way besides."""
    blocking = os.get_blocking(pipe.stream.fileno())
    pipe.stuff()
    os.set_blocking(pipe.stream.fileno(), blocking)
    for number in range(300):
        pipe.stream.write(f"{number:099}\n")
    dropped = pipe.stream.dropped
    assert 300 - 80 - _PIECE // 100 <= dropped <= 300 - 80
    written = b""
    while pipe.told.empty():
        written += pipe.read()
    assert pipe.told.get(timeout=SOON) == dropped
    written += pipe.read()
    kept = [int(line) for line in written.split()]
    assert len(kept) == 300 - dropped
    assert kept == sorted(set(kept))
    pipe.stream.write("after\n")
    pipe.stream.drain(SOON)
    assert pipe.read() == b"after\n"
    assert (pipe.stream.dropped, pipe.told.empty()) == (dropped, True)


def test_the_end_waits_no_longer_than_it_may_for_a_reader(pipe: Pipe):
    blocking = os.get_blocking(pipe.stream.fileno())
    pipe.stuff()
    os.set_blocking(pipe.stream.fileno(), blocking)
    pipe.stream.write("unread\n")
    pipe.stream.drain(0.01)
    assert pipe.stream.dropped == 0
    assert b"unread" not in pipe.read() or not pipe.stream._waiting  # noqa: SLF001 - it was never torn from the queue


def test_lines_of_two_processes_are_never_mixed(pipe: Pipe):
    """Each has a stream of its own to one pipe; a write of several lines is no longer than what a pipe keeps whole."""
    other = Patient(os.dup(pipe.stream.fileno()))
    reading: list[bytes] = []

    def read() -> None:
        while b"".join(reading).count(b"\n") < 2_000:
            reading.append(pipe.read())

    reader = Thread(target=read)
    reader.start()
    for number in range(1_000):
        for stream, letter in ((pipe.stream, "a"), (other, "b")):
            stream.write(letter * (1 + 7 * number % 300) + "\n")
            stream.drain(SOON if number % 50 == 0 else 0.0)
            while stream._size > 4_000:  # noqa: SLF001 - nothing may be dropped here
                stream.drain(SOON)
    pipe.stream.drain(SOON)
    other.drain(SOON)
    reader.join(SOON)
    os.close(other.fileno())
    lines = b"".join(reading).decode().splitlines()
    assert all(re.fullmatch("a+|b+", line) for line in lines)
    assert len(lines) == 2_000


def test_what_a_descriptor_refuses_is_dropped_at_once():
    with Path("/dev/full").open("wb") as full:
        stream = Patient(full.fileno())
        for _ in range(10):
            stream.write("lost\n")
        stream.write("bars without an end")
        stream.drain(SOON)
        assert stream.dropped == 11
        stream.drain(SOON)


def test_a_closed_descriptor_raises_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    stream = Patient(writer)
    stream.write("to nobody\n")
    stream.drain(SOON)
    os.close(writer)
    stream.write("nowhere\n")
    stream.drain(SOON)
    assert stream.dropped == 2


def test_a_line_that_a_full_disk_cut_short_does_not_swallow_the_next_one(monkeypatch: pytest.MonkeyPatch):
    """A disk that has room for three bytes, then for none, then again."""
    written: list[bytes] = []
    room = [3, 0, 0, 1000]

    def write(_descriptor: int, data: bytes) -> int:
        if not (most := room.pop(0) if len(room) > 1 else room[0]):
            raise OSError(errno.ENOSPC, "full")
        written.append(bytes(data[:most]))
        return len(written[-1])

    monkeypatch.setattr("notifierd.service.stderr.os.write", write)
    told: SimpleQueue[int] = SimpleQueue()
    stream = Patient(-1)
    stream.again = told.put
    for line in ("first\n", "second\n", "third\n"):
        stream.write(line)
        stream.drain(SOON)
    assert b"".join(written) == b"fir\nthird\n"
    assert told.get(timeout=SOON) == stream.dropped == 2


def test_where_no_thread_can_be_had_a_line_is_dropped(monkeypatch: pytest.MonkeyPatch):
    def start(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", start)
    stream = Patient(-1)
    assert stream.write("lost\n") == 5
    stream.drain(0.0)
    assert stream.dropped == 1
