"""``notifierd once``, end to end: a real process, the application's real tables, mails and pushes over real HTTP."""

import json
import re
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve, frozen

from notifierd.config.settings import LimitsSettings
from notifierd.demo.application import Cycle, Rows
from notifierd.demo.expected import ExpectedMail, expected
from notifierd.demo.postgres import running_postgres
from notifierd.demo.sample import sample
from notifierd.demo.servers.mail_api import AcceptedMail
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig, Rule
from notifierd.store.source import CHUNK_LASTS
from tests.support.processes import (
    API_KEY,
    DAY,
    Done,
    Place,
    Template,
    an_id,
    ended,
    invent,
    run,
    running_template,
    until,
)

OF_THIS_PROCESS = ("statements", "seconds", "feedback")


def of_the_day(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report tells of the day, without what it tells of its process."""
    return {key: value for key, value in report.items() if key not in OF_THIS_PROCESS}


def each_once(mails: list[AcceptedMail]) -> set[str]:
    """Return the addresses that were mailed to; each delivery came once."""
    assert max(Counter(mail.delivery_id for mail in mails).values(), default=0) <= 1
    return {mail.to[0] for mail in mails}


def addresses(rows: Rows) -> set[str]:
    return {member.email for member in rows.staff}


# ------------------------------------------------------------------------------------ 500 offices x 10 x 10


@frozen
class Big:
    """Two runs of one day over 500 offices, with 10 staff and 10 recipients each."""

    rows: Rows
    first: Done
    second: Done
    mails: list[AcceptedMail]
    mails_folder: Path
    calls: tuple[int, int]
    audit: Counter[str]


@pytest.fixture(scope="module")
def big(template: Template, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Big]:
    rows = invent(500, staff=10, recipients=10)
    with template.place(tmp_path_factory.mktemp("big"), servers) as place:
        place.load(rows)
        place.serve(rows, keep_eml=True)
        first = place.once()
        calls = place.calls()
        second = place.once()
        audit = Counter(place.sql("select target_id || ' for ' || office_id from audit_logs").splitlines())
        yield Big(rows, first, second, place.mails(), servers.out / "mails", (calls, place.calls()), audit)


def test_500_offices_are_told_and_all_is_counted(big: Big):
    report = big.first.report
    assert (report["status"], report["reason"], report["day"]) == ("completed", None, str(DAY))
    assert report["offices"] == {"total": 500, "ok": 500, "failed": 0}
    assert report["email"] == {"planned": 5000, "sent": 5000, "failed": 0, "unknown": 0, "expired": 0, "open": 0}
    assert report["push"]["planned"] == 0
    assert report["untold"] == {"alerts": 0, "overdue": 0, "offices": 0}
    assert (report["failures"], report["failures_omitted"]) == ([], 0)


def test_each_of_5000_staff_members_gets_one_mail_with_the_alerts_of_their_own_office(big: Big):
    due = {mail.address: mail for mail in expected(big.rows, DAY).mails}
    told = {mail.to[0]: mail for mail in big.mails}
    assert len(big.mails) == len(told) == 5000
    assert told.keys() == due.keys() == addresses(big.rows)
    names = {one.id: one.first_name for one in big.rows.recipients}
    cycles = {one.recipient_id: one for one in big.rows.cycles}
    for address, mail in told.items():
        wanted = lines_of(due[address], names, cycles)
        office = address.partition("s")[0]
        assert mail.to == (address,)
        assert re.search(rf"\b{office}\b", mail.subject)
        assert read(big.mails_folder / f"{mail.number:04}.eml") == (wanted, {name for name, _ in wanted}), address


def test_each_mail_leaves_one_audit_row(big: Big):
    assert big.audit == Counter(f"{link.staff_id} for {link.office_id}" for link in big.rows.links)


def test_the_same_day_again_sends_nothing_and_reports_the_same(big: Big):
    assert big.calls[0] == big.calls[1] == 500  # ten mails in a call
    assert of_the_day(big.second.report) == of_the_day(big.first.report) | {"reason": "already_completed"}


def lines_of(mail: ExpectedMail, names: Mapping[UUID, str], cycles: Mapping[UUID, Cycle]) -> Counter[tuple[str, str]]:
    """Return the recipients that *mail* has to name, each with how many days are left ("" for an assessment)."""
    renewals = [(names[key], left(cycles[key])) for key in mail.renewals]
    return Counter(renewals + [(names[key], "") for key in mail.assessments])


def left(cycle: Cycle) -> str:
    assert cycle.deadline is not None
    days = (cycle.deadline - DAY).days
    return "本日が期限" if days == 0 else f"あと{days}日" if days > 0 else f"{-days}日超過"


def read(path: Path) -> tuple[Counter[tuple[str, str]], set[str]]:
    """Return the alerts in a mail's text, and the names in its HTML."""
    parts = message_from_bytes(path.read_bytes()).get_payload()
    assert isinstance(parts, list)
    text, html = (part.get_payload(decode=True).decode() for part in parts)  # type: ignore[union-attr]
    lines = re.findall(r"^  (?:\S+日（.）\s+(\S+)\s+)?利用者 (\w+) 様（第1期）$", text, re.MULTILINE)
    return Counter((name, when) for when, name in lines), set(re.findall(r"利用者 (\w+)", html))


# ------------------------------------------------------------------------------------ statements, by the server's log


@pytest.fixture(scope="module")
def logging_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """Run a second PostgreSQL, which logs every statement with who sent it and where."""
    options = {"log_statement": "all", "log_line_prefix": "%a|%d|"}
    folder = tmp_path_factory.mktemp("logging")
    with running_postgres(folder, options=options) as cluster, running_template(cluster, folder) as made:
        yield made


@pytest.fixture(scope="module", params=[10, 100, 500])
def logged(
    request: pytest.FixtureRequest,
    logging_template: Template,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Run a day with mails and pushes; return the report, and the statements in the server's log."""
    with logging_template.place(tmp_path_factory.mktemp("logged"), servers) as place:
        place.load(invent(request.param, staff=1, push_url=servers.push_url))
        report = place.once().report
        assert report["email"]["sent"] == report["push"]["sent"] == request.param
        yield report, sent_to(place)


def sent_to(place: Place) -> list[str]:
    """Return every statement that notifierd sent to the database of *place*."""
    log = place.cluster.log_path.read_text(encoding="utf-8")
    entries = re.findall(r"^([^|\s]*\|[^|\s]*\|)(.*(?:\n\t.*)*)", log, re.MULTILINE)  # further lines begin with a tab
    found = [
        re.match(r"LOG:  (?:statement|execute [^:]+): ((?s:.*))", entry)
        for prefix, entry in entries
        if prefix == f"notifierd|{place.database}|"
    ]
    return [match[1] for match in found if match]


def reads_and_writes(statements: list[str]) -> tuple[int, int]:
    """Count the statements that name a table or a view of ours; those of the lease name nothing but runs."""
    named = re.compile(
        r"\bnotifierd\.(offices|staff|alerts|devices|audit_log|runs|run_offices|deliveries|late_outcomes)\b"
    )
    ours = [statement for statement in statements if {*named.findall(statement)} - {"runs"}]
    writing = [statement for statement in ours if re.search(r"(insert into|update|delete from) notifierd\.", statement)]
    return len(ours) - len(writing), len(writing)


def test_few_statements_read_a_day_however_many_offices_there_are(logged: tuple[dict[str, Any], list[str]]):
    """One for the first offices, one for as many as begin in 2 s at their rate, one for the rest, and one at the end.

    On a machine that needs longer for them: 1 more for each further chunk, and 1 for each office that was at work when
    a chunk was old. The statement that claims a chunk counts among those that write.
    """
    report, statements = logged
    chunks = int(report["seconds"] / (CHUNK_LASTS / 2))
    assert 2 <= reads_and_writes(statements)[0] <= 4 + chunks * (1 + LimitsSettings().offices)


def test_the_report_counts_the_statements_that_the_server_saw(logged: tuple[dict[str, Any], list[str]]):
    report, statements = logged
    assert report["statements"] == dict(zip(("read", "write"), reads_and_writes(statements), strict=True))


# ------------------------------------------------------------------------------------ --dry-run


def test_a_dry_run_writes_nothing_and_calls_nobody_and_counts_what_the_run_then_sends(place: Place):
    invented = sample(12, DAY, place.servers.push_url)
    place.load(invented.rows)
    before, calls = place.content(), place.calls()
    daemon = f"alter role {place.role} in database {place.database}"
    place.sql(f"{daemon} set default_transaction_read_only = on")  # any write would be refused
    rehearsed = place.once("--dry-run").report
    place.sql(f"{daemon} reset default_transaction_read_only")
    assert place.content() == before
    assert place.calls() == calls

    report = place.once().report
    due = invented.expected()
    assert rehearsed["status"] == "dry-run"
    assert rehearsed["email"]["planned"] == report["email"]["planned"] == report["email"]["sent"] == len(due.mails)
    assert rehearsed["push"]["planned"] == report["push"]["planned"] == report["push"]["sent"] == len(due.pushes)
    assert rehearsed["offices"] == report["offices"]
    assert rehearsed["untold"] == report["untold"]
    assert report["untold"]["offices"] == len(due.untold_offices) > 0
    assert rehearsed["statements"] == {"read": 2, "write": 0}


# ------------------------------------------------------------------------------------ isolation


def test_a_poisoned_office_among_50_fails_alone_and_is_named(place: Place):
    rows = invent(50)
    place.load(rows)
    templates = place.folder / "templates"
    templates.mkdir()
    shipped = (files("notifierd.messages") / "templates" / "mail.ja.subject.txt").read_text(encoding="utf-8")
    poison = '{% if office == "事業所 o17" %}{{ office.no_such_thing }}{% endif %}'
    (templates / "mail.ja.subject.txt").write_text(poison + shipped, encoding="utf-8")
    place.configure(content={"templates": str(templates)})

    done = place.once(code=1)
    report = done.report
    assert report["status"] == "completed"
    assert report["offices"] == {"total": 50, "ok": 49, "failed": 1}
    assert (report["email"]["sent"], report["email"]["failed"]) == (98, 2)
    reason = "office_error:UndefinedError"
    assert report["failures"] == [{"office_id": str(an_id("o17")), "channel": "email", "reason": reason}] * 2
    assert report["untold"] == {"alerts": 1, "overdue": 1, "offices": 1}
    assert each_once(place.mails()) == addresses(rows) - {"o17s0@mail.example.jp", "o17s1@mail.example.jp"}
    logged = [json.loads(line) for line in done.err.splitlines()]
    assert [line["office"] for line in logged if line["event"] == "office_failed"] == [str(an_id("o17"))]

    again = place.once(code=0)  # what failed was reported; a job runner need not come a third time
    assert of_the_day(again.report) == of_the_day(report) | {"reason": "already_completed"}
    assert (report["feedback"], again.report["feedback"]["not_known"]) == (None, 98)
    told = run("once", "--force", "--day", str(DAY), cwd=place.folder, code=0).out
    assert "The day was completed before, and nothing was left to do" in told
    assert re.search(r"^ *mails +100 +98 +2 ", told, re.MULTILINE)


def test_an_office_deleted_while_its_mails_are_sent_costs_nobody_anything(place: Place):
    rows = invent(6)
    place.load(rows)
    place.configure(limits={"email": 6})
    with place.running_once() as process:
        with place.frozen_servers():
            until(lambda: place.states() == {"sending": 12}, "all mails in flight")
            place.sql(f"delete from plan_deliverables; delete from offices where id = '{an_id('o3')}'")
        report = ended(process, 0).report
    assert (report["status"], report["email"]["sent"], report["failures"]) == ("completed", 12, [])
    assert each_once(place.mails()) == addresses(rows)
    audit = {member.id for member in rows.staff} - {an_id("o3s0"), an_id("o3s1")}
    assert place.sql("select target_id from audit_logs order by 1").split() == sorted(map(str, audit))
    marked = place.sql("select state, office_id from notifierd.deliveries where audit_missing").splitlines()
    assert marked == [f"sent|{an_id('o3')}"] * 2


# ------------------------------------------------------------------------------------ stopped, killed, held up


LOST_ANSWER = Rule(then="hang", accept=True)
"""The mail API sends what it is given, and does not answer: that a call was read shows in what was accepted."""


def test_a_drain_lets_calls_in_flight_finish_and_begins_no_more(place: Place):
    rows = invent(30)
    place.load(rows)
    place.configure(limits={"email": 3})
    with place.running_once() as process:
        with place.frozen_servers():
            until(lambda: place.calls_in_flight() == 3, "three calls in flight")
            process.send_signal(signal.SIGTERM)
        report = ended(process, 4).report
    assert (report["status"], report["reason"]) == ("interrupted", "signal")
    # Ten offices were begun, of which seven waited for a slot: three may have had theirs as the signal came.
    assert 6 <= report["email"]["sent"] == len(place.mails()) <= 12
    assert report["email"]["open"] == 60 - report["email"]["sent"]
    assert place.states() == {"sent": report["email"]["sent"], "planned": report["email"]["open"]}
    state = "select state, reason, holder, lease_until from notifierd.runs"
    assert place.sql(state) == "interrupted|signal||"

    again = place.once().report
    assert (again["status"], again["email"]["sent"], again["email"]["open"]) == ("completed", 60, 0)
    assert len(place.mails()) == 60
    assert each_once(place.mails()) == addresses(rows)


def test_calls_that_outlast_the_grace_are_cut_and_repeated_under_their_keys(place: Place):
    rows = invent(8)
    place.load(rows)
    place.configure(limits={"email": 3, "shutdown_grace": 1.0})
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, rules=(LOST_ANSWER,)))
    with place.running_once() as process:
        until(lambda: len(place.mails()) == 6, "three calls in flight")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        done = ended(process, 4)
        seconds = time.monotonic() - began
    assert 1.0 <= seconds < 15  # of the 20 s that the grace is by itself, and of the 30 that a call may take
    assert (done.report["status"], done.report["reason"]) == ("interrupted", "signal")
    assert (done.report["email"]["sent"], done.report["email"]["open"]) == (0, 16)
    assert place.states() == {"sending": 6, "planned": 10}

    place.serve(rows)
    assert place.once().report["email"]["sent"] == 16
    assert len(place.mails()) == 16
    assert each_once(place.mails()) == addresses(rows)
    assert place.sql("select count(*) from audit_logs") == "16"


def test_a_second_interrupt_stops_at_once(place: Place):
    rows = invent(3)
    place.load(rows)
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, rules=(LOST_ANSWER,)))
    with place.running_once() as process:
        until(lambda: len(place.mails()) == 6, "all calls in flight")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        patience = 0.5
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], patience)[0]:
            assert time.monotonic() - began < 15  # of 20 s of grace
            process.send_signal(signal.SIGINT)  # the second; again only if both came together, and arrived as one
            patience = 5.0
        assert ended(process, 4).report["status"] == "interrupted"
    assert place.states() == {"sending": 6}


def test_after_a_kill_everybody_is_told_exactly_once(place: Place):
    rows = invent(20)
    place.load(rows)
    place.configure(limits={"email": 4, "send_timeout": 5.0})
    trouble = (evolve(LOST_ANSWER, after=5, times=2), Rule(then="hang", after=5))
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, rules=trouble))
    with place.running_once() as process:
        until(lambda: place.states() == {"sent": 10, "sending": 8, "planned": 22}, "five calls done, four in flight")
        until(lambda: len(place.mails()) == 14, "two calls whose answer will be lost")
        process.kill()
        process.wait()
    place.serve(rows)

    report = place.once().report
    assert (report["status"], report["email"]["sent"]) == ("completed", 40)
    assert len(place.mails()) == 40
    assert each_once(place.mails()) == addresses(rows)
    assert place.sql("select count(*), count(distinct target_id) from audit_logs") == "40|40"


def test_a_second_process_waits_for_one_lease_then_gives_up_and_names_the_holder(place: Place):
    place.load(invent(2))
    with place.running_once() as first:
        with place.frozen_servers():
            until(lambda: place.states() == {"sending": 4}, "all calls in flight")
            second = place.once(code=4)
        assert 14 < second.seconds < 90  # 16, and the start
        assert second.report["status"] == "interrupted"
        assert f":{first.pid}:" in second.report["reason"]
        assert re.search(rf"held by \S+:{first.pid}:", second.err)
        assert ended(first, 0).report["email"]["sent"] == 4
    assert len(place.mails()) == 4


def test_a_run_whose_plan_is_refused_leaves_no_lease_that_the_next_one_waits_for(place: Place):
    place.load(invent(1, staff=1))
    place.sql(
        """
        create function refuse() returns trigger language plpgsql as $$ begin perform 1 / 0; return new; end $$;
        create trigger refuse before insert on notifierd.deliveries for each row execute function refuse();
        """
    )
    assert place.once(code=2).report["reason"] == "database_refused:22012"
    ended_so = place.sql("select state, reason, holder from notifierd.runs")
    assert ended_so == "interrupted|database_refused:22012|"
    place.sql("drop trigger refuse on notifierd.deliveries")
    done = place.once()
    assert (done.report["email"]["sent"], "waiting_for_lease" in done.err) == (1, False)


def test_what_is_open_when_the_time_is_up_expires(place: Place):
    rows = invent(2)
    place.load(rows)
    place.serve(rows, MailConfig(api_key=API_KEY, rules=(Rule(status=503),)))
    done = place.once("--for", "5", code=1)
    assert done.report["status"] == "completed"
    assert (done.report["email"]["expired"], done.report["email"]["open"]) == (4, 0)
    assert {failure["reason"] for failure in done.report["failures"]} == {"window_ended (server_error:503)"}
    assert place.mails() == []


def test_a_rejected_address_fails_alone_and_the_exit_code_tells(place: Place):
    rows = invent(2)
    place.load(rows)
    place.serve(rows, MailConfig(api_key=API_KEY, keep_eml=False, rejected=("o1s0@mail.example.jp",)))
    report = place.once(code=1).report
    assert report["failures"] == [{"office_id": str(an_id("o1")), "channel": "email", "reason": "rejected:item"}]
    assert report["offices"] == {"total": 2, "ok": 2, "failed": 0}
    assert each_once(place.mails()) == addresses(rows) - {"o1s0@mail.example.jp"}


# ------------------------------------------------------------------------------------ safety


def test_only_offices_keeps_all_others_out(place: Place):
    place.load(invent(4, push_url=place.servers.push_url))
    place.configure(safety={"only_offices": [str(an_id("o2"))]})
    rehearsed, report = place.once("--dry-run").report, place.once().report
    for counts in (rehearsed, report):
        assert (counts["offices"]["total"], counts["email"]["planned"], counts["push"]["planned"]) == (1, 2, 2)
        assert counts["untold"] == {"alerts": 0, "overdue": 0, "offices": 0}
    assert each_once(place.mails()) == {"o2s0@mail.example.jp", "o2s1@mail.example.jp"}
    assert {push.payload["data"]["office_id"] for push in place.pushes()} == {str(an_id("o2"))}


def test_redirect_to_sends_all_mail_to_one_address_and_no_push(place: Place):
    rows = invent(3, push_url=place.servers.push_url)
    place.load(rows)
    place.configure(safety={"redirect_to": "inbox@mail.example.jp"})
    report = place.once().report
    assert (report["email"]["sent"], report["push"]["planned"]) == (6, 0)
    assert [mail.to for mail in place.mails()] == [("inbox@mail.example.jp",)] * 6
    named = {re.match(r"\[staff (\S+)\]", mail.subject) for mail in place.mails()}
    assert {match[1] for match in named if match} == {str(member.id) for member in rows.staff}
    assert place.pushes() == []


@pytest.mark.parametrize("command", [["once", "--dry-run"], ["once"]])
def test_on_another_cluster_than_the_one_named_nothing_is_sent(place: Place, command: list[str]):
    place.load(invent(1))
    place.configure(safety={"database_id": "1234567890"})
    before = place.content()
    done = place.once(*command[1:], code=2)
    assert done.err == "notifierd: safety.database_id: this is another database cluster; nothing was read or sent\n"
    assert done.out == ""
    assert place.content() == before
    assert place.mails() == []


def test_on_the_cluster_that_is_named_the_run_goes_on(place: Place):
    place.load(invent(1))
    place.configure(safety={"database_id": place.sql("select system_identifier from pg_control_system()")})
    assert place.once().report["email"]["sent"] == 2
