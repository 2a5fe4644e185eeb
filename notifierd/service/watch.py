"""Tells the operator: alarms go to a webhook, and the beginning and end of each run to a dead man's switch.

Nothing here delays or ends a run. Posts are queued without waiting, and two tasks of their own send them, one for each
receiver. The ledger records an alarm before it is posted, so it is posted once for each day and cause, even if the
process restarts or another one is standing by. An alarm that cannot be delivered is logged and given up.
"""

import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from functools import partial
from typing import TypeVar

import structlog
import trio
from attrs import define, field, frozen

from notifierd.config.settings import NetworkSettings, Settings
from notifierd.model.errors import ConfigsDiffer, DatabaseError, LeaseHeld, NotifierdError, SchemaNewer, frame_locations
from notifierd.model.message import Alarm
from notifierd.model.outcome import Deferred, Delivered, Outcome, Unknown
from notifierd.model.reasons import Reason
from notifierd.rules.alarms import (
    OUT_SECONDS,
    Running,
    at_end,
    configs_differ,
    crashed,
    failed,
    ping_address,
    summary,
    too_many_failures,
    while_running,
)
from notifierd.rules.backoff import Backoff
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.send._answers import Answer, of_receiver, understand
from notifierd.send._http import Client, open_client

LOOK_EVERY = 1.0

TRY_SECONDS = 10.0
PAUSES = (2.0, 8.0, 30.0, 120.0)
"""Seconds between the tries of one post: 160 s in all, and up to TRY_SECONDS for each try."""

BACKOFF = Backoff(first=2.0, longest=60.0)
"""Seconds between requests to an unreachable database."""

DRAIN_SECONDS = 5.0
"""Seconds at the end for sending what is queued."""

MOST_QUEUED = 100

UNCLEAR: Outcome = Unknown(Reason.ANSWER_UNCLEAR)

T = TypeVar("T")
OpenClient = Callable[[NetworkSettings], AbstractAsyncContextManager[Client]]
ClaimAlarm = Callable[[Settings, date, str], Awaitable[bool]]


def one_client(network: NetworkSettings) -> AbstractAsyncContextManager[Client]:
    """Open a client for one request."""
    return open_client(width=1, network=network)


log = structlog.get_logger(__name__)


@frozen
class _Post:
    """A request to a receiver. The URL is a secret, and a header may hold another one.

    Attributes:
        to: "webhook" or "ping".
        about: the cause of an alarm, or the signal of a ping.
        read: says what an answer means.
    """

    to: str
    about: str
    day: date
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    read: Callable[[Answer, datetime], Outcome] = of_receiver


@define
class Watch:
    """See the module. Made by ``open_watch``.

    Attributes:
        settings: the configuration in force.
        claim_alarm: records the alarm of a day and cause; returns whether no process had recorded it before.
    """

    settings: Callable[[], Settings]
    claim_alarm: ClaimAlarm
    open_client: OpenClient
    _alarms: "_Queue[Alarm]" = field(factory=lambda: trio.open_memory_channel[Alarm](MOST_QUEUED))
    _pings: "_Queue[_Post]" = field(factory=lambda: trio.open_memory_channel[_Post](MOST_QUEUED))
    _untold: int = 0
    _raised: set[tuple[date, str]] = field(factory=set)
    _skipped: date | None = None
    _running: tuple[date, float] | None = None
    """The day whose run is under way, and when it began, by Trio's clock."""
    _out_since: dict[str, float] = field(factory=dict)
    _closing: trio.Event = field(factory=trio.Event)
    _shield: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))

    # ------------------------------------------------------------------------------------------------- what is said

    def tell(self, alarm: Alarm) -> None:
        """Raise an alarm, unless this process has raised it before, or no receiver is configured."""
        watch = self.settings().watch
        heard = watch.webhook_url or (alarm.fails and watch.ping_url)
        if heard and (alarm.day, alarm.cause) not in self._raised:
            self._raised.add((alarm.day, alarm.cause))
            self._queue(self._alarms, alarm)

    @asynccontextmanager
    async def over(self, day: date, context: RunContext) -> AsyncIterator[None]:
        """Watch a run for the length of the block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_looking, day, context)
            yield
            with _harmless():
                self._look(day, context)
            nursery.cancel_scope.cancel()

    def ended(self, day: date, result: RunResult | None) -> None:
        """Report how the run of *day* ended, unless it will be resumed. With None, another process completed it."""
        if result and result.will_be_resumed:
            return
        self._running = None
        if result is None:
            return
        with _harmless():
            counts, watch = result.counts, self.settings().watch
            signal = "fail" if counts and too_many_failures(counts, watch) else ""
            self._ping(signal, day, summary(day, result.state, result.reason, counts))
            for alarm in at_end(day, counts, watch) if counts else ():
                self.tell(alarm)

    def failed(self, day: date, error: BaseException) -> None:
        """Report that *day* could not be run, unless the cause may go away by itself, or others may run it."""
        match error:
            case ConfigsDiffer(differing=differing) if tables := [name for name in differing if name != "version"]:
                self.tell(configs_differ(day, error.holder, tables))
            case LeaseHeld() | SchemaNewer() | DatabaseError(transient=True):
                pass
            case NotifierdError():
                self.tell(failed(day, str(error)))
            case _:
                self.tell(crashed(day, type(error).__name__))

    def skipped(self, day: date, why: str) -> None:
        """Report a closed *day* once: the dead man's switch knows no holidays."""
        if self._skipped != day:
            self._skipped = day
            self.ended(day, RunResult("skipped", why, None))

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Accept no more posts; the queued ones may take *seconds*."""
        self._alarms[0].close()
        self._closing.set()
        self._shield.deadline = min(self._shield.deadline, trio.current_time() + seconds)

    async def _keep_looking(self, day: date, context: RunContext) -> None:
        while True:
            with _harmless():
                self._look(day, context)
            await trio.sleep(LOOK_EVERY)

    def _look(self, day: date, context: RunContext) -> None:
        progress, now = context.progress, trio.current_time()
        if not progress.has_day:
            return
        if self._running is None or self._running[0] != day:
            self._running = day, now
            if progress.leads:
                self._ping("start", day)
        breakers = context.transports.breakers
        blocked, out = breakers.blocked(), breakers.outages()
        self._out_since = {destination: self._out_since.get(destination, now) for destination in out}
        lasting = {destination for destination, since in self._out_since.items() if now - since >= OUT_SECONDS}
        offices = progress.planned.offices if progress.planned else 0
        run = Running(
            day,
            seconds=now - self._running[1] if progress.leads else 0.0,
            done=min(max(progress.offices_done, progress.all_done), offices),
            offices=offices,
            blocked=_by_sender(context, blocked),
            out=_by_sender(context, {destination: out[destination] for destination in lasting - blocked.keys()}),
        )
        for alarm in while_running(run, self.settings().watch):
            self.tell(alarm)

    def _ping(self, signal: str, day: date, body: str = "") -> None:
        if url := self.settings().watch.ping_url:
            address = ping_address(url, signal, day)
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            post = _Post("ping", signal or "success", day, address, headers, body.encode())
            self._queue(self._pings, post)

    def _queue(self, queue: "_Queue[T]", item: T) -> None:
        try:
            queue[0].send_nowait(item)
        except (trio.WouldBlock, trio.ClosedResourceError):
            log.error("watch_overflow")  # noqa: TRY400 - the traceback of a full queue is of no use
        else:
            self._untold += 1

    # ------------------------------------------------------------------------------------------- how it gets there

    async def run(self) -> None:
        """Post until the queues are closed and empty, or the time for that is over."""
        with self._shield:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work_off, self._pings[1], self._post)
                await self._work_off(self._alarms[1], self._tell)
                self._pings[0].close()
        if self._untold:
            log.error("watch_cut", untold=self._untold)

    async def _work_off(self, queue: "trio.MemoryReceiveChannel[T]", work: Callable[[T], Awaitable[None]]) -> None:
        async for item in queue:
            with _harmless():
                await work(item)
            self._untold -= 1

    async def _tell(self, alarm: Alarm) -> None:
        if not await self._first(alarm):
            return
        from notifierd.messages.alarms import worded  # noqa: PLC0415 - most runs raise no alarm
        from notifierd.send.webhooks import of_webhook, request_of  # noqa: PLC0415 - likewise

        settings = self.settings()
        page = settings.http.bind if settings.http.enabled else ""
        message = worded(alarm, settings.content.language, host=socket.gethostname(), page=page)
        if alarm.fails:
            self._ping("fail", alarm.day, message.words)
        if url := settings.watch.webhook_url:
            request, read = request_of(message, settings.watch), partial(of_webhook, form=settings.watch.format)
            await self._post(_Post("webhook", alarm.cause, alarm.day, url, request.headers, request.body, read))

    async def _first(self, alarm: Alarm) -> bool:
        """Record the alarm in the ledger; return whether it is new. If that is impossible, it is new."""
        pauses = BACKOFF.pauses()
        while True:
            try:
                return await self.claim_alarm(self.settings(), alarm.day, alarm.cause)
            except NotifierdError as error:
                if not (isinstance(error, DatabaseError) and error.transient):
                    log.warning("alarm_not_noted", about=alarm.cause, run=str(alarm.day), reason=str(error))
                    return True
            if await self._pause(next(pauses)):
                log.error("watch_not_told", to="webhook", about=alarm.cause, run=str(alarm.day), reason="not_noted")
                return False

    async def _post(self, post: _Post) -> None:
        """Send a post, and repeat it after growing pauses as long as that may help. Log the result, without the URL.

        A post whose answer was lost may arrive twice: that is better than never.
        """
        labels = {"to": post.to, "about": post.about, "run": str(post.day)}
        for pause in (*PAUSES, math.inf):
            outcome = await self._try(post)
            if isinstance(outcome, Delivered):
                log.info("watch_told", **labels)
                return
            if pause == math.inf or not isinstance(outcome, Deferred | Unknown):
                log.error("watch_not_told", reason=outcome.reason, **labels)
                return
            await self._pause(max(pause, min(outcome.retry_after or 0.0, PAUSES[-1])))

    async def _try(self, post: _Post) -> Outcome:
        with trio.move_on_after(TRY_SECONDS):
            async with self.open_client(self.settings().network) as client:
                call = client.post(post.url, post.body, post.headers)
                return await understand(call, lambda answer: post.read(answer, datetime.now(UTC)), UNCLEAR)
        return Unknown(Reason.TIMEOUT)

    async def _pause(self, seconds: float) -> bool:
        """Wait for *seconds*, or until the watch is closing; return whether it is closing."""
        with trio.move_on_after(seconds):
            await self._closing.wait()
        return self._closing.is_set()


@contextmanager
def _harmless() -> Iterator[None]:
    """Log any error and go on: an error in the watch must not end a run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the only place that catches everything
        log.error("watch_failed", error=type(error).__name__, where=frame_locations(error))  # noqa: TRY400 - its text may quote


_Queue = tuple[trio.MemorySendChannel[T], trio.MemoryReceiveChannel[T]]


def _by_sender(context: RunContext, destinations: dict[str, str]) -> dict[str, dict[str, str]]:
    """Group *destinations* and their reasons by the name of their sender."""
    senders = {
        destination: transport.sender.name
        for _, transport in context.transports
        for destination in transport.destinations
    }
    found: dict[str, dict[str, str]] = {}
    for destination, reason in destinations.items():
        found.setdefault(senders.get(destination, destination), {})[destination] = reason
    return found


@asynccontextmanager
async def open_watch(
    settings: Callable[[], Settings],
    claim_alarm: ClaimAlarm,
    open_client: OpenClient = one_client,
) -> AsyncIterator[Watch]:
    """Open a watch for the length of the block. At its end, queued posts get DRAIN_SECONDS."""
    watch = Watch(settings, claim_alarm, open_client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        try:
            yield watch
        finally:
            watch.close()
