"""Gates: when a lane may be used, judged by how its last calls ended."""

from collections.abc import Sequence
from uuid import uuid4

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.gate import (
    FIRST_BLOCKED_PAUSE,
    FIRST_PAUSE,
    LONGEST_BLOCKED_PAUSE,
    LONGEST_PAUSE,
    OUT_FAILURES,
    OUT_PAUSE,
    PROBE_PAUSE,
    Gate,
    Gates,
)
from notifierd.model import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown

OK = Delivered()
DOWN = Deferred("connection_failed", blame=Blame.PROVIDER)
UNCLEAR = Deferred("server_error:500")
OWN = Deferred("batch_rejected", blame=Blame.MESSAGE)
REFUSED = Blocked("blocked:401")
LOST = Unknown("cut")


@define
class Lane:
    """A gate and its clock."""

    now: float = 100.0
    gate: Gate = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.gate = Gate(lambda: self.now)

    def call(self, *outcomes: Outcome, seconds: float = 1.0) -> float:
        """Make a call that ends so; how long the lane is shut then."""
        began = self.now
        self.now += seconds
        self.gate.record(outcomes, began)
        return self.gate.wait()

    def calls_until(self, longest: float, *outcomes: Outcome) -> list[float]:
        """Call again each time the lane opens; the pauses, up to the first of *longest*."""
        pauses: list[float] = []
        while longest not in pauses:
            pauses.append(self.call(*outcomes))
            self.now += pauses[-1]
        return pauses


def test_a_new_lane_is_open_and_nothing_passed_through_it():
    lane = Lane()
    assert (lane.gate.wait(), lane.gate.blocked, lane.gate.passed_since(0.0)) == (0.0, None, False)


@pytest.mark.parametrize("outcome", [OK, Rejected("rejected:422"), Gone("gone:410")])
def test_whatever_got_a_final_answer_passed(outcome):
    lane = Lane()
    assert lane.call(outcome) == 0.0
    assert lane.gate.passed_since(101.0)
    assert lane.gate.passed_since(100.5)
    assert not lane.gate.passed_since(101.5)


@pytest.mark.parametrize("outcome", [DOWN, UNCLEAR, LOST])
def test_a_lane_through_which_nothing_passes_is_shut_for_growing_pauses(outcome):
    assert Lane().calls_until(LONGEST_PAUSE, outcome) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_lane_that_refuses_us_is_shut_for_longer_and_says_why():
    lane = Lane()
    assert lane.calls_until(LONGEST_BLOCKED_PAUSE, REFUSED) == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0]
    assert lane.gate.blocked == "blocked:401"
    assert lane.call(DOWN) > 0
    assert lane.gate.blocked == "blocked:401", "out of reach says nothing of whether it still refuses us"
    lane.now += 1000
    assert lane.call(OK) == 0.0
    assert lane.gate.blocked is None


def test_a_refusal_with_a_longer_wait_is_believed_and_one_with_a_shorter_is_not():
    assert Lane().call(Blocked("quota:429", 3600.0)) == 3600.0
    assert Lane().call(Blocked("quota:429", 1.0)) == FIRST_BLOCKED_PAUSE


def test_a_lane_stays_shut_to_the_last_moment_and_is_open_then():
    lane = Lane()
    lane.call(Deferred("rate_limited:429", 3.0, Blame.PROVIDER))
    lane.now += 2.5
    assert lane.gate.wait() == 0.5
    lane.now += 0.5
    assert lane.gate.wait() == 0.0
    lane.now += 10
    assert lane.gate.wait() == 0.0


def test_the_longest_wait_that_was_asked_for_counts():
    lane = Lane()
    assert lane.call(Deferred("a", 3.0, Blame.PROVIDER), Deferred("b", 9.0, Blame.PROVIDER), DOWN) == 9.0
    began = lane.now - 1.0
    lane.gate.record([Deferred("c", 2.0, Blame.PROVIDER)], began)
    assert lane.gate.wait() == 9.0, "a later answer does not open the lane earlier"


def test_calls_that_were_in_flight_together_are_one_failure():
    lane = Lane()
    lane.now = 101.0
    for _ in range(5):
        lane.gate.record([DOWN], 100.0)
    assert lane.gate.wait() == FIRST_PAUSE
    lane.now += lane.gate.wait()
    assert lane.call(DOWN) == 2 * FIRST_PAUSE


def test_a_call_that_begins_in_the_moment_of_a_failure_is_a_failure_of_its_own():
    lane = Lane()
    lane.gate.record([DOWN], lane.now)
    lane.gate.record([DOWN], lane.now)
    assert lane.gate.wait() == 2 * FIRST_PAUSE


def test_pauses_begin_anew_once_something_passed():
    lane = Lane()
    for _ in range(4):
        lane.now += lane.call(DOWN)
    assert lane.call(OK) == 0.0
    assert lane.call(DOWN) == FIRST_PAUSE


def test_a_message_with_trouble_of_its_own_does_not_shut_the_lane():
    lane = Lane()
    assert lane.call(OWN) == 0.0
    assert lane.call(OWN, OWN) == 0.0
    assert not lane.gate.passed_since(0.0), "nor did it pass"


@pytest.mark.parametrize("outcome", [UNCLEAR, LOST])
def test_trouble_while_others_pass_does_not_shut_the_lane(outcome):
    lane = Lane()
    began = lane.now
    lane.call(OK)
    lane.gate.record([outcome], began)
    assert lane.gate.wait() == 0.0
    lane.now += 0.1
    assert lane.call(outcome) == FIRST_PAUSE, "nothing passed during this one"


@pytest.mark.parametrize("outcome", [DOWN, REFUSED])
def test_what_the_provider_says_of_us_counts_even_while_others_pass(outcome):
    lane = Lane()
    began = lane.now
    lane.call(OK)
    lane.gate.record([outcome], began)
    assert lane.gate.wait() > 0


def test_a_batch_of_which_one_message_passed_is_no_trouble_of_the_lane():
    lane = Lane()
    assert lane.call(DOWN, OK, REFUSED) == 0.0
    assert lane.gate.blocked is None
    assert lane.gate.passed_since(101.0)


def test_an_own_trouble_beside_an_unclear_one_is_unclear():
    assert Lane().call(OWN, UNCLEAR) == FIRST_PAUSE


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([OK, DOWN, UNCLEAR, OWN, REFUSED, LOST]), min_size=1), st.floats(0, 99))
    )
)
def test_a_gate_never_waits_longer_than_its_longest_pause_and_never_less_than_nothing(
    calls: Sequence[tuple[Sequence[Outcome], float]],
):
    lane = Lane()
    for outcomes, then in calls:
        assert 0.0 <= lane.call(*outcomes) <= LONGEST_BLOCKED_PAUSE
        assert (lane.gate.blocked is not None) <= any(REFUSED in former for former, _ in calls)
        lane.now += then


def test_lanes_are_apart_and_those_that_refuse_us_are_named():
    now = [0.0]
    gates = Gates(lambda: now[0])
    gates["a"].record([REFUSED], 0.0)
    gates["b"].record([OK], 0.0)
    assert (gates["a"].wait(), gates["b"].wait(), gates[str(uuid4())].wait()) == (FIRST_BLOCKED_PAUSE, 0.0, 0.0)
    assert gates.blocked() == {"a": "blocked:401"}
    assert gates["a"] is gates["a"]


# A lane that is out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (DOWN, OUT_FAILURES),
        (UNCLEAR, OUT_FAILURES),
        (LOST, OUT_FAILURES),
        (REFUSED, 1),
        (Deferred("rate_limited:429", retry_after=OUT_PAUSE, blame=Blame.PROVIDER), OUT_FAILURES),
        (Deferred("server_error:503", retry_after=OUT_PAUSE + 1, blame=Blame.PROVIDER), 1),
        (OWN, 10**9),
    ],
)
def test_a_lane_is_out_when_it_fails_again_and_again_or_is_shut_for_long(outcome: Outcome, failures: int):
    lane = Lane()
    for nth in range(1, 6):
        pause = lane.call(outcome)
        lane.now += pause
        assert lane.gate.out == (getattr(outcome, "reason", None) if nth >= failures else None)


def test_a_message_that_passes_ends_the_outage():
    lane = Lane()
    lane.call(REFUSED)
    lane.call(REFUSED, OK)
    assert lane.gate.out is None
    assert [lane.call(DOWN) and lane.gate.out for _ in range(OUT_FAILURES - 1)] == [None] * (OUT_FAILURES - 1)


def test_a_lane_that_is_out_is_tried_by_one_call_at_a_time():
    lane = Lane()
    with lane.gate.in_use():
        assert lane.gate.wait() == 0.0, "a lane in order is used by many"
    pause = lane.call(REFUSED)
    lane.now += pause
    assert lane.gate.wait() == 0.0
    with lane.gate.in_use():
        assert lane.gate.wait() == PROBE_PAUSE
    assert lane.gate.wait() == 0.0
    with lane.gate.in_use():
        lane.call(OK)
        assert lane.gate.wait() == 0.0


def test_which_lanes_may_be_used():
    gates = Gates(lambda: 0.0)
    gates["a"].record([REFUSED], 0.0)
    gates["b"].record([DOWN], 0.0)
    assert [(gates.usable(lane), gates.out(lane)) for lane in "abc"] == [(False, True), (False, False), (True, False)]
