"""Tables on terminals of 60 to 200 columns: nothing is wider than the terminal, and no number is cut.

tests/data/tables.txt shows them. After a change, write it anew and read it: ``python -m tests.cli.test_widths``.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve, frozen
from rich.cells import cell_len
from rich.console import Console

from notifierd.cli.tables import print_explanation, print_findings, print_history, print_plan, print_status
from notifierd.commands.display.feedback import print_feedback
from notifierd.commands.finding import Finding, Level
from notifierd.commands.plan import AlertCount, Explanation, OfficeDecisions, Plan, PlannedOffice, PlannedStaff
from notifierd.commands.providers.feedback import FeedbackReport
from notifierd.commands.run_display import print_report
from notifierd.commands.status import PastDay, StatusReport
from notifierd.model.counts import Backlog, ChannelCounts, DayCounts, Failure, Untold
from notifierd.model.delivery import Channel
from notifierd.model.feedback import DayFeedback, MailStatus
from notifierd.model.office import OfficeWork
from notifierd.rules.calendar import Window
from notifierd.rules.due import Rules, channel_decisions
from notifierd.rules.report import RunReport, RunResult
from notifierd.store.feedback import FeedbackDay, Held, LookState
from notifierd.store.history import Day, Open, UntoldTotal
from tests.support.members import a_member
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_assessment, an_id

GOLDEN = Path(__file__).parents[1] / "data" / "tables.txt"
WIDTHS = (60, 80, 120, 200)
TOKYO = ZoneInfo("Asia/Tokyo")
NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


@frozen
class Words:
    """What a table shows in one language."""

    holiday: str
    offices: tuple[str, ...]


WORDS = {
    "ja": Words(
        "holiday: 勤労感謝の日",
        ("多機能型事業所「虹の橋」& <第2> “みほん”", "就労継続支援B型事業所 ひだまり", "青空"),
    ),
    "en": Words(
        "holiday: Thanksgiving Day (observed)",
        ("Rainbow Bridge Multifunctional Support Center & <Annex> “Sample”", "Sunny Place Workshop", "Sky"),
    ),
}


def days(holiday: str) -> list[PastDay]:
    """A good day, a bad one, and one of each other kind."""
    nothing_told = dict.fromkeys(MailStatus, 0)
    unasked, quiet = DayFeedback(nothing_told, 5010, is_known=False), DayFeedback(nothing_told, 5010, is_known=True)
    came_back = DayFeedback(
        {status: 1200 + 11 * place for place, status in enumerate(MailStatus)}, 47_000, is_known=True
    )
    good = Day(
        day=DAY,
        state="completed",
        reason=None,
        holder=None,
        started_at=NINE,
        finished_at=NINE + timedelta(minutes=12),
        offices=1200,
        offices_failed=0,
        email=ChannelCounts(planned=5010, sent=5010),
        push=ChannelCounts(planned=1234, sent=1234),
        untold=UntoldTotal(0, 0, 0),
    )
    bad = evolve(
        good,
        day=date(2026, 11, 20),
        state="interrupted",
        reason="window_ended (not_begun)",
        finished_at=NINE + timedelta(hours=3, minutes=5),
        offices_failed=2,
        email=ChannelCounts(planned=52_010, sent=51_003, failed=1000, unknown=3, open=4),
        push=ChannelCounts(planned=12_345, sent=12_340, gone=5),
        untold=UntoldTotal(alerts=1234, overdue=321, offices=17),
    )
    nothing = evolve(good, started_at=None, finished_at=None, offices=0, email=ChannelCounts(), push=ChannelCounts())
    return [
        PastDay(evolve(good, state="running", finished_at=None, untold=None), unasked),
        PastDay(evolve(nothing, day=date(2026, 11, 23), state="skipped", reason=holiday, untold=None)),
        PastDay(bad, came_back),
        PastDay(evolve(nothing, day=date(2026, 11, 19), state="missed", reason="slept_through", untold=None)),
        PastDay(evolve(good, day=date(2026, 11, 18)), quiet),
    ]


def plan(names: tuple[str, ...]) -> Plan:
    """Three offices: the most urgent has the longest name and the largest numbers."""
    staff = tuple(PlannedStaff(an_id(f"s{n}"), AlertCount(123, 45), AlertCount(12, 4), 2) for n in range(1234))
    offices = tuple(
        PlannedOffice(
            an_id(f"o{n}"), name, left, AlertCount(1234 // (n + 1), 321 // (n + 1)), staff[: 1234 // (n * 50 + 1)]
        )
        for n, (name, left) in enumerate(zip(names, (-47, 3, None), strict=True))
    )
    return Plan(DAY, None, 17, offices, (), ())


def explanation(name: str) -> Explanation:
    """One staff member, with one alert of each kind of answer."""
    member = a_staff("staff", push_enabled=True)
    alerts = (a_renewal(-47), a_renewal(0), a_renewal(1), a_renewal(14), a_renewal(31), an_assessment())
    device = a_device(member)
    work = OfficeWork(an_id("o0"), name, (), {member.id: member}, alerts, {device.id: device}, 0.0)
    return Explanation(DAY, None, member.id, (OfficeDecisions(work, channel_decisions(member, work, DAY, Rules())),))


def status(found: list[PastDay], holiday: str) -> StatusReport:
    opens = NINE + timedelta(days=1)
    return StatusReport(
        now=NINE + timedelta(hours=4),
        today=DAY,
        window=Window(DAY + timedelta(days=1), opens, opens + timedelta(hours=3)),
        closed=holiday,
        last=found[2],
        missed=(found[3],),
        members=tuple(a_member(number, rate=1234.5 / number) for number in (1, 2, 3)),
        open=(Open(DAY, Channel.EMAIL, 5000, 12, 34, NINE + timedelta(hours=5)),),
    )


def feedback() -> FeedbackReport:
    """Two providers that were asked, one of them in vain; a good day and a bad one; two people who get no mail."""
    counts = {"delayed": 12, "bounced": 1234, "refused": 5, "suppressed": 67, "complained": 3}
    return FeedbackReport(
        looks=(LookState("postmark", NINE, NINE, ""), LookState("ses", None, NINE, "no_right:sqs_ReceiveMessage")),
        days=(
            FeedbackDay(DAY, "postmark", delivered=51_003, **counts, not_known=12_345),
            FeedbackDay(date(2026, 11, 20), "ses", delivered=5010, **dict.fromkeys(counts, 0), not_known=0),
        ),
        held=(
            Held(an_id("s1"), "complained", DAY, date(2026, 12, 24)),
            Held(an_id("s2"), "suppressed", date(2026, 11, 20), date(2026, 12, 20)),
        ),
        not_set_up={"resend": ("email.resend.feedback_key",), "smtp": ()},
    )


def report() -> RunReport:
    counts = DayCounts(
        offices=1200,
        offices_failed=2,
        email=ChannelCounts(planned=52_010, sent=51_003, failed=1000, unknown=3, expired=4),
        push=ChannelCounts(planned=12_345, sent=12_340, gone=5),
        backlog=Backlog(0, due_now=False, next_in=None),
        untold=(Untold(an_id("o1"), 1234, 321),),
        failures=(Failure(an_id("o0"), Channel.EMAIL, "office_error:UndefinedError"),),
        failures_omitted=999,
    )
    return RunReport(str(DAY), RunResult("completed", None, counts), 5, 160, 12.34)


def screens() -> Iterator[tuple[str, Callable[[Console], None]]]:
    """Each table with the data of each language, and what prints it."""
    for language, words in WORDS.items():
        found, planned, explained = days(words.holiday), plan(words.offices), explanation(words.offices[0])
        yield f"history {language}", partial(print_history, found, TOKYO)
        yield f"plan {language}", partial(print_plan, planned)
        yield f"explain {language}", partial(print_explanation, explained)
        yield f"status {language}", partial(print_status, status(found, words.holiday), TOKYO)
    yield "feedback", partial(print_feedback, feedback(), TOKYO)
    yield "once", partial(print_report, report())
    yield "check", partial(print_findings, [Finding("config", Level.OK, "comes from /etc/notifierd/config.toml")])


SCREENS = dict(screens())


def shown(name: str, width: int) -> list[str]:
    """What a terminal of that *width* shows."""
    out = StringIO()
    SCREENS[name](Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False, emoji=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def golden() -> str:
    """Every table at every width."""
    return "".join(
        f"=== {name}, {width} columns\n" + "".join(f"{line}\n" for line in shown(name, width))
        for name in SCREENS
        for width in WIDTHS
    )


def test_the_tables_look_as_they_are_known():
    assert golden() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCREENS)
def test_nothing_is_wider_than_the_terminal_and_no_number_is_cut(name: str):
    """A number that is cut, or broken over two lines, leaves a number that the widest screen does not have."""
    whole = numbers(shown(name, 400))
    for width in range(60, 201, 7):
        lines = shown(name, width)
        assert max(map(cell_len, lines)) <= width
        assert numbers(lines) <= whole, width
        assert not any("…" in line for line in lines)


def numbers(lines: list[str]) -> set[str]:
    return set(re.findall(r"[0-9][0-9,.:-]*", "\n".join(lines)))


@pytest.mark.parametrize("name", ["plan ja", "plan en"])
def test_every_width_has_the_names_of_the_offices(name: str):
    first = WORDS[name.split()[1]].offices[1].split()[0]
    for width in range(60, 201, 7):
        assert first in "".join(line.strip() for line in shown(name, width)), width


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
