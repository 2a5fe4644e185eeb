"""A state machine over the life of a delivery: whatever comes in whatever order, only the table's ways are taken."""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any
from uuid import UUID

import trio
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notifierd.model.delivery import OPEN, Delivery, Reservation, State, call_id
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.rules.due import Rules
from notifierd.rules.lifecycle import Circumstances, Policy, settle
from notifierd.store.source import START, Claim
from tests.support.memory import Application, MemoryLedger
from tests.support.samples import DAY, a_renewal, a_staff, an_id

WAYS = {
    State.PLANNED: {State.SENDING, State.EXPIRED, State.FAILED, State.SENT},
    State.SENDING: {State.SENT, State.FAILED, State.GONE, State.PLANNED, State.UNKNOWN, State.SENDING},
    State.FAILED: {State.PLANNED},
    State.UNKNOWN: {State.PLANNED, State.SENDING, State.SENT},
    State.EXPIRED: {State.PLANNED},
    State.SENT: set(),
    State.GONE: set(),
}
"""The table "Life of a delivery", with `retry`, an office that cannot be worked on (planned to failed), and a late
Delivered of what is planned by now, and what a provider reports of an unknown mail."""

OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Delivered("id")),
    st.builds(Rejected, st.just("rejected:422"), st.sampled_from([Blame.MESSAGE, Blame.UNCLEAR])),
    st.just(Gone("gone:410")),
    st.builds(Deferred, st.just("deferred"), st.none() | st.floats(0.1, 100), st.sampled_from(list(Blame))),
    st.builds(Blocked, st.just("blocked:401"), st.none() | st.floats(0.1, 100)),
    st.builds(Unknown, st.just("timeout"), st.none() | st.floats(0.1, 100), st.booleans()),
)
ME = "me"


class Life(RuleBasedStateMachine):
    """One delivery on the in-memory ledger."""

    @initialize(keyed=st.booleans(), attempts=st.integers(1, 3), hold=st.booleans())
    def plan(self, keyed: bool, attempts: int, hold: bool) -> None:
        self.keyed = keyed
        self.policy = Policy(attempts, "hold" if hold else "repeat")
        self.time = 0.0
        self.ledger = MemoryLedger(Application(), clock=lambda: self.time)
        office = an_id("office")
        self.ledger.app.offices[office] = "Office"
        self.ledger.app.staff.append((office, a_staff("staff")))
        self.ledger.app.alerts.append((office, a_renewal(3)))
        self.lead()
        self.do(self.ledger.plan, DAY, Rules())
        (self.key,) = self.ledger.rows
        self.before = State.PLANNED
        self.in_flight: list[Delivery] = []
        self.commits = [copy(self.ledger.rows[self.key])]

    def do(self, method: Callable[..., Any], *args: object) -> Any:
        """Carry out one statement."""
        return trio.run(partial(method, *args))

    def lead(self) -> None:
        """Have the lease."""
        self.do(self.ledger.take_lease, DAY, ME)

    @property
    def now(self) -> Delivery:
        """The delivery as the ledger has it."""
        return self.ledger.rows[self.key].delivery

    @rule(wait=st.sampled_from([1.0, 50.0, 400.0]), whole=st.sampled_from([True, True, False]))
    def reserve(self, wait: float, whole: bool) -> None:
        """After a while, begin a call for it, if its turn has come: the same if it is in doubt, else a new one."""
        self.time += wait
        self.lead()
        chunk = self.do(self.ledger.read, DAY, START, Rules(), Claim(ME))
        found = [delivery for work in chunk.offices for delivery in work.deliveries if delivery.due]
        if not found:
            return
        (delivery,) = found
        repeat = delivery.state is State.SENDING
        if repeat and not (self.keyed and whole):
            lost = settle(delivery, Unknown("process_died", key_usable=False), Circumstances(keyed=False), self.policy)
            self.do(self.ledger.settle, [lost])
            return
        key = delivery.call_id if repeat and delivery.call_id else call_id([delivery], b"hash")
        self.begin(delivery, key, delivery.call_tries + 1 if repeat else 1)

    def begin(self, delivery: Delivery, key: UUID, call_tries: int) -> None:
        marked = evolve(delivery, state=State.SENDING, try_no=delivery.try_no + 1, call_id=key, call_tries=call_tries)
        reservation = Reservation(key, (marked,), b"hash", "resend", 40.0)
        assert self.do(self.ledger.reserve, DAY, ME, [reservation]) == {key}
        self.in_flight.append(self.now)

    @precondition(lambda self: self.in_flight)
    @rule(outcome=OUTCOMES, others_pass=st.booleans(), destination_wait=st.sampled_from([0.0, 3.0]), data=st.data())
    def answer(self, outcome: Outcome, others_pass: bool, destination_wait: float, data: st.DataObject) -> None:
        """Any call in flight is answered: the last, or one that was given up long ago."""
        tried = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        current = self.now.state is State.SENDING and self.now.try_no == tried.try_no
        before = self.now
        settlement = settle(tried, outcome, Circumstances(self.keyed, others_pass, destination_wait), self.policy)
        self.do(self.ledger.settle, [settlement])
        forgotten = before.state is State.SENDING and before.try_no < tried.try_no
        if not current and (forgotten or before.state is State.PLANNED) and settlement.state is State.SENT:
            assert self.now.state is State.SENT, "it would be sent twice"
        elif not current:
            assert self.now == before, "a late outcome changes nothing else"
        elif settlement.state is State.PLANNED and isinstance(outcome, Deferred | Blocked):
            assert not (self.keyed and tried.call_tries > 1), "what is in doubt keeps its call"

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """A replica without the last commits takes over, or a backup is restored."""
        del self.commits[data.draw(st.integers(1, len(self.commits))) :]
        self.ledger.rows[self.key] = copy(self.commits[-1])
        self.before = self.now.state

    @rule(what=st.sampled_from(["die", "end window", "fail office", "retry"]))
    def interfere(self, what: str) -> None:
        match what:
            case "die":  # no answer comes any more
                self.in_flight.clear()
            case "end window":
                self.lead()
                self.do(self.ledger.close, DAY)
            case "fail office":
                self.lead()
                self.do(self.ledger.read, DAY, START, Rules(), Claim(ME))
                self.do(self.ledger.fail_office, DAY, ME, self.now.office_id, "office_error:ValueError")
            case _:
                self.do(
                    self.ledger.retry,
                    DAY,
                    [State.FAILED, State.UNKNOWN, State.EXPIRED],
                    ["resend"] if self.keyed else [],
                )

    @invariant()
    def only_the_tables_ways_are_taken(self) -> None:
        if not hasattr(self, "before"):
            return
        now = self.now
        assert now.state is self.before or now.state in WAYS[self.before], f"{self.before} -> {now.state}"
        self.before = now.state
        self.commits.append(copy(self.ledger.rows[self.key]))
        assert now.attempts < self.policy.attempts or now.state not in OPEN
        assert now.doubts < 2 or now.state not in OPEN
        assert now.state in OPEN or now.state is State.SENT or now.reason


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
