"""The display of a run on a terminal: its progress, and a summary at the end."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from notifierd.commands.display.feedback import came_back
from notifierd.messages.text import visible
from notifierd.model.counts import ChannelCounts, DayCounts, counted
from notifierd.model.delivery import LOST, Channel, State
from notifierd.rules.report import ALREADY_COMPLETED, RunReport
from notifierd.run import progress as runs
from notifierd.service import stderr

REDRAW_EVERY = 0.1
TROUBLES = (*LOST, State.GONE)
WIDE = 76
"""Columns of a terminal from which on the table of counts has wide gaps."""
MOST_REASONS = 12
MOST_OFFICES = 5


class _Rate(ProgressColumn):
    """The rate, per second."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed or 0.0
        return Text(f"{task.completed / seconds:>6,.0f}/s" if seconds > 1 else "", style="progress.data.speed")


@asynccontextmanager
async def live_progress(progress: runs.Progress, console: Console) -> AsyncIterator[None]:
    """Draw bars for offices, mails and pushes on *console* during the block, if it is a terminal."""
    if not console.is_terminal:
        yield
        return
    with Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        redirect_stdout=False,
    ) as bars:
        drawing = _Bars(progress, bars)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drawing.keep_drawing)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                drawing.draw()
    if stream := stderr.stand_in():
        stream.drain(stderr.LAST_SECONDS)  # otherwise the summary on stdout would come before the last bars


class _Bars:
    """The three bars."""

    def __init__(self, progress: runs.Progress, bars: Progress) -> None:
        self._progress, self._bars = progress, bars
        self._offices = bars.add_task("offices", total=None, note="planning")
        self._channels = {channel: bars.add_task(channel.plural, total=None, note="") for channel in Channel}

    async def keep_drawing(self) -> None:
        while True:
            self.draw()
            await trio.sleep(REDRAW_EVERY)

    def draw(self) -> None:
        progress, planned = self._progress, self._progress.planned
        if planned is None:
            note = f"waiting for {progress.waiting_for}" if progress.waiting_for else "planning"
            self._bars.update(self._offices, note=note)
            return
        done = min(progress.offices_done, planned.offices)
        failed = f"[red]{progress.offices_failed} failed[/]" if progress.offices_failed else ""
        self._bars.update(self._offices, completed=done, total=planned.offices, note=failed)
        for (channel, task), total in zip(self._channels.items(), (planned.email, planned.push), strict=True):
            trouble = {state: progress.settled[channel, state] for state in TROUBLES}
            note = ", ".join(f"{n} {state}" for state, n in trouble.items() if n)
            done = min(progress.done(channel), total)  # a delivery that was planned again ends twice
            self._bars.update(task, completed=done, total=total, note=f"[yellow]{note}[/]")


def print_report(report: RunReport, console: Console) -> None:
    """Print the summary of a run for a person."""
    result = report.result
    style = {"completed": "green", "skipped": "cyan", "dry-run": "cyan"}.get(result.state, "red")
    reason = f" ({escape(visible(result.reason))})" if result.reason else ""
    console.print(f"[bold]{report.day}[/]: [bold {style}]{result.state}[/]{reason} in {report.seconds:.1f} s")
    if result.state == "skipped":
        console.print("`notifierd once --force` runs it all the same.")
    if result.counts is None:
        return
    counts = result.counts
    if result.reason == ALREADY_COMPLETED:
        console.print(
            "The day was completed before, and nothing was left to do. These are the counts of the whole day:"
        )
    console.print(_offices(counts))
    console.print(_table(counts, narrow=console.width < WIDE))
    _print_failures(counts, console)
    if report.feedback:
        console.print(f"came back: {came_back(report.feedback)}")
    if counts.untold_alerts:
        console.print(
            f"[bold red]{counted(counts.untold_alerts, 'alert')} reached nobody[/], {counts.untold_overdue:,} of them "
            f"overdue, in {counted(len(counts.untold_offices), 'office')}:"
        )
        for office in counts.untold_offices[:MOST_OFFICES]:
            console.print(f"  {office}")
        if len(counts.untold_offices) > MOST_OFFICES:
            console.print(f"  ... and {len(counts.untold_offices) - MOST_OFFICES} more")


def _offices(counts: DayCounts) -> str:
    failed = f", [bold red]{counts.offices_failed} failed[/]" if counts.offices_failed else ""
    return f"{counted(counts.offices, 'office')} with something due{failed}"


def _table(counts: DayCounts, *, narrow: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=not narrow, padding=0 if narrow else (0, 1))
    table.add_column("")
    states = ("planned", "sent", "failed", "gone", "unknown", "expired", "open")
    for state in states:
        table.add_column(state, justify="right")
    for channel, row in ((Channel.EMAIL, counts.email), (Channel.PUSH, counts.push)):
        table.add_row(channel.plural, *(_cell(row, state) for state in states))
    return table


def _cell(counts: ChannelCounts, state: str) -> str:
    number: int = getattr(counts, state)
    bad = state in {*LOST, "open"} and number
    return f"[red]{number:,}[/]" if bad else f"{number:,}"


def _print_failures(counts: DayCounts, console: Console) -> None:
    """Print why deliveries reached nobody: each reason once, the most frequent first."""
    reasons = Counter((failure.channel, failure.reason) for failure in counts.failures)
    for (channel, reason), number in reasons.most_common(MOST_REASONS):
        offices = sorted({str(f.office_id) for f in counts.failures if (f.channel, f.reason) == (channel, reason)})
        more = f" and {len(offices) - 1} more" if len(offices) > 1 else ""
        console.print(f"  [red]{channel.counted(number):>11}[/] {escape(visible(reason))}  office {offices[0]}{more}")
    hidden = len(reasons) - MOST_REASONS
    if hidden > 0 or counts.failures_omitted:
        console.print(
            f"  ... and {counted(max(hidden, 0), 'more reason')} (failures not listed: {counts.failures_omitted:,})"
        )
