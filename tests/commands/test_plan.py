"""``notifierd plan``, as a process: what would be sent, office by office, and to one staff member why."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from notifierd.cli.tables import ALERTS, TARGETS
from notifierd.demo.sample import sample
from notifierd.model.delivery import OPEN, State
from notifierd.rules import due as choose
from tests.support.documented import differences, documented
from tests.support.processes import DAY, Done, Place, an_id, invent, run, running

pytestmark = pytest.mark.usefixtures("_forked_commands")

HOLIDAY = "2026-11-23"


def plan(place: Place, *args: str, day: str = str(DAY), code: int = 0) -> Done:
    return run("plan", "--day", day, *args, cwd=place.folder, code=code)


def plan_json(place: Place, day: str = str(DAY)) -> dict[str, Any]:
    found = plan(place, "--json", day=day).report
    assert differences(found, documented("plan --json")) == []
    return found


def explanation(place: Place, staff: str, day: str = str(DAY)) -> dict[str, Any]:
    found = plan(place, "--explain", str(an_id(staff)), "--json", day=day).report
    assert differences(found, documented("plan --explain STAFF_ID --json")) == []
    return found


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    """Nothing changes in the block, and no provider is called."""
    before, calls = place.content(), place.calls()
    yield
    assert (place.content(), place.calls()) == (before, calls)


def test_the_plan_counts_what_the_run_then_sends_office_by_office(place: Place) -> None:
    invented = sample(12, DAY, place.servers.push_url)
    place.load(invented.rows)
    due = invented.expected()
    with read_only(place):
        found = plan_json(place)
        rehearsed = place.once("--dry-run").report
    assert (found["email"], found["push"]) == (len(due.mails), len(due.pushes))
    assert found["settled"] == 0
    assert {
        (office["office_id"], someone["staff_id"], someone["email"]["alerts"])
        for office in found["offices"]
        for someone in office["staff"]
        if someone["email"]
    } == {(str(mail.office_id), str(mail.staff_id), len(mail.renewals) + len(mail.assessments)) for mail in due.mails}
    assert sum(office["email"] + office["push"] for office in found["offices"]) == len(due.mails) + len(due.pushes)
    assert {office["office_id"] for office in found["untold"]} == set(map(str, due.untold_offices))
    assert sum(office["alerts"] for office in found["untold"]) == rehearsed["untold"]["alerts"] > 0

    report = place.once().report
    assert (report["email"]["sent"], report["push"]["sent"]) == (found["email"], found["push"])
    after = plan_json(place)
    assert (after["email"], after["push"], after["offices"]) == (0, 0, [])
    assert after["settled"] == found["email"] + found["push"]


def test_the_most_urgent_office_stands_first(place: Place) -> None:
    place.load(invent(9))
    nearest = [office["nearest_days"] for office in plan_json(place)["offices"]]
    assert nearest == sorted(nearest)
    assert nearest[0] == -9


def test_for_people_it_is_a_line_for_each_office_all_of_them_where_that_is_no_terminal(place: Place) -> None:
    place.load(invent(40))
    lines = plan(place).out.splitlines()
    assert lines[0] == f"{DAY}: 80 mails and 0 pushes to the staff of 40 offices"
    assert lines[1].split() == ["days", "staff", "mails", "pushes", "alerts", "overdue", "office"]
    assert len(lines) == 2 + 40
    assert all(re.fullmatch(r" +-\d +2 +2 +0 +\d +\d +[0-9a-f-]{36} +事業所 o\d+", line) for line in lines[2:])


def test_what_is_open_in_the_ledger_is_planned_and_what_tells_nothing_any_more_expires(place: Place) -> None:
    place.load(rows := invent(2))
    place.once("--for", "0.000001", code=1)  # its window ends before anything is begun
    assert place.states() == {"expired": 4}
    place.sql("update notifierd.deliveries set state = 'planned'; update notifierd.runs set counts = null")
    assert plan_json(place)["email"] == 4
    gone = rows.staff[0]
    place.sql(
        f"update staffs set notification_preferences = '{{\"email_notification\": false}}' where id = '{gone.id}'"
    )
    found = plan_json(place)
    assert (found["email"], found["settled"]) == (3, 0)
    (expiring,) = found["expiring"]
    assert (expiring["staff_id"], expiring["channel"], expiring["reason"]) == (str(gone.id), "email", "no_longer_due")
    assert "1 planned delivery would expire" in plan(place).out


def test_what_the_limits_leave_no_room_for_is_named_and_what_was_sent_is_not_counted_again(place: Place) -> None:
    place.load(invent(5))
    urgent = [office["office_id"] for office in plan_json(place)["offices"]]
    place.configure(limits={"email_per_day": 7})
    assert plan_json(place)["no_room"] == [
        {"limit": "email_per_day", "mails": 3, "offices": 2, "first": urgent[3:]},
    ]
    assert (
        f"over the limit: 3 mails of 2 offices (limits.email_per_day), the most urgent of them:\n  {urgent[3]}"
        in plan(place).out
    )
    place.once("--for", "4", code=1)
    place.sql("update notifierd.deliveries set state = 'planned' where state = 'expired'")
    assert plan_json(place)["no_room"] == [
        {"limit": "email_per_day", "mails": 3, "offices": 2, "first": urgent[3:]},
    ]


def test_a_closed_day_is_planned_and_says_that_it_is_closed(place: Place) -> None:
    place.load(invent(1))
    assert plan_json(place, HOLIDAY)["closed"] == "holiday: 勤労感謝の日"
    first, second, *_ = plan(place, day=HOLIDAY).out.splitlines()
    assert first == f"{HOLIDAY} is closed (holiday: 勤労感謝の日): only `notifierd once --force` would send this"
    assert second.startswith(f"{HOLIDAY}: 2 mails")


def test_without_a_day_it_is_todays(place: Place) -> None:
    place.load(invent(1))
    found = run("plan", "--json", cwd=place.folder, code=0).report
    assert found["day"] == run("once", "--dry-run", "--force", "--json", cwd=place.folder, code=0).report["day"]


# Why -----------------------------------------------------------------------------------------------------------------


def test_why_each_alert_is_in_or_out_for_a_staff_member(place: Place) -> None:
    """o0s0 wants mails from 30 days on; the recipients' deadlines are -9, 0, 2, 7, 14, 30 and 31 days away."""
    place.load(invent(1, recipients=9))
    with read_only(place):
        found = explanation(place, "o0s0")
    (office,) = found["offices"]
    mail, push = office["ways"]
    assert (office["office_id"], office["name"], mail["threshold_days"]) == (str(an_id("o0")), "事業所 o0", 30)
    assert mail["targets"] == [{"device_id": None, "included": True, "reason": "due"}]
    assert push["targets"] == [{"device_id": None, "included": False, "reason": "push_off"}]
    renewals = [(a["days_left"], a["included"], a["reason"]) for a in mail["alerts"] if a["kind"] == "renewal"]
    assert renewals == [
        (-9, True, "overdue"),
        (0, True, "overdue"),
        *((left, True, "due") for left in (2, 7, 14, 30)),
        (31, False, "beyond_horizon"),
    ]
    assert {(a["due_on"], a["reason"]) for a in mail["alerts"] if a["kind"] == "assessment"} == {(None, "due")}
    assert {a["reason"] for a in push["alerts"]} == {"push_off"}


def test_why_in_words_without_an_address_or_a_name(place: Place) -> None:
    place.load(invent(3, recipients=9))
    lines = plan(place, "--explain", str(an_id("o2s0"))).out.splitlines()  # wants mails from 14 days on
    assert lines[:4] == [
        f"{DAY}: staff {an_id('o2s0')} of 1 office",
        "",
        f"事業所 o2 {an_id('o2')}",
        "  email: is notified",
    ]
    told = [re.split(r"  +", line.strip()) for line in lines[4:]]
    assert ["in", "renewal", str(DAY - timedelta(days=7)), f"{an_id('o2r0')} cycle 1", "7 days overdue"] in told
    assert ["out", "renewal", str(DAY + timedelta(days=16)), f"{an_id('o2r4')} cycle 1", SIXTEEN] in told
    assert ["push: has not switched pushes on"] in told


SIXTEEN = "16 days left; notified from 14 days on"


def test_whoever_was_told_already_learns_that(place: Place) -> None:
    place.load(invent(1, push_url=place.servers.push_url))
    (office,) = explanation(place, "o0s0")["offices"]
    assert [target["reason"] for way in office["ways"] for target in way["targets"]] == ["due", "due"]
    place.once()
    (office,) = explanation(place, "o0s0")["offices"]
    assert [target["reason"] for way in office["ways"] for target in way["targets"]] == ["already_sent", "already_sent"]
    words = plan(place, "--explain", str(an_id("o0s0"))).out
    assert "email: was notified already\n" in words
    assert f"push to device {an_id('token-o0s0')}: was notified already\n" in words


def test_a_staff_member_of_several_offices_is_explained_for_each(place: Place) -> None:
    place.load(invent(2))
    place.sql(
        "insert into office_staffs (office_id, staff_id, is_primary, is_test_data)"
        f" values ('{an_id('o1')}', '{an_id('o0s0')}', false, false)"
    )
    place.configure(safety={"only_offices": [str(an_id("o1"))]})
    reasons = {
        office["office_id"]: [target["reason"] for way in office["ways"] for target in way["targets"]]
        for office in explanation(place, "o0s0")["offices"]
    }
    assert reasons == {str(an_id("o0")): ["office_left_out", "push_off"], str(an_id("o1")): ["due", "push_off"]}


def test_nobody_has_no_explanation(place: Place) -> None:
    done = plan(place, "--explain", str(an_id("nobody")), code=2)
    assert done.err == (f"notifierd: --explain: {an_id('nobody')} is not in the view notifierd.staff\n")
    assert "not a valid UUID" in plan(place, "--explain", "taro", code=2).err


def test_a_plan_without_a_database_is_exit_3(place: Place) -> None:
    place.configure(database={"dsn": f"postgresql://me@/nowhere?host={place.folder}"})
    assert plan(place, code=3).err.startswith("notifierd: the database is unreachable")


def test_the_rest_of_a_pipe_that_nobody_reads_is_no_error(place: Place) -> None:
    """As `notifierd plan | head -1` does, with more lines than a pipe holds."""
    place.load(invent(900, staff=1))
    with running("plan", "--day", str(DAY), cwd=place.folder) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_who_is_held_back_is_counted_and_explained_and_gets_no_mail(place: Place, tmp_path: Path) -> None:
    """Of two members of an office, one; and then nobody is left to be told by mail in another office."""
    place.load(rows := invent(2, staff=2))
    place.serve(rows)
    for staff in ("o0s0", "o1s0", "o1s1"):
        place.hold(an_id(staff))
    with read_only(place):
        found = plan_json(place)
        assert (found["email"], found["held"]) == (1, 3)
        assert {office["office_id"] for office in found["untold"]} == {str(an_id("o1"))}
        assert "held back after what the provider reported of earlier mails: 3 mails" in plan(place).out
        ((mail, _),) = (office["ways"] for office in explanation(place, "o0s0")["offices"])
        assert mail["targets"] == [{"device_id": None, "included": False, "reason": "held:complained"}]
        explained = plan(place, "--explain", str(an_id("o0s0"))).out
        assert "reported a mail as spam, so mails are held back" in explained
        run("preview", "--day", str(DAY), "--out", str(tmp_path / "out"), cwd=place.folder)
        assert len(list((tmp_path / "out").rglob("*.eml"))) == 1
        rehearsed = place.once("--dry-run").report
        assert rehearsed["email"] == {"planned": 4, "sent": 0, "failed": 3, "unknown": 0, "expired": 0, "open": 1}
        assert rehearsed["untold"]["offices"] == 1
    report = place.once(code=1).report
    assert report["email"] == {"planned": 4, "sent": 1, "failed": 3, "unknown": 0, "expired": 0, "open": 0}
    assert {failure["reason"] for failure in report["failures"]} == {"held:complained"}
    assert report["untold"] == rehearsed["untold"]
    ((mail, _),) = (office["ways"] for office in explanation(place, "o0s0")["offices"])
    assert mail["targets"][0]["reason"] == "held:complained"
    assert plan_json(place)["settled"] == 4


def test_on_a_day_without_a_reason_nothing_is_planned_and_the_next_day_is_named(place: Place, tmp_path: Path) -> None:
    """A Wednesday, on which the nearest renewals are -10, -1, 1, 6 and 13 days away."""
    wednesday = str(DAY + timedelta(days=1))
    place.load(invent(1, recipients=9))
    keys = {"renewal_days": [5], "overdue_weekdays": ["thu"], "assessment_weekdays": ["mon"]}
    place.configure(content={**keys, "horizon_days": 10})
    with read_only(place):
        found = plan_json(place, wednesday)
        rehearsed = run("once", "--dry-run", "--day", wednesday, "--json", cwd=place.folder).report
        run("preview", "--day", wednesday, "--out", str(tmp_path / "out"), cwd=place.folder)
        ((mail, push),) = (office["ways"] for office in explanation(place, "o0s0", wednesday)["offices"])
        words = plan(place, "--explain", str(an_id("o0s0")), day=wednesday).out
    assert (found["email"], found["offices"], found["untold"]) == (0, [], [])
    assert (rehearsed["email"]["planned"], rehearsed["untold"]["alerts"]) == (0, 0)
    assert list((tmp_path / "out").rglob("*.eml")) == []
    assert mail["targets"] == [{"device_id": None, "included": False, "reason": "not_today"}]
    told = {alert["days_left"]: (alert["reason"], alert["key"], alert["next_day"]) for alert in mail["alerts"]}
    assert told[-10] == told[-1] == ("not_today", "content.overdue_weekdays", "2026-11-26")
    assert told[1] == told[6] == ("not_today", "content.renewal_days", "2026-11-26")
    assert told[13] == ("beyond_horizon", "content.renewal_days", "2026-11-30")  # a Saturday's, on the Monday
    assert told[None] == ("not_today", "content.assessment_weekdays", "2026-11-30")
    assert {alert["next_day"] for alert in push["alerts"]} == {None}
    assert "no message on this day; next on 2026-11-26 (content.overdue_weekdays)" in words


def test_every_reason_has_its_words() -> None:
    """Those that rules/due.py can give, by its own text."""
    text = Path(choose.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'"([a-z]+(?:_[a-z]+)+)"', text)) | {"due", "overdue"}
    codes -= {"staff_gone", "device_gone", "no_longer_due"}  # of deliveries that nobody asks about any more
    assert codes <= TARGETS.keys() | ALERTS.keys()
    assert {f"already_{state}" for state in set(State) - OPEN} <= TARGETS.keys()
