"""The table's rows as pictures: ``python -m bench --plots FOLDER``.

The same rows make the same bytes. Letters stay letters, in the reader's own font.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.compare import Result
from bench.runs import Row

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "notifierd",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}
BLUE, GREEN, RED = "#0072b2", "#009e73", "#d55e00"
"""The colour-blind tell them apart, too: https://jfly.uni-koeln.de/color/"""

COLOURS = {0.0: BLUE, 0.02: GREEN, 0.1: RED}
"""By latency."""

MARKERS = {"notifierd, batches": ("o", BLUE), "notifierd, single": ("s", GREEN), "old batch": ("X", RED)}
"""And their colours, where latency makes no difference."""


def draw(rows: Iterable[Row], results: Sequence[Result], folder: Path) -> None:
    """Write a picture for each that there is something for: ``bench-*.svg``."""
    shown = [row for row in rows if row.what == "old batch" or _is_ours(row)]
    with mpl.rc_context(STYLE):
        if shown:
            _save(_time(shown), folder / "bench-time.svg")
            _save(_memory(shown), folder / "bench-memory.svg")
            _save(_statements(shown), folder / "bench-statements.svg")
        if results:
            _save(_peers([result for result in results if result.shape != "push"]), folder / "bench-peers.svg")


def _is_ours(row: Row) -> bool:
    """Whether a row is one of many sizes: mails to all members, and no pushes."""
    return row.what.startswith("notifierd") and row.size.mails and not row.size.devices


def _time(rows: Sequence[Row]) -> Figure:
    """A line for each way of sending and latency, and the least that it can take."""
    figure, axes = _over_offices("seconds")
    for what, latency, group in _by_latency(rows):
        _plot(axes, group, lambda row: row.seconds, COLOURS[latency], f", {latency * 1000:.0f} ms")
        if latency and what != "old batch":
            ideal = sorted({row.size.offices: row.ideal for row in group}.items())
            axes.plot(*zip(*ideal, strict=True), "--", color=COLOURS[latency], linewidth=1)
    axes.plot([], [], "k--", linewidth=1, label="at least, by latency and slots")
    _logarithmic(axes)
    figure.legend(loc="outside right center")
    return figure


def _memory(rows: Sequence[Row]) -> Figure:
    figure, axes = _over_offices("peak memory, MB")
    for what in sorted({row.what for row in rows}):
        _plot(axes, [row for row in rows if row.what == what], lambda row: row.peak * 1.048576, MARKERS[what][1])
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right center")
    return figure


def _statements(rows: Sequence[Row]) -> Figure:
    figure, axes = _over_offices("statements that read and write")
    for _, latency, group in _by_latency(rows):
        _plot(axes, group, lambda row: sum(row.statements or ()), COLOURS[latency], f", {latency * 1000:.0f} ms")
    _logarithmic(axes)
    figure.legend(loc="outside right center")
    return figure


def _peers(results: Sequence[Result]) -> Figure:
    """Two bars for each program, of batches and of single mails: CPU time at the left, memory at the right."""
    names = list(dict.fromkeys(result.what for result in results))[::-1]
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    values: tuple[tuple[str, Callable[[Result], float]], ...] = (
        ("CPU time of a mail, ms", lambda result: result.cpu * 1000),
        ("peak memory, MB", lambda result: result.peak),
    )
    for axes, (label, value) in zip(figure.subplots(1, 2, sharey=True), values, strict=True):
        for shape, colour, offset in (("batch", BLUE, 0.2), ("single", GREEN, -0.2)):
            found = {result.what: value(result) for result in results if result.shape == shape}
            bars = axes.barh(
                [place + offset for place in range(len(names))],
                [found[name] for name in names],
                height=0.36,
                color=colour,
                label={"batch": "batches", "single": "single"}[shape],
            )
            axes.bar_label(
                bars, [f"{found[name]:.2g}" if found[name] < 10 else f"{found[name]:.0f}" for name in names], padding=2
            )
        axes.set_xlabel(label)
        axes.margins(x=0.15)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(range(len(names)), names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _by_latency(rows: Sequence[Row]) -> Iterator[tuple[str, float, Sequence[Row]]]:
    """The rows of each way of sending and latency."""
    for what, latency in sorted({(row.what, row.latency) for row in rows}):
        yield what, latency, [row for row in rows if (row.what, row.latency) == (what, latency)]


def _plot(axes: Axes, rows: Sequence[Row], value: Callable[[Row], float], colour: str, words: str = "") -> None:
    """The most of each size, as a line; the old batch is points."""
    is_old, what = rows[0].what == "old batch", rows[0].what
    offices = sorted({row.size.offices for row in rows})
    most = [max(value(row) for row in rows if row.size.offices == size) for size in offices]
    label = what + ", with pushes" * is_old + words
    axes.plot(offices, most, ("" if is_old else "-") + MARKERS[what][0], color=colour, label=label)


def _over_offices(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("offices, of 10 members each")
    axes.set_ylabel(label)
    return figure, axes


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)


_PLAIN = FuncFormatter(lambda value, _place: f"{value:,g}")


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None, "Creator": None})
