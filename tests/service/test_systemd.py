"""What systemd is told, byte for byte, over real sockets; and that nothing there can hold the service up."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
import trio

from notifierd.service.systemd import Notifier

MESSAGES: dict[str, tuple[Callable[[Notifier], None], bytes]] = {
    "ready": (Notifier.ready, b"READY=1"),
    "starting": (lambda it: it.starting(30.0), b"EXTEND_TIMEOUT_USEC=30000000"),
    "stopping": (lambda it: it.stopping(51.5), b"STOPPING=1\nEXTEND_TIMEOUT_USEC=51500000"),
    "status": (
        lambda it: it.status("running 2026-11-24: 3 of 4 offices"),
        b"STATUS=running 2026-11-24: 3 of 4 offices",
    ),
    "status in Japanese": (lambda it: it.status("休止中"), b"STATUS=" + "休止中".encode()),
    "status of two lines": (lambda it: it.status("one\nREADY=1\r\n two"), b"STATUS=one READY=1 two"),
    "status that is no Unicode": (lambda it: it.status("path \udc9f"), b"STATUS=path ?"),
    "alive": (Notifier.alive, b"WATCHDOG=1"),
}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A socket that is listened on, and what NOTIFY_SOCKET calls it."""
    with TemporaryDirectory(prefix="notify-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        address = f"@{uuid4()}" if request.param == "abstract" else f"{folder}/notify"
        bound.bind(address.replace("@", "\0"))
        yield bound, address


def notifier(address: str, **environ: str) -> Notifier:
    return Notifier.of({"NOTIFY_SOCKET": address, **environ})


def heard(bound: socket.socket) -> list[bytes]:
    """All that lies there."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(bound.recv(4096, socket.MSG_DONTWAIT))
    return found


def say_all(to: Notifier) -> None:
    """Send one of each message."""
    for send, _ in MESSAGES.values():
        send(to)
    to.reloading()


async def returns(work: Callable[[], None]) -> None:
    """Do *work*, which must not wait for anybody."""
    with trio.fail_after(30.0):
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_datagram_of_these_bytes(message: str, manager: tuple[socket.socket, str]):
    send, expected = MESSAGES[message]
    send(notifier(manager[1]))
    assert heard(manager[0]) == [expected]


def test_a_reload_carries_the_moment_of_the_clock_that_systemd_reads(manager: tuple[socket.socket, str]):
    """CLOCK_MONOTONIC in microseconds: sd_notify(3), MONOTONIC_USEC."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier(manager[1]).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = heard(manager[0])
    said = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", message)
    assert said
    assert before <= int(said[1]) <= after


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, 0.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({"WATCHDOG_USEC": "30s"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_is_kept_only_if_it_is_for_this_process(environ: dict[str, str], seconds: float):
    assert notifier("@somewhere", **environ).watchdog == seconds


def test_without_a_socket_all_of_it_is_silent():
    silent = Notifier.of({"WATCHDOG_USEC": "30000000"})
    assert (silent.address, silent.watchdog) == ("", 0.0)
    say_all(silent)


async def test_a_manager_that_does_not_read_holds_nothing_up(manager: tuple[socket.socket, str]):
    """What finds no room is dropped; once there is room again, messages arrive again."""
    bound, address = manager
    to, sent = notifier(address), 5000

    def fill() -> None:
        for _ in range(sent):
            to.alive()

    await returns(fill)
    kept = heard(bound)
    assert 0 < len(kept) < sent
    assert set(kept) == {b"WATCHDOG=1"}
    to.ready()
    assert heard(bound) == [b"READY=1"]


async def test_a_manager_that_is_gone_does_no_harm(manager: tuple[socket.socket, str]):
    bound, address = manager
    bound.close()  # a path stays where it was, and refuses
    await returns(partial(say_all, notifier(address)))
    if not address.startswith("@"):
        Path(address).unlink()
        await returns(partial(say_all, notifier(address)))


@pytest.mark.parametrize("address", ["/no/such/folder/notify", "/dev/null", "relative", "@", "/" + "x" * 200])
async def test_an_address_that_leads_nowhere_does_no_harm(address: str):
    await returns(partial(say_all, notifier(address)))
