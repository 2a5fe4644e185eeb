"""What goes wrong in a simulated world beside the faults at boundaries: refusals, answers, changes of the data."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import Any, assert_never
from uuid import UUID

from attrs import evolve, frozen

from notifierd.model.delivery import Settlement
from notifierd.model.office import Staff
from tests.support.memory import Application

READS = frozenset({"read", "read_again", "counts"})

STATES = ("25006", "42P01", "42501", "26000", "57014", "53100", "XX000")
"""SQLSTATEs that speak of no row: read only, no such view, no right, an unknown prepared statement, a timeout, a full
disk, an internal error (PostgreSQL's documentation, appendix A)."""


class Kind(StrEnum):
    """A kind of trouble that a world may have."""

    REFUSALS = "refusals"
    """Statements, or those with audit rows, are refused for a while."""
    FORGETTING = "forgetting"
    """The database forgets its last commits, while the process lives or as it dies."""
    ANSWERS = "answers"
    """All calls to the first mail provider get an answer that speaks of no message, from some moment on."""
    RETRIES = "retries"
    """The operator puts deliveries back when the run is over, and another run follows."""
    CHANGES = "changes"
    """The application's data changes between plan and call."""
    CLUSTER = "cluster"
    """Up to five processes share the day; they join and leave, and their clocks may differ."""


class Scope(StrEnum):
    """Which statements are refused."""

    ALL = "all"
    WRITES = "writes"
    DELIVERIES = "deliveries"
    """Those that write how a delivery stands."""
    AUDIT = "audit"
    """Those with audit rows."""


@frozen
class Refusal:
    """What the database refuses for a while; times are seconds of its clock."""

    sqlstate: str
    begins: float
    ends: float
    scope: Scope

    def strikes(self, now: float, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the statement *name* is refused *now*."""
        if not self.begins <= now < self.ends:
            return False
        match self.scope:
            case Scope.ALL:
                return True
            case Scope.WRITES:
                return name not in READS
            case Scope.DELIVERIES:
                return name in {"reserve", "settle", "expire", "fail"}
            case Scope.AUDIT:
                return name == "settle_extras" or (name == "settle" and not kwargs.get("bare") and _audited(args[0]))
        assert_never(self.scope)


def _audited(settlements: Sequence[Settlement]) -> bool:
    return any(settlement.audit is not None for settlement in settlements)


def a_refusal(random: Random) -> Refusal:
    """Make one that begins soon, and lasts at most a minute."""
    begins = random.uniform(0.0, 5.0)
    sqlstate, scope = random.choice(STATES), random.choice(list(Scope))
    if sqlstate == "25006":
        scope = Scope.WRITES
    return Refusal(sqlstate, begins, begins + random.choice([1.0, 10.0, 60.0]), scope)


class Edit(StrEnum):
    """What may happen to the data while a run goes on."""

    ADDRESS = "a new address"
    OFF = "mails and pushes switched off"
    LEFT = "the member has left"
    MOVED = "the member works in another office"
    CLOSED = "the office is deleted"
    RENEWED = "nothing is due any more"
    HANDED_ON = "the device belongs to somebody else"


@frozen
class Change:
    """One edit of the application's data, at a moment of the database's clock."""

    at: float
    edit: Edit
    nth: int
    """Which member or office it is about."""
    device: UUID | None
    """Which device: by its id, as the run deletes devices, too."""

    def apply(self, app: Application) -> None:
        """Make the edit; none if there is nothing left to edit."""
        match self.edit:
            case Edit.CLOSED | Edit.RENEWED if app.offices:
                office = sorted(app.offices)[self.nth % len(app.offices)]
                app.alerts[:] = [(of, alert) for of, alert in app.alerts if of != office]
                if self.edit is Edit.CLOSED:
                    del app.offices[office]
            case Edit.HANDED_ON if app.staff and self.device in app.devices:
                _, owner = app.staff[self.nth % len(app.staff)]
                app.devices[self.device] = evolve(app.devices[self.device], staff_id=owner.id)
            case _ if app.staff:
                index = self.nth % len(app.staff)
                app.staff[index : index + 1] = self._of_member(*app.staff[index], sorted(app.offices))

    def _of_member(self, office: UUID, member: Staff, offices: Sequence[UUID]) -> list[tuple[UUID, Staff]]:
        match self.edit:
            case Edit.LEFT:
                return []
            case Edit.MOVED if offices:
                return [(offices[self.nth % len(offices)], member)]
            case Edit.ADDRESS:
                return [(office, evolve(member, email=f"new-{member.email}"))]
            case Edit.OFF:
                return [(office, evolve(member, email_enabled=False, push_enabled=False))]
            case _:
                return [(office, member)]


def some_changes(random: Random, app: Application) -> tuple[Change, ...]:
    """Make one to three changes of *app* early in the run, in their order."""
    times = sorted(random.uniform(0.1, 30.0) for _ in range(random.randint(1, 3)))
    devices: Sequence[UUID | None] = sorted(app.devices) or [None]
    return tuple(Change(at, random.choice(list(Edit)), random.randrange(9), random.choice(devices)) for at in times)
