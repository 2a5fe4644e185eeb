"""Write the outcomes of tries, and keep those that the database refuses until it accepts them.

| what the database answers | what is done |
| --- | --- |
| nothing | the same statement again after a growing pause |
| it refuses a row's content (SQLSTATE classes 22, 23) | one by one; the refused one loses its extras |
| it refuses for another reason | the batch without its extras, which are then owed |
| it refuses that too, for another reason | the batch is set aside, and the next batch is written |

Extras are written beside the ledger: an audit row, the deletion of a device that is gone. A separate task tries again
what is owed and what is set aside, one by one if the batch is refused. So a lock on one row, or one slow trigger,
delays nothing else.
"""

from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from itertools import chain
from uuid import UUID

import structlog
import trio
from attrs import define, field

from notifierd.model.delivery import LOST, OPEN, Channel, Settlement, State
from notifierd.model.errors import DatabaseError, StatementRefused
from notifierd.rules.backoff import Backoff
from notifierd.run.progress import Progress
from notifierd.store.ledger import Ended, Ledger

BACKOFF = Backoff(first=0.2, longest=5.0)
MOST_TOGETHER = 500
ENOUGH = 3
"""Refusals in a row, of one settlement each, after which the other settlements wait for a pause without a try."""
MOST_OWED = 5000
"""The most settlements whose extras are owed, some 10 MB. Extras beyond that are dropped; outcomes never are."""
MOST_NAMED = 10_000
"""The most people whom the log has named as not reached and who are remembered for that, some 3 MB."""

OUTCOMES, ASIDE, EXTRAS = "outcomes", "outcomes set aside", "audit rows"

log = structlog.get_logger(__name__)


@define
class OutcomeWriter:
    """See the module. One task calls ``write``, and another one runs ``retry``.

    Attributes:
        changed: where tasks wait until something is written.
    """

    _ledger: Ledger
    _progress: Progress
    _aside: dict[UUID, Settlement] = field(factory=dict)
    """Outcomes that the database refused to write, by their delivery."""
    _owed: dict[UUID, Settlement] = field(factory=dict)
    """Settlements that are written, and whose extras are not."""
    _refused_extras: set[UUID] = field(factory=set)
    """Deliveries whose extras were refused for their content."""
    _abandoned: int = 0
    _named: set[tuple[UUID, Channel, str | None]] = field(factory=set)
    """The people whom the log has named as not reached, with channel and reason."""
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    @property
    def aside(self) -> int:
        """How many known outcomes are set aside."""
        return len(self._aside)

    @property
    def unwritten_extras(self) -> int:
        """How many settlements lack their extras, apart from extras with refused content."""
        return len(self._owed) + self._abandoned

    def remember(self) -> None:
        """Remember in this process which deliveries were sent, if the database never accepted that."""
        for settlement in self._aside.values():
            if settlement.state is State.SENT:
                self._progress.metrics.sent.add(settlement)

    def offices_aside(self) -> set[UUID]:
        """The offices of the outcomes that are set aside."""
        return {settlement.delivery.office_id for settlement in self._aside.values()}

    def has_unwritten(self, delivery: UUID) -> bool:
        """Whether an outcome of *delivery* is set aside."""
        return delivery in self._aside

    async def settled(self) -> None:
        """Wait until no outcome is set aside."""
        while self._aside:
            await self.changed.park()

    async def complete(self) -> None:
        """Wait until no extras are owed."""
        while self._owed:
            await self.changed.park()

    async def write(self, batch: Sequence[Settlement]) -> None:
        """Write *batch*, or set aside what the database refuses. Wait while the database is unreachable."""
        in_hand = self._pushes_in_hand()
        without_audit = [s for s in batch if s.delivery.channel is Channel.PUSH and _whose(s) in in_hand]
        ids = {settlement.delivery.id for settlement in without_audit}
        with self._progress.trouble.place(OUTCOMES):
            if whole := [s for s in batch if s.delivery.id not in ids]:
                await self._write_lot(whole)
            if without_audit and (refusal := await self._insist(without_audit, without_audit=True)):
                await self._part(without_audit, refusal, without_audit=True)

    def _pushes_in_hand(self) -> set[tuple[UUID, UUID]]:
        """Who has a push here whose audit row is not decided: only one push of a person gets an audit row.

        If another push were settled with its extras at the same moment, neither statement would see the other's row.
        """
        in_hand = chain(self._aside.values(), self._owed.values())
        return {_whose(s) for s in in_hand if s.delivery.channel is Channel.PUSH}

    async def _write_lot(self, lot: Sequence[Settlement]) -> None:
        refusal = await self._insist(lot)
        if refusal and not refusal.about_row and any(map(_has_extras, lot)):
            refusal = await self._insist(lot, without_audit=True)
        if refusal:
            await self._part(lot, refusal)

    async def _part(self, lot: Sequence[Settlement], refusal: DatabaseError, *, without_audit: bool = False) -> None:
        """Handle the *refusal* of *lot*."""
        if not refusal.about_row:
            self._set_aside(lot)
            return
        for settlement in lot:
            await self._write_one(settlement, without_audit=without_audit)

    async def _write_one(self, settlement: Settlement, *, without_audit: bool) -> None:
        refusal = None if without_audit else await self._insist([settlement])
        if not without_audit and refusal is None:
            return
        if refusal and refusal.about_row:
            self._refuse_extras(settlement, refusal)
        if refusal := await self._insist([settlement], without_audit=True):
            if refusal.about_row:
                _refuse_outcome(settlement, refusal)
            else:
                self._set_aside([settlement])

    async def _insist(self, lot: Sequence[Settlement], *, without_audit: bool = False) -> DatabaseError | None:
        """Settle *lot* in one statement, once the database is reachable; return its refusal, if it refuses."""
        pauses = BACKOFF.pauses()
        while error := await self._settle(lot, without_audit=without_audit):
            if _refused(error):
                return error
            await self._progress.wait(next(pauses), OUTCOMES, error.reason)
        self._progress.passed(OUTCOMES)
        return None

    async def _settle(self, lot: Sequence[Settlement], *, without_audit: bool) -> DatabaseError | None:
        try:
            late = await self._ledger.settle(lot, without_audit=without_audit)
        except DatabaseError as error:
            return self._met(OUTCOMES, error)
        self._wrote(lot, late)
        if without_audit:
            self._owe(s for s in lot if s.delivery.id not in late)
        return None

    def _met(self, what: str, error: DatabaseError) -> DatabaseError:
        if not error.about_row:
            self._progress.trouble.met(what, error.reason)
        return error

    def _set_aside(self, lot: Sequence[Settlement]) -> None:
        self._aside.update((settlement.delivery.id, settlement) for settlement in lot)
        self.changed.unpark_all()

    def _owe(self, written: Iterable[Settlement]) -> None:
        """Note that the extras of *written* settlements are owed, as far as there is room."""
        for settlement in written:
            key = settlement.delivery.id
            if not _has_extras(settlement) or key in self._refused_extras:
                continue
            if len(self._owed) < MOST_OWED:
                self._owed[key] = settlement
            else:
                self._abandoned += 1
        self.changed.unpark_all()

    def _refuse_extras(self, settlement: Settlement, refusal: DatabaseError) -> None:
        self._refused_extras.add(settlement.delivery.id)
        log.error("audit_row_refused", refused=refusal.reason, **_labels(settlement))

    def _wrote(self, lot: Sequence[Settlement], late: Container[UUID]) -> None:
        """Count the deliveries that *lot* ended. The outcomes of *late* deliveries ended none."""
        self._progress.written += len(lot)
        ended = Ended()
        for settlement in lot:
            if settlement.delivery.id in late:
                log.warning("late_outcome", delivery=str(settlement.delivery.id))
                continue
            if settlement.state is State.SENT:
                self._progress.metrics.sent.add(settlement)
            if settlement.state not in OPEN:
                ended[settlement.delivery.channel, settlement.state] += 1
            if settlement.state in LOST:
                self._name(settlement)
        self._progress.end(ended)

    def _name(self, settlement: Settlement) -> None:
        """Log that a person was not reached, once for each reason, however many devices and offices the person has."""
        key = settlement.delivery.staff_id, settlement.delivery.channel, settlement.reason
        if key in self._named:
            return
        if len(self._named) >= MOST_NAMED:
            self._named.clear()
        self._named.add(key)
        log.warning("not_delivered", **_labels(settlement))

    # What was refused -------------------------------------------------------------------------------------------

    async def retry(self) -> None:
        """Write what is set aside and what is owed, as soon as the database allows it; never end."""
        trouble = self._progress.trouble
        with trouble.place(ASIDE), trouble.place(EXTRAS):
            failures = 0
            while True:
                while not (self._aside or self._owed):
                    failures = 0
                    await self.changed.park()
                together = failures > 0  # at first, the lot was refused a moment ago
                refusals = {
                    ASIDE: await self._work_off(self._aside, self._settle_bare, _refuse_outcome, together=together),
                    EXTRAS: await self._work_off(self._owed, self._settle_extras, self._refuse_extras, together=True),
                }
                self.changed.unpark_all()
                for what, refusal in refusals.items():
                    if refusal:
                        self._progress.waits(what, refusal.reason)
                    else:
                        self._progress.passed(what)
                if any(refusals.values()):
                    failures += 1
                    await self._progress.sleep(BACKOFF.pause(failures))
                else:
                    failures = 0

    async def _work_off(
        self,
        waiting: dict[UUID, Settlement],
        write: Callable[[Sequence[Settlement]], Awaitable[DatabaseError | None]],
        abandon: Callable[[Settlement, DatabaseError], None],
        *,
        together: bool,
    ) -> DatabaseError | None:
        """Write what is *waiting*, *together* or one by one; return a refusal if it keeps something waiting."""
        lot = list(waiting.values())[:MOST_TOGETHER]
        if together and len(lot) > 1 and await write(lot) is None:
            for settlement in lot:
                del waiting[settlement.delivery.id]
            return None
        last, in_a_row = None, 0
        for settlement in lot:
            key, error = settlement.delivery.id, await write([settlement])
            if error is None or error.about_row:
                del waiting[key]
                in_a_row = 0
                if error:
                    abandon(settlement, error)
                continue
            waiting[key] = waiting.pop(key)  # behind those that were not tried yet
            last, in_a_row = error, in_a_row + 1
            if in_a_row == ENOUGH or not _refused(error):
                break
        return last

    async def _settle_bare(self, lot: Sequence[Settlement]) -> DatabaseError | None:
        return await self._settle(lot, without_audit=True)

    async def _settle_extras(self, lot: Sequence[Settlement]) -> DatabaseError | None:
        try:
            await self._ledger.settle_extras(lot)
        except DatabaseError as error:
            return self._met(EXTRAS, error)
        return None


def _refused(error: DatabaseError) -> bool:
    """Whether the database refused this statement, and may carry out another one.

    In class 53 (insufficient resources), only 53300 (too many connections) concerns all statements: the disk of the
    audit table may be full by itself.
    """
    return isinstance(error, StatementRefused) or (error.sqlstate.startswith("53") and error.sqlstate != "53300")


def _refuse_outcome(settlement: Settlement, refusal: DatabaseError) -> None:
    log.error("settlement_refused", refused=refusal.reason, **_labels(settlement))


def _has_extras(settlement: Settlement) -> bool:
    return settlement.state is State.SENT or settlement.gone_endpoint is not None


def _whose(settlement: Settlement) -> tuple[UUID, UUID]:
    """Which office and which person a delivery is for."""
    return settlement.delivery.office_id, settlement.delivery.staff_id


def _labels(settlement: Settlement) -> dict[str, str]:
    """A settlement as fields of a log line."""
    delivery = settlement.delivery
    labels = {"delivery": delivery.id, "office": delivery.office_id, "channel": delivery.channel}
    return {key: str(label) for key, label in (labels | {"reason": settlement.reason}).items()}
