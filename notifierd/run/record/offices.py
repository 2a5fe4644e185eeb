"""Write the audit rows of offices, one for each office and day (`content.audit`).

| what the database answers | what is done |
| --- | --- |
| it refuses a row's content (SQLSTATE classes 22, 23) | office by office; the refused one goes without its row |
| it refuses for another reason | office by office, then again after a growing pause |
| nothing | the same again after a growing pause |

A row that is not written stays owed in the ledger: the next pass writes it, or the next run.
"""

from collections import Counter
from datetime import date

import structlog
import trio
from attrs import define, field

from notifierd.model.errors import DatabaseError, LedgerUnavailable
from notifierd.run.progress import Progress
from notifierd.run.record.outcomes import BACKOFF, ENOUGH, EXTRAS
from notifierd.run.record.recorder import LONGEST_OWED
from notifierd.store.ledger import AUDIT_TOGETHER, Ledger, OfficeDay

log = structlog.get_logger(__name__)


@define
class OfficeRows:
    """The audit rows that offices are owed on *day*, and on earlier days that no run concluded."""

    _ledger: Ledger
    _day: date
    _progress: Progress
    _refusals: Counter[OfficeDay] = field(factory=Counter)
    """How often each office's row was refused: those with fewer refusals are tried first."""
    _left: int = 0
    """Offices whose rows are still owed, as far as the last try told."""

    async def write(self) -> DatabaseError | None:
        """Write the rows that are due; return the error that leaves some of them owed."""
        try:
            while await self._ledger.audit_offices(self._day) >= AUDIT_TOGETHER:
                pass
        except LedgerUnavailable as error:
            return self._met(error)
        except DatabaseError:
            return await self._one_by_one()
        return None

    async def complete(self, owed: int) -> None:
        """Write the rows of *owed* offices; try again for up to LONGEST_OWED seconds."""
        pauses, written, self._left = BACKOFF.pauses(), False, owed
        try:
            with trio.move_on_after(LONGEST_OWED), self._progress.trouble.place(EXTRAS):
                while error := await self.write():
                    await self._progress.wait(next(pauses), EXTRAS, error.reason)
                self._progress.passed(EXTRAS)
                written = True
        finally:
            if not written:
                log.error("audit_rows_not_written", offices=self._left)

    async def _one_by_one(self) -> DatabaseError | None:
        """Write the rows office by office, until ENOUGH in a row are refused for another reason than their content."""
        last: DatabaseError | None = None
        in_a_row = 0
        try:
            offices = await self._ledger.unaudited_offices(self._day)
        except DatabaseError as error:
            return self._met(error)
        self._left = len(offices)
        for office in sorted(offices, key=lambda office: (self._refusals[office], office)):
            try:
                await self._write_one(office)
            except DatabaseError as error:
                self._refusals[office] += 1
                last, in_a_row = self._met(error), in_a_row + 1
                if in_a_row == ENOUGH or isinstance(error, LedgerUnavailable):
                    break
            else:
                self._left, in_a_row = self._left - 1, 0
        return last

    async def _write_one(self, office: OfficeDay) -> None:
        try:
            await self._ledger.audit_offices(self._day, office)
        except DatabaseError as error:
            if not error.about_row:
                raise
            await self._ledger.give_up_audit(office)
            log.error("audit_row_refused", refused=error.reason, office=str(office[1]))  # noqa: TRY400 - the reason says it

    def _met(self, error: DatabaseError) -> DatabaseError:
        self._progress.trouble.met(EXTRAS, error.reason)
        return error
