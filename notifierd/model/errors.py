"""The errors that callers are meant to handle. Everything else is a bug.

No message here carries text from a provider or from PostgreSQL beyond SQLSTATE and constraint: such text quotes
addresses, names and whole rows.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notifierd.model.reasons import Reason

UNENCODABLE = "unencodable"
"""In a SQLSTATE's place: the driver could not put a value into PostgreSQL's form."""


class NotifierdError(Exception):
    """The base of the errors below."""


class ConfigError(NotifierdError):
    """The configuration cannot be used.

    Attributes:
        problems: one line each, naming the key, what is wrong with it and what is allowed.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DatabaseError(NotifierdError):
    """The base of what the database can answer with. ``reason`` is a code fit for the ledger and the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def sqlstate(self) -> str:
        """The SQLSTATE that PostgreSQL gave, or what else its place in the reason holds."""
        return [*self.reason.split(":"), ""][1]

    @property
    def transient(self) -> bool:
        """Whether the same statement may pass within seconds, without anybody's doing."""
        return True

    @property
    def about_row(self) -> bool:
        """Whether the answer speaks of a row's content, so that it will be the same later: the only final one."""
        return False

    @property
    def about_rows(self) -> bool:
        """Whether a statement that only reads gets the same answer later, as long as it meets the same rows."""
        return False

    @property
    def perhaps_about_rows(self) -> bool:
        """Whether a statement that reads less may pass, as it is something in some of the rows that is refused."""
        return False


class LedgerUnavailable(DatabaseError):
    """PostgreSQL could not be reached, or went away before it answered: the statement may have been carried out."""


class LeaseNotRenewed(LedgerUnavailable):
    """The day's run was ours, and the database did not let its lease be renewed in time: its calls were cancelled."""


class StatementRefused(DatabaseError):
    """PostgreSQL carried nothing out: the statement, a row or a right was refused, or a lock was not had in time."""

    @property
    def transient(self) -> bool:
        """Whether another program was in the way."""
        return self.sqlstate in {"55P03", "40P01", "40001"}  # lock, deadlock, serialization

    @property
    def about_row(self) -> bool:
        """Whether a value or a constraint was the reason (PostgreSQL, appendix A: classes 22 and 23).

        All others may change while the row stays as it is: a right, a view, a switchover, a full disk, a lock, a slow
        trigger, a pooler's lost statement.
        """
        return self.sqlstate == UNENCODABLE or self.sqlstate[:2] in {"22", "23"}

    @property
    def about_rows(self) -> bool:
        """Whether a value was the reason, or that the rows are more than PostgreSQL can put into one (class 54)."""
        return self.about_row or self.sqlstate[:2] == "54"

    @property
    def perhaps_about_rows(self) -> bool:
        """Whether the rows were the reason, or what a view does with them: by its subqueries and functions.

        Those classes (20, 21, 38, 39, P0) may as well speak of a view that refuses everybody until it is mended.
        """
        return self.about_rows or self.sqlstate[:2] in {"20", "21", "38", "39", "P0"}


class SchemaMissing(NotifierdError):
    """The schema ``notifierd`` is not there, or older or newer than this program."""


class LeaseHeld(NotifierdError):
    """Another process holds the day's run.

    Attributes:
        holder: who, as it named itself: host and process id.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"the lease is held by {holder}")
        self.holder = holder


class LeaseLost(LeaseHeld):
    """The day's run was ours, and its lease could not be renewed in time: its calls were cancelled."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Let an error of ours out of the groups that nurseries put around it: of several, the first.

    A group that holds anything else, a bug or a cancellation, passes as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(NotifierdError)
        if ours is None or others is not None:
            raise
        raise first_of(ours) from None


def may_pass(error: BaseException) -> bool:
    """Whether an office that *error* was met in may do later, with the data that there is."""
    return isinstance(error, DatabaseError) and not error.about_rows


def office_error(error: BaseException) -> str:
    """The reason for which an office fails that *error* was met in."""
    return Reason.OFFICE_ERROR.of(error.sqlstate if isinstance(error, DatabaseError) else type(error).__name__)


def first_of(group: BaseException) -> BaseException:
    """The first error of *group* that is no group."""
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def places(error: BaseException) -> list[str]:
    """Where *error* comes from, its last five frames, without its words: they may quote a person."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
