"""Rows of the sample application, keikakun, as in its own tables, and how to write them fast."""

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen

# The creator of every office and uploader of every file: belongs to no office, and is never notified.
ADMINISTRATOR: Final = UUID("00000000-0000-4000-8000-000000000001")

_DELETED_AT: Final = datetime.fromisoformat("2026-01-05T09:00:00+09:00")


@frozen
class Office:
    """A row of ``offices``."""

    id: UUID
    name: str
    type: str = "type_B_office"
    deleted: bool = False
    test_data: bool = False


@frozen
class Staff:
    """A row of ``staffs``; *preferences* is any JSON, because the column may hold any."""

    id: UUID
    last_name: str
    first_name: str
    email: str
    preferences: Any
    deleted: bool = False
    test_data: bool = False


@frozen
class Link:
    """A row of ``office_staffs``."""

    office_id: UUID
    staff_id: UUID


@frozen
class Recipient:
    """A row of ``welfare_recipients``."""

    id: UUID
    last_name: str
    first_name: str
    test_data: bool = False


@frozen
class Cycle:
    """A row of ``support_plan_cycles``, with the types of its ``plan_deliverables``."""

    id: int
    recipient_id: UUID
    office_id: UUID
    deadline: date | None
    deliverables: tuple[str, ...] = ("assessment_sheet",)
    latest: bool = True
    number: int = 1


@frozen
class Device:
    """A row of ``push_subscriptions``, with what only the browser and its push service know.

    Attributes:
        token: the last part of the endpoint.
        private_key: the P-256 scalar, 32 bytes in base64url.
    """

    id: UUID
    staff_id: UUID
    endpoint: str
    p256dh: str
    auth: str = field(repr=False)
    token: str
    private_key: str = field(repr=False)


@frozen
class Rows:
    """All rows of an application."""

    offices: tuple[Office, ...]
    staff: tuple[Staff, ...]
    links: tuple[Link, ...]
    recipients: tuple[Recipient, ...]
    cycles: tuple[Cycle, ...]
    devices: tuple[Device, ...]


def tables_sql() -> str:
    """Return the statements that create the application's tables, for ``psql``."""
    return files("notifierd.demo").joinpath("keikakun.sql").read_text(encoding="utf-8")


def rows_sql(rows: Rows) -> str:
    """Return a ``psql`` script that writes *rows* into empty tables: COPY with inline data, in one transaction."""
    administrator = Staff(ADMINISTRATOR, "管理者", "見本", "administrator@example.com", {}, test_data=True)
    return "".join(
        [
            "begin;\n",
            _copy(
                "staffs",
                "id email hashed_password last_name first_name full_name role is_email_verified is_mfa_enabled"
                " is_mfa_verified_by_user mfa_backup_codes_used failed_password_attempts is_locked"
                " is_deleted deleted_at is_test_data notification_preferences",
                (
                    (
                        *(one.id, one.email, "!", one.last_name, one.first_name, f"{one.last_name} {one.first_name}"),
                        *("app_admin" if one.id == ADMINISTRATOR else "employee", True, False, False, 0, 0, False),
                        *_ends(one),
                        json.dumps(one.preferences),
                    )
                    for one in (administrator, *rows.staff)
                ),
            ),
            _copy(
                "offices",
                "id name is_group type created_by last_modified_by is_deleted deleted_at is_test_data",
                (
                    (one.id, one.name, False, one.type, ADMINISTRATOR, ADMINISTRATOR, *_ends(one))
                    for one in rows.offices
                ),
            ),
            _copy(
                "office_staffs",
                "staff_id office_id is_primary is_test_data",
                ((one.staff_id, one.office_id, True, False) for one in rows.links),
            ),
            _copy(
                "welfare_recipients",
                "id first_name last_name first_name_furigana last_name_furigana birth_day gender is_test_data",
                (
                    (one.id, one.first_name, one.last_name, "みほん", "みほん", "1990-04-01", "other", one.test_data)
                    for one in rows.recipients
                ),
            ),
            _copy(
                "support_plan_cycles",
                "id welfare_recipient_id office_id plan_cycle_start_date next_renewal_deadline is_latest_cycle"
                " cycle_number is_test_data",
                (
                    (
                        *(one.id, one.recipient_id, one.office_id, one.deadline and one.deadline - timedelta(days=180)),
                        *(one.deadline, one.latest, one.number, False),
                    )
                    for one in rows.cycles
                ),
            ),
            _copy(
                "plan_deliverables",
                "plan_cycle_id deliverable_type file_path original_filename uploaded_by is_test_data",
                (
                    (one.id, kind, f"plans/{one.id}/{kind}.pdf", f"{kind}.pdf", ADMINISTRATOR, False)
                    for one in rows.cycles
                    for kind in one.deliverables
                ),
            ),
            _copy(
                "push_subscriptions",
                "id staff_id endpoint p256dh_key auth_key user_agent",
                ((one.id, one.staff_id, one.endpoint, one.p256dh, one.auth, "Mozilla/5.0") for one in rows.devices),
            ),
            "select setval(pg_get_serial_sequence('support_plan_cycles', 'id'), max(id)) from support_plan_cycles;\n",
            "commit;\nanalyze;\n",
        ]
    )


def _ends(one: Staff | Office) -> tuple[bool, datetime | None, bool]:
    """Return ``is_deleted``, ``deleted_at`` and ``is_test_data``."""
    return one.deleted, _DELETED_AT if one.deleted else None, one.test_data


def _copy(table: str, columns: str, rows: Iterable[Sequence[object]]) -> str:
    lines = ["\t".join(map(_copied, row)) + "\n" for row in rows]
    return f"copy {table} ({', '.join(columns.split())}) from stdin;\n{''.join(lines)}\\.\n"


def _copied(value: object) -> str:
    """Return *value* in COPY's text format."""
    if value is None:
        return r"\N"
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
