"""Tables that fit a terminal: they wrap, or leave out whole columns, but never cut a number."""

from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROWEST_PROSE: Final = 14
"""The least width of a column of prose, in cells: seven Japanese characters, or "(not_running)"."""


@frozen
class Column:
    """A column of a table.

    Attributes:
        prose: whether a cell may be broken inside a word, as a name or a reason may.
        leave_out: the order in which columns are left out of a terminal that is too narrow, 1 first; 0: never.
    """

    title: str = ""
    right: bool = False
    prose: bool = False
    leave_out: int = 0


def print_table(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, header: bool = True
) -> None:
    """Print *rows*, whose cells are markup: on a terminal as wide as it is, elsewhere bare and in full width."""
    if not console.is_terminal:
        _print_bare(console, columns, rows, header=header)
        return
    cells = [[Text.from_markup(cell, emoji=False).plain for cell in row] for row in rows]
    if header:
        cells.append([column.title for column in columns])
    texts = [[row[place] for row in cells] for place in range(len(columns))]
    natural = [max(map(cell_len, column), default=0) for column in texts]
    kept, gap = _kept(columns, texts, console.width, gaps=(2, 1) if header else (1,))
    widths = _widths([columns[place] for place in kept], [texts[place] for place in kept], console.width, gap)
    table = Table(
        box=box.SIMPLE_HEAD if header else None,
        show_edge=False,
        padding=(0, gap - 1 if header else gap, 0, 0),
        show_header=header,
    )
    for place, width in zip(kept, widths, strict=True):
        column = columns[place]
        fixed = None if width == natural[place] else width
        table.add_column(column.title, justify="right" if column.right else "left", width=fixed, overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in kept))
    console.print(table)
    if left_out := [column.title for place, column in enumerate(columns) if place not in kept and column.title]:
        console.print(f"[dim]no room for: {', '.join(left_out)} (--json has everything)[/]")


def _print_bare(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, header: bool) -> None:
    """Print every column on one line for each row, without trailing spaces."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=header)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    with console.capture() as capture:
        console.print(table)
    console.print("\n".join(line.rstrip() for line in capture.get().splitlines()), markup=False)


def _kept(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], room: int, gaps: Sequence[int]
) -> tuple[list[int], int]:
    """Return the places of the columns that fit, and the gap between them.

    The order of what is given up: the wider gap, the columns that may be left out, and last the lines that are whole.
    """
    kept = list(range(len(columns)))
    for gap in gaps:
        if _total([_unbroken(columns[place], texts[place]) for place in kept], gap) <= room:
            return kept, gap
    gap = gaps[-1]
    for place in sorted((place for place in kept if columns[place].leave_out), key=lambda at: columns[at].leave_out):
        kept.remove(place)
        if _total([_unbroken(columns[place], texts[place]) for place in kept], gap) <= room:
            break
    return kept, gap


def _widths(columns: Sequence[Column], texts: Sequence[Sequence[str]], room: int, gap: int) -> Iterator[int]:
    """Yield the width of each column: at least what cannot be broken. Prose gets what is left, or the largest part."""
    least = [_unbroken(*pair) for pair in zip(columns, texts, strict=True)]
    if broken := _total(least, gap) > room:
        least = [_broken(*pair) for pair in zip(columns, texts, strict=True)]
    left = room - _total(least, gap)
    widths = list(least)
    for place in sorted(range(len(columns)), key=lambda place: columns[place].prose != broken):
        more = max(min(max(map(cell_len, texts[place]), default=0) - least[place], left), 0)
        widths[place] += more
        left -= more
    yield from widths


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * len(widths)


def _unbroken(column: Column, texts: Sequence[str]) -> int:
    """Return the least width at which only prose is broken."""
    natural = max(map(cell_len, texts), default=0)
    return min(natural, NARROWEST_PROSE) if column.prose else natural


def _broken(column: Column, texts: Sequence[str]) -> int:
    """Return the least width at which lines are broken between words."""
    if column.prose:
        return _unbroken(column, texts)
    return max((cell_len(word) for text in texts for word in text.split()), default=0)
