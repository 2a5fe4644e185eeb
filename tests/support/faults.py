"""What makes faults from below: providers that misbehave, a database in trouble; and a run watched meanwhile."""

import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx
import trio
from attrs import define, field, frozen

from notifierd.demo.postgres import Cluster
from tests.support.loopback import Handler, read_request, receive, serving
from tests.support.processes import DOMAIN, LEDGER, PATIENCE, SECRETS, Done, Place, run

PROVIDER_TEXT = f"the provider knows someone@{DOMAIN}"
"""What a provider says beside its status: it may quote anybody, so nobody may ever see it."""

PERSONAL = (f"@{DOMAIN}", "職員", "利用者", "token-", "the provider knows")
"""Parts of addresses, of every person's name, of endpoints and of a provider's text."""

# ------------------------------------------------------------------------------------ a run that is watched


@frozen
class Seen:
    """What a run left behind.

    Attributes:
        lines: the log's, and those for people (as the event "for people").
        ledger: how many deliveries are how: as "sent" or, with its reason, "expired because of window_ended"; those of
            pushes begin with "push".
        accepted: for how many mails of each state the provider accepted how many messages, as "sent, 1".
        spent: attempts that were used up.
        calls: when the provider answered which status, since the run began; None: it did not.
        seconds: how long the run took.
    """

    code: int
    report: dict[str, Any]
    lines: list[dict[str, Any]]
    ledger: dict[str, int]
    accepted: dict[str, int]
    spent: int
    calls: list[tuple[float, int | None]]
    seconds: float

    def saying(self, event: str, fault: str) -> list[dict[str, Any]]:
        """Return the lines that tell of *event* and name the *fault*; both are regular expressions."""
        return [
            line for line in self.lines if re.fullmatch(event, line["event"]) and re.search(fault, json.dumps(line))
        ]


@define
class Watched:
    """A ``notifierd`` that is going on, with what it has said so far."""

    place: Place
    process: "subprocess.Popen[str]"
    _began: float = field(factory=trio.current_time)
    _out: bytearray = field(factory=bytearray)
    _err: bytearray = field(factory=bytearray)
    _over: trio.Event = field(factory=trio.Event)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines on stderr so far."""
        whole = bytes(self._err).rpartition(b"\n")[0].decode().splitlines()
        return [json.loads(line) if line.startswith("{") else {"event": "for people", "text": line} for line in whole]

    def said(self, event: str) -> bool:
        """Whether a line tells of *event*."""
        return any(line["event"] == event for line in self.lines)

    async def listen(self) -> None:
        """Take in what the process says, to its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read, self.process.stdout, self._out)
            nursery.start_soon(_read, self.process.stderr, self._err)
        self._over.set()

    async def over(self) -> Done:
        """Wait for the end; neither the process nor the ledger shows a traceback, a secret or anything personal."""
        with trio.fail_after(2 * PATIENCE):
            await self._over.wait()
            code = await trio.to_thread.run_sync(self.process.wait)
        seconds = trio.current_time() - self._began
        out, err = self._out.decode(), self._err.decode()
        tables = (*(f"notifierd.{name}" for name in LEDGER), "audit_logs")
        written = self.place.sql(";".join(f"select t::text from {name} t" for name in tables))
        for forbidden in ("Traceback", *SECRETS, *PERSONAL):
            assert forbidden not in out + err + written, out + err
        return Done(code, out, err, seconds)


@define
class Run(Watched):
    """A ``notifierd once`` that is going on."""

    _since: float = field(factory=time.time)

    async def ended(self) -> Seen:
        """Wait for the end."""
        done = await self.over()
        return Seen(done.code, done.report, self.lines, **_look(self.place, self._since), seconds=done.seconds)


async def _read(pipe: IO[str] | None, into: bytearray) -> None:
    assert pipe is not None
    while True:
        await trio.lowlevel.wait_readable(pipe.fileno())
        data = os.read(pipe.fileno(), 65536)
        if not data:
            return
        into += data


def _look(place: Place, since: float) -> dict[str, Any]:
    """Return what the ledger and the provider know of the day; of calls, those *since* then by time.time()."""
    query = "select id, channel, state, coalesce(' because of ' || reason, ''), attempts from notifierd.deliveries"
    rows = [line.split("|") for line in place.sql(query).splitlines()]
    times = Counter(mail.delivery_id for mail in place.mails())
    calls = httpx.get(f"{place.servers.mail_url}/_received", timeout=PATIENCE).json()["calls"]
    return {
        "ledger": Counter(f"push {state}{why}" if on == "push" else state + why for _, on, state, why, _ in rows),
        "accepted": Counter(f"{state}, {times[key]}" for key, on, state, *_ in rows if on == "email"),
        "spent": sum(int(attempts) for *_, attempts in rows),
        "calls": [(call["time"], call["status"]) for call in calls if call["time"] >= since],
    }


@asynccontextmanager
async def running_once(place: Place, *args: str, keyless: bool = False) -> AsyncIterator[Run]:
    """Start ``notifierd once``, and take in what it says."""
    with place.running_once(*args, keyless=keyless) as process:
        run = Run(place, process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.listen)
            yield run
            nursery.cancel_scope.cancel()


async def once(place: Place, *args: str) -> Seen:
    """Run ``notifierd once`` to its end."""
    async with running_once(place, *args) as run:
        return await run.ended()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for *condition*, which may take its time: it is asked in a thread."""
    deadline = trio.current_time() + PATIENCE
    while not await trio.to_thread.run_sync(condition):
        assert trio.current_time() < deadline, f"waited in vain for {what}"
        await trio.sleep(0.05)


# ------------------------------------------------------------------------------------ providers that misbehave


async def hanging(stream: trio.SocketStream) -> None:
    """Never answer."""
    await trio.sleep_forever()


async def cutting(stream: trio.SocketStream) -> None:
    """Close without an answer."""


def saying(answer: bytes) -> Handler:
    """Say *answer*, and close."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)

    return handler


def dripping(head: bytes, drop: bytes, every: float) -> Handler:
    """Say *head*, then *drop* again and again, *every* so many seconds, without an end."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(head)
        while True:
            await trio.sleep(every)
            await stream.send_all(drop)

    return handler


def response(status: str, body: str, kind: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()


def reading_first(then: Handler) -> Handler:
    """Take the request in, and do *then*; whatever that is, it ends when the client hangs up."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await _unless_hung_up(stream, then)

    return handler


def accepting_first(url: str, then: Handler) -> Handler:
    """Have the server at *url* carry the request out, and do *then* in place of its answer."""

    async def handler(stream: trio.SocketStream) -> None:
        head, body = await read_request(stream)
        async with await _connected(url) as server:
            await server.send_all(head + b"\r\n\r\n" + body)
            await read_request(server)  # of the same form as a request: a head, and a body of the length it says
        await _unless_hung_up(stream, then)

    return handler


def for_a_while(times: int, trouble: Handler, then: Handler) -> Handler:
    """Do *trouble* with so many connections, *then* with all others."""
    left = [trouble] * times

    async def handler(stream: trio.SocketStream) -> None:
        await (left.pop() if left else then)(stream)

    return handler


def leading_to(url: str, first: bytes = b"") -> Handler:
    """Pass *first* and everything after it on to the server at *url*, and its answers back."""

    async def pump(source: trio.SocketStream, to: trio.SocketStream, end: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some():
                await to.send_all(data)
        end.cancel()

    async def handler(stream: trio.SocketStream) -> None:
        async with await _connected(url) as server, trio.open_nursery() as nursery:
            await server.send_all(first)
            nursery.start_soon(pump, stream, server, nursery.cancel_scope)
            nursery.start_soon(pump, server, stream, nursery.cancel_scope)

    return handler


@define
class Holding:
    """A provider that answers nobody until it is released.

    Attributes:
        then: makes the handler that goes on with a connection, of the request that came in over it.
        waiting: calls that wait for it now.
        most: how many did at once.
    """

    then: Callable[[bytes], Handler]
    waiting: int = 0
    most: int = 0
    released: trio.Event = field(factory=trio.Event)

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        head, body = await read_request(stream)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await _unless_hung_up(stream, self._wait)
        self.waiting -= 1
        if self.released.is_set():
            await self.then(head + b"\r\n\r\n" + body)(stream)

    async def _wait(self, stream: trio.SocketStream) -> None:
        await self.released.wait()


@asynccontextmanager
async def holding(url: str) -> AsyncIterator[tuple[Holding, str]]:
    """Stand in front of the server at *url*, and hold all calls up until released; yield where that is, too."""
    held = Holding(partial(leading_to, url))
    async with serving(held.handle) as port:
        yield held, f"http://127.0.0.1:{port}"


@define
class Turnstile:
    """A way to the server at *url* that counts the calls that are through at once.

    Attributes:
        instead: what is answered to a request with this body in the server's place; nothing if that is empty.
        inside: calls that were made and not answered yet.
        most: how many those were at once.
        passed: how many were answered.
    """

    url: str
    instead: Callable[[bytes], bytes] = lambda _: b""
    inside: int = 0
    most: int = 0
    passed: int = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection, call by call."""
        async with await _connected(self.url) as server:
            while True:
                head, body = await read_request(stream)
                if answer := self.instead(body):
                    await stream.send_all(answer)
                    return
                self.inside += 1
                self.most = max(self.most, self.inside)
                try:
                    await server.send_all(head + b"\r\n\r\n" + body)
                    head, body = await read_request(server)  # an answer has the same form
                finally:
                    self.inside -= 1
                    self.passed += 1
                await stream.send_all(head + b"\r\n\r\n" + body)


@asynccontextmanager
async def counting(url: str) -> AsyncIterator[tuple[Turnstile, str]]:
    """Stand in front of the server at *url*, and count; yield where that is, too."""
    turnstile = Turnstile(url)
    async with serving(turnstile.handle) as port:
        yield turnstile, f"http://127.0.0.1:{port}"


async def _unless_hung_up(stream: trio.SocketStream, then: Handler) -> None:
    async with trio.open_nursery() as nursery:

        async def hung_up() -> None:
            with suppress(EOFError, trio.BrokenResourceError):
                while True:
                    await receive(stream)
            nursery.cancel_scope.cancel()

        nursery.start_soon(hung_up)
        with suppress(trio.BrokenResourceError):
            await then(stream)
        nursery.cancel_scope.cancel()


async def _connected(url: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))


@contextmanager
def deaf_port() -> Iterator[str]:
    """A port of ours that nobody listens on, so that it refuses connections; as a URL."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# ------------------------------------------------------------------------------------ a database in trouble


@contextmanager
def down(cluster: Cluster, end: Callable[[Cluster], None]) -> Iterator[None]:
    """*End* the server, and let it be down for the length of the block."""
    end(cluster)
    try:
        yield
    finally:
        cluster.start()


def cut_connections(place: Place) -> None:
    """End every connection of the daemon's, as an administrator does."""
    place.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where {_of_the_daemon(place)}")


def waiting_for_a_lock(place: Place) -> bool:
    """Whether a statement of the daemon's is held up by somebody's lock."""
    held_up = f"{_of_the_daemon(place)} and wait_event_type = 'Lock'"
    return place.sql(f"select count(*) from pg_stat_activity where {held_up}") != "0"


def _of_the_daemon(place: Place) -> str:
    return f"usename = '{place.role}' and datname = '{place.database}'"  # other places have the same role


@contextmanager
def locking(place: Place, statement: str) -> Iterator[None]:
    """Be another program that holds the locks of *statement* for the length of the block."""
    command = [str(place.cluster.bin_dir / "psql"), "-XqAt", "-d", place.cluster.dsn(place.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as psql:
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write(f"begin;\n{statement};\nselect 'locked';\n")
        psql.stdin.flush()
        for line in psql.stdout:
            if line == "locked\n":
                break
        yield
        psql.stdin.close()  # which ends it, and rolls back


@contextmanager
def no_connection_left(place: Place) -> Iterator[None]:
    """Let the server have no room for another connection to the database: SQLSTATE 53300."""
    limit = f"alter database {place.database} connection limit"  # which superusers pass
    place.sql(f"{limit} 0")
    try:
        yield
    finally:
        place.sql(f"{limit} -1")


@contextmanager
def full_disk(place: Place, table: str) -> Iterator[None]:
    """Let *table*, which must be empty and untouched so far, lie where there is no room: each write to it is ENOSPC.

    ``/dev/full`` is the kernel's own full disk; a small file system would need root.
    """
    where = Path(place.sql("show data_directory")) / place.sql(f"select pg_relation_filepath('{table}')")
    kept = where.with_name(f"{where.name}.kept")
    where.rename(kept)
    where.symlink_to("/dev/full")
    try:
        yield
    finally:
        where.unlink(missing_ok=True)  # once the table has another file, the server deletes this one when it likes
        kept.rename(where)


@asynccontextmanager
async def read_only_server(place: Place) -> AsyncIterator[None]:
    """Let the server refuse whatever would write, as a replica does: SQLSTATE 25006."""
    place.sql("alter system set default_transaction_read_only = on")
    place.sql("select pg_reload_conf()")
    try:
        yield
    finally:
        place.sql("alter system reset default_transaction_read_only")
        place.sql("select pg_reload_conf()")


@asynccontextmanager
async def no_audit_view(place: Place) -> AsyncIterator[None]:
    """Let the application's migration drop the audit view, and make it again later: SQLSTATE 42P01."""
    place.sql("drop view notifierd.audit_log")
    try:
        yield
    finally:
        dsn = place.cluster.dsn(place.database)
        command = ("db", "init", "--preset", "keikakun", "--role", place.role, "--dsn", dsn)
        await trio.to_thread.run_sync(partial(run, *command, cwd=place.folder, code=0))


@asynccontextmanager
async def no_right(place: Place, right: str) -> AsyncIterator[None]:
    """Let the daemon's role lack *right*, as "update on notifierd.deliveries": SQLSTATE 42501."""
    place.sql(f"revoke {right} from {place.role}")
    try:
        yield
    finally:
        place.sql(f"grant {right} to {place.role}")


@asynccontextmanager
async def a_trigger(place: Place, event: str, body: str) -> AsyncIterator[None]:
    """Let a trigger do *body*, in PL/pgSQL, before each *event*, as "update on notifierd.deliveries"."""
    function = f"create function public.troubling() returns trigger language plpgsql as $$ begin {body} end $$"
    place.sql(f"{function}; create trigger troubling before {event} for each row execute function public.troubling()")
    try:
        yield
    finally:
        place.sql("drop function public.troubling() cascade")
