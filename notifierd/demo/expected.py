"""What a run must send, derived from the rows alone.

This module follows the application's description and shares no code with the daemon, so that the two can be compared.
"""

from collections import defaultdict
from datetime import date
from typing import Any, Final
from uuid import UUID

from attrs import frozen

from notifierd.demo.application import Cycle, Device, Rows, Staff

_HORIZON_DAYS: Final = 30
_HUGE: Final = 2**31


@frozen
class ExpectedMail:
    """A mail that must arrive, once; *renewals* and *assessments* are the recipients in it."""

    office_id: UUID
    staff_id: UUID
    address: str
    renewals: frozenset[UUID]
    assessments: frozenset[UUID]


@frozen
class ExpectedPush:
    """A push that must arrive, once, with the counts in it."""

    office_id: UUID
    staff_id: UUID
    device_id: UUID
    renewals: int
    assessments: int


@frozen
class Expected:
    """All that a run must send without any failure, and the offices whose alerts can reach nobody."""

    mails: frozenset[ExpectedMail]
    pushes: frozenset[ExpectedPush]
    untold_offices: frozenset[UUID]


def expected(rows: Rows, day: date) -> Expected:
    """Return what a run on *day* must send."""
    hidden = {one.id for one in rows.recipients if one.test_data}
    cycles: dict[UUID, list[Cycle]] = defaultdict(list)
    for cycle in rows.cycles:
        if cycle.latest and cycle.recipient_id not in hidden:
            cycles[cycle.office_id].append(cycle)
    people = {one.id: one for one in rows.staff if not one.deleted and not one.test_data}
    staff: dict[UUID, set[UUID]] = defaultdict(set)
    for link in rows.links:
        if link.staff_id in people:
            staff[link.office_id].add(link.staff_id)
    devices: dict[UUID, list[Device]] = defaultdict(list)
    for device in rows.devices:
        devices[device.staff_id].append(device)

    mails: set[ExpectedMail] = set()
    pushes: set[ExpectedPush] = set()
    untold: set[UUID] = set()
    for office in rows.offices:
        if office.deleted or office.test_data:
            continue
        due = _Due.of(cycles[office.id], day)
        told = False
        for member in (people[staff_id] for staff_id in staff[office.id]):
            mail = _mail(office.id, member, due)
            messages = _pushes(office.id, member, devices[member.id], due)
            mails |= {mail} if mail else set()
            pushes |= messages
            told = told or mail is not None or bool(messages)
        if not told and (due.days_left or due.unassessed):
            untold.add(office.id)
    return Expected(frozenset(mails), frozenset(pushes), frozenset(untold))


@frozen
class _Due:
    """What is due in an office: the days left for each renewal, and who has no assessment."""

    days_left: dict[UUID, int]
    unassessed: frozenset[UUID]

    @classmethod
    def of(cls, cycles: list[Cycle], day: date) -> "_Due":
        left = {one.recipient_id: (one.deadline - day).days for one in cycles if one.deadline is not None}
        return cls(
            {recipient: days for recipient, days in left.items() if days <= _HORIZON_DAYS},
            frozenset(one.recipient_id for one in cycles if "assessment_sheet" not in one.deliverables),
        )

    def within(self, days: int) -> frozenset[UUID]:
        return frozenset(recipient for recipient, left in self.days_left.items() if left <= days)


def _mail(office_id: UUID, member: Staff, due: _Due) -> ExpectedMail | None:
    if not _flag(member.preferences, "email_notification", default=True):
        return None
    renewals = due.within(_days(member.preferences, "email_threshold_days", 30))
    if not renewals and not due.unassessed:
        return None
    return ExpectedMail(office_id, member.id, member.email, renewals, due.unassessed)


def _pushes(office_id: UUID, member: Staff, devices: list[Device], due: _Due) -> set[ExpectedPush]:
    if not _flag(member.preferences, "system_notification", default=False):
        return set()
    renewals = due.within(_days(member.preferences, "push_threshold_days", 10))
    if not renewals and not due.unassessed:
        return set()
    return {ExpectedPush(office_id, member.id, one.id, len(renewals), len(due.unassessed)) for one in devices}


def _flag(preferences: Any, key: str, *, default: bool) -> bool:  # noqa: ANN401 - JSON
    value = preferences.get(key) if isinstance(preferences, dict) else None
    return value if isinstance(value, bool) else default


def _days(preferences: Any, key: str, default: int) -> int:  # noqa: ANN401 - JSON
    value = preferences.get(key) if isinstance(preferences, dict) else None
    return value if type(value) is int and 0 <= value < _HUGE else default
