"""One audit row for an office and day, end to end: real processes that are killed, the application's real tables."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from notifierd.demo.servers.trouble import MailConfig, Rule
from tests.support import faults
from tests.support.processes import API_KEY, DAY, Place, an_id, invent, until

OFFICES, STAFF = 6, 3
ROWS = """
select json_agg(json_build_array(action, target_type, target_id, office_id, actor_role, details) order by office_id)
from audit_logs
"""


def loaded(place: Place, *rules: Rule) -> None:
    rows = invent(OFFICES, staff=STAFF)
    place.load(rows)
    place.configure(content={"audit": "office"}, limits={"email": 2, "send_timeout": 5.0})
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, rules=rules))


@contextmanager
def killed(place: Place) -> Iterator[None]:
    """Kill a run at the end of the block."""
    with place.running_once() as process:
        yield
        process.kill()
        process.wait()


def assert_resumed(place: Place) -> None:
    place.serve(invent(OFFICES, staff=STAFF))
    assert place.once().report["email"]["sent"] == OFFICES * STAFF
    assert_audited(place)


def assert_audited(place: Place) -> None:
    """Each office has one row of the day, which counts its three mails."""
    counts = {"staff_count": STAFF, "email_count": STAFF, "push_count": 0}
    offices = {str(an_id(f"o{number}")): f"事業所 o{number}" for number in range(OFFICES)}
    assert json.loads(place.sql(ROWS)) == [
        [
            "deadline_notification_sent",
            "office",
            office,
            office,
            "system",
            {"day": str(DAY), "office_name": offices[office], **counts},
        ]
        for office in sorted(offices)
    ]
    assert place.sql("select count(*) from notifierd.deliveries where audit_missing") == "0"


def test_an_office_has_one_row_for_the_day_and_a_second_run_adds_none(place: Place):
    loaded(place)
    for _ in range(2):
        assert place.once().report["email"]["sent"] == OFFICES * STAFF
        assert_audited(place)


def test_a_kill_with_calls_in_flight_neither_loses_nor_doubles_a_row(place: Place):
    """Two offices are done, two are being told, two wait."""
    loaded(place, Rule(then="hang", after=2))
    with killed(place):
        until(lambda: place.states() == {"sent": 6, "sending": 6, "planned": 6}, "two offices of six")
    assert_resumed(place)


def test_a_kill_while_the_rows_are_being_written_neither_loses_nor_doubles_one(place: Place):
    """All mails are settled, and the statement that writes the rows waits for a lock."""
    loaded(place)
    with faults.locking(place, "lock table audit_logs in exclusive mode"), killed(place):
        until(lambda: place.states() == {"sent": OFFICES * STAFF}, "all mails")
        until(lambda: faults.waiting_for_a_lock(place), "the rows to be tried")
    assert_resumed(place)


def test_a_kill_before_the_end_is_written_doubles_no_row(place: Place):
    """All rows are written, and the statement that ends the run waits for a lock."""
    loaded(place, Rule(then="hang", after=5, times=1))
    with killed(place):
        until(lambda: place.states() == {"sent": 5 * STAFF, "sending": STAFF}, "all offices but one")
        with faults.locking(place, "select from notifierd.runs for update"):
            until(lambda: place.sql("select count(*) from audit_logs") == str(OFFICES), "all rows")
    assert_resumed(place)


def test_without_audit_rows_a_run_needs_no_audit_log(place: Place):
    place.load(invent(2))
    place.configure(content={"audit": "none"})
    place.sql("drop view notifierd.audit_log")
    assert place.once().report["email"]["sent"] == 4
    assert place.sql("select count(*) from audit_logs") == "0"
    assert place.sql("select count(*) from notifierd.deliveries where audit_missing") == "0"
