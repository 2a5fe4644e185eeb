"""How a day stands, in numbers: what its plan holds, what there is room for, how it went, and whom nothing reached."""

from collections.abc import Mapping
from uuid import UUID

from attrs import field, frozen

from notifierd.model.delivery import LOST, OPEN, Channel, State


@frozen
class Outlook:
    """What is left of a day after a pass: open deliveries, whether any of their turns has come, and when the next will.

    Attributes:
        next_in: seconds until the next turn of a delivery that waits; None if none does.
    """

    open: int
    due_now: bool
    next_in: float | None


@frozen
class Room:
    """What the limits of the configuration leave of a day for its mails; None: no such limit.

    Attributes:
        mails: in the day, those that were given to a provider already included.
        calls: that can be begun before the window ends.
        batch: how many mails one call carries at most.
    """

    mails: int | None = None
    calls: int | None = None
    batch: int = 1

    @classmethod
    def of(cls, seconds: float, *, per_day: int, per_second: float, batch: int) -> "Room":
        """The room in *seconds* with so many mails *per_day* and calls *per_second*; 0 of either: no such limit."""
        return cls(per_day or None, int(max(0.0, seconds) * per_second) + 1 if per_second else None, batch)


@frozen
class Overflow:
    """Mails that a limit leaves no room for: those of the least urgent offices.

    Attributes:
        limit: its key in the table [limits].
        offices: how many offices they are of.
        first: the most urgent of these, at most 50.
    """

    limit: str
    mails: int
    offices: int
    first: tuple[UUID, ...]

    @property
    def words(self) -> str:
        """What it is, but for the names."""
        return f"{self.mails:,} mails of {self.offices:,} offices (limits.{self.limit})"


@frozen
class Planned:
    """How many offices, mails and pushes are open once a day is planned.

    Attributes:
        mails_given: how many mails of the day a provider was given before, or perhaps was.
        overflows: what does not fit, for each limit that something does not fit into.
        crowded: the staff members with more devices than pushes go to, and how many they have; at most 10 of them.
    """

    offices: int
    email: int
    push: int
    mails_given: int = 0
    overflows: tuple[Overflow, ...] = ()
    crowded: Mapping[UUID, int] = field(factory=dict)


@frozen
class ChannelCounts:
    """Deliveries of a day on one channel, by state; ``planned`` is the sum of the rest."""

    planned: int = 0
    sent: int = 0
    failed: int = 0
    gone: int = 0
    unknown: int = 0
    expired: int = 0
    open: int = 0

    @classmethod
    def of(cls, states: Mapping[str, int]) -> "ChannelCounts":
        """Those of so many deliveries in each of the ledger's *states*."""
        settled = {state: n for state, n in states.items() if state not in OPEN}
        return cls(planned=sum(states.values()), open=sum(states.values()) - sum(settled.values()), **settled)

    def count(self, state: State) -> int:
        """How many ended in *state*."""
        return int(getattr(self, state))

    @property
    def lost(self) -> int:
        """How many reached nobody, though the device is still there."""
        return sum(map(self.count, LOST))


@frozen
class Failure:
    """A delivery that reached nobody, and why: ``reason`` is a code of ours, with the provider's status."""

    office_id: UUID
    channel: Channel
    reason: str


@frozen
class Untold:
    """An office's alerts that reached nobody, and how many of them are overdue."""

    office_id: UUID
    alerts: int
    overdue: int


@frozen
class DayCounts:
    """A day as the ledger has it.

    Attributes:
        untold: the offices with alerts that reached nobody, those with the most overdue ones first.
    """

    offices: int
    offices_failed: int
    email: ChannelCounts
    push: ChannelCounts
    outlook: Outlook
    untold: tuple[Untold, ...] = ()
    failures: tuple[Failure, ...] = ()
    failures_omitted: int = 0
    mails_given: int = 0
    overflows: tuple[Overflow, ...] = ()

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
