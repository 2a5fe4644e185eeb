"""A door on loopback in front of PostgreSQL's socket, which a test can make slow, silent or shut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from attrs import define, field

from tests.support.loopback import serving


@define(eq=False)
class _Passage:
    """One connection through the door."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    speaking: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Door:
    """A way to a Unix socket.

    Attributes:
        port: where it is, on 127.0.0.1.
        delay: seconds that whatever passes is late, each way.
        last_words: a client that has said all of this, in turn, is hushed; the last of it does not pass.
    """

    _path: Path
    port: int = 0
    delay: float = 0.0
    last_words: tuple[bytes, ...] = ()
    is_hushed: bool = False
    _is_shut: bool = False
    _passages: set[_Passage] = field(factory=set)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected, and everything that anybody said has been passed on."""
        return not self._passages

    def shut(self) -> None:
        """Cut every connection, and take no more."""
        self._is_shut = True
        for passage in self._passages:
            passage.scope.cancel()

    def open(self) -> None:
        """Take connections again."""
        self._is_shut = False

    def hush(self) -> None:
        """Let nothing pass any more, as a pulled cable would: no connection is closed, and new ones stand."""
        self.is_hushed = True
        self.forget()

    def speak(self) -> None:
        """Let everything pass again, first what was held up."""
        self.is_hushed, self.last_words = False, ()
        for passage in self._passages:
            passage.speaking.set()

    def forget(self) -> None:
        """Let nothing pass over the connections there are, as a router that forgot them would; new ones are fine."""
        for passage in self._passages:
            passage.speaking = trio.Event()

    async def through(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        if self._is_shut:
            return
        passage = _Passage()
        if not self.is_hushed:
            passage.speaking.set()
        self._passages.add(passage)
        with passage.scope:
            async with await trio.open_unix_socket(str(self._path)) as server, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, client, server, passage)
                nursery.start_soon(self._pass_on, server, client, passage)
        self._passages.discard(passage)

    async def _pass_on(self, source: trio.SocketStream, to: trio.SocketStream, passage: _Passage) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some():
                await trio.sleep(self.delay)
                if self.last_words and self.last_words[0] in data:
                    self.last_words = self.last_words[1:]
                    if not self.last_words:
                        self.hush()
                await passage.speaking.wait()
                await to.send_all(data)
        passage.scope.cancel()


@asynccontextmanager
async def a_door(path: Path) -> AsyncIterator[Door]:
    """Put a door in front of the Unix socket at *path*."""
    door = Door(path)
    async with serving(door.through) as door.port:
        yield door
