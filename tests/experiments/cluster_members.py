"""A process that shares a day, behind a door to PostgreSQL of its own: cluster.py strikes it."""

import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve

from tests.support.daemon_process import Service, running_service
from tests.support.faults import Watched, until
from tests.support.processes import PASSWORD, Place, running
from tests.support.proxy import Door, a_door

SOCKET = ".s.PGSQL.5432"
ONCE_SECONDS = "150"


@define(eq=False)
class Member:
    """A daemon, or a ``notifierd once``.

    Attributes:
        is_well: whether it is neither frozen nor cut off.
    """

    watched: Watched
    door: Door
    _dsn: str
    is_well: bool = True

    @property
    def process(self) -> "subprocess.Popen[str]":
        return self.watched.process

    @property
    def pid(self) -> int:
        return self.process.pid

    def configure(self, **tables: Mapping[str, Any]) -> None:
        """Write its configuration."""
        self.watched.place.configure(**{**tables, "database": {"dsn": self._dsn}})

    @asynccontextmanager
    async def troubled(self, how: str) -> AsyncIterator[None]:
        """Have it frozen, or cut off from the database, during the block."""
        if how == "freeze":
            self.process.send_signal(signal.SIGSTOP)
        elif how == "silence":
            self.door.hush()
        else:
            self.door.shut()
        try:
            yield
        finally:
            if how == "freeze":
                self.process.send_signal(signal.SIGCONT)
            elif how == "silence":
                self.door.speak()
            else:
                self.door.open()

    async def asleep(self) -> None:
        """Wait until a daemon is up, and sleeps."""
        assert isinstance(self.watched, Service)
        service = self.watched
        await until(lambda: service.shows("sleeping until"), "a daemon to sleep")

    async def done(self) -> None:
        """Wait until it sees the day done, and has ended well."""
        if isinstance(self.watched, Service):
            service = self.watched
            await until(lambda: service.shows("sleeping until") or service.process.poll() is not None, "a day's end")
            self.process.send_signal(signal.SIGTERM)
            await service.ended(0)
        else:
            done = await self.watched.over()
            assert done.code in {0, 1}, done.err  # 1: some messages reached nobody

    async def over(self) -> None:
        """Wait for the end of one that was told to end, or was killed."""
        await self.watched.over()


@asynccontextmanager
async def running_member(
    place: Place, folder: Path, *, daemon: bool, tables: Mapping[str, Mapping[str, Any]]
) -> AsyncIterator[Member]:
    """Start one whose configuration, with these *tables*, is in a *folder* of its own."""
    folder.mkdir(parents=True)
    own = evolve(place, folder=folder)
    async with a_door(place.cluster.socket_dir / SOCKET) as door:
        dsn = f"postgresql://{place.role}:{PASSWORD}@127.0.0.1:{door.port}/{place.database}"
        own.configure(**{**tables, "database": {"dsn": dsn}})
        if daemon:
            async with running_service(own) as service:
                yield Member(service, door, dsn)
            return
        with running("once", "--for", ONCE_SECONDS, "--json", cwd=folder) as process:
            watched = Watched(own, process)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watched.listen)
                yield Member(watched, door, dsn)
                nursery.cancel_scope.cancel()
