"""What ``notifierd check`` found."""

from collections.abc import Iterable
from enum import StrEnum

from attrs import frozen


class Level(StrEnum):
    """How a finding weighs."""

    OK = "ok"
    WARN = "warn"
    """Works, and could be better, or is meant for trying out."""
    BAD = "bad"
    AWAY = "away"
    """The database is out of reach."""


@frozen
class Finding:
    """One line: what was looked at, and that it is good or what to mend."""

    subject: str
    level: Level
    text: str

    @property
    def ok(self) -> bool:
        return self.level in {Level.OK, Level.WARN}


def exit_code(findings: Iterable[Finding]) -> int:
    """2 if something is bad, 3 if only the database is out of reach, else 0."""
    levels = {finding.level for finding in findings}
    return 2 if Level.BAD in levels else 3 if Level.AWAY in levels else 0
