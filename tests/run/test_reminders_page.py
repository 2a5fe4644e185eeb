"""A year of one office in virtual time: on which days mails go, and what is new in them, as docs/reminders.md shows."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

from attrs import evolve

from notifierd.config.settings import ContentSettings, EmailSettings, Settings, WindowSettings
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Delivery
from notifierd.model.message import Mail
from notifierd.model.office import Alert, Kind, Notice
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import Rules
from notifierd.run.day import run_day
from tests.support.memory import Application, MemoryLedger
from tests.support.samples import a_staff, an_id
from tests.support.scripted_senders import ScriptedSender, a_run

PAGE = (Path(__file__).parents[2] / "docs" / "reminders.md").read_text(encoding="utf-8")
CONTENT = ContentSettings(
    language="en",
    renewal_days=(30, 14, 7, 3, 1),
    overdue_weekdays=("mon", "thu"),
    assessment_weekdays=("mon",),
)
SETTINGS = Settings(content=CONTENT, email=EmailSettings(sender="no-reply@example.jp"))
OFFICE = an_id("office of the year")
FIRST, LAST = date(2027, 4, 1), date(2028, 3, 31)
WRITTEN, RENEWED, AGAIN = date(2027, 5, 12), date(2027, 6, 25), date(2027, 12, 9)


class Reader(Renderer):
    """Renders as ever, and keeps the last notice and its mail."""

    def __init__(self) -> None:
        self.read: list[tuple[Notice, Mail]] = []
        super().__init__(SETTINGS)

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        mail = super().mail(notice, delivery)
        self.read[:] = [(notice, mail)]
        return mail


def alerts(day: date) -> Iterator[Alert]:
    """What the office has on *day*: a plan that is due twice in the year, and at first a missing assessment."""
    due_on = date(2027, 6, 14) if day < RENEWED else date(2027, 12, 14)
    if day < AGAIN:
        yield Alert(UUID(int=1), "Sample Ichiro", Kind.RENEWAL, due_on, 1)
    if day < WRITTEN:
        yield Alert(UUID(int=2), "Sample Hanako", Kind.ASSESSMENT, None, 1)


async def mails(rules: Rules) -> list[tuple[date, Notice, Mail]]:
    """The mails of a year of runs, one on each business day."""
    calendar, app = Calendar(WindowSettings()), Application()
    app.offices[OFFICE] = "Sample office"
    app.staff = [(OFFICE, a_staff("staff"))]
    ledger, reader = MemoryLedger(app), Reader()
    found: list[tuple[date, Notice, Mail]] = []
    for n in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=n)
        app.alerts = [(OFFICE, alert) for alert in alerts(day)]
        if calendar.closed(day):
            continue
        reader.read.clear()
        sender = ScriptedSender(seconds=0.0)
        result = await run_day(day, a_run(ledger, sender, rules=rules, renderer=reader))
        assert result.state == "completed"
        assert not (result.counts and result.counts.untold)
        assert bool(sender.accepted) == bool(reader.read)
        found += [(day, *read) for read in reader.read]
    return found


def row(day: date, notice: Notice, mail: Mail) -> str:
    """The line of the page's table: the day, what is new, and what else the mail lists."""
    news = re.findall(r"^  (Sample \w+) \(cycle 1\): (.*)$", mail.text, re.MULTILINE)
    new = "; ".join(f"{name}: {what}" for name, what in news) or "-"
    known = [alert for alert in notice.alerts if alert not in notice.news]
    others = "; ".join(f"{alert.recipient_name}: {state(alert.days_left(day))}" for alert in known) or "-"
    return f"| {day:%a} {day} | {new} | {others} |"


def state(left: int | None) -> str:
    """What a line of a mail says of an alert."""
    return "assessment missing" if left is None else f"{-left} days overdue" if left < 0 else f"{left} days left"


async def test_the_year_on_the_page_is_what_runs_of_a_year_send(autojump_clock: object) -> None:
    found = await mails(evolve(Rules.of(SETTINGS), push=False))
    table = "\n".join(row(*each) for each in found)
    assert f"| --- | --- | --- |\n{table}\n\n" in PAGE
    daily = await mails(Rules(push=False))
    assert f"{len(found)} mails in the year, instead of {len(daily)}" in PAGE
    assert {day for day, _, _ in found} <= {day for day, _, _ in daily}
