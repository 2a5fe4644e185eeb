"""Odd data ends no command: in each column that the views read, whatever its type can hold.

Each odd value stands in one row of an office of its own, beside a colleague, a recipient and a device that are as they
should be. All of them are there at once, and one office where nothing is odd.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import StringIO
from uuid import UUID

import pytest
import trio
from attrs import evolve
from rich.console import Console

from notifierd.cli.tables import print_explanation
from notifierd.commands import plan as plans
from notifierd.config.load import load
from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError
from tests.support.odd import NULL, ODD, Case, columns_read, other_application, relax
from tests.support.processes import DAY, DOMAIN, Place, an_id, invent, run

pytestmark = pytest.mark.usefixtures("_forked_commands")

COMMANDS: Mapping[str, Sequence[str]] = {
    "plan": ("plan", "--day", str(DAY)),
    "plan --json": ("plan", "--day", str(DAY), "--json"),
    "preview": ("preview", "--day", str(DAY), "--out", "preview"),
    "once --dry-run": ("once", "--day", str(DAY), "--dry-run", "--json"),
    "once": ("once", "--force", "--day", str(DAY), "--json"),
    "once again": ("once", "--force", "--day", str(DAY)),
    "status": ("status",),
    "history": ("history",),
    "check": ("check",),
}
SAYS_FAILURES = {"once", "once again"}
"""Commands whose exit code tells of addresses and devices that are no good."""

# How the rows of the odd ones of an office are found.
ROWS = {
    "offices": "id = '{office}'",
    "staffs": "id = '{staff}'",
    "office_staffs": "staff_id = '{staff}'",
    "welfare_recipients": "id = '{recipient}'",
    "support_plan_cycles": "welfare_recipient_id = '{recipient}'",
    "plan_deliverables": (
        "plan_cycle_id in (select id from support_plan_cycles where welfare_recipient_id = '{recipient}')"
    ),
    "push_subscriptions": "staff_id = '{staff}'",
    "app.offices": "id = '{office}'",
    "app.staff": "id = '{staff}'",
    "app.alerts": "recipient_id = '{recipient}'",
    "app.devices": "id = '{device}'",
}
MOST_CASES = 199
SHEETS = ("assessment_sheet",), ()
"""Of an office's two recipients: the odd one's renewal is overdue, the other one's assessment is missing, too."""

KEYS = {"offices.id", "staffs.id", "welfare_recipients.id", "support_plan_cycles.id"}
"""Columns in which PostgreSQL takes no odd value: primary keys that other tables refer to."""

ADDRESSES = {"email", "id", "staff_id", "endpoint", "p256dh", "auth", "p256dh_key", "auth_key"}
"""Columns that decide whether one person can be reached."""

TEXT = {"text", "character varying"}


def ids(number: int) -> dict[str, UUID]:
    """The ids of the odd ones of a case."""
    return {
        "office": an_id(f"o{number}"),
        "staff": an_id(f"o{number}s0"),
        "recipient": an_id(f"o{number}r0"),
        "device": an_id(f"token-o{number}s0"),
    }


def load_cases(place: Place, application: str) -> tuple[list[Case], dict[Case, str]]:
    """Fill *application*: the cases that PostgreSQL took, and the others with the SQLSTATE that it answered."""
    rows = invent(MOST_CASES, staff=2, recipients=2, push_url=place.servers.push_url)
    rows = evolve(
        rows,
        recipients=tuple(evolve(one, test_data=False) for one in rows.recipients),
        cycles=tuple(evolve(one, deliverables=SHEETS[n % 2]) for n, one in enumerate(rows.cycles)),
    )
    place.load(rows)
    if application != "keikakun":
        place.sql(other_application(place.role))
    columns = columns_read(place.cluster, place.database)
    pairs = [(column, value) for column in columns for value in ODD[column.type]]
    cases = [Case(n, *pair, ROWS[pair[0].table].format(**ids(n))) for n, pair in enumerate(pairs, start=1)]
    assert len(cases) < MOST_CASES
    place.sql(relax(columns) + "create table refused (n int, state text);" + "".join(case.sql for case in cases))
    states = dict(line.split("|") for line in place.sql("select * from refused").splitlines())
    refused = {case: states[str(case.number)] for case in cases if str(case.number) in states}
    return [case for case in cases if case not in refused], refused


@pytest.mark.parametrize("application", ["keikakun", "another application"])
def test_odd_data_ends_no_command(application: str, place: Place):
    cases, refused = load_cases(place, application)
    keys = {str(case.column) for case in refused} - {str(case.column) for case in cases}
    assert keys <= KEYS, "a column that no odd value was tried in"
    assert {state[:2] for state in refused.values()} <= {"22", "23", "54"}

    done = {name: run(*command, cwd=place.folder) for name, command in COMMANDS.items()}
    for name, command in done.items():
        assert command.code in ({0, 1} if name in SAYS_FAILURES else {0}), (name, command.err[-3000:])
        assert "office_failed" not in command.err, (name, command.err[-3000:])
    report = done["once"].report
    assert (report["status"], report["offices"]["failed"]) == ("completed", 0)
    named = {str(ids(case.number)["office"]) for case in cases if case.column.name in ADDRESSES}
    assert {failure["office_id"] for failure in report["failures"]} <= named

    there = {*place.sql("select id from notifierd.offices where id is not null").splitlines()}
    mails, pushes = {mail.to[0] for mail in place.mails()}, {push.device_id for push in place.pushes()}
    untold = [
        str(case)
        for case in cases
        if str(ids(case.number)["office"]) in there
        and not (f"o{case.number}s1@{DOMAIN}" in mails and str(an_id(f"token-o{case.number}s1")) in pushes)
    ]
    assert not untold
    assert {f"o0s0@{DOMAIN}", f"o0s1@{DOMAIN}"} <= mails

    settings = load(place.folder / "config.toml", {})
    for case in cases:
        if case.value == NULL or case.column.type not in {*TEXT, "uuid"}:
            trio.run(explained, settings, ids(case.number)["staff"])


async def explained(settings: Settings, staff: UUID) -> None:
    """Explain a staff member, as JSON and on a terminal, unless the view has none of that id."""
    with suppress(ConfigError):
        explanation = await plans.explain(settings, DAY, staff)
        assert json.dumps(explanation.as_json())
        print_explanation(explanation, Console(file=StringIO()))


AGES = {"json": "'{}'::json", "point": "'(1,2)'::point", "date": "created_at::date"}


@pytest.mark.parametrize("type_", AGES)
def test_a_created_at_of_another_type_is_ignored_and_named(type_: str, place: Place):
    """Of 150 devices of one person, 20 are pushed to; `check` says why they are not the newest."""
    rows = invent(2, staff=1, push_url=place.servers.push_url)
    place.load(rows)
    place.sql(
        f"""
        drop view notifierd.devices;
        create view notifierd.devices as
        select id, staff_id, endpoint, p256dh_key as p256dh, auth_key as auth, {AGES[type_]} as created_at
        from push_subscriptions;
        grant select, delete on notifierd.devices to {place.role};
        insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key)
        select '{rows.staff[0].id}', 'https://push.example/' || n, 'x', 'x' from generate_series(1, 149) n
        """
    )
    done = place.once(code=1)
    assert (done.report["push"]["planned"], done.report["email"]["sent"]) == (21, 2)
    run("plan", "--day", str(DAY), "--explain", str(rows.staff[0].id), cwd=place.folder, code=0)
    checked = run("check", cwd=place.folder, code=0)
    line = f"notifierd.devices: column created_at is {type_} and must be timestamptz: notifierd ignores it"
    assert line in checked.out
