"""The present state of the daemon in a reader's language, and its changes as server-sent events.

A stream remembers only the last event that it sent: at each tick, it sends the present state if that has changed. So a
slow reader skips states, and costs no more than a fast one.
"""

import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import date

import trio
from attrs import asdict, define, field, frozen

from notifierd.messages.text import clean
from notifierd.model.delivery import LOST, Channel, State
from notifierd.service.state import Attempt
from notifierd.store.history import Day
from notifierd.web.archive import SHARED_KEPT_FOR, Shared
from notifierd.web.daemon import DaemonView
from notifierd.web.server.http import Send
from notifierd.web.words.language import Words

TICK = 0.5
QUIET_SECONDS = 15.0
"""Seconds of silence after which a stream sends a comment, so that no proxy closes it as dead."""

MOST_STREAMS = 100
RATE_OVER = 10.0
"""The period in seconds over which the rate is averaged."""

NEWS_EVERY = 10.0
"""Seconds between two reloads of the failures by an open page, if a run has more of them."""

MOST_NAMED = 5

TROUBLED = frozenset({"waiting_for_database", "cannot_run", "schema_newer"})
"""The events of a daemon that something keeps from running a day. They have a reason."""


@frozen
class Bar:
    """A progress bar: what is done, how much there is to do, and how much failed."""

    key: str
    done: int
    total: int
    text: str
    note: str


@frozen
class Now:
    """The present state, in words.

    Attributes:
        tone: ok, busy, or bad.
        busy: whether this process runs a day.
        stamp: changes when the page has to fetch the ledger's part anew.
        bars: of a run; empty while it is planned, and without a run.
        facts: further facts, each with the phrase that names it.
        alarms: what needs a person's attention: in words, and as a code.
    """

    headline: str
    detail: str
    tone: str
    stamp: str
    busy: bool = False
    bars: tuple[Bar, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    alarms: tuple[tuple[str, str], ...] = ()


@define
class Live:
    """Computes the present state for all streams.

    Attributes:
        look_up: asks the ledger how far all processes are that share a day.
        shared: what it answered last; None while this process works alone.
    """

    daemon: DaemonView
    look_up: Callable[[date], Awaitable[Shared | None]] | None = None
    tick: float = TICK
    streams: int = 0
    shared: Shared | None = None
    _frames: dict[str, tuple[float, bytes]] = field(factory=dict)
    """The last event in each language, and when it was made."""
    _samples: deque[tuple[float, int]] = field(factory=lambda: deque(maxlen=64))
    """Samples of (time, deliveries done) in the current attempt."""
    _sampled: Attempt | None = None
    _news: tuple[float, int] = (-float("inf"), 0)
    """When new failures were last announced, and how many there were."""

    async def keep_looking(self) -> None:
        """Look again and again how far all processes are that share the day, as long as somebody watches."""
        while True:
            if self.streams:
                await self.look()
            await trio.sleep(SHARED_KEPT_FOR)

    async def look(self) -> None:
        """Look how far all processes are, if this one shares a day with others."""
        attempt = self.daemon.status.attempt
        shares = attempt and attempt.context and attempt.context.terms.shares and attempt.progress.has_day
        self.shared = await self.look_up(attempt.window.day) if attempt and shares and self.look_up else None

    async def stream(self, words: Words, lasting: Callable[[], bool], send: Send) -> None:
        """Send each new state until the daemon stops or the reader's session ends."""
        self.streams += 1
        try:
            sent, at = b"", -float("inf")
            while lasting():
                over = self.daemon.status.stopping
                if (frame := self._frame(words)) != sent:
                    await send(b"event: now\ndata: " + frame + b"\n\n")
                    sent, at = frame, trio.current_time()
                elif trio.current_time() - at >= QUIET_SECONDS:
                    await send(b":\n\n")
                    at = trio.current_time()
                if over:
                    return
                await trio.sleep(self.tick)
        finally:
            self.streams -= 1

    def _frame(self, words: Words) -> bytes:
        """Return the event of this tick, which is made once for all readers of a language."""
        made, frame = self._frames.get(words.language, (-float("inf"), b""))
        if trio.current_time() - made >= self.tick or self.daemon.status.stopping:
            frame = json.dumps(asdict(self.now(words)), ensure_ascii=False, separators=(",", ":")).encode()
            self._frames[words.language] = trio.current_time(), frame
        return frame

    def now(self, words: Words) -> Now:
        """Return the present state."""
        status = self.daemon.status
        attempt = status.attempt
        alarms = tuple(self._alarms(words))
        if attempt is None or not attempt.progress.has_day:
            tone = "bad" if alarms or status.event in TROUBLED else "ok"
            fact = ("next_window", self._next_window(words))
            headline, detail = words(status.event), self._idle(words)
            return Now(headline, detail, tone, self._stamp(None, alarms), facts=(fact,), alarms=alarms)
        progress = attempt.progress
        state = "draining" if attempt.stop.reason == "signal" else "running" if progress.planned else "planning"
        detail = words("waiting_for_database") if progress.waiting_for else ""
        return Now(
            headline=words(state, day=words.day(attempt.window.day)),
            detail=detail,
            tone="bad" if alarms or detail else "busy",
            stamp=self._stamp(attempt, alarms),
            busy=True,
            bars=tuple(self._bars(attempt, words)),
            facts=tuple(self._facts(attempt, words)),
            alarms=alarms,
        )

    def _next_window(self, words: Words) -> str:
        window, now = self.daemon.next_window(), self.daemon.now()
        hours = words("window", opens=words.moment(window.opens), ends=words.time(window.ends)[:5])
        left = (window.opens - now).total_seconds()
        return f"{hours} ({words('opens_in', span=words.span(left)) if left > 0 else words('open_now')})"

    def _idle(self, words: Words) -> str:
        status = self.daemon.status
        match status.event:
            case "standing_by":
                return words("held_by", holder=status.labels["holder"])
            case event if event in TROUBLED:
                return words("because", reason=status.labels["reason"])
        return ""

    def _alarms(self, words: Words) -> Iterator[tuple[str, str]]:
        status = self.daemon.status
        if status.refused:
            yield words("reload_refused"), status.refused
        if status.away:
            yield words("ledger_away"), status.away
        attempt = status.attempt
        if attempt and attempt.context:
            breakers = attempt.context.transports.breakers
            for destination, reason in breakers.outages().items():
                phrase = "lane_blocked" if destination in breakers.blocked() else "lane_out"
                yield words(phrase, lane=destination), reason
        for over in attempt.progress.planned.excess if attempt and attempt.progress.planned else ():
            first = ", ".join(map(str, over.first[:MOST_NAMED])) + (", ..." if over.offices > MOST_NAMED else "")
            numbers = {"mails": words.number(over.mails), "offices": words.number(over.offices)}
            yield words("no_room", **numbers), f"limits.{over.limit}: {first}"

    def _bars(self, attempt: Attempt, words: Words) -> Iterator[Bar]:
        progress, planned = attempt.progress, attempt.progress.planned
        if planned is None:
            return
        if day := self._counted(attempt):
            note = words("n_failed", n=words.number(day.offices_failed)) if day.offices_failed else ""
            yield _bar("offices", day.offices_done or 0, day.offices, note, words)
            for channel, counts in ((Channel.EMAIL, day.email), (Channel.PUSH, day.push)):
                note = _lost({state: counts.count(state) for state in LOST}, words)
                yield _bar(channel.plural, counts.planned - counts.open, counts.planned, note, words)
            return
        done, failed = min(progress.offices_done, planned.offices), progress.offices_failed
        note = words("n_failed", n=failed) if failed else ""
        yield _bar("offices", done, planned.offices, note, words)
        for channel, total in ((Channel.EMAIL, planned.email), (Channel.PUSH, planned.push)):
            note = _lost({state: progress.settled[channel, state] for state in LOST}, words)
            yield _bar(channel.plural, min(progress.done(channel), total), total, note, words)

    def _facts(self, attempt: Attempt, words: Words) -> Iterator[tuple[str, str]]:
        planned, now = attempt.progress.planned, trio.current_time()
        if planned is None:
            return
        yield "until", words.time(attempt.window.ends)[:5]
        done = sum(attempt.progress.settled.values())
        rate = self._rate(attempt, done)
        left = max(0, planned.email + planned.push - done)
        if self.shared and (day := self._counted(attempt)):
            rate = sum(member.done.rate for member in self.shared.members)
            left = day.email.open + day.push.open
        yield "rate", words("per_second", n=f"{rate:.1f}" if rate < 10 else words.number(rate))  # noqa: PLR2004
        yield "time_left", words("about", span=words.span(left / rate)) if rate else words("unclear")
        if self.shared and self.shared.members:
            leader = next((member.host for member in self.shared.members if member.leads), "")
            number = words.number(len(self.shared.members))
            yield "members", words("led_by", n=number, host=clean(leader)) if leader else number
        flying = sorted(attempt.progress.in_flight.items(), key=lambda item: item[1])
        names = attempt.progress.names
        named = [
            f"{clean(names[office]) or office} ({words.span(now - began)})" for office, began in flying[:MOST_NAMED]
        ]
        more = [words("and_more", n=len(flying) - MOST_NAMED)] if len(flying) > MOST_NAMED else []
        yield "in_flight", " · ".join(named + more) or words("none")

    def _counted(self, attempt: Attempt) -> Day | None:
        """Return the counts of the day, if processes share it, and it was counted since they began."""
        day = self.shared.day if self.shared else None
        return day if day and day.day == attempt.window.day and day.offices_done is not None else None

    def _rate(self, attempt: Attempt, done: int) -> float:
        """Return deliveries per second: over the last RATE_OVER seconds, or since the attempt began if not sampled."""
        now = trio.current_time()
        if self._sampled is not attempt:
            self._sampled = attempt
            self._samples.clear()
            self._samples.append((attempt.began, 0))
        if now - self._samples[-1][0] >= min(TICK, self.tick):
            self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] > RATE_OVER:  # noqa: PLR2004 - two make a rate
            self._samples.popleft()
        since, before = self._samples[0]
        return (done - before) / (now - since) if now > since else 0.0

    def _stamp(self, attempt: Attempt | None, alarms: tuple[tuple[str, str], ...]) -> str:
        """Return a text that an open page compares with its own: if they differ, it fetches itself anew."""
        status, now = self.daemon.status, trio.current_time()
        if attempt is None:
            others = now // NEWS_EVERY if status.event == "standing_by" else 0  # another process' run
            seen: tuple[object, ...] = (status.event, status.last, self.today(), others)
        else:
            lost = sum(attempt.progress.settled[channel, state] for channel in Channel for state in LOST)
            if lost != self._news[1] and now - self._news[0] >= NEWS_EVERY:
                self._news = now, lost
            # The table of the processes is drawn anew with the page.
            others = now // NEWS_EVERY if self.shared and len(self.shared.members) > 1 else 0
            seen = (attempt.window.day, attempt.progress.planned, attempt.stop.reason, self._news[1], others)
        return hashlib.sha256(repr((seen, alarms)).encode()).hexdigest()[:16]

    def today(self) -> date:
        """Return the date in the window's time zone."""
        return self.daemon.now().astimezone(self.daemon.settings.window.zone).date()


def _lost(numbers: Mapping[State, int], words: Words) -> str:
    return ", ".join(words(f"n_{state}", n=words.number(n)) for state, n in numbers.items() if n)


def _bar(key: str, done: int, total: int, note: str, words: Words) -> Bar:
    text = words("of", done=words.number(done), total=words.number(total))
    return Bar(key, done, total, text, note)
