"""The errors that callers handle. Every other exception is a bug.

No message here contains text from a provider or from PostgreSQL, except SQLSTATE and constraint names: such text quotes
addresses, names and whole rows.
"""

import ssl
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from notifierd.model.reasons import Reason

UNENCODABLE = "unencodable"
"""Stands in place of a SQLSTATE: the driver could not encode a value for PostgreSQL."""


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
    """The base of database errors. ``reason`` is a code for the ledger and the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def sqlstate(self) -> str:
        """The SQLSTATE from PostgreSQL, or whatever stands in its place in the reason."""
        return [*self.reason.split(":"), ""][1]

    @property
    def transient(self) -> bool:
        """Whether the same statement may succeed within seconds without intervention."""
        return True

    @property
    def about_row(self) -> bool:
        """Whether a row's content caused the error, so that it is final: the same row will always fail."""
        return False

    @property
    def about_rows(self) -> bool:
        """Whether a read fails again as long as it meets the same rows."""
        return False

    @property
    def perhaps_about_rows(self) -> bool:
        """Whether some of the rows may have caused the error, so that a statement that reads fewer rows may succeed."""
        return False


class LedgerUnavailable(DatabaseError):
    """PostgreSQL could not be reached, or disconnected before it answered: the statement may have been carried out."""


class LeaseNotRenewed(LedgerUnavailable):
    """Our lease could not be renewed in time because of the database; the calls of the run were cancelled."""


class StatementRefused(DatabaseError):
    """PostgreSQL did nothing: it refused the statement, a row or the privilege, or a lock timed out.

    Attributes:
        position: the character of the statement that PostgreSQL names as the cause, from 1; 0 if it names none.
    """

    def __init__(self, reason: str, position: int = 0) -> None:
        super().__init__(reason)
        self.position = position

    @property
    def transient(self) -> bool:
        """Whether another program's lock or transaction caused the refusal."""
        return self.sqlstate in {"55P03", "40P01", "40001"}  # lock, deadlock, serialization

    @property
    def about_row(self) -> bool:
        """Whether a value or a constraint caused the refusal (PostgreSQL, appendix A: classes 22 and 23).

        Any other cause may go away while the row stays the same: a privilege, a view, a switchover, a full disk, a
        lock, a slow trigger, a statement that a pooler lost.
        """
        return self.sqlstate == UNENCODABLE or self.sqlstate[:2] in {"22", "23"}

    @property
    def about_rows(self) -> bool:
        """Whether a value caused the refusal, or rows beyond a limit of PostgreSQL (class 54)."""
        return self.about_row or self.sqlstate[:2] == "54"

    @property
    def perhaps_about_rows(self) -> bool:
        """Whether the rows caused the refusal, or what a view does with them in subqueries and functions.

        Those classes (20, 21, 38, 39, P0) can also come from a view that fails for every office until somebody repairs
        it.
        """
        return self.about_rows or self.sqlstate[:2] in {"20", "21", "38", "39", "P0"}


class SchemaMissing(NotifierdError):
    """The schema ``notifierd`` does not exist, or is older or newer than this program."""


class SchemaNewer(SchemaMissing):
    """A newer program made the schema ``notifierd``, and this program may not use it."""


class LeaseHeld(NotifierdError):
    """Another process holds the day's lease.

    Attributes:
        holder: that process, by its own description: host and process id.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"the lease is held by {holder}")
        self.holder = holder


class ConfigsDiffer(LeaseHeld):
    """Another process works on the day and would send something else; *holder* leads the day.

    Attributes:
        differing: the tables of the configuration that differ, and "version" for the program's version.
    """

    def __init__(self, holder: str, differing: Sequence[str]) -> None:
        super().__init__(holder)
        self.differing = tuple(differing)
        others = ", ".join(f"[{name}]" if name != "version" else "version" for name in self.differing)
        self.args = (f"the day is led by {holder}, which would send something else: other {others}",)


class LeaseLost(LeaseHeld):
    """Our lease could not be renewed in time, and another process may hold it; the calls of the run were cancelled."""


@contextmanager
def unwrap_groups() -> Iterator[None]:
    """Unwrap exception groups that hold only our own errors; raise the first of them.

    A group with anything else, a bug or a cancellation, passes unchanged.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(NotifierdError)
        if ours is None or others is not None:
            raise
        raise first_of(ours) from None


def may_pass(error: BaseException) -> bool:
    """Return whether an office that failed with *error* may succeed later with the same data."""
    return isinstance(error, DatabaseError) and not error.about_rows


def office_error(error: BaseException) -> str:
    """Return the reason code for an office that fails with *error*."""
    return Reason.OFFICE_ERROR.of(error.sqlstate if isinstance(error, DatabaseError) else type(error).__name__)


def first_of(group: BaseException) -> BaseException:
    """Return the first error inside *group* that is not a group itself."""
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def certificate_reason(error: ssl.SSLCertVerificationError) -> Reason:
    """Return why a server's certificate was not accepted."""
    return _CERTIFICATE_REASONS.get(error.verify_code, Reason.CERTIFICATE_UNTRUSTED)


_CERTIFICATE_REASONS = {
    9: Reason.CERTIFICATE_NOT_YET_VALID,
    10: Reason.CERTIFICATE_EXPIRED,
    62: Reason.CERTIFICATE_NAME,  # of a host
    64: Reason.CERTIFICATE_NAME,  # of an IP address
}
"""OpenSSL's codes of a failed verification (x509_vfy.h)."""


def frame_locations(error: BaseException) -> list[str]:
    """Return the last five frames of *error*'s traceback, without its text, which may quote a person."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
