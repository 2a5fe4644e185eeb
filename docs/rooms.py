"""Draws the rooms of the package from import-linter's contract, so that the picture cannot differ from what holds."""

import ast
import re
import tomllib
from html import escape
from pathlib import Path
from textwrap import wrap

REPOSITORY = Path(__file__).parent.parent

WIDTH = 940
ROW, GAP, SIDE, LINE = 72, 26, 20, 17
"""Pixels: the height of a box, the space between two rows of boxes, the margin, and the height of a line of text."""
CHARACTER = 6.2
"""Pixels that a character of a description takes on average."""

FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title text"
     font-family="system-ui, sans-serif" font-size="12">
  <title id="title">The packages of notifierd</title>
  <desc id="text">Levels from the top down. A package imports only from the levels below its own. {text}.</desc>
  <style>
    .paper {{ fill: #fff; }}
    .room rect {{ fill: #eef3fa; stroke: #33527a; stroke-width: 1.5; }}
    .room text {{ fill: #16263b; text-anchor: middle; }}
    .room .name {{ font-weight: 600; font-size: 14px; }}
    .arrow {{ stroke: #33527a; stroke-width: 1.5; marker-end: url(#head); }}
    marker path {{ fill: #33527a; }}
    @media (prefers-color-scheme: dark) {{
      .paper {{ fill: #131416; }}
      .room rect {{ fill: #1d2a3c; stroke: #8fb3e0; }}
      .room text {{ fill: #e6edf5; }}
      .arrow {{ stroke: #8fb3e0; }}
      marker path {{ fill: #8fb3e0; }}
    }}
  </style>
  <defs>
    <marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
      <path d="M0 0 L10 5 L0 10 z"/>
    </marker>
  </defs>
  <rect class="paper" width="{width}" height="{height}" rx="8"/>
{boxes}
</svg>
"""


def layers() -> list[list[str]]:
    """The levels of the package from the top down, each with its rooms; ``__main__``, which is no room, is left out."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layered,) = (contract for contract in contracts if contract["type"] == "layers")
    rows = [re.findall(r"\w+", layer) for layer in layered["layers"]]
    return [row for row in rows if row != ["__main__"]]


def sentence(room: str) -> str:
    """What the room is for: the first line of its docstring."""
    source = (REPOSITORY / "notifierd" / room / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")


def drawing() -> str:
    """images/rooms.svg: a row of boxes for each level, and an arrow from each row to the next."""
    rows = layers()
    text = ". ".join(" and ".join(row) for row in rows)
    height = 2 * SIDE + len(rows) * ROW + (len(rows) - 1) * GAP
    boxes: list[str] = []
    for number, row in enumerate(rows):
        top = SIDE + number * (ROW + GAP)
        if number:
            boxes.append(f'  <path class="arrow" d="M{WIDTH // 2} {top - GAP} V{top - 2}"/>')
        width = (WIDTH - 2 * SIDE - (len(row) - 1) * SIDE) // len(row)
        for place, room in enumerate(row):
            boxes += _box(room, SIDE + place * (width + SIDE), top, width)
    return FRAME.format(width=WIDTH, height=height, text=text, boxes="\n".join(boxes))


def _box(room: str, left: int, top: int, width: int) -> list[str]:
    middle = left + width // 2
    lines = wrap(sentence(room), int((width - SIDE) / CHARACTER))
    name = top + (ROW - LINE * len(lines)) // 2 + 4
    return [
        f'  <g class="room"><rect x="{left}" y="{top}" width="{width}" height="{ROW}" rx="6"/>',
        f'    <text class="name" x="{middle}" y="{name}">{room}/</text>',
        *(
            f'    <text x="{middle}" y="{name + LINE * number}">{escape(line)}</text>'
            for number, line in enumerate(lines, start=1)
        ),
        "  </g>",
    ]
