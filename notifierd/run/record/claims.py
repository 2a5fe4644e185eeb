"""The offices that this process claims, and those that it has finished."""

import math
from collections import deque
from uuid import UUID

import trio
from attrs import define, field

from notifierd.run.record.lease import Lease
from notifierd.run.record.recorder import Recorder
from notifierd.store.source import Claim

REOPEN_SECONDS = 5.0
"""How often, while other offices are in hand, it is asked whether offices that were done have something due again."""


@define
class Claims:
    """See the module. Lasts for a run, with all its passes."""

    _holder: str
    _lease: Lease
    _recorder: Recorder
    _finished: deque[tuple[int, UUID]] = field(factory=deque)
    """The offices that the work is finished on, each with the settlements that had been handed on by then."""

    _claimed_alone: bool = False
    _reopened_at: float = -math.inf

    @property
    def are_too_many(self) -> bool:
        """Whether there are claims from before other processes joined: many offices at once."""
        return self._claimed_alone and not self._lease.is_alone

    @property
    def in_hand(self) -> set[UUID]:
        """The offices that are finished, and whose outcomes are not written yet."""
        return {office for _, office in self._finished} | self._recorder.offices_unwritten()

    def may_reopen(self) -> bool:
        """Whether REOPEN_SECONDS have passed since this was last true."""
        passed = trio.current_time() - self._reopened_at >= REOPEN_SECONDS
        if passed:
            self._reopened_at = trio.current_time()
        return passed

    def are_released(self) -> None:
        """Note that the claims to all offices that are not in hand were given up."""
        self._claimed_alone = False

    def finish(self, office_id: UUID) -> None:
        """Note that the work on an office is finished: once its outcomes are written, it may be done."""
        self._finished.append((self._recorder.handed_on, office_id))

    def next(self) -> Claim:
        """Return the next claim. It tells which offices are finished, and their outcomes written."""
        finished = []
        while self._finished and self._finished[0][0] <= self._recorder.written:
            finished.append(self._finished.popleft()[1])
        members = 1 if self._lease.is_alone else max(2, self._lease.standing.members)
        self._claimed_alone |= members == 1
        return Claim(self._holder, members, self._lease.grants.channels(), finished)
