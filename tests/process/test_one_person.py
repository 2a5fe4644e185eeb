"""One person is hostile: whatever rows stand for that person, everybody else is told, and the log stays short.

The person is the first member of the most urgent office, whose rows are of any size, number and content: the columns
come from the catalogue. Real processes, PostgreSQL and HTTP.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from attrs import field, frozen
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from notifierd.demo.application import Rows
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, Rule, ServersConfig
from tests.support.odd import Column, columns_read, other_application, relax
from tests.support.processes import API_KEY, DAY, PHONE_PUBLIC, Done, Place, Template, an_id, ended, invent, running

OFFICES, STAFF = 4, 2
PERSON, OFFICE, RECIPIENT = an_id("o0s0"), an_id("o0"), an_id("o0r0")
AUTH = "AAECAwQFBgcICQoLDA0ODw"
PEAK = str(Path(__file__).parents[1] / "support/peak.py")
MOST_MEMORY = 200_000_000
MOST_LINES = 10

ROWS = {
    "app.offices": f"id = '{OFFICE}'",
    "app.staff": f"id = '{PERSON}'",
    "app.alerts": f"recipient_id = '{RECIPIENT}'",
    "app.devices": f"staff_id = '{PERSON}'",
}
"""Which rows are the person's, by the table."""

WHOSE = {"app.offices.id"}
"""Columns without which a row is not the office's, so that nobody there can be told."""


@frozen
class World:
    """An application where nothing is odd yet.

    Attributes:
        columns: all that the views read.
    """

    template: Template
    servers: Servers
    rows: Rows
    columns: tuple[Column, ...]
    folders: Iterator[Path] = field(repr=False)

    @contextmanager
    def place(self) -> Iterator[Place]:
        with self.template.place(next(self.folders), self.servers) as place:
            place.serve(self.rows)
            yield place


@pytest.fixture(scope="module")
def world(template: Template, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Make an application to copy for each example, whose tables take every value."""
    folders = (tmp_path_factory.mktemp("one-person") for _ in count())
    rows = invent(OFFICES, staff=STAFF, recipients=2, push_url=servers.push_url)
    with template.place(next(folders), servers) as place:
        place.load(rows)
        columns = columns_read(place.cluster, place.database)
        place.sql(other_application(place.role))
        columns = columns_read(place.cluster, place.database)
        place.sql(relax(columns))
        yield World(Template(place.cluster, place.database, place.role), servers, rows, columns, folders)


def once(place: Place, *more: str) -> tuple[Done, int]:
    """Run the day; the most memory that the process had, in bytes."""
    said, command = place.folder / "peak", ("once", "--force", "--day", str(DAY), "--json", *more)
    with running(str(said), *command, cwd=place.folder, program=("-P", PEAK)) as process:
        done = ended(process)
    return done, int(said.read_text())


def everybody_else_is_told(place: Place, done: Done, rows: Rows) -> None:
    """Each of the others has one mail and one push, the run is complete, and what is said of the office is short."""
    report = done.report
    assert (report["status"], report["offices"]["failed"]) == ("completed", 0), done.err[-3000:]
    others = [member for member in rows.staff if member.id != PERSON]
    mails, pushes = [mail.to[0] for mail in place.mails()], [push.device_id for push in place.pushes()]
    assert {mails.count(member.email) for member in others} == {1}, mails
    devices = [str(device.id) for device in rows.devices if device.staff_id != PERSON]
    assert {pushes.count(device) for device in devices} == {1}, pushes
    said = [json.loads(line) for line in done.err.splitlines()]
    loud = [line for line in said if line["level"] != "info"]
    assert len(loud) <= MOST_LINES, done.err[-3000:]
    theirs = {*place.sql(f"select office_id from app.staff where id = '{PERSON}'").splitlines(), str(OFFICE)}
    assert {failure["office_id"] for failure in report["failures"]} <= theirs
    assert len({(failure["channel"], failure["reason"]) for failure in report["failures"]}) <= MOST_LINES


# Anything at all -----------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "\x01",
        "\x1b[2J",
        "\r\nBcc: all@example.jp\r\n\r\n",
        "\u202e\u2066",
        "\u2028\u2029",
        "\u0301",
        "\u200d\u200b\ufeff",
        "\ufffe\uffff\U0010ffff",
        "😀👨\u200d👩\u200d👧🏽",
        "長",
        "W",
        "%s%n%(x)s",
        "{0}{{ 7*7 }}{% for x in y %}${x}",
        "[red][/red]",
        "<script>alert(1)</script>&amp;",
        "'; drop table app.staff; --",
        "\\u0000\\",
        "xn--",
        "=?utf-8?B?AAAA?=",
        " ",
    ]
)
TEXTS = st.none() | st.tuples(
    st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5) | PIECES),
    st.sampled_from([0, 1, 1, 1, 50, 10_000]),
).map(lambda drawn: "".join(drawn[0]) * drawn[1])


MORE_DEVICES = f"""
    insert into app.devices
    select gen_random_uuid(), '{PERSON}', {{endpoint}}, {{p256dh}}, {{auth}} from generate_series(1, {{number}}) n;
"""
MORE_ALERTS = f"""
    insert into app.alerts
    select '{OFFICE}', gen_random_uuid(), '利用者' || n, 'renewal', date '{DAY}' - n % 99, n
    from generate_series(1, {{number}}) n;
"""
MORE_OFFICES = f"""
    insert into app.offices select md5('more' || n)::uuid, 'another office' from generate_series(1, {{number}}) n;
    insert into app.staff
    select o.id, '{PERSON}', 'everywhere', 'no address', true, 30, true, 30
    from app.offices o where o.name = 'another office';
    insert into app.alerts
    select id, '{RECIPIENT}', 'x', 'renewal', date '{DAY}', 1 from app.offices where name = 'another office';
"""


@st.composite
def hostile(draw: st.DrawFn, columns: tuple[Column, ...]) -> str:
    """Statements that make a person hostile: first how many rows there are, then what is in them."""
    devices, alerts, offices = (draw(st.sampled_from(sizes)) for sizes in ((0, 0, 5, 50, 500), (0, 0, 5, 500), (0, 9)))
    texts = [column for column in columns if column.type in {"text", "character varying"}]
    values = {column: draw(TEXTS) for column in draw(st.sets(st.sampled_from(texts), min_size=1))}
    nulls = draw(st.sets(st.sampled_from([c for c in columns if c not in texts and str(c) not in WHOSE])))
    sql = [
        MORE_DEVICES.format(number=devices, endpoint="'https://push.example/' || n", p256dh="'k'", auth="'a'"),
        MORE_ALERTS.format(number=alerts),
        MORE_OFFICES.format(number=offices),
    ]
    for column, value in [*values.items(), *dict.fromkeys(nulls).items()]:
        sql.append(f"update {column.table} set {column.name} = {literal(value)} where {ROWS[column.table]};")
    return "\n".join(sql)


def literal(text: str | None) -> str:
    """A text as an expression of SQL, whatever is in it."""
    return "null" if text is None else f"convert_from(decode('{text.encode().hex()}', 'hex'), 'UTF8')"


@given(data=st.data())
@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
def test_whatever_stands_in_one_persons_rows_everybody_else_is_told(world: World, data: st.DataObject):
    assert {column.table for column in world.columns} == ROWS.keys()
    script = data.draw(hostile(world.columns))
    with world.place() as place:
        place.sql(script)
        done, _ = once(place)
        everybody_else_is_told(place, done, world.rows)


# What was found once -------------------------------------------------------------------------------------------------

CASES = {
    "60 keys of 1 MB": MORE_DEVICES.format(
        number=60, endpoint="'https://push.example/' || n", p256dh="repeat(chr(1), 1000000)", auth="'x'"
    ),
    "5 keys of 60 MB": MORE_DEVICES.format(
        number=5, endpoint="'https://push.example/' || n", p256dh="repeat(chr(1), 60000000)", auth="'x'"
    ),
    "3 endpoints of 60 MB": MORE_DEVICES.format(
        number=3, endpoint="repeat('x', 60000000)", p256dh="'x'", auth="repeat('z', 1000000)"
    ),
    "names of 10 million characters": f"""
        update app.offices set name = repeat('名', 10000000) where id = '{OFFICE}';
        update app.staff set name = repeat('長', 10000000), email = repeat('a', 10000000) where id = '{PERSON}';
        update app.alerts set recipient_name = repeat('W', 10000000) where office_id = '{OFFICE}';
    """,
    "20,000 devices": MORE_DEVICES.format(
        number=20_000, endpoint="'https://push.example/' || n", p256dh="'x'", auth="'x'"
    ),
    "10,000 alerts": MORE_ALERTS.format(number=10_000),
    "100 offices": MORE_OFFICES.format(number=100)
    + MORE_DEVICES.format(number=30, endpoint="'http://127.0.0.1/' || n", p256dh="'x'", auth="'x'"),
}


@pytest.mark.parametrize("case", CASES)
def test_heavy_rows_of_one_person_cost_a_bounded_memory(world: World, case: str):
    with world.place() as place:
        place.sql(CASES[case])
        done, peak = once(place)
        everybody_else_is_told(place, done, world.rows)
    assert peak < MOST_MEMORY


def test_refused_devices_of_one_person_keep_no_push_from_anybody(world: World):
    """300 devices that a push service answers 403 for, as for another application's key, in the most urgent office."""
    with world.place() as place:
        tokens = [f"refused-{n}" for n in range(300)]
        endpoint = f"'{place.servers.push_url}/push/refused-' || n - 1"
        place.sql(MORE_DEVICES.format(number=300, endpoint=endpoint, p256dh=f"'{PHONE_PUBLIC}'", auth=f"'{AUTH}'"))
        known = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in world.rows.devices)
        refusals = tuple(Rule(to=token, status=403) for token in tokens)
        place.servers.configure(
            ServersConfig(MailConfig(API_KEY, keep_eml=False), PushConfig(devices=known, rules=refusals))
        )
        place.configure(limits={"attempts": 2})
        done, _ = once(place, "--for", "20")
        everybody_else_is_told(place, done, world.rows)
