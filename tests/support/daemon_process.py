"""``notifierd run`` as systemd runs it: a process of its own that is told things by signals, and tells them over a
socket and by its log."""

import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import trio
from attrs import define, field

from tests.support.faults import PERSONAL, Watched, until
from tests.support.processes import PATIENCE, SECRETS, Place, running

_NOW = datetime.now(UTC)

TODAY: date = _NOW.date()
"""The daemon's business day, as its window is kept in a zone where it is noon: no test meets midnight."""

_NOON = {"timezone": f"Etc/GMT{_NOW.hour - 12:+d}", "holidays": "", "closed_weekdays": [], "open_dates": []}

OPEN: Mapping[str, object] = {**_NOON, "at": "00:00:00", "until": "23:59:59"}
"""A [window] that is open now, and for eleven hours more."""

AHEAD: Mapping[str, object] = {**_NOON, "at": "23:00:00", "until": "23:59:59"}
"""One that opens in ten hours."""

PAST: Mapping[str, object] = {**_NOON, "at": "01:00:00", "until": "02:00:00"}
"""One that ended ten hours ago."""


@define
class Service(Watched):
    """A daemon that is going on.

    Attributes:
        told: what systemd was told, datagram by datagram, and when by time.monotonic().
    """

    told: list[tuple[float, str]] = field(factory=list)

    @property
    def statuses(self) -> list[str]:
        """Each status, in order."""
        return [text.removeprefix("STATUS=") for _, text in self.told if text.startswith("STATUS=")]

    def times(self, start: str) -> list[float]:
        """When something was told that starts so."""
        return [at for at, text in self.told if text.startswith(start)]

    def heard(self, start: str, times: int = 1) -> bool:
        """Whether something that starts so was told, so often at least."""
        return len(self.times(start)) >= times

    def silent_for(self, seconds: float, start: str) -> bool:
        """Whether nothing that starts so was told for so long."""
        return time.monotonic() - self.times(start)[-1] > seconds

    def shows(self, words: str) -> bool:
        """Whether the status of the moment has these *words*."""
        return words in (self.statuses or [""])[-1]

    @property
    def events(self) -> set[str]:
        """What the log told of."""
        return {line["event"] for line in self.lines}

    def count(self, event: str) -> int:
        """How many lines tell of *event*."""
        return sum(line["event"] == event for line in self.lines)

    def tell(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    @property
    def url(self) -> str:
        """The page's origin, where it last listened; nothing before it did."""
        addresses = [line["addresses"][0] for line in self.lines if line["event"] == "listening"]
        return f"http://{addresses[-1]}" if addresses else ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask the page for *path*."""
        await until(lambda: bool(self.url) or self.process.poll() is not None, "the page")
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE) as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def hear(self, manager: trio.socket.SocketType) -> None:
        """Take in what systemd is told."""
        while True:
            text = (await manager.recv(65536)).decode()
            self.told.append((time.monotonic(), text))

    async def ready(self) -> None:
        """Wait until it says that it is up."""
        await until(lambda: self.heard("READY=1") or self.process.poll() is not None, "READY=1")
        assert self.heard("READY=1"), self.lines

    async def ended(self, code: int) -> list[str]:
        """Wait for the end, which must be *code*; all that it ever said is fit to be seen. Return stderr's lines."""
        done = await self.over()
        for forbidden in (*SECRETS, *PERSONAL):
            assert forbidden not in "\n".join(text for _, text in self.told)
        assert (done.code, done.out) == (code, ""), done.err
        return done.err.splitlines()


@asynccontextmanager
async def running_service(place: Place, *, watchdog: float = 0.0, source: Path | None = None) -> AsyncIterator[Service]:
    """Start ``notifierd run`` in the folder of *place*, with a watchdog of so many seconds; 0 for none.

    Args:
        source: where the package is that is run, if not this one.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # to an abstract name of the kernel's choice: unix(7), autobind
        manager.setblocking(False)
        name: bytes = manager.getsockname()
        environ = {"NOTIFY_SOCKET": f"@{name[1:].decode()}"}
        if watchdog:
            environ["WATCHDOG_USEC"] = f"{watchdog * 1e6:.0f}"
        if source:
            environ["PYTHONPATH"] = str(source)
        with running("run", cwd=place.folder, environ=environ) as process:
            service = Service(place, process)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.listen)
                nursery.start_soon(service.hear, trio.socket.from_stdlib_socket(manager))
                yield service
                nursery.cancel_scope.cancel()
