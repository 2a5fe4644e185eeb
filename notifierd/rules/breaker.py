"""The circuit breaker of a destination: whether it may be used now, judged by the results of its last calls.

Pure, except for the clock. `next_state` is the table of the section "When a provider has trouble" in docs/delivery.md.
The deliveries of a destination that may not be used stay planned.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
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
"""Consecutive failures after which the breaker opens. A rate that was exceeded causes one or two."""
OUT_PAUSE = 10.0
"""Seconds; a longer pause opens the breaker. A provider that enforces a rate asks for less."""
REFUSALS = 5
"""Offices in a row whose messages are rejected without naming a message, after which the provider is taken to reject
our credentials or account."""
PROBE_PAUSE = 1.0
"""Seconds until other calls look again at a destination that one call is probing."""
LAST_PAUSE = 1.0
"""Extra seconds that an office whose calls failed waits before it probes a destination. Other offices probe first, so a
message that is refused because of its own content does not keep the breaker open for all others."""


class State(Enum):
    """The state of a breaker."""

    CLOSED = "closed"
    """Calls are made."""
    THROTTLED = "throttled"
    """No call is made for a short pause."""
    OPEN = "open"
    """The destination is out: no call is made for a pause, and a mail goes through another provider."""
    PROBING = "probing"
    """The destination is out, and its pause is over: one call at a time is made."""


class Finding(Enum):
    """What the end of a call, or of a pause, says about the destination."""

    PASSED = "passed"
    """The provider judged a message itself."""
    FAILED = "failed"
    FAILED_FOR_LONG = "failed for long"
    """The call was the third in a row to fail, or the answer asks for a longer wait than a rate limit would."""
    REFUSED = "refused"
    """The provider rejects our credentials or account."""
    PAUSE_OVER = "pause over"


def next_state(state: State, finding: Finding) -> State:
    """The state of a breaker in *state* after *finding*."""
    match finding, state:
        case Finding.PASSED, State.CLOSED | State.PROBING:
            return State.CLOSED
        case Finding.PASSED, _:  # until its pause is over
            return State.THROTTLED
        case Finding.FAILED, State.CLOSED | State.THROTTLED:
            return State.THROTTLED
        case ((Finding.FAILED | Finding.FAILED_FOR_LONG | Finding.REFUSED), _):
            return State.OPEN
        case Finding.PAUSE_OVER, State.THROTTLED:
            return State.CLOSED
        case Finding.PAUSE_OVER, State.OPEN:
            return State.PROBING
        case _:
            return state


Refusal = Blocked | Rejected
Trouble = Deferred | Blocked | Unknown


@define
class CircuitBreaker:
    """The breaker of one destination. Times are seconds of *clock*, which only goes forward.

    Attributes:
        blocked: why the provider rejects our credentials or account, as long as it does.
    """

    _clock: Callable[[], float]
    blocked: str | None = None
    _state: State = State.CLOSED
    """The state after the last call. ``state`` takes into account that its pause may be over."""
    _cause: str = ""
    """Why the breaker opened."""
    _paused_until: float = -inf
    _tripped_at: float = -inf
    _passed_at: float = -inf
    _counted_at: float = -inf
    _failures: int = 0
    _calls: int = 0
    _failed: set[UUID] = field(factory=set)
    """The offices whose calls failed since a message passed."""
    _rejected: set[UUID] = field(factory=set)
    """The offices whose messages were rejected without naming a message since a message passed."""

    @property
    def state(self) -> State:
        """The state now."""
        return self._state if self._clock() < self._paused_until else next_state(self._state, Finding.PAUSE_OVER)

    @property
    def outage(self) -> str | None:
        """Why the destination is out, from the moment that the breaker opens until a message passes."""
        return self._cause if self._state is State.OPEN else None

    @property
    def works(self) -> bool:
        """Whether messages have passed in this run, and the destination does not reject everybody by now."""
        return self._passed_at > -inf and len(self._rejected) < REFUSALS

    def passed_since(self, began: float) -> bool:
        """Whether any message has passed through the destination since the moment *began*."""
        return self._passed_at >= began

    def retry_in(self, office: UUID | None = None) -> float:
        """Seconds until a call of *office* may use the destination; 0 if it may now."""
        probed = PROBE_PAUSE if self.outage and self._calls else 0.0
        last = LAST_PAUSE if self.outage and office in self._failed else 0.0
        return max(probed, self._paused_until + last - self._clock())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a call that ``retry_in`` allows as being made, for the length of the block."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def record(self, outcomes: Sequence[Outcome], began: float, office: UUID) -> None:
        """Update the state by the *outcomes* of a call of *office*.

        Args:
            began: when the call began. A message that passes closes the breaker only if its call began after the last
                failure: an older answer does not show that the destination works again.
        """
        if any(map(_passed, outcomes)):
            self._passed_at = self._clock()
            if began > self._tripped_at:
                self._reset()
            return
        if _unnamed(outcomes):
            self._rejected.add(office)
        refusals = _refusals(outcomes, everybody=len(self._rejected) >= REFUSALS)
        troubles = [outcome for outcome in outcomes if isinstance(outcome, Trouble)]
        if refusals or _destination_wide(troubles, others_pass=self.passed_since(began)):
            self._failed.add(office)
            self._trip(refusals, troubles, began)

    def _reset(self) -> None:
        """Forget the failures: a message has passed."""
        self._state = next_state(self.state, Finding.PASSED)
        self.blocked, self._failures = None, 0
        self._failed.clear()
        self._rejected.clear()

    def _trip(self, refusals: Sequence[Refusal], troubles: Sequence[Trouble], began: float) -> None:
        """Count the failure of a call, and begin a pause."""
        now, state = self._clock(), self.state
        if began > self._counted_at:  # calls that were in flight together are one failure
            self._failures, self._counted_at = self._failures + 1, now
        asked = min(LONGEST_BLOCKED_PAUSE, max((outcome.retry_after or 0.0 for outcome in troubles), default=0.0))
        self._tripped_at = now
        self._paused_until = max(self._paused_until, now + _pause(asked, self._failures, refused=bool(refusals)))
        if refusals:
            self.blocked = refusals[0].reason
        self._cause = self.outage or (refusals or troubles)[0].reason
        self._state = next_state(state, _failure(asked, self._failures, refused=bool(refusals)))


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


def _unnamed(outcomes: Sequence[Outcome]) -> list[Rejected]:
    """The rejections that do not name a message."""
    return [outcome for outcome in outcomes if isinstance(outcome, Rejected) and outcome.blame is not Blame.MESSAGE]


def _refusals(outcomes: Sequence[Outcome], *, everybody: bool) -> list[Refusal]:
    """The outcomes that concern our credentials or account, those that say more first.

    Args:
        everybody: a rejection that names no message is one of them, as the destination rejects every office.
    """
    blocked = [outcome for outcome in outcomes if isinstance(outcome, Blocked)]
    return [*blocked, *(_unnamed(outcomes) if everybody else ())]


def _destination_wide(troubles: Sequence[Trouble], *, others_pass: bool) -> bool:
    """Whether the destination is the cause: the provider says so, or it is unclear and no other message passed."""
    blames = {outcome.blame if isinstance(outcome, Deferred) else Blame.UNCLEAR for outcome in troubles}
    return Blame.PROVIDER in blames or not (blames <= {Blame.MESSAGE} or others_pass)


def _failure(asked: float, failures: int, *, refused: bool) -> Finding:
    """Which kind of failure a call is that asked for a wait of *asked* seconds."""
    if refused:
        return Finding.REFUSED
    return Finding.FAILED_FOR_LONG if failures >= OUT_FAILURES or asked > OUT_PAUSE else Finding.FAILED


def _pause(asked: float, failures: int, *, refused: bool) -> float:
    """Seconds of pause: what the provider *asked* for, or a pause that grows; after a refusal the longer of both."""
    if refused:
        return max(asked, _growing(FIRST_BLOCKED_PAUSE, LONGEST_BLOCKED_PAUSE, failures))
    return asked or _growing(FIRST_PAUSE, LONGEST_PAUSE, failures)


def _growing(first: float, longest: float, failures: int) -> float:
    return min(longest, first * 2.0 ** (min(failures, 20) - 1))


@define
class Breakers:
    """The breakers of all destinations. A destination gets its breaker at its first use."""

    clock: Callable[[], float]
    _breakers: dict[str, CircuitBreaker] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._breakers = defaultdict(lambda: CircuitBreaker(self.clock))

    def __getitem__(self, destination: str) -> CircuitBreaker:
        return self._breakers[destination]

    def blocked(self) -> dict[str, str]:
        """The destinations whose provider rejects our credentials or account, with the reason."""
        return {destination: breaker.blocked for destination, breaker in self._breakers.items() if breaker.blocked}

    def outages(self) -> dict[str, str]:
        """The destinations that are out, with the reason."""
        return {destination: breaker.outage for destination, breaker in self._breakers.items() if breaker.outage}

    def usable(self, destination: str) -> bool:
        """Whether the destination may be used now."""
        return not self[destination].retry_in()

    def out(self, destination: str) -> bool:
        """Whether the destination is out and may not be probed now."""
        return bool(self[destination].outage and self[destination].retry_in())
