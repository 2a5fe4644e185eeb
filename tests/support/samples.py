"""Invented offices, staff and alerts, in a few words."""

from datetime import date, timedelta
from uuid import UUID, uuid5

from notifierd.model.office import Alert, Device, Kind, Staff
from tests.support.memory import Application

DAY = date(2026, 11, 24)
_IDS = UUID("00000000-0000-4000-8000-000000000000")


def an_id(name: str) -> UUID:
    """The same id for the same name."""
    return uuid5(_IDS, name)


def a_staff(
    name: str,
    *,
    email: str | None = "",
    email_enabled: bool = True,
    email_days: int = 30,
    push_enabled: bool = False,
    push_days: int = 10,
) -> Staff:
    """A staff member with keikakun's defaults; the address is made of the name."""
    address = f"{name}@example.jp" if email == "" else email
    return Staff(an_id(name), name, address, email_enabled, email_days, push_enabled, push_days)


def a_renewal(left: int, name: str = "", day: date = DAY) -> Alert:
    """A renewal *left* days away."""
    name = name or f"recipient {left}"
    return Alert(an_id(name), name, Kind.RENEWAL, day + timedelta(days=left), 1)


def an_assessment(name: str = "recipient without assessment") -> Alert:
    """A missing assessment."""
    return Alert(an_id(name), name, Kind.ASSESSMENT, None, 1)


def a_device(staff: Staff, name: str = "phone") -> Device:
    """A device of *staff*; its keys are not keys."""
    key = an_id(f"{staff.name} {name}")
    return Device(key, staff.id, f"https://push.example.net/{key}", "p256dh", "auth")


def some_offices(count: int, *, staff: int = 2, devices: int = 0) -> Application:
    """*count* offices with *staff* members each, all of whom are due a mail, and a push for each of *devices*."""
    app = Application()
    for number in range(count):
        office = an_id(f"office {number}")
        app.offices[office] = f"Office {number}"
        app.alerts.append((office, a_renewal(number % 20, f"recipient of {number}")))
        for member in range(staff):
            someone = a_staff(f"staff-{number}-{member}", push_enabled=bool(devices), push_days=30)
            app.staff.append((office, someone))
            for device in range(devices):
                phone = a_device(someone, f"phone {device}")
                app.devices[phone.id] = phone
    return app
