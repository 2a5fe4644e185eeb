"""The numbers of a day: what was planned, what the limits allow, what was sent, and which alerts reached nobody."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from attrs import field, frozen

from notifierd.model.delivery import LOST, OPEN, Channel, State

MOST_NAMED = 50
"""The most offices that an excess names."""
MOST_CROWDED = 10
"""The most staff members with too many devices that a plan names."""


@frozen
class Backlog:
    """The work that is left after a pass: open deliveries, whether any can go now, and when the next can.

    Attributes:
        next_in: seconds until the next delivery that waits can go; None if none waits.
        done: the last office before the first one with anything open, in the order of urgency: (urgency, office id).
            None if no office is before that one, or nothing is open.
    """

    open: int
    due_now: bool
    next_in: float | None
    done: tuple[int, UUID] | None = None


@frozen
class Capacity:
    """The number of mails and calls that the limits allow in a day; None: no such limit.

    Attributes:
        mails: in the whole day, including those that a provider was already given.
        calls: that can begin before the window ends.
        batch: the most mails of one call.
    """

    mails: int | None = None
    calls: int | None = None
    batch: int = 1

    def without(self, planned: "Planned") -> "Capacity":
        """Return the capacity that *planned* leaves to what is planned later."""
        return Capacity(
            None if self.mails is None else max(0, self.mails - planned.mails_given - planned.email),
            None if self.calls is None else max(0, self.calls - planned.calls),
            self.batch,
        )

    @classmethod
    def of(cls, seconds: float, *, per_day: int, per_second: float, batch: int) -> "Capacity":
        """Return the capacity of *seconds* with so many mails *per_day* and calls *per_second*; 0 means no limit."""
        return cls(per_day or None, int(max(0.0, seconds) * per_second) + 1 if per_second else None, batch)


@frozen
class Excess:
    """Mails that exceed a limit: those of the least urgent offices.

    Attributes:
        limit: its key in the table [limits].
        offices: the number of offices they belong to.
        first: the most urgent of these, at most 50.
    """

    limit: str
    mails: int
    offices: int
    first: tuple[UUID, ...]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Excess":
        """Return the excess that JSON of the ledger describes."""
        return cls(found["limit"], found["mails"], found["offices"], tuple(map(UUID, found["first"])))

    @classmethod
    def merged(cls, parts: Sequence["Excess"]) -> tuple["Excess", ...]:
        """Return one excess for each limit in *parts*; the offices of an earlier part are more urgent."""
        of = {
            limit: [part for part in parts if part.limit == limit] for limit in sorted({part.limit for part in parts})
        }
        return tuple(
            cls(
                limit,
                sum(part.mails for part in same),
                sum(part.offices for part in same),
                tuple(office for part in same for office in part.first)[:MOST_NAMED],
            )
            for limit, same in of.items()
        )

    @property
    def words(self) -> str:
        """Return a text that describes it, without the offices' ids."""
        return f"{counted(self.mails, 'mail')} of {counted(self.offices, 'office')} (limits.{self.limit})"


@frozen
class Planned:
    """The number of offices, mails and pushes that are open after planning.

    Attributes:
        mails_given: mails of the day that a provider was given before, or may have been.
        excess: the excess over each limit that is exceeded.
        held: mails that were written as failed, because mails to their addresses are held back.
        crowded: the staff members with more devices than pushes go to, and their number of devices; at most 10 members.
        calls: the calls to the mail provider that take the mails, at least.
        later: the number of offices that are not planned yet, because the day is planned in steps. None: the day was
            planned before, and what is new since then is still to be planned.
    """

    offices: int
    email: int
    push: int
    held: int = 0
    mails_given: int = 0
    excess: tuple[Excess, ...] = ()
    crowded: Mapping[UUID, int] = field(factory=dict)
    calls: int = 0
    later: int | None = 0

    @property
    def is_complete(self) -> bool:
        """Whether all offices are planned."""
        return self.later == 0

    def followed_by(self, step: "Planned") -> "Planned":
        """Return what is open after the next step of the plan."""
        crowded = sorted({**self.crowded, **step.crowded}.items(), key=lambda item: (-item[1], item[0]))
        return Planned(
            self.offices + step.offices,
            self.email + step.email,
            self.push + step.push,
            self.held + step.held,
            self.mails_given,
            Excess.merged([*self.excess, *step.excess]),
            dict(crowded[:MOST_CROWDED]),
            self.calls + step.calls,
            step.later,
        )


@frozen
class ChannelCounts:
    """The deliveries of a day on one channel, by state; ``planned`` is the sum of the others."""

    planned: int = 0
    sent: int = 0
    failed: int = 0
    gone: int = 0
    unknown: int = 0
    expired: int = 0
    open: int = 0

    @classmethod
    def of(cls, states: Mapping[str, int]) -> "ChannelCounts":
        """Return the counts for deliveries by the ledger's *states*."""
        settled = {state: n for state, n in states.items() if state not in OPEN}
        return cls(planned=sum(states.values()), open=sum(states.values()) - sum(settled.values()), **settled)

    def count(self, state: State) -> int:
        """Return how many ended in *state*."""
        return int(getattr(self, state))

    @property
    def lost(self) -> int:
        """How many reached nobody, apart from devices that are gone."""
        return sum(map(self.count, LOST))


@frozen
class Failure:
    """A delivery that reached nobody, and why: ``reason`` is one of our codes, with the provider's status."""

    office_id: UUID
    channel: Channel
    reason: str


@frozen
class Untold:
    """The number of an office's alerts that reached nobody, and how many of them are overdue."""

    office_id: UUID
    alerts: int
    overdue: int


@frozen
class DayCounts:
    """The counts of a day in the ledger.

    Attributes:
        untold: the offices with alerts that reached nobody, those with the most overdue ones first.
        unaudited: the number of offices whose own audit row is due, of earlier days, too.
    """

    offices: int
    offices_failed: int
    email: ChannelCounts
    push: ChannelCounts
    backlog: Backlog
    untold: tuple[Untold, ...] = ()
    failures: tuple[Failure, ...] = ()
    failures_omitted: int = 0
    excess: tuple[Excess, ...] = ()
    unaudited: int = 0

    @property
    def untold_alerts(self) -> int:
        """How many alerts reached nobody."""
        return sum(office.alerts for office in self.untold)

    @property
    def untold_overdue(self) -> int:
        """How many of those are overdue."""
        return sum(office.overdue for office in self.untold)

    @property
    def untold_offices(self) -> tuple[UUID, ...]:
        """Their offices, those with the most overdue ones first."""
        return tuple(office.office_id for office in self.untold)


@frozen
class Tallies:
    """What a process has done on a day since it joined.

    Attributes:
        settled: the deliveries that ended with it, by channel and state.
        offices_done: the offices that it finished, counted again in each pass.
        offices_in_hand: the offices that it works on.
        rate: how many deliveries ended with it per second, over the last minute.
    """

    settled: Mapping[tuple[Channel, State], int] = field(factory=dict)
    offices_done: int = 0
    offices_in_hand: int = 0
    rate: float = 0.0

    def of(self, channel: Channel) -> int:
        """Return how many deliveries ended with it on *channel*."""
        return sum(n for (on, _), n in self.settled.items() if on is channel)

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object, with the settled deliveries by channel, and those by state."""
        settled: dict[str, dict[str, int]] = {}
        for (channel, state), n in self.settled.items():
            settled.setdefault(channel, {})[state] = n
        return {
            "settled": settled,
            "offices_done": self.offices_done,
            "offices_in_hand": self.offices_in_hand,
            "rate": self.rate,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Tallies":
        """Return what `as_json` made of it."""
        settled = {
            (Channel(channel), State(state)): n
            for channel, states in found["settled"].items()
            for state, n in states.items()
        }
        return cls(settled, found["offices_done"], found["offices_in_hand"], found["rate"])


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return *number* with *noun*, or with its plural: "1 mail", "2,000 mails", "0 pushes"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
