"""What a person sees of a run."""

import re
from io import StringIO
from uuid import UUID

import trio
from attrs import evolve
from rich.console import Console

from notifierd.commands.run_display import MOST_OFFICES, MOST_REASONS, live_progress, print_report
from notifierd.model.counts import Backlog, ChannelCounts, DayCounts, Failure, Planned, Untold
from notifierd.model.delivery import Channel, State
from notifierd.rules.report import RunReport, RunResult, RunState
from notifierd.run.progress import Progress

DONE = Backlog(0, due_now=False, next_in=None)
COUNTS = DayCounts(
    offices=1200,
    offices_failed=2,
    email=ChannelCounts(planned=5010, sent=5000, failed=1, unknown=2, expired=3, open=4),
    push=ChannelCounts(planned=30, sent=21, gone=9),
    backlog=DONE,
)


def shown(counts: DayCounts | None, state: RunState = "completed", reason: str | None = None) -> str:
    """The summary, as plain text."""
    out = StringIO()
    console = Console(file=out, width=200, color_system=None)
    print_report(RunReport("2026-11-24", RunResult(state, reason, counts), 4, 9, 12.34), console)
    return out.getvalue()


def failure(office: int, reason: str, channel: Channel = Channel.EMAIL) -> Failure:
    return Failure(UUID(int=office), channel, reason)


def test_a_summary_says_how_the_run_ended_and_counts_what_became_of_each_channel():
    lines = shown(COUNTS).splitlines()
    assert lines[0] == "2026-11-24: completed in 12.3 s"
    assert lines[1] == "1,200 offices with something due, 2 failed"
    rows = {
        line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] in (["mails"], ["pushes"], ["planned"])
    }
    assert rows["mails"] == ["5,010", "5,000", "1", "0", "2", "3", "4"]
    assert rows["pushes"] == ["30", "21", "0", "9", "0", "0", "0"]
    assert [line.split() for line in lines if "planned" in line] == [
        ["planned", "sent", "failed", "gone", "unknown", "expired", "open"]
    ]
    assert "reached nobody" not in shown(COUNTS)


def test_a_run_that_did_not_complete_says_why():
    assert shown(COUNTS, "interrupted", "signal").startswith("2026-11-24: interrupted (signal) in 12.3 s")
    assert shown(None, "skipped", "holiday: 勤労感謝の日").splitlines() == [
        "2026-11-24: skipped (holiday: 勤労感謝の日) in 12.3 s",
        "`notifierd once --force` runs it all the same.",
    ]


def test_each_reason_stands_once_the_most_frequent_first_with_an_office():
    counts = evolve(
        COUNTS,
        failures=(
            failure(1, "rejected:422"),
            failure(2, "office_error:ValueError"),
            failure(3, "office_error:ValueError"),
            failure(2, "office_error:ValueError"),
            failure(4, "rejected:422", Channel.PUSH),
        ),
    )
    lines = [" ".join(line.split()) for line in shown(counts).splitlines() if "  office " in line]
    assert lines == [
        f"3 mails office_error:ValueError office {UUID(int=2)} and 1 more",
        f"1 mail rejected:422 office {UUID(int=1)}",
        f"1 push rejected:422 office {UUID(int=4)}",
    ]


def test_a_long_list_of_reasons_is_cut_and_says_so():
    many = tuple(failure(n, f"rejected:{n}") for n in range(MOST_REASONS + 3))
    text = shown(evolve(COUNTS, failures=many, failures_omitted=70))
    assert sum("  office " in line for line in text.splitlines()) == MOST_REASONS
    assert "and 3 more reasons (failures not listed: 70)" in text
    assert "more reasons" not in shown(evolve(COUNTS, failures=many[:MOST_REASONS]))
    assert "and 0 more reasons (failures not listed: 1)" in shown(evolve(COUNTS, failures=many[:1], failures_omitted=1))


def test_alerts_that_reached_nobody_are_told_with_their_offices():
    offices = tuple(UUID(int=n) for n in range(1, MOST_OFFICES + 2))
    untold = tuple(Untold(office, 2, office.int % 2) for office in offices)
    text = " ".join(shown(evolve(COUNTS, untold=untold)).split())
    assert "12 alerts reached nobody, 3 of them overdue, in 6 offices: " in text
    assert text.endswith(f"{offices[MOST_OFFICES - 1]} ... and 1 more")
    assert str(offices[MOST_OFFICES]) not in text
    few = shown(evolve(COUNTS, untold=untold[:1]))
    assert few.rstrip().endswith(str(offices[0]))


def a_terminal(*, terminal: bool = True) -> Console:
    return Console(file=StringIO(), width=120, force_terminal=terminal, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


async def test_nothing_is_drawn_where_there_is_no_terminal():
    console = a_terminal(terminal=False)
    async with live_progress(Progress(), console):
        await trio.sleep(0.2)
    assert text_of(console) == ""


async def test_the_bars_end_with_what_was_done_and_what_went_wrong():
    console, progress = a_terminal(), Progress()
    async with live_progress(progress, console):
        progress.planned = Planned(offices=50, email=100, push=30)
        progress.offices_done, progress.offices_failed = 61, 1
        progress.settled.update(
            {
                (Channel.EMAIL, State.SENT): 96,
                (Channel.EMAIL, State.FAILED): 3,
                (Channel.EMAIL, State.EXPIRED): 1,
                (Channel.PUSH, State.SENT): 20,
                (Channel.PUSH, State.GONE): 2,
            }
        )
    last = {line.split()[0]: line for line in text_of(console).splitlines()[-3:]}
    assert "50/50" in last["offices"], "a pass again over an office does not count past the end"
    assert "1 failed" in last["offices"]
    assert "100/100" in last["mails"]
    assert "3 failed, 1 expired" in last["mails"]
    assert "22/30" in last["pushes"]
    assert "2 gone" in last["pushes"]


async def test_what_is_planned_again_in_mid_run_counts_no_bar_past_its_end():
    console, progress = a_terminal(), Progress(planned=Planned(offices=1, email=2, push=0))
    async with live_progress(progress, console):
        progress.settled.update({(Channel.EMAIL, State.FAILED): 1, (Channel.EMAIL, State.SENT): 2})
    assert "2/2" in text_of(console)
    assert "3/2" not in text_of(console)


async def test_the_bars_say_what_is_waited_for():
    console, progress = a_terminal(), Progress()
    async with live_progress(progress, console):
        pass
    assert "planning" in text_of(console)
    progress.waiting_for = "host-1:42"
    console = a_terminal()
    async with live_progress(progress, console):
        pass
    assert "waiting for host-1:42" in text_of(console)


async def test_the_bars_move_while_the_run_goes_on():
    console, progress = a_terminal(), Progress(planned=Planned(4, 8, 0))
    async with live_progress(progress, console):
        for done in (3, 7):
            progress.settled[Channel.EMAIL, State.SENT] = done
            deadline = trio.current_time() + 60
            while f"{done}/8" not in text_of(console):
                assert trio.current_time() < deadline
                await trio.sleep(0.05)
