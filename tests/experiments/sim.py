"""A simulator: the real run on the in-memory ledger, in virtual time, with faults at chosen boundaries.

A boundary is a moment right before or after a statement of the ledger or a call of a sender. At each one a fault can
strike: the process dies, is told to stop, is cut, loses its lease; the statement is refused or its answer lost; the
call's answer is lost. Then the process is started again, until the day is done, and the promises are checked. Where
several processes share the day, each of them is struck so, or is cut off from the database, and sharing.py checks
what must hold at each instant.

    python -m tests.experiments.sim --runs 100000     seeded runs with several faults each
    python -m tests.experiments.sim --seed 4711       one of them again, with all that happened

Worlds have troubles of their own, too: ``--kinds`` chooses which (troubles.py). plants.py plants bugs, and
has them found.

Everything random comes from the seed, Trio's scheduling included.
"""

import argparse
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from inspect import iscoroutinefunction
from itertools import product
from math import inf
from random import Random
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import structlog
import trio
import trio.testing
from attrs import define, evolve, field, frozen

from notifierd.model.address import Address
from notifierd.model.delivery import OPEN, Channel, Delivery, Settlement, State
from notifierd.model.errors import LeaseHeld, LeaseLost, LedgerUnavailable, StatementRefused
from notifierd.model.message import Mail, Message, Push
from notifierd.model.office import Device, Notice, Staff
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.rules.breaker import Breakers
from notifierd.rules.cluster.grants import ClusterLimits
from notifierd.rules.cluster.membership import ALONE
from notifierd.rules.due import Rules
from notifierd.rules.report import RunResult
from notifierd.run.context import Limits, RunClock, RunContext, lasting
from notifierd.run.day import run_day
from notifierd.run.progress import Progress
from notifierd.run.stop import SETTLE_SECONDS, Stop
from notifierd.run.transport import CallLimits, Transports
from notifierd.send import Sender
from tests.experiments.sharing import ANSWER_SECONDS, TERMS, Sharing, Watch, a_sharing
from tests.experiments.troubles import READS, Change, Kind, Refusal, a_refusal, some_changes
from tests.support.memory import Application, MemoryLedger, Version
from tests.support.messages import SENDER
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_id

T = TypeVar("T")

SEND_TIMEOUT = 5.0
GRACE = 3.0
WINDOW = 900.0
"""Seconds; three times a breaker's longest pause. A longer window only adds renewals of the lease to a run's cost."""
SLICE = 600.0
"""Seconds for which a simulated run waits at once: nobody sets its clock, so that shorter slices change nothing."""
FIRST_POLL, LONGEST_POLL = 1.0, 60.0
"""Seconds between a standby's tries to take the lease; they double while another process keeps it."""
INCARNATIONS = 40
LONGEST = 4 * WINDOW
"""Seconds after which processes that have not ended never will."""
LATENCIES = ((0.05, 0.2), (0.5, 1.0), (0.5, 2.4))
"""Seconds to and from a provider, where several processes share the day: so a run lasts for a few renewals, or many."""
AGAIN = 0.2
"""How often the operator has some retried, and starts `once`, right after a process has found the day completed, where
several share it."""
PAIRED = 3
"""How many processes share the quiet day that pairs of faults strike."""
REPLACED = 0.4
"""How often another process takes the place of a dead one at once, where several share the day."""
MOST_RETRIED = 20
RETRY_WINDOW = 300.0
"""Seconds of a run after the operator put deliveries back."""
MORNING = datetime(2026, 11, 24, tzinfo=UTC)
STATEMENTS = frozenset(
    name for name, member in vars(MemoryLedger).items() if iscoroutinefunction(member) and not name.startswith("_")
)
SERVICES = ("resend", "postmark", "webpush")
OFTEN = frozenset({"renew_lease", "read", "reserve", "settle", *SERVICES})
ENDING = frozenset({"expire", "fail", "fail_office", "leave", "close", "finish"})
RARELY, SELDOM = 6, 30
"""How many times as likely a fault is at a boundary that is not passed OFTEN, and at one of an ENDING, where
several processes share the day."""
BEGINNING = frozenset({"take_lease", "close_earlier", "plan"})
"""The statements that no database of these worlds forgets: what it forgets comes after the plan."""
KINDS = frozenset(Kind)
"""The troubles that worlds have unless others are asked for."""
MOST_FORGOTTEN = 8
"""Commits."""
CALM = 0.3
"""The share of worlds with troubles of their own that have no other faults."""
FRESH = 5.0
"""Seconds by which a call may be behind the application's data."""


class Crash(BaseException):
    """The process is dead: nothing that it still does has an effect."""


class Fault(StrEnum):
    """What can strike at a boundary."""

    CRASH = "crash"
    DRAIN = "drain"
    CUT = "cut"
    LEASE = "lease stolen"
    DOWN = "no answer"
    FREEZE = "frozen"
    REFUSED = "refused"
    FORGET = "commits forgotten"
    RESTORE = "crash, and commits forgotten"
    PARTITION = "cut off from the database"


LEASE_IS_OFF = (Fault.LEASE, Fault.FORGET, Fault.RESTORE)
"""What takes a lease away before its time."""

FAULTS: tuple[Fault, ...] = tuple(
    fault for fault in Fault if fault not in {Fault.FORGET, Fault.RESTORE, Fault.PARTITION}
)
"""Those of a process alone, with a database that forgets nothing."""

MEMBERS_FAULTS: tuple[Fault, ...] = (*FAULTS, Fault.PARTITION)
"""Those of processes that share the day."""


@frozen
class Boundary:
    """Right before or after the statement or call *name*."""

    after: bool
    name: str

    def faults(self, among: Sequence[Fault] = FAULTS) -> list[Fault]:
        """The faults that make sense here: what was carried out cannot be refused any more."""
        return [fault for fault in among if fault is not Fault.REFUSED or (not self.after and self.name in STATEMENTS)]


@frozen
class World:
    """What a simulated run is about: chosen once, the same for each incarnation of the process.

    Attributes:
        moods: how the provider or push service treats a message, by its target, in turn; then it is delivered.
        poisoned: offices whose messages cannot be made.
        fallback: whether there is a second mail provider, and whether that one honours keys.
        outage: from when to when, by the database's clock, the first mail provider serves nobody.
        outage_mood: what it answers meanwhile.
        interval: seconds between the beginnings of two calls to one mail provider.
        kinds: the troubles beside.
        refusals: what the database refuses, and when.
        changes: what changes in the application's data, and when.
        sharing: how several processes share the day; None if one process has it, and a standby waits for the lease.
    """

    app: Application
    keyed: bool = True
    hold: bool = False
    max_batch: int = 100
    window: float = WINDOW
    moods: Mapping[str, Sequence[str]] = field(factory=dict)
    poisoned: frozenset[UUID] = frozenset()
    standby: bool = False
    latency: tuple[float, float] = (0.05, 0.2)
    fallback: bool | None = None
    outage: tuple[float, float] = (0.0, 0.0)
    outage_mood: str = "503"
    interval: float = 0.0
    kinds: frozenset[Kind] = frozenset()
    refusals: Sequence[Refusal] = ()
    changes: Sequence[Change] = ()
    sharing: Sharing | None = None


@define
class Service:
    """A provider or push service outside of the process: it remembers whatever happens to us."""

    keyed: bool
    accepted: Counter[UUID] = field(factory=Counter)
    answers: dict[str, tuple[bytes, list[Outcome]]] = field(factory=dict)
    met: Counter[str] = field(factory=Counter)
    lost: Counter[UUID] = field(factory=Counter)
    """How often the answer for a delivery that was accepted did not arrive."""


@define
class Process:
    """One process of notifierd: dies, freezes and is stopped by itself."""

    sim: "Simulation"
    name: str
    skew: float = 0.0
    looks: bool = True
    """Whether it looks first whether the day is completed, as a daemon does and `once` does not."""
    dead: bool = False
    frozen_until: float = 0.0
    thawed_at: float = -inf
    cut_off_until: float = 0.0
    is_refused: bool = False
    """Whether a process that is cut off from the database notices it at once."""
    stopped_at: float | None = None
    context: RunContext = field(init=False)
    result: RunResult | None = None
    calls: set[str] = field(factory=set)
    passed: set[str] = field(factory=set)
    """The services that answered of a message in this process, whether they took it or not."""
    unwritten: set[UUID] = field(factory=set)
    """The deliveries whose outcomes the database did not take, and the process has not written since."""

    def __attrs_post_init__(self) -> None:
        self.context = self.sim.make_context(self)

    # What happens at a boundary ------------------------------------------------------------------------------------

    async def boundary(self, boundary: Boundary) -> Fault | None:
        """Pass a boundary; the fault that the caller has to act out, if one struck that is the caller's."""
        await self._thaw()
        fault = self.sim.pass_boundary(boundary, self.name)
        match fault:
            case Fault.CRASH:
                self.dead = True
                raise Crash
            case Fault.RESTORE:
                self.sim.forget_commits()
                self.dead = True
                raise Crash
            case Fault.FORGET:
                self.sim.forget_commits()
                return Fault.DOWN if boundary.name in STATEMENTS else None
            case Fault.DRAIN:
                self._stop(GRACE)
            case Fault.CUT:
                self._stop(0.0)
            case Fault.LEASE:
                self.sim.steal_lease(self.name)
            case Fault.FREEZE:
                self.frozen_until = self.sim.end_of_fault()
                await self._thaw()
            case Fault.PARTITION:
                self.cut_off_until, self.is_refused = self.sim.end_of_fault(), self.sim.random.random() < 0.5
                return Fault.DOWN if boundary.name in STATEMENTS else None
            case _:
                return fault
        return None

    async def _thaw(self) -> None:
        """Do nothing while frozen, not even be cancelled: what SIGSTOP does."""
        while self.frozen_until > trio.current_time():
            with trio.CancelScope(shield=True):
                await trio.sleep_until(self.frozen_until)
            self.thawed_at = trio.current_time()
        if self.dead:
            raise Crash

    async def _reach_database(self) -> None:
        """Find the database out of reach while cut off from it: at once, or by waiting for an answer in vain."""
        await self._thaw()
        left = self.cut_off_until - trio.current_time()
        if left > 0.0:
            await trio.sleep(0.0 if self.is_refused else min(ANSWER_SECONDS, left))
            raise LedgerUnavailable("database_unavailable:08006")

    def _stop(self, grace: float) -> None:
        if self.stopped_at is None:
            self.stopped_at = trio.current_time()
        self.context.stop.set("signal", grace)

    async def statement(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """One statement, with its two boundaries."""
        if name == "settle" and self.sim.watch:  # another process may write these outcomes before this one does
            self.unwritten.update(settlement.delivery.id for settlement in args[0])
        await self._reach_database()
        match await self.boundary(Boundary(after=False, name=name)):
            case Fault.DOWN:
                raise LedgerUnavailable("database_unavailable:08006")
            case Fault.REFUSED:
                raise StatementRefused("database_refused:40001")
        self.sim.make_changes()
        self._meet_refusals(name, args, kwargs)
        if Kind.FORGETTING in self.sim.world.kinds and name not in BEGINNING | READS and self.sim.ledger.rows:
            self.sim.history.append(self.sim.ledger.version())
        await trio.lowlevel.checkpoint()
        held, tried = self.sim.holds(self.name), self.sim.tries() if name == "settle" else {}
        watch = self.sim.watch
        seen = watch.before() if watch else None
        done = await getattr(self.sim.ledger, name)(*args, **kwargs)
        if watch and seen:
            watch.after(self.name, name, args, seen, done)
        if name == "reserve" and done and not held and not self.sim.holds(self.name):  # the theft may be forgotten
            self.sim.broken.append("2: a call was reserved by a process without the lease")
        if name == "plan":
            self.sim.note_due()
            self.sim.history.clear()
        if name == "settle":
            self.sim.check_guard(tried, args[0])
            self.check_blame(args[0])
            self.unwritten.difference_update(settlement.delivery.id for settlement in args[0])
        if await self.boundary(Boundary(after=True, name=name)) is Fault.DOWN:
            raise LedgerUnavailable("database_unavailable:08006")
        return done

    def _meet_refusals(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for refusal in self.sim.world.refusals:
            if refusal.strikes(self.sim.clock(), name, args, kwargs):
                self.sim.trace(f"{self.sim.clock():9.3f} {self.name}: {name} refused with {refusal.sqlstate}")
                if name == "settle":
                    self.unwritten.update(settlement.delivery.id for settlement in args[0])
                raise StatementRefused(f"database_refused:{refusal.sqlstate}")

    async def call(self, name: str, messages: Sequence[Message], body: bytes, key: str) -> list[Outcome]:
        """One call to the service *name*, with its two boundaries."""
        sim = self.sim
        self.calls.add(key)
        if self.stopped_at is not None and trio.current_time() > self.stopped_at:
            sim.broken.append("5: a call was begun after the process was told to stop")
        sim.check_planned()
        sim.check_fresh(messages)
        if await self.boundary(Boundary(after=False, name=name)) is Fault.DOWN:
            return [Deferred("connection_failed", blame=Blame.PROVIDER)] * len(messages)
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._in_flight(name, messages):
            return await self._carry_out(name, messages, body, key)

    def _in_flight(self, name: str, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Let whoever watches the providers see the call."""
        if self.sim.watch is None:
            return nullcontext()
        channel = Channel.EMAIL if isinstance(messages[0], Mail) else Channel.PUSH
        deliveries = [message.delivery_id for message in messages]
        return self.sim.watch.call(self, channel, name, _destination(name, messages[0]), deliveries)

    async def _carry_out(self, name: str, messages: Sequence[Message], body: bytes, key: str) -> list[Outcome]:
        sim, service = self.sim, self.sim.services[name]
        await trio.sleep(sim.random.uniform(*sim.world.latency))
        if not sim.holds(self.name) and not any(map(sim.struck.get, LEASE_IS_OFF)):
            sim.broken.append("2: a call was carried out though its process had let the lease run out")
        outcomes = sim.answer(service, messages, body, key)
        taken = [m.delivery_id for m, o in zip(messages, outcomes, strict=True) if isinstance(o, Delivered)]
        service.lost.update(taken)  # until the answer is back where it is heard
        hang = Unknown("hang") in outcomes
        await trio.sleep(60.0 if hang else sim.random.uniform(*sim.world.latency))
        if await self.boundary(Boundary(after=True, name=name)) is Fault.DOWN:
            return [Unknown("connection_lost")] * len(messages)
        service.lost.subtract(taken)
        if any(isinstance(o, Delivered) or (isinstance(o, Rejected) and o.blame is Blame.MESSAGE) for o in outcomes):
            self.passed.add(name)
        return outcomes

    def check_blame(self, settlements: Sequence[Settlement]) -> None:
        """Check that nothing failed for good by an answer that names no message, where none has passed."""
        for settlement in settlements:
            provider = settlement.delivery.provider
            if settlement.state is State.FAILED and settlement.reason in OF_NO_MESSAGE and provider not in self.passed:
                self.sim.broken.append(f"1: failed for an answer that names no message: {settlement.delivery.id}")

    # Its life --------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Run the day until it is done, stopped or dead: waiting for the lease as `once` does, or as a member."""
        try:
            await (self._live_as_member() if self.sim.world.sharing else self._live_alone())
        except* Crash:
            pass
        except* (LedgerUnavailable, StatementRefused):  # what other tasks met in the moment of the crash
            if not self.dead:
                raise
        if self.stopped_at is not None and not self.dead:
            took = trio.current_time() - max(self.stopped_at, self.frozen_until)
            if took > GRACE + SETTLE_SECONDS + SEND_TIMEOUT:
                self.sim.broken.append(f"5: stopping took {took:.1f} s")
        self.sim.bury(self)

    async def _live_alone(self) -> None:
        poll = FIRST_POLL
        while self.result is None and not self.context.stop.is_set():
            try:
                self.result = await run_day(DAY, self.context)
            except LeaseLost:
                break
            except LeaseHeld:
                await self.context.stop.wait(poll)
                poll = min(LONGEST_POLL, 2 * poll)
            except LedgerUnavailable:
                break
            except StatementRefused as refused:
                if self.context.progress.planned is not None:
                    self.sim.broken.append(f"1: a run in its middle was ended by {refused.reason}")
                break

    async def _live_as_member(self) -> None:
        """Join the day, and join it again if the lease was lost."""
        while self.result is None and not self.context.stop.is_set():
            try:
                run = await self.statement("run", DAY) if self.looks else None
                self.result = (
                    RunResult("completed", None, None)
                    if run and run.state == "completed"
                    else await run_day(DAY, self.context)
                )
            except (LeaseHeld, LedgerUnavailable, StatementRefused):
                self.sim.bury(self)
                await self.context.stop.wait(FIRST_POLL)
                stop = self.context.stop if self.context.stop.is_set() else Stop()  # a scope can be entered once
                self.context = evolve(self.context, stop=stop)


@define
class Simulation:
    """One day, over as many incarnations of the process, and of a standby, as it takes."""

    world: World
    strike: Callable[[int, Boundary], Fault | None]
    random: Random
    trace: Callable[[str], None] = lambda _: None
    ledger: MemoryLedger = field(init=False)
    services: dict[str, Service] = field(init=False)
    boundaries: list[Boundary] = field(factory=list)
    struck: Counter[Fault] = field(factory=Counter)
    broken: list[str] = field(factory=list)
    seen_after: ClassVar[float] = 0.0
    """Seconds after which the process sees that the application's data changed; more than none is a bug."""
    history: deque[Version] = field(factory=lambda: deque(maxlen=MOST_FORGOTTEN))
    """What the database had before each of its last commits, where it forgets some."""
    forgotten: Counter[UUID] = field(factory=Counter)
    """How often the database forgot something of a delivery."""
    refusals_forgotten: set[UUID] = field(factory=set)
    """The deliveries of which the database forgot that they were put back, so that they go under an earlier key."""
    retried: Counter[UUID] = field(factory=Counter)
    """How often the operator put a delivery back."""
    buried: Counter[UUID] = field(factory=Counter)
    """How often a process ended with an answer of a delivery that it had not written."""
    watch: Watch | None = None
    """Sees what processes that share the day do."""
    _base: float = 0.0
    _window_ends: float = field(init=False)
    _due: frozenset[UUID] = frozenset()
    """The mails that were due when the plan was made last."""
    _changes: list[Change] = field(init=False)
    _theirs: list[tuple[float, Mapping[UUID, str]]] = field(factory=list)
    """From when on, by the database's clock, which targets of which deliveries were right."""

    def __attrs_post_init__(self) -> None:
        self.ledger = _Ledger(self.world.app, clock=self.clock, chunk=2)
        self._window_ends, self._changes = self.world.window, list(self.world.changes)
        if self._changes:
            later = deepcopy(self.world.app)
            self._theirs.append((0.0, _targets(later)))
            for change in self._changes:
                change.apply(later)
                self._theirs.append((change.at, _targets(later)))
        keyed = (self.world.keyed, bool(self.world.fallback), False)
        self.services = {name: Service(keys) for name, keys in zip(SERVICES, keyed, strict=True)}
        if self.world.sharing:
            self.watch = Watch(self.ledger, DAY, self._limits(self.world.sharing), self.broken)

    def clock(self) -> float:
        """The database's clock: goes on from one incarnation to the next."""
        return self._base + trio.current_time()

    def pass_boundary(self, boundary: Boundary, who: str) -> Fault | None:
        """Count a boundary; the fault that strikes there, if one does."""
        self.boundaries.append(boundary)
        fault = self.strike(len(self.boundaries) - 1, boundary)
        if fault is not None:
            self.struck[fault] += 1
            when = "after" if boundary.after else "before"
            self.trace(f"{self.clock():9.3f} {who}: {fault.upper()} {when} {boundary.name}")
        return fault

    def holds(self, name: str) -> bool:
        """Whether the process *name* has the lease, or one of the leases of a day that is shared."""
        run = self.ledger.runs.get(DAY)
        if self.watch:
            return name in self.watch.living()
        return run is not None and run.holder == name and run.lease_until > self.clock()

    def steal_lease(self, name: str) -> None:
        """Somebody else has the lease, and does nothing with it. On a day that is shared, *name* has lost its own."""
        if self.watch:
            self.watch.evict(name)
        elif DAY in self.ledger.runs and self.ledger.runs[DAY].holder:
            self.ledger.runs[DAY].holder = "thief"

    def forget_commits(self) -> None:
        """Let the database forget its last commits."""
        if not self.history:
            return
        number = self.random.randint(1, len(self.history))
        versions = [self.history.pop() for _ in range(number)]
        before = {key: row.delivery for key, row in self.ledger.rows.items()}
        self.ledger.go_back(versions[-1])
        changed = [key for key, row in self.ledger.rows.items() if row.delivery != before[key]]
        self.forgotten.update(changed)
        self.refusals_forgotten.update(
            key for key in changed if before[key].put_back > self.ledger.rows[key].delivery.put_back
        )
        self.trace(f"{self.clock():9.3f} forgot {number} commits, about {len(changed)} deliveries")

    def make_changes(self) -> None:
        """Edit the application's data, as far as it is time for that."""
        while self._changes and self._changes[0].at <= self.clock() - self.seen_after:
            change = self._changes.pop(0)
            change.apply(self.world.app)
            self.trace(f"{change.at:9.3f} {change.edit}")

    def note_due(self) -> None:
        """Note what is due at a plan."""
        self._due = frozenset(one.id for one in self.ledger.due(DAY, Rules()) if one.channel is Channel.EMAIL)

    def answer(self, service: Service, messages: Sequence[Message], body: bytes, key: str) -> list[Outcome]:
        """What the service makes of a call."""
        if service.keyed and key in service.answers:
            known, outcomes = service.answers[key]
            if known != body:
                self.broken.append("2: a key was used again with another body")
            return outcomes
        if service is self.services["resend"] and self.world.outage[0] <= self.clock() < self.world.outage[1]:
            return [_refusal(self.world.outage_mood)] * len(messages)
        moods = [self._mood(service, message) for message in messages]
        if whole := next((mood for mood in moods if mood in WHOLE), None):
            return [_refusal(whole)] * len(messages)
        outcomes = [_judged(mood, message) for mood, message in zip(moods, messages, strict=True)]
        taken = [m.delivery_id for m, o in zip(messages, outcomes, strict=True) if isinstance(o, Delivered)]
        service.accepted.update(taken)
        if self.watch and isinstance(messages[0], Mail):
            self.watch.note_accepted(taken)
        if service.keyed:
            service.answers[key] = (body, outcomes)
        if "lost" in moods:
            service.lost.update(taken)
            return [Unknown("connection_lost")] * len(messages)
        return outcomes

    def _mood(self, service: Service, message: Message) -> str:
        target = _target(message)
        moods = self.world.moods.get(target, ())
        nth = service.met[target]
        service.met[target] += 1
        return moods[nth] if nth < len(moods) else "fine"

    # One incarnation after the other ---------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Start the process again and again until the day is done; the promises that were broken."""
        for incarnation in range(INCARNATIONS):
            results = trio.run(self._incarnate, incarnation, clock=trio.testing.MockClock(autojump_threshold=0))
            self.trace(f"{self._base:9.3f} incarnation {incarnation} ended: {results}")
            run = self.ledger.runs.get(DAY)
            done = "completed" in results and run is not None and run.state == "completed"
            if not self._put_back(done=done) and done:
                self.check()
                break
            self._base += self.random.choice([0.5, 3.0, 20.0])
        else:
            self.broken.append(f"1: not done after {INCARNATIONS} incarnations")
        for line in self.broken:
            self.trace(f"BROKEN {line}")
        return self.broken

    def _put_back(self, *, done: bool) -> bool:
        """Put deliveries back between two incarnations, as `retry` does; whether any were.

        When the run is *done*, the next incarnation has time for them, as `once` has.
        """
        if Kind.RETRIES not in self.world.kinds or self.retried.total() > MOST_RETRIED or self.random.random() < 0.5:
            return False
        if DAY not in self.ledger.runs:
            return False
        again = trio.run(self._retry, clock=trio.testing.MockClock())
        if done and again:
            self._window_ends = self._base + RETRY_WINDOW
        return bool(again)

    async def _retry(self) -> int:
        """Put deliveries back, as the operator does; return how many."""
        states = set(self.random.sample([State.FAILED, State.UNKNOWN, State.EXPIRED], self.random.randint(1, 3)))
        again = [key for key, row in self.ledger.rows.items() if row.delivery.state in states]
        keyed = [name for name, service in self.services.items() if service.keyed]
        await self.ledger.retry(DAY, states, keyed)
        self.trace(f"{self.clock():9.3f} put back: {len(again)} that were {', '.join(sorted(states))}")
        self.retried.update(again)
        return len(again)

    async def _incarnate(self, incarnation: int) -> list[str]:
        sharing = self.world.sharing
        if sharing:
            starts = zip(sharing.joins, sharing.skews, strict=True)
            lives = [
                (Process(self, f"member {incarnation}.{nth}", skew, self.random.random() < 0.5), joins)
                for nth, (joins, skew) in enumerate(starts)
            ]
        else:
            names = ["process", *(["standby"] if self.world.standby else [])]
            lives = [(Process(self, f"{name} {incarnation}"), 0.0) for name in names]
        with trio.move_on_after(LONGEST) as scope:
            async with trio.open_nursery() as nursery:
                for process, joins in lives:
                    nursery.start_soon(self._live, process, joins)
        if scope.cancelled_caught:
            self.broken.append("1: processes that wait for ever")
        self._base = self.clock()
        return [process.result.state if process.result else "died" for process, _ in lives]

    async def _live(self, process: Process, joins: float) -> None:
        """Let *process* live from some moment on; where the day is shared, another one may take the place of a dead."""
        await trio.sleep(joins)
        await process.live()
        if not self.world.sharing:
            return
        while process.dead and self.random.random() < REPLACED:
            await trio.sleep(self.random.uniform(0.0, 20.0))
            process = Process(self, f"{process.name}'", process.skew)
            await process.live()
        if process.result and self.random.random() < AGAIN and self.retried.total() <= MOST_RETRIED:
            if await self._retry():
                self._window_ends = self.clock() + RETRY_WINDOW
            await Process(self, f"{process.name} again", process.skew, looks=False).live()

    def end_of_fault(self) -> float:
        """When a fault ends that lasts: some are shorter than a lease, others much longer."""
        return trio.current_time() + self.random.choice([4.0, self.random.uniform(12.0, 26.0), 60.0])

    def bury(self, process: Process) -> None:
        """Note what a process left in the air when it ended: whatever the answers were, they went with it."""
        for key, row in self.ledger.rows.items():
            in_the_air = row.delivery.state is State.SENDING and str(row.delivery.call_id) in process.calls
            # An outcome that the database refused until another process had taken the delivery over.
            if in_the_air or key in process.unwritten:
                self.buried[key] += 1

    def make_context(self, process: Process) -> RunContext:
        """What *process* works with."""
        remote, world = _Remote(process), self.world
        limits = self._limits(world.sharing)
        calls = {
            Channel.EMAIL: CallLimits(limits.email, per_second=limits.per_second),
            Channel.PUSH: CallLimits(limits.push, per_destination=limits.per_destination),
        }
        senders: dict[Channel, list[Sender[Any]]] = {
            Channel.EMAIL: [
                _Sender(process, name, world.max_batch, self.services[name].keyed)
                for name in ("resend", "postmark")[: 1 if world.fallback is None else 2]
            ],
            Channel.PUSH: [_Sender(process, "webpush", 1, honours_keys=False)],
        }
        return RunContext(
            ledger=remote,
            source=remote,
            renderer=_Renderer(world.poisoned),
            rules=Rules(),
            on_unknown="hold" if world.hold else "repeat",
            transports=Transports.of(senders, calls, Breakers(trio.current_time)),
            clock=RunClock(
                now=lambda: MORNING,
                window_left=lasting(max(0.0, self._window_ends + process.skew - self.clock())),
                day_ends=lambda _: MORNING + timedelta(hours=15),
            ),
            holder=process.name,
            limits=Limits(2, calls, email_per_day=limits.per_day, send_timeout=SEND_TIMEOUT, attempts=3),
            terms=TERMS if world.sharing else ALONE,
            progress=Progress(slice_seconds=SLICE),
        )

    def _limits(self, sharing: Sharing | None) -> ClusterLimits:
        """The limits of all processes together."""
        limits = sharing.limits if sharing else ClusterLimits(email=2, push=4, per_destination=2)
        return evolve(limits, per_second=1.0 / self.world.interval) if self.world.interval else limits

    # The promises ----------------------------------------------------------------------------------------------------

    def tries(self) -> dict[UUID, int]:
        """The deliveries that are being sent, and the number of the try that does it."""
        rows = (row.delivery for row in self.ledger.rows.values())
        return {delivery.id: delivery.try_no for delivery in rows if delivery.state is State.SENDING}

    def check_guard(self, before: Mapping[UUID, int], settlements: Sequence[Settlement]) -> None:
        """Check that no settlement ended another try than its own, but the one before it if its own was forgotten."""
        after = self.tries()
        for settlement in settlements:
            key = settlement.delivery.id
            sent, shown = settlement.state is State.SENT, before.get(key)
            own = shown is None or shown == settlement.try_no or (sent and shown < settlement.try_no)
            if not own and after.get(key) != shown:
                self.broken.append(f"2: a late outcome changed a delivery: {key}")

    def check_planned(self) -> None:
        """Check promise 3, right before a call."""
        if not self._due <= self.ledger.rows.keys():
            self.broken.append("3: a message leaves before everything is planned")

    def check_fresh(self, messages: Sequence[Message]) -> None:
        """Check, right before a call, that each message goes where it should, as of at most FRESH seconds before."""
        self.make_changes()
        if not self._theirs:
            return
        now, until = self.clock(), [*(since for since, _ in self._theirs[1:]), inf]
        fresh = [
            theirs
            for (since, theirs), ends in zip(self._theirs, until, strict=True)
            if since <= now and ends >= now - FRESH
        ]
        for message in messages:
            target = message.to if isinstance(message, Mail) else message.device.endpoint
            if not any(theirs.get(message.delivery_id) == target for theirs in fresh):
                self.broken.append(f"a message goes to whom it was not for {FRESH:g} s before: {message.delivery_id}")

    def check_calm(self) -> None:
        """Check what holds where troubles are the world's own, are over in time, and no other fault struck."""
        if self.struck.total() or any(refusal.ends > self.world.window - 60.0 for refusal in self.world.refusals):
            return
        limits = self._limits(self.world.sharing)
        only_quota = (
            self.world.outage_mood == "quota"
            and not (limits.per_day or limits.per_second)
            and self.world.fallback is not None
            and not (self.world.refusals or self.world.interval)
        )
        for key, row in self.ledger.rows.items():
            if row.audit_missing:
                self.broken.append(f"the audit row was given up: {key}")
            if row.delivery.channel is Channel.EMAIL and only_quota and _ran_out(row.delivery):
                self.broken.append(f"1: expired though the fallback would have taken it: {key} {row.delivery.reason}")

    def check_quota(self) -> None:
        """Check that processes that share the day used its quota up, where nothing went wrong."""
        world = self.world
        is_troubled = self.struck.total() or self.retried.total() or world.moods or world.outage != (0.0, 0.0)
        if self.watch and not is_troubled and not world.refusals:
            self.watch.check_quota_used_up()

    def check(self) -> None:
        """Check promises 1, 2 and 4, and that ledger and audit log agree."""
        self.check_calm()
        self.check_quota()
        sent: Counter[tuple[Channel, UUID, UUID]] = Counter()
        for key, row in self.ledger.rows.items():
            delivery = row.delivery
            name = f"{delivery.channel} {key} {delivery.state} ({delivery.reason})"
            takers = [service for service in self.services.values() if service.accepted[key]]
            accepted = sum(service.accepted[key] for service in takers)
            lost = self.buried[key] + sum(service.lost[key] for service in self.services.values())
            if delivery.state in OPEN:
                self.broken.append(f"1: left open: {name}")
            if delivery.state is not State.SENT and not delivery.reason:
                self.broken.append(f"1: no reason: {name}")
            if delivery.state is State.SENT:
                sent[delivery.channel, delivery.office_id, delivery.staff_id] = 1
                if not accepted:
                    self.broken.append(f"1: called sent, and never accepted: {name}")
            again = self.forgotten[key] + self.retried[key]
            # What changed is another call, and so is what another provider refused meanwhile, or what the database
            # forgets to have been put back. An outcome that the database refused until its process ended leaves the
            # delivery unknown, and up to who asks for a retry.
            changed = self.world.changes and (lost or delivery.doubts or self.retried[key])
            elsewhere = self.forgotten[key] and self.world.fallback is not None
            renamed = key in self.refusals_forgotten
            another = changed or elsewhere or renamed
            if not another and any(service.keyed and service.accepted[key] > 1 for service in takers):
                self.broken.append(f"2: accepted {accepted} times, with keys: {name}")
            if len(takers) > 1 and not again:
                self.broken.append(f"2: accepted by two providers: {name}")
            late = sum(settlement.delivery.id == key for settlement in self.ledger.late)
            # An answer that came to a frozen process, or to one that was cut off from the database.
            frozen = max(0, delivery.doubts) if self.struck[Fault.FREEZE] or self.world.sharing else 0
            begun_anew = self.retried[key] + self.forgotten[key]  # a database that forgets a doubt allows for another
            if accepted > (1 + min(1, lost + late + frozen)) * (1 + begun_anew):
                self.broken.append(f"2: accepted {accepted} times, {lost} answers lost: {name}")
            in_doubt = delivery.state is State.UNKNOWN or "in_doubt" in (delivery.reason or "")
            if accepted and delivery.state is not State.SENT and not (in_doubt or late or delivery.doubts or again):
                self.broken.append(f"1: accepted, and the ledger does not know: {name}")
            poisoned = delivery.office_id in self.world.poisoned
            if (poisoned and accepted) or ((delivery.reason or "").startswith("office_error") and not poisoned):
                self.broken.append(f"4: isolation: {name}")
        audited = Counter((row["channel"], row["office_id"], row["target_id"]) for row in self.ledger.app.audit_log)
        bare = {
            (row.delivery.channel, row.delivery.office_id, row.delivery.staff_id)
            for row in self.ledger.rows.values()
            if row.audit_missing
        }
        if audited - sent or (sent - audited).keys() - bare:
            self.broken.append(f"audit and ledger differ: {audited - sent} {sent - audited}")


def _targets(app: Application) -> dict[UUID, str]:
    """To which address or endpoint each delivery that is due goes."""
    members = {(office, one.id): one for office, one in app.staff}
    return {
        delivery.id: app.devices[delivery.device_id].endpoint
        if delivery.device_id
        else members[delivery.office_id, delivery.staff_id].email or ""
        for delivery in MemoryLedger(app).due(DAY, Rules())
    }


def _ran_out(delivery: Delivery) -> bool:
    return delivery.state is State.EXPIRED and (delivery.reason or "").startswith("window_ended")


class _Ledger(MemoryLedger):
    """A ledger whose statements are carried out at one moment: whoever makes one yields to others before it."""

    async def _statement(self) -> None:
        pass


class _Remote:
    """The ledger and the source as the process has them: behind boundaries."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in STATEMENTS:
            raise AttributeError(name)
        return partial(self._process.statement, name)


@define
class _Sender:
    """A sender that calls a simulated service."""

    _process: Process
    name: str
    max_batch: int
    honours_keys: bool

    def destination(self, message: Message) -> str:
        return _destination(self.name, message)

    def encode(self, messages: Sequence[Message]) -> bytes:
        return b"\n".join(
            message.text.encode() if isinstance(message, Mail) else message.payload for message in messages
        )

    async def send(self, messages: Sequence[Message], body: bytes, idempotency_key: str) -> list[Outcome]:
        return await self._process.call(self.name, messages, body, idempotency_key)


def _destination(name: str, message: Message) -> str:
    return name if isinstance(message, Mail) else f"push {message.device.endpoint[-1]}"


@frozen
class _Renderer:
    """Messages that say what they are about."""

    _poisoned: frozenset[UUID]

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        return Mail(delivery.id, SENDER, Address(notice.staff.email or ""), "", self._text(notice, delivery), "", {})

    def address(self, staff: Staff) -> Address:
        return Address(staff.email or "")

    def push(self, notice: Notice, delivery: Delivery, device: Device, ttl: int) -> Push:
        return Push(delivery.id, notice.office_id, device, self._text(notice, delivery).encode(), "", ttl)

    def audit(self, notice: Notice) -> dict[str, object]:
        return {"alerts": len(notice.alerts)}

    def _text(self, notice: Notice, delivery: Delivery) -> str:
        if notice.office_id in self._poisoned:
            raise ValueError("poisoned")
        return f"{delivery.id}: {[alert.recipient_name for alert in notice.alerts]}"


WHOLE = frozenset({"429", "401", "503", "hang", "quota", "bare", "path"})
"""The moods that are a call's, and not one message's."""
OF_NO_MESSAGE = frozenset({"rejected:400", "not_the_provider:302"})
"""The reasons of the last two."""


def _target(message: Message) -> str:
    return message.to if isinstance(message, Mail) else str(message.device.id)


def _refusal(mood: str) -> Outcome:
    match mood:
        case "429":
            return Deferred("rate_limited:429", retry_after=3.0, blame=Blame.PROVIDER)
        case "401":
            return Blocked("blocked:401")
        case "quota":
            return Blocked("quota:429", retry_after=3600.0)
        case "bare":
            return Rejected("rejected:400", blame=Blame.UNCLEAR)
        case "path":
            return Deferred("not_the_provider:302", blame=Blame.PATH)
        case "503":
            return Deferred("server_error:503")
        case _:
            return Unknown("hang")


def _judged(mood: str, message: Message) -> Outcome:
    match mood:
        case "rejected":
            return Rejected("rejected:422")
        case "deferred":
            return Deferred("deferred:item", blame=Blame.MESSAGE)
        case "gone" if isinstance(message, Push):
            return Gone("gone:410")
        case _:
            return Delivered(f"id of {message.delivery_id}")


# Worlds and faults -----------------------------------------------------------------------------------------------


def a_world(random: Random) -> World:
    """Three offices with a few people, devices and troubles."""
    app = Application()
    targets = []
    for number in range(3):
        targets += add_office(app, number, random)
    moods = {}
    for target in targets:
        if random.random() < 0.3:
            kinds = ["rejected", "deferred", "429", "503", "401", "hang", "lost", "gone"]
            moods[target] = [random.choice(kinds) for _ in range(random.randint(1, 3))]
    return World(
        app,
        keyed=random.random() < 0.6,
        hold=random.random() < 0.2,
        max_batch=random.choice([1, 2, 100]),
        window=random.choice([20.0, 120.0, WINDOW, WINDOW]),
        moods=moods,
        standby=random.random() < 0.3,
        latency=random.choice([(0.05, 0.2), (0.05, 0.2), (0.5, 2.4)]),
        poisoned=frozenset(random.sample(list(app.offices), 1)) if random.random() < 0.15 else frozenset(),
        fallback=random.choice([None, None, True, False]),
        outage=random.choice([(0.0, 0.0), (0.0, 0.0), (0.0, 15.0), (0.2, 60.0), (0.0, WINDOW)]),
    )


def add_office(app: Application, number: int, random: Random) -> list[str]:
    """Add an office with a few people and devices to *app*; return to whom messages go."""
    office = an_id(f"office {number}")
    app.offices[office] = f"Office {number}"
    app.alerts.append((office, a_renewal(random.randint(-3, 20), f"recipient of {number}")))
    targets = []
    for member in range(random.randint(1, 3)):
        someone = a_staff(f"staff-{number}-{member}", push_enabled=random.random() < 0.5, push_days=30)
        app.staff.append((office, someone))
        targets.append(someone.email or "")
        for device in range(random.randint(0, 2)):
            phone = a_device(someone, f"phone {device}")
            app.devices[phone.id] = phone
            targets.append(str(phone.id))
    return targets


def a_quiet_world(*, keyed: bool, members: int = 0) -> World:
    """A few offices, everybody fine: what the exhaustive faults are tried on.

    Args:
        members: how many processes share the day; 0: one has it. Where they share it, calls take longer, so that each
            of them gets a part.
    """
    app = Application()
    for number in range(5 if members else 3):
        office = an_id(f"office {number}")
        app.offices[office] = f"Office {number}"
        app.alerts.append((office, a_renewal(number, f"recipient of {number}")))
        for member in range(2):
            someone = a_staff(f"staff-{number}-{member}", push_enabled=member == 0, push_days=30)
            app.staff.append((office, someone))
        phone = a_device(app.staff[-2][1])
        app.devices[phone.id] = phone
    if not members:
        return World(app, keyed=keyed)
    limits = ClusterLimits(email=2, push=4, per_destination=1)
    joins = tuple(0.1 * number for number in range(members))
    sharing = Sharing(joins, (0.0,) * members, limits)
    return World(app, keyed=keyed, max_batch=1, latency=(0.5, 1.0), sharing=sharing)


def seeded(seed: int, trace: Callable[[str], None] = lambda _: None, kinds: Collection[Kind] = KINDS) -> Simulation:
    """The run of one seed: a world with troubles of some *kinds*, and up to six faults at random boundaries."""
    random, troubles = Random(seed), Random(f"troubles of {seed}")
    schedule_by(seed)
    world = troubled(a_world(random), troubles, kinds)
    left = [random.randint(1, 6)]
    chance = random.choice([0.02, 0.05, 0.15])
    faults = FAULTS
    if world.sharing:
        faults, chance = MEMBERS_FAULTS, chance / len(world.sharing.joins)
    if Kind.FORGETTING in world.kinds:
        faults += (Fault.FORGET, Fault.RESTORE) * 3
    elif world.outage_mood == "quota" or (world.kinds and troubles.random() < CALM):
        left = [0]

    def strike(_: int, boundary: Boundary) -> Fault | None:
        times = _times(boundary) if world.sharing else 1
        if not left[0] or random.random() > times * chance:
            return None
        left[0] -= 1
        return random.choice(boundary.faults(faults))

    return Simulation(world, strike, random, trace)


def _times(boundary: Boundary) -> int:
    """How many times as likely a fault is at *boundary* as at one that is passed often."""
    return SELDOM if boundary.name in ENDING else 1 if boundary.name in OFTEN else RARELY


def troubled(world: World, random: Random, kinds: Collection[Kind]) -> World:
    """Give *world* some of the *kinds* of trouble, of which a single one is in every world."""
    some = frozenset(kind for kind in sorted(kinds) if len(kinds) == 1 or random.random() < 0.4)
    if some & {Kind.CHANGES, Kind.CLUSTER}:  # a database would forget changes, too: nobody knew what was whose
        some -= {Kind.FORGETTING}
    world = evolve(world, kinds=some)
    if Kind.CLUSTER in some:
        world = shared(world, random)
    if Kind.REFUSALS in some:
        world = evolve(world, refusals=[a_refusal(random)])
    if Kind.ANSWERS in some:
        begins, mood = random.choice([0.0, random.uniform(0.0, 5.0)]), random.choice(["quota", "bare", "path", "429"])
        world = evolve(world, outage=(begins, begins + random.choice([10.0, 60.0, 300.0])), outage_mood=mood)
        if mood == "quota":  # while others are in flight
            outage, fallback = (random.uniform(0.5, 4.0), WINDOW), random.random() < 0.5
            world = evolve(world, outage=outage, fallback=fallback, moods={}, max_batch=1)
            world = evolve(world, latency=(0.5, 2.4), window=120.0)
        elif random.random() < 0.5:
            world = evolve(world, moods={target: ["fine", mood, mood, mood] for target in world.moods})
    if Kind.RETRIES in some and world.outage_mood != "quota":  # the window ends before the turn of what is repeated
        world = evolve(world, window=random.choice([4.0, 8.0, 20.0, world.window]))
    if Kind.CHANGES in some:
        world = evolve(world, changes=some_changes(random, world.app), interval=random.choice([0.0, 3.0, 8.0]))
    return world


def shared(world: World, random: Random) -> World:
    """Let up to five processes share the day of *world*, with more offices."""
    for number in range(3, random.randint(4, 9)):
        add_office(world.app, number, random)
    window = random.choice([40.0, 120.0, 300.0])
    sharing = a_sharing(random, mails=len(world.app.staff))
    if random.random() < 0.5:
        world = evolve(world, moods={}, outage=(0.0, 0.0))
    if random.random() < 0.2:
        world = evolve(world, poisoned=frozenset(random.sample(list(world.app.offices), 2)))
    return evolve(world, sharing=sharing, standby=False, window=window, latency=random.choice(LATENCIES))


def schedule_by(seed: int) -> None:
    """Let Trio choose among runnable tasks by *seed*: the hook that pytest-trio and hypothesis-trio use."""
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(seed)


def exhaustive(*, keyed: bool, members: int = 0, every: int = 1) -> tuple[int, Counter[Fault], list[str]]:
    """Every fault at every boundary of a quiet run; how many runs, which faults, and what was broken.

    Args:
        members: how many processes share the day; 0: one has it.
        every: how many boundaries there are from one that is tried to the next.
    """
    broken: list[str] = []
    struck: Counter[Fault] = Counter()
    schedule_by(0)
    plain = Simulation(a_quiet_world(keyed=keyed, members=members), lambda _, __: None, Random(0))
    broken += plain.run()
    runs = 1
    for place, boundary in list(enumerate(plain.boundaries))[::every]:
        for fault in boundary.faults(MEMBERS_FAULTS if members else FAULTS):
            schedule_by(0)
            world = a_quiet_world(keyed=keyed, members=members)
            sim = Simulation(world, partial(_at, place, fault), Random(0))
            runs += 1
            where = f"{fault} {'after' if boundary.after else 'before'} {boundary.name} (boundary {place})"
            broken += [f"{where}: {line}" for line in sim.run()]
            struck += sim.struck
    return runs, struck, broken


def one_pair(number: int) -> tuple[int, Counter[str], list[str]]:
    """Strike twice where processes share a quiet day, at two boundaries that *number* decides."""
    random = Random(f"pair {number}")
    keyed = random.random() < 0.5
    places = random.sample(range(_boundaries_of_members(keyed=keyed)), 2)

    def strike(here: int, boundary: Boundary) -> Fault | None:
        return random.choice(boundary.faults(MEMBERS_FAULTS)) if here in places else None

    schedule_by(number)
    sim = Simulation(a_quiet_world(keyed=keyed, members=PAIRED), strike, random)
    broken = sim.run()
    return number, Counter(sim.struck), broken


@cache
def _boundaries_of_members(*, keyed: bool) -> int:
    """How many boundaries the quiet day has."""
    schedule_by(0)
    plain = Simulation(a_quiet_world(keyed=keyed, members=PAIRED), lambda _, __: None, Random(0))
    plain.run()
    return len(plain.boundaries)


def _at(place: int, fault: Fault, here: int, _: Boundary) -> Fault | None:
    """Strike once, at one place."""
    return fault if here == place else None


def one_seed(seed: int, kinds: Collection[Kind] = KINDS) -> tuple[int, Counter[str], list[str]]:
    """Run *seed*; the faults that struck, and what was broken."""
    sim = seeded(seed, kinds=kinds)
    broken = sim.run()
    states = Counter(f"ended {row.delivery.state}" for row in sim.ledger.rows.values())
    return seed, Counter(sim.struck) + states + Counter(f"world with {kind}" for kind in sim.world.kinds), broken


def quiet() -> None:
    """No log lines: a simulation makes millions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Simulated runs with faults.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of faults where processes share a quiet day")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one seed again, with all that happened")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--kinds", type=Kind, nargs="*", default=sorted(KINDS), choices=list(Kind), help="troubles of worlds"
    )
    options = parser.parse_args()
    if options.seed is not None:
        return 1 if seeded(options.seed, print, options.kinds).run() else 0
    quiet()
    began = time.monotonic()
    bad = 0
    for keyed, members in product((True, False), (0, 3)):
        runs, struck, broken = exhaustive(keyed=keyed, members=members)
        bad += len(broken)
        faults = ", ".join(f"{n} {fault}" for fault, n in struck.items())
        world = f"keys {keyed}, {members or 1} processes"
        print(f"every single fault at every boundary, {world}: {runs} runs ({faults}); {len(broken)} broken")
        print("\n".join(broken[:20]), end="\n" if broken else "")
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs, initializer=quiet) as pool:
        for number, _, broken in pool.map(one_pair, range(options.pairs), chunksize=50):
            bad += len(broken)
            for line in broken:
                print(f"pair {number}: {line}")
        print(f"{options.pairs} pairs of faults where {PAIRED} processes share the day; {bad} broken so far")
        seeds = range(options.first, options.first + options.runs)
        ended = pool.map(partial(one_seed, kinds=options.kinds), seeds, chunksize=50)
        for done, (seed, counted, broken) in enumerate(ended, 1):
            total += counted
            bad += len(broken)
            for line in broken:
                print(f"seed {seed}: {line}")
            if done % 5000 == 0:
                print(f"{done} runs, {bad} broken, {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"{options.runs} seeded runs: " + ", ".join(f"{n} {what}" for what, n in sorted(total.items())))
    print(f"{bad} broken promises; {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
