"""Gates: whether a sender's lane may be used now, judged by how its last calls ended. Pure but for the clock.

A lane that fails every call, or refuses us, is left alone for growing pauses, and its deliveries stay planned. A lane
through which other messages pass is in order: then a message that is deferred has itself to blame. One that is out,
and not just slowed down, is tried by one call at a time, and a reason to turn to another provider.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import assert_never
from uuid import UUID

from attrs import define, field

from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
FIRST_BLOCKED_PAUSE = 15.0
LONGEST_BLOCKED_PAUSE = 300.0

OUT_FAILURES = 3
"""So many failures without a message that passed, and a lane is out; a rate that is exceeded is one or two."""
REFUSALS = 5
"""Offices whose messages are rejected in words that name no message, before one passes: from then on it is we whom the
provider refuses."""
PROBE_PAUSE = 1.0
"""Seconds until a lane that is out is looked at again, while a call tries it."""
LAST_PAUSE = 1.0
"""Seconds for which a lane that is out stays shut for longer to the offices whose calls failed there: others try it
first, so that a message that is refused for its own sake does not keep it shut for everybody."""
OUT_PAUSE = 10.0
"""Seconds of pause that are more than a rate asks for: a lane that is left alone for longer is out."""


Trouble = Deferred | Blocked | Unknown


@define
class Gate:
    """One lane's gate. Times are seconds of *clock*, which only goes forward."""

    _clock: Callable[[], float]
    _reopens: float = -inf
    _closed_at: float = -inf
    _failures: int = 0
    _counted_at: float = -inf
    _passed_at: float = -inf
    _calls: int = 0
    _failed: set[UUID] = field(factory=set)
    """The offices whose calls failed since a message passed."""
    _refused: set[UUID] = field(factory=set)
    """Those of them whose messages were rejected in words that name no message."""
    blocked: str | None = None
    """Why the provider refuses us, while it does."""
    out: str | None = None
    """Why the lane is out, from when that is clear until a message passes."""

    def wait(self, office: UUID | None = None) -> float:
        """Seconds until the lane may be used, by a call of *office*; 0 if it may be now."""
        probed = PROBE_PAUSE if self.out and self._calls else 0.0
        last = LAST_PAUSE if self.out and office in self._failed else 0.0
        return max(probed, self._reopens + last - self._clock())

    @property
    def works(self) -> bool:
        """Whether messages have passed in this run, and the lane does not refuse everybody by now."""
        return self._passed_at > -inf and len(self._refused) < REFUSALS

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Have a call go through the lane, which ``wait`` said that it may."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def passed_since(self, began: float) -> bool:
        """Whether any message passed through the lane since the moment *began*."""
        return self._passed_at >= began

    def record(self, outcomes: Sequence[Outcome], began: float, office: UUID) -> None:
        """Learn from a call of *office* that was begun at *began*.

        A message that passed opens the lane only if its call began after the lane was closed: the answer of an older
        call says nothing of what is true since.
        """
        now = self._clock()
        if any(map(_passed, outcomes)):
            self._passed_at = now
            if began > self._closed_at:
                self._failures = 0
                self.blocked = self.out = None
                self._failed.clear()
                self._refused.clear()
            return
        bare = [outcome for outcome in outcomes if isinstance(outcome, Rejected) and outcome.blame is not Blame.MESSAGE]
        troubles = [outcome for outcome in outcomes if isinstance(outcome, Deferred | Blocked | Unknown)]
        if bare:
            self._refused.add(office)
        refusals: list[Blocked | Rejected] = [outcome for outcome in troubles if isinstance(outcome, Blocked)]
        if len(self._refused) >= REFUSALS:
            refusals += bare
        refusal = refusals[0] if refusals else None
        if refusal or (troubles and self._lane_wide(troubles, began)):
            self._failed.add(office)
            self._close(refusal, troubles, began, now)

    def _close(self, refusal: Blocked | Rejected | None, troubles: Sequence[Trouble], began: float, now: float) -> None:
        """Shut the lane for as long as *troubles* ask for, or for a growing pause."""
        if began > self._counted_at:  # calls that were in flight together are one failure
            self._failures += 1
            self._counted_at = now
        self._closed_at = now
        pause = min(LONGEST_BLOCKED_PAUSE, max((outcome.retry_after or 0.0 for outcome in troubles), default=0.0))
        if refusal is not None:
            self.blocked = refusal.reason
            pause = max(pause, _growing(FIRST_BLOCKED_PAUSE, LONGEST_BLOCKED_PAUSE, self._failures))
        self._reopens = max(self._reopens, now + (pause or _growing(FIRST_PAUSE, LONGEST_PAUSE, self._failures)))
        if refusal is not None or self._failures >= OUT_FAILURES or pause > OUT_PAUSE:
            self.out = self.out or (refusal or troubles[0]).reason

    def _lane_wide(self, troubles: Sequence[Trouble], began: float) -> bool:
        """Whether the trouble is the lane's: said so by the provider, or nothing passed while it happened."""
        said = any(isinstance(outcome, Deferred) and outcome.blame is Blame.PROVIDER for outcome in troubles)
        own = all(isinstance(outcome, Deferred) and outcome.blame is Blame.MESSAGE for outcome in troubles)
        return said or not (own or self.passed_since(began))


def _passed(outcome: Outcome) -> bool:
    """Whether the provider has judged the message itself."""
    match outcome:
        case Delivered() | Gone():
            return True
        case Rejected(blame=blame, asked=asked):
            return asked and blame is Blame.MESSAGE
        case Deferred() | Blocked() | Unknown():
            return False
    assert_never(outcome)


def _growing(first: float, longest: float, failures: int) -> float:
    return min(longest, first * 2.0 ** (min(failures, 20) - 1))


@define
class Gates:
    """The gates of all lanes, made as they are met."""

    clock: Callable[[], float]
    _gates: dict[str, Gate] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._gates = defaultdict(lambda: Gate(self.clock))

    def __getitem__(self, lane: str) -> Gate:
        return self._gates[lane]

    def blocked(self) -> dict[str, str]:
        """The lanes that refuse us, with the reason."""
        return {lane: gate.blocked for lane, gate in self._gates.items() if gate.blocked}

    def outages(self) -> dict[str, str]:
        """The lanes that are out, with the reason."""
        return {lane: gate.out for lane, gate in self._gates.items() if gate.out}

    def usable(self, lane: str) -> bool:
        """Whether the lane may be used now."""
        return not self[lane].wait()

    def out(self, lane: str) -> bool:
        """Whether the lane is out, and not to be tried again yet."""
        return bool(self[lane].out and self[lane].wait())
