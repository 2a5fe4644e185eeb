"""The manual's pages as tests read them: fenced blocks of Markdown, and the remark above each that says what it is for.

A block of ``sh`` or ``console`` is run where nothing is remarked, page by page and from the top. Else there stands one
of these above it, which no reader sees:

- ``<!-- file: NAME -->``: what a reader is told to write to NAME, in any language;
- ``<!-- apply -->``: a diff that a reader is told to apply;
- ``<!-- run by tests/system -->``: run as root on a machine with a systemd;
- ``<!-- not run: WHY -->``.

``python3 tests/support/manual.py PAGE REMARK`` prints the blocks with that remark. Needs nothing but Python.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
SHELL = ("sh", "console")

_FENCED = re.compile(
    r"(?:^<!-- (?P<remark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block, and the line that it begins in."""

    page: str
    line: int
    language: str
    remark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file that a reader is to write it to; "" for none."""
        return self.remark.removeprefix("file: ") if self.remark.startswith("file: ") else ""

    @property
    def is_done_here(self) -> bool:
        """Whether a reader is to do something that needs no more than the tests have."""
        return bool(self.file) or self.remark == "apply" or (self.language in SHELL and not self.remark)

    def commands(self) -> Iterator[tuple[str, str | None]]:
        """Each command with what it prints; None where the page does not show that."""
        if self.language != "console":
            yield self.text, None
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, *printed = part.splitlines(keepends=True)
            yield command, "".join(printed)


def pages() -> tuple[str, ...]:
    """Every page, by its path in the repository."""
    found = (*REPOSITORY.glob("README*.md"), *REPOSITORY.glob("docs/*.md"))
    return tuple(sorted(str(page.relative_to(REPOSITORY)) for page in found))


def blocks(page: str) -> Sequence[Block]:
    """The fenced blocks of a page, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [
        Block(
            page, 1 + text.count("\n", 0, found.start("text")), found["language"], found["remark"] or "", found["text"]
        )
        for found in _FENCED.finditer(text)
    ]


if __name__ == "__main__":
    _, asked_page, asked_remark = sys.argv
    sys.stdout.write("".join(block.text for block in blocks(asked_page) if block.remark == asked_remark))
