"""Which of a host's addresses is connected to, when, and what becomes of the others (RFC 8305)."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpcore
import pytest
import trio
from attrs import define, field

from notifierd.send._network import (
    ATTEMPT_SECONDS,
    Network,
    PublicNetwork,
    has_arrived,
    interleaved,
    race,
    start_tls,
)
from notifierd.send.route.trust import trusted
from tests.support.certificates import certificate
from tests.support.loopback import receive, serving

V4, V6 = ("17.0.0.1", "17.0.0.2", "17.0.0.3"), ("2620:149::1", "2620:149::2")
NEVER = 1e9


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), []),
        (V4, [*V4]),
        ((*V6, *V4), [V6[0], V4[0], V6[1], V4[1], V4[2]]),
        ((*V4, *V6), [V4[0], V6[0], V4[1], V6[1], V4[2]]),
    ],
)
def test_families_take_turns_and_the_preferred_one_begins(given: tuple[str, ...], expected: list[str]):
    assert interleaved(given) == expected


class Wire(httpcore.AsyncMockStream):
    def __init__(self, address: str) -> None:
        super().__init__([])
        self.address, self.closed = address, False

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@define
class Wires:
    """Addresses that take so many seconds to connect to; those that refuse are named by *refusing*."""

    seconds: Mapping[str, float]
    refusing: tuple[str, ...] = ()
    tried: list[tuple[str, float]] = field(factory=list)
    made: list[Wire] = field(factory=list)

    async def connect(self, address: str) -> httpcore.AsyncNetworkStream:
        self.tried.append((address, trio.current_time()))
        if seconds := self.seconds.get(address, 0.0):
            await trio.sleep(seconds)
        if address in self.refusing:
            raise httpcore.ConnectError(address)
        self.made.append(Wire(address))
        return self.made[-1]

    @property
    def open(self) -> list[str]:
        return [wire.address for wire in self.made if not wire.closed]


async def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(autojump_clock):
    """Broken IPv6: its packets get lost."""
    wires = Wires(dict.fromkeys(V6, NEVER))
    won = await race(interleaved((*V6, *V4)), wires.connect)
    assert isinstance(won, Wire)
    assert (won.address, trio.current_time()) == (V4[0], ATTEMPT_SECONDS)
    assert wires.tried == [(V6[0], 0.0), (V4[0], ATTEMPT_SECONDS)]
    assert wires.open == [V4[0]]


async def test_one_that_refuses_costs_nothing(autojump_clock):
    wires = Wires({}, refusing=V6)
    await race([*V6, *V4], wires.connect)
    assert wires.tried == [(V6[0], 0.0), (V6[1], 0.0), (V4[0], 0.0)]


async def test_the_first_that_answers_wins_though_it_was_tried_before_others(autojump_clock):
    wires = Wires({V4[0]: 0.6, V4[1]: NEVER, V4[2]: NEVER})
    won = await race(V4, wires.connect)
    assert isinstance(won, Wire)
    assert (won.address, trio.current_time()) == (V4[0], 0.6)
    assert wires.tried == [(address, n * ATTEMPT_SECONDS) for n, address in enumerate(V4)]


async def test_of_two_that_answer_at_the_same_moment_one_is_closed(autojump_clock):
    wires, moment, won = Wires({}), trio.Event(), []

    async def connect(address: str) -> httpcore.AsyncNetworkStream:
        await moment.wait()
        return await wires.connect(address)

    async def take_first() -> None:
        won.append(await race(V4, connect))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_first)
        await trio.sleep(1.0)
        moment.set()
    (stream,) = won
    assert isinstance(stream, Wire)
    assert wires.open == [stream.address]


async def test_when_all_refuse_that_is_an_error_and_no_group(autojump_clock):
    with pytest.raises(httpcore.ConnectError, match=V4[2]):
        await race(V4, Wires({V4[2]: 1.0}, refusing=V4).connect)
    with pytest.raises(httpcore.ConnectError, match="no address"):
        await race([], Wires({}).connect)


@pytest.mark.parametrize("after", [0.1, 0.25, 0.3, 0.5, 0.75])
async def test_whoever_is_cancelled_leaves_no_connection_open(after: float, autojump_clock):
    """Also at the moment at which one is made."""
    wires, won = Wires({V4[0]: 0.75, V4[1]: 0.25, V4[2]: 0.25}), None
    with trio.move_on_after(after):
        won = await race(V4, wires.connect)
    assert wires.open == ([] if won is None else [V4[1]])


# Real sockets --------------------------------------------------------------------------------------------------------


class Loopback(PublicNetwork):
    """The guarded network, to which these addresses are public."""

    def permits(self, address: str) -> bool:
        return address.startswith("127.")


class Names(trio.abc.HostnameResolver):
    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """An address that answers no more: its queue of connections is full, and nobody takes one."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((address, port))
        yield


async def hold(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def test_a_host_with_a_silent_address_is_connected_to_at_the_next_one():
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.2", "127.0.0.1"))
    async with serving(hold) as port:
        with silent("127.0.0.2", port):
            stream = await Loopback().connect_tcp("push.example", port, timeout=30.0)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
            await stream.aclose()


async def test_a_host_whose_addresses_are_all_silent_is_given_up_in_time():
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.2", "127.0.0.3"))
    async with serving(hold) as port:
        with silent("127.0.0.2", port), silent("127.0.0.3", port), pytest.raises(httpcore.ConnectTimeout):
            await Loopback().connect_tcp("push.example", port, timeout=0.6)


async def test_a_name_that_the_guard_does_not_know_is_left_to_trio():
    async with serving(hold) as port:
        stream = await Network().connect_tcp("localhost", port, timeout=30.0)
        await stream.aclose()


@define
class Corked(trio.abc.Stream):
    """A connection on which what is sent is held back, to leave as one segment."""

    _stream: trio.SocketStream
    held: bytearray | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.held is None:
            await self._stream.send_all(data)
        else:
            self.held += data

    async def let_go(self) -> None:
        held, self.held = self.held or bytearray(), None
        await self._stream.send_all(held)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """The connection stands when TLS has ended."""


@pytest.mark.parametrize("surplus", [b"more", b""], ids=["data", "the end of TLS"])
async def test_a_record_that_came_with_the_one_that_was_read_has_arrived(surplus: bytes, tmp_path: Path):
    """The socket has nothing any more: TLS has it."""
    shown = certificate(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)

    async def answer(stream: trio.SocketStream) -> None:
        corked = Corked(stream)
        secure = trio.SSLStream(corked, context, server_side=True)
        await secure.receive_some()
        await secure.send_all(b"alone")
        await secure.receive_some()
        corked.held = bytearray()
        await secure.send_all(b"first")
        await (secure.send_all(surplus) if surplus else secure.aclose())
        await corked.let_go()
        await receive(stream)

    async with serving(answer) as port:
        plain = await Network().connect_tcp("127.0.0.1", port, timeout=30.0)
        stream = await start_tls(plain, trusted(str(shown), http=False), "127.0.0.1", 30.0)
        await stream.write(b"?")
        assert await stream.read(65536) == b"alone"
        assert not has_arrived(stream)
        await stream.write(b"?")
        assert await stream.read(65536) == b"first"
        assert not stream.get_extra_info("is_readable")
        assert has_arrived(stream)
        await stream.aclose()
