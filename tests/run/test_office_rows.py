"""The audit rows of whole offices at a run's end, whatever the database answers, in virtual time."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs

from notifierd.model.delivery import State
from notifierd.model.errors import DatabaseError, LedgerUnavailable, StatementRefused
from notifierd.model.outcome import Blame, Deferred, Rejected
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.day import run_day
from notifierd.run.record.recorder import LONGEST_OWED
from notifierd.store.ledger import OfficeDay
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import TAKEN, ScriptedSender, ShakyLedger, a_run

LOCKED, CONTENT = "55P03", "23503"

Refusal = Callable[[float, Sequence[UUID]], DatabaseError | None]


@define
class OfficeLedger(ShakyLedger):
    """A ledger of offices' rows, some of whose statements are refused.

    Attributes:
        refuse: what is answered at a moment to a statement that writes the rows of these offices.
        tries: when how many offices' rows were to be written.
    """

    refuse_rows: Refusal = field(default=lambda _now, _offices: None)
    tries: list[tuple[float, int]] = field(factory=list)

    async def audit_offices(self, day, office: OfficeDay | None = None) -> int:
        offices = [place[1] for place in self._unaudited(day) if office in (None, place)]
        self.tries.append((trio.current_time(), len(offices)))
        if offices and (error := self.refuse_rows(trio.current_time(), offices)):
            await self._statement()
            raise error
        return await ShakyLedger.audit_offices(self, day, office)

    def rows_of_offices(self) -> dict[UUID, list[int]]:
        """The numbers of mails in the rows of each office."""
        found: dict[UUID, list[int]] = {}
        for row in self.app.audit_log:
            found.setdefault(row["office_id"], []).append(row["details"]["email_count"])
        return found


def a_ledger(offices: int, refuse_rows: Refusal = lambda _now, _offices: None) -> OfficeLedger:
    return OfficeLedger(some_offices(offices), audit="office", refuse_rows=refuse_rows)


def refusing(sqlstate: str, *, ends: float = float("inf"), only: str = "") -> Refusal:
    """Refuse rows until *ends*, or those of the office that is named *only*."""
    kind = LedgerUnavailable if sqlstate.startswith("08") else StatementRefused

    def refuse(now: float, offices: Sequence[UUID]) -> DatabaseError | None:
        strikes = now < ends and (not only or an_id(only) in offices)
        return kind(f"database_refused:{sqlstate}") if strikes else None

    return refuse


async def ended(context: RunContext) -> RunResult:
    with trio.fail_after(86_400):
        return await run_day(DAY, context)


async def test_each_office_has_one_row_for_the_day_and_one_statement_writes_them(autojump_clock):
    ledger = a_ledger(20)
    await ended(a_run(ledger, ScriptedSender()))
    assert ledger.rows_of_offices() == {office: [2] for office in ledger.app.offices}
    assert [offices for _, offices in ledger.tries] == [20]


async def test_where_each_person_has_a_row_no_statement_asks_for_the_offices(autojump_clock):
    ledger = evolve(a_ledger(5), audit="each")
    await ended(a_run(ledger, ScriptedSender()))
    assert (len(ledger.app.audit_log), ledger.tries) == (10, [])


async def test_an_office_has_its_row_while_another_one_still_waits(autojump_clock):
    """One person's mail is put off for a minute: the row of that office alone comes later."""
    ledger = a_ledger(3)
    slow = "staff-0-0@example.jp"
    later = Deferred("refused:450", 60.0, Blame.MESSAGE)
    email = ScriptedSender(script=lambda one: later if (one.to, one.nth) == (slow, 1) else TAKEN)
    seen: list[int] = []

    async def look() -> None:
        await trio.sleep(30.0)
        seen.append(len(ledger.app.audit_log))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await ended(a_run(ledger, email))
    assert seen == [2]
    assert ledger.rows_of_offices() == {office: [2] for office in ledger.app.offices}


async def test_a_row_that_is_refused_for_its_content_costs_no_other_office_its_row(autojump_clock):
    ledger = a_ledger(6, refusing(CONTENT, only="office 4"))
    with capture_logs() as logs:
        result = await ended(a_run(ledger, ScriptedSender()))
    deleted = an_id("office 4")
    assert set(ledger.rows_of_offices()) == set(ledger.app.offices) - {deleted}
    assert {row.delivery.office_id for row in ledger.rows.values() if row.audit_missing} == {deleted}
    (line,) = [line for line in logs if line["event"] == "audit_row_refused"]
    assert (line["office"], line["refused"], line["log_level"]) == (
        str(deleted),
        f"database_refused:{CONTENT}",
        "error",
    )
    assert result.state == "completed"


@pytest.mark.parametrize("sqlstate", ["42501", "42P01", LOCKED, "57014", "08006", "XX000"])
async def test_rows_that_are_refused_for_a_while_are_written_then_and_once(sqlstate: str, autojump_clock):
    ledger = a_ledger(20, refusing(sqlstate, ends=40.0))
    with capture_logs() as logs:
        result = await ended(a_run(ledger, ScriptedSender()))
    assert ledger.rows_of_offices() == {office: [2] for office in ledger.app.offices}
    assert 40.0 < trio.current_time() < 60.0
    assert [line["event"] for line in logs if line["event"] != "planned"] == [
        "waiting_for_database",
        "database_back",
        "ended",
    ]
    assert result.state == "completed"


async def test_an_office_that_is_locked_keeps_no_other_one_waiting(autojump_clock):
    """Four of twenty are locked to the end; three refusals in a row end a try, and the others come first then."""
    locked = [an_id(f"office {number}") for number in range(4)]

    def refuse(now: float, offices: Sequence[UUID]) -> DatabaseError | None:
        return StatementRefused(f"database_refused:{LOCKED}") if set(offices) & set(locked) else None

    ledger = a_ledger(20, refuse)
    with capture_logs() as logs:
        await ended(a_run(ledger, ScriptedSender()))
    assert set(ledger.rows_of_offices()) == set(ledger.app.offices) - set(locked)
    assert ledger.audit_owed == {(DAY, office) for office in locked}
    assert [line["offices"] for line in logs if line["event"] == "audit_rows_not_written"] == [4]
    assert trio.current_time() == pytest.approx(8.0 + LONGEST_OWED, abs=1.0), "eight seconds are for the calls"


async def test_rows_that_were_not_written_come_with_the_next_run(autojump_clock):
    ledger = a_ledger(3, refusing("42501", ends=1000.0))
    await ended(a_run(ledger, ScriptedSender()))
    assert ledger.app.audit_log == []
    await trio.sleep_until(1000.0)
    email = ScriptedSender()
    await ended(a_run(ledger, email))
    assert email.calls == []
    assert ledger.rows_of_offices() == {office: [2] for office in ledger.app.offices}


async def test_a_row_counts_what_was_sent_and_not_what_failed(autojump_clock):
    ledger = a_ledger(2)
    bad = "staff-1-0@example.jp"
    email = ScriptedSender(script=lambda one: Rejected("rejected:422") if one.to == bad else TAKEN)
    await ended(a_run(ledger, email))
    assert ledger.states() == {State.SENT: 3, State.FAILED: 1}
    assert ledger.rows_of_offices() == {an_id("office 0"): [2], an_id("office 1"): [1]}
