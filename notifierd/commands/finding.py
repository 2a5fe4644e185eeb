"""The findings of ``notifierd check``."""

from collections.abc import Iterable
from enum import StrEnum

from attrs import frozen


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """Works, but could be better, or is meant for testing."""
    BAD = "bad"
    AWAY = "away"
    """The database or a provider is unreachable."""


@frozen
class Finding:
    """One line: what was checked, and that it is good or what to fix."""

    subject: str
    level: Level
    text: str

    @property
    def ok(self) -> bool:
        return self.level in {Level.OK, Level.WARN}


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 2 if something is bad, 3 if only the database or a provider is unreachable, else 0."""
    levels = {finding.level for finding in findings}
    return 2 if Level.BAD in levels else 3 if Level.AWAY in levels else 0
