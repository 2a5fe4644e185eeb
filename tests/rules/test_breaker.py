"""Breakers: when a lane may be used, judged by how its last calls ended."""

import re
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.rules.breaker import (
    FIRST_BLOCKED_PAUSE,
    FIRST_PAUSE,
    LAST_PAUSE,
    LONGEST_BLOCKED_PAUSE,
    LONGEST_PAUSE,
    OUT_FAILURES,
    OUT_PAUSE,
    PROBE_PAUSE,
    REFUSALS,
    Breakers,
    CircuitBreaker,
    Finding,
    State,
    next_state,
)
from tests.support.manual import REPOSITORY

OK = Delivered()
DOWN = Deferred("connection_failed", blame=Blame.PROVIDER)
UNCLEAR = Deferred("server_error:500")
OWN = Deferred("batch_rejected", blame=Blame.MESSAGE)
REFUSED = Blocked("blocked:401")
LOST = Unknown("cut")
BARE = Rejected("rejected:400", Blame.UNCLEAR)
AN_OFFICE, *OFFICES = (UUID(int=n) for n in range(10))


@define
class Lane:
    """A breaker and its clock."""

    now: float = 100.0
    breaker: CircuitBreaker = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.breaker = CircuitBreaker(lambda: self.now)

    def call(self, *outcomes: Outcome, seconds: float = 1.0, office: UUID = AN_OFFICE) -> float:
        """Make a call that ends so, a moment after the lane has opened; how long the lane is shut then."""
        self.now += 0.001
        began = self.now
        self.now += seconds
        self.breaker.record(outcomes, began, office)
        return self.breaker.retry_in()

    def calls_until(self, longest: float, *outcomes: Outcome) -> list[float]:
        """Call again each time the lane opens; the pauses, up to the first of *longest*."""
        pauses: list[float] = []
        while longest not in pauses:
            pauses.append(self.call(*outcomes))
            self.now += pauses[-1]
        return pauses


# The table -----------------------------------------------------------------------------------------------------------


def test_the_states_of_a_breaker_are_those_of_the_table_in_the_manual():
    page = (REPOSITORY / "docs/delivery.md").read_text(encoding="utf-8")
    section = page.partition("\n## When a provider has trouble\n")[2].partition("\n### ")[0]
    head, rows = re.findall(r"(?m)^\| what happens \| (.*) \|$", section), re.findall(r"(?m)^\| \*\*.*\|$", section)
    states = [State(name) for name in head[0].split(" | ")]
    table: dict[tuple[Finding, State], State] = {}
    for row in rows:
        found, *after = row.strip("| ").split(" | ")
        finding = Finding(re.findall(r"\*\*(.*?)\*\*", found)[0].lower())
        table |= {(finding, state): State(name) for state, name in zip(states, after, strict=True)}
    assert table == {(finding, state): next_state(state, finding) for finding in Finding for state in State}


def test_a_breaker_goes_through_its_states():
    lane = Lane()
    states = [lane.breaker.state]
    for outcome in (DOWN, DOWN, OK, DOWN, REFUSED, DOWN, OK):
        lane.call(outcome)
        states.append(lane.breaker.state)
        lane.now += lane.breaker.retry_in()
        states.append(lane.breaker.state)
    assert [state.value for state in states] == [
        "closed",
        *("throttled", "closed"),
        *("throttled", "closed"),
        *("closed", "closed"),
        *("throttled", "closed"),
        *("open", "probing"),
        *("open", "probing"),
        *("closed", "closed"),
    ]


def test_a_pause_is_kept_when_a_message_passes_meanwhile():
    """A call that began after the failure, but was allowed before it, passes: the lane is no longer out."""
    lane = Lane()
    lane.breaker.record([Blocked("quota:429", 240.0)], lane.now, AN_OFFICE)
    seen = [(lane.breaker.state, lane.breaker.outage)]
    pause = lane.call(OK)
    seen.append((lane.breaker.state, lane.breaker.outage))
    lane.now += pause
    seen.append((lane.breaker.state, lane.breaker.outage))
    assert pause == pytest.approx(239.0, abs=0.01)
    assert seen == [(State.OPEN, "quota:429"), (State.THROTTLED, None), (State.CLOSED, None)]


# Pauses --------------------------------------------------------------------------------------------------------------


def test_a_new_lane_is_open_and_nothing_passed_through_it():
    lane = Lane()
    assert (lane.breaker.retry_in(), lane.breaker.blocked, lane.breaker.passed_since(0.0)) == (0.0, None, False)


@pytest.mark.parametrize("outcome", [OK, Rejected("rejected:422"), Gone("gone:410")])
def test_whatever_got_a_final_answer_passed(outcome):
    lane = Lane()
    assert lane.call(outcome) == 0.0
    assert lane.breaker.passed_since(101.0)
    assert lane.breaker.passed_since(100.5)
    assert not lane.breaker.passed_since(101.5)


@pytest.mark.parametrize("outcome", [DOWN, UNCLEAR, LOST])
def test_a_lane_through_which_nothing_passes_is_shut_for_growing_pauses(outcome):
    assert Lane().calls_until(LONGEST_PAUSE, outcome) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_lane_that_refuses_us_is_shut_for_longer_and_says_why():
    lane = Lane()
    assert lane.calls_until(LONGEST_BLOCKED_PAUSE, REFUSED) == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0]
    assert lane.breaker.blocked == "blocked:401"
    assert lane.call(DOWN) > 0
    assert lane.breaker.blocked == "blocked:401", "out of reach says nothing of whether it still refuses us"
    lane.now += 1000
    assert lane.call(OK) == 0.0
    assert lane.breaker.blocked is None


def test_a_refusal_with_a_longer_wait_is_believed_and_one_with_a_shorter_is_not():
    assert Lane().call(Blocked("quota:429", 240.0)) == pytest.approx(240.0)
    assert Lane().call(Blocked("quota:429", 1.0)) == FIRST_BLOCKED_PAUSE


def test_a_lane_stays_shut_to_the_last_moment_and_is_open_then():
    lane = Lane()
    lane.call(Deferred("rate_limited:429", 3.0, Blame.PROVIDER))
    lane.now += 2.5
    assert lane.breaker.retry_in() == 0.5
    lane.now += 0.5
    assert lane.breaker.retry_in() == 0.0
    lane.now += 10
    assert lane.breaker.retry_in() == 0.0


def test_what_passes_in_the_moment_a_call_begins_passes_while_it_is_made():
    lane = Lane()
    lane.breaker.record([OK], lane.now - 1.0, AN_OFFICE)
    assert lane.breaker.passed_since(lane.now)
    lane.breaker.record([UNCLEAR], lane.now, AN_OFFICE)
    assert lane.breaker.retry_in() == 0.0


def test_the_longest_wait_that_was_asked_for_counts():
    lane = Lane()
    assert lane.call(Deferred("a", 3.0, Blame.PROVIDER), Deferred("b", 9.0, Blame.PROVIDER), DOWN) == 9.0
    began = lane.now - 1.0
    lane.breaker.record([Deferred("c", 2.0, Blame.PROVIDER)], began, AN_OFFICE)
    assert lane.breaker.retry_in() == 9.0, "a later answer does not open the lane earlier"


def test_calls_that_were_in_flight_together_are_one_failure():
    lane = Lane()
    lane.now = 101.0
    for _ in range(5):
        lane.breaker.record([DOWN], 100.0, AN_OFFICE)
    assert lane.breaker.retry_in() == FIRST_PAUSE
    lane.now += lane.breaker.retry_in()
    assert lane.call(DOWN) == 2 * FIRST_PAUSE


def test_a_call_that_begins_in_the_moment_of_a_failure_was_in_flight_with_it():
    lane = Lane()
    lane.breaker.record([DOWN], lane.now, AN_OFFICE)
    lane.breaker.record([DOWN], lane.now, AN_OFFICE)
    assert lane.breaker.retry_in() == FIRST_PAUSE, "no call begins while the lane is shut"


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
    assert not lane.breaker.passed_since(0.0), "nor did it pass"


@pytest.mark.parametrize("outcome", [UNCLEAR, LOST])
def test_trouble_while_others_pass_does_not_shut_the_lane(outcome):
    lane = Lane()
    began = lane.now
    lane.call(OK)
    lane.breaker.record([outcome], began, AN_OFFICE)
    assert lane.breaker.retry_in() == 0.0
    lane.now += 0.1
    assert lane.call(outcome) == FIRST_PAUSE, "nothing passed during this one"


@pytest.mark.parametrize("outcome", [DOWN, REFUSED])
def test_what_the_provider_says_of_us_counts_even_while_others_pass(outcome):
    lane = Lane()
    began = lane.now
    lane.call(OK)
    lane.breaker.record([outcome], began, AN_OFFICE)
    assert lane.breaker.retry_in() > 0


def test_a_batch_of_which_one_message_passed_is_no_trouble_of_the_lane():
    lane = Lane()
    assert lane.call(DOWN, OK, REFUSED) == 0.0
    assert lane.breaker.blocked is None
    assert lane.breaker.passed_since(101.0)


def test_an_own_trouble_beside_an_unclear_one_is_unclear():
    assert Lane().call(OWN, UNCLEAR) == FIRST_PAUSE


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([OK, DOWN, UNCLEAR, OWN, REFUSED, LOST]), min_size=1), st.floats(0, 99))
    )
)
def test_a_breaker_never_waits_longer_than_its_longest_pause_and_never_less_than_nothing(
    calls: Sequence[tuple[Sequence[Outcome], float]],
):
    lane = Lane()
    for outcomes, then in calls:
        assert 0.0 <= lane.call(*outcomes) <= LONGEST_BLOCKED_PAUSE
        assert (lane.breaker.blocked is not None) <= any(REFUSED in former for former, _ in calls)
        lane.now += then


def test_lanes_are_apart_and_those_that_refuse_us_are_named():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    breakers["a"].record([REFUSED], 0.0, AN_OFFICE)
    breakers["b"].record([OK], 0.0, AN_OFFICE)
    waits = [breakers[lane].retry_in() for lane in ("a", "b", str(uuid4()))]
    assert waits == [FIRST_BLOCKED_PAUSE, 0.0, 0.0]
    assert breakers.blocked() == {"a": "blocked:401"}
    assert breakers["a"] is breakers["a"]


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
        assert lane.breaker.outage == (getattr(outcome, "reason", None) if nth >= failures else None)


def test_a_message_that_passes_ends_the_outage():
    lane = Lane()
    lane.now += lane.call(REFUSED)
    lane.call(REFUSED, OK)
    assert lane.breaker.outage is None
    assert [lane.call(DOWN) and lane.breaker.outage for _ in range(OUT_FAILURES - 1)] == [None] * (OUT_FAILURES - 1)


@pytest.mark.parametrize("closing", [Blocked("quota:429", 240.0), Deferred("rate_limited:420", 240.0, Blame.PROVIDER)])
@pytest.mark.parametrize("passed", [OK, Gone("gone:410"), Rejected("rejected:422")])
def test_a_call_that_began_before_the_lane_closed_opens_nothing(closing, passed):
    """The answer of one call closes the lane; four others that were in flight pass half a second later."""
    lane = Lane()
    lane.breaker.record([closing], lane.now, AN_OFFICE)
    began, lane.now = lane.now, lane.now + 0.5
    for _ in range(4):
        lane.breaker.record([passed], began, AN_OFFICE)
    assert (lane.breaker.outage, lane.breaker.retry_in()) == (closing.reason, 239.5)
    assert lane.breaker.blocked == (closing.reason if isinstance(closing, Blocked) else None)
    lane.now += lane.breaker.retry_in()
    assert lane.call(OK) == 0.0
    assert (lane.breaker.outage, lane.breaker.blocked) == (None, None)


def test_a_late_answer_that_closes_the_lane_again_is_not_overruled_by_a_call_before_it():
    """The lane closes, opens again, and closes by an answer of a call from before: the probe began before that."""
    lane = Lane()
    old = lane.now
    lane.now += lane.call(DOWN)
    probe = lane.now = lane.now + 0.001
    lane.now += 1.0
    lane.breaker.record([Blocked("quota:429", 240.0)], old, AN_OFFICE)
    lane.now += 1.0
    lane.breaker.record([OK], probe, AN_OFFICE)
    assert lane.breaker.blocked == "quota:429"
    assert lane.breaker.retry_in() == pytest.approx(239.0)


def test_an_absurd_wait_does_not_keep_a_lane_from_being_looked_at_again():
    assert Lane().call(Deferred("rate_limited:429", 86_400.0, Blame.PROVIDER)) == LONGEST_BLOCKED_PAUSE
    assert Lane().call(Blocked("quota:429", 86_400.0)) == LONGEST_BLOCKED_PAUSE


# Rejections that name no message -------------------------------------------------------------------------------------


def test_five_offices_rejected_in_words_that_name_no_message_are_a_refusal_of_us():
    lane = Lane()
    for office in OFFICES[: REFUSALS - 1]:
        assert lane.call(BARE, office=office) == 0.0
        assert lane.call(BARE, BARE, office=office) == 0.0, "one office counts once"
    assert (lane.breaker.blocked, lane.breaker.works) == (None, False)
    assert lane.call(BARE, office=OFFICES[REFUSALS]) == FIRST_BLOCKED_PAUSE
    assert lane.breaker.blocked == lane.breaker.outage == BARE.reason


def test_a_refusal_of_us_counts_as_one_beside_such_rejections_and_after_them():
    lane = Lane()
    for office in OFFICES[:REFUSALS]:
        lane.now += lane.call(BARE, office=office)
    assert lane.breaker.blocked == BARE.reason
    assert lane.call(REFUSED) == 2 * FIRST_BLOCKED_PAUSE
    assert lane.breaker.blocked == REFUSED.reason, "the provider says more by now"
    lane.now += lane.breaker.retry_in()
    assert lane.call(BARE, Blocked("quota:429")) == 4 * FIRST_BLOCKED_PAUSE
    assert lane.breaker.blocked == "quota:429", "it says more than a rejection"


def test_such_rejections_are_counted_anew_once_a_message_passes():
    lane = Lane()
    for office in OFFICES[: REFUSALS - 1]:
        lane.call(BARE, office=office)
    lane.call(OK)
    assert lane.breaker.works
    for office in OFFICES[: REFUSALS - 1]:
        assert lane.call(BARE, office=office) == 0.0
        assert lane.breaker.works, "where others pass, such a rejection is the message's"
    assert lane.call(BARE, office=OFFICES[REFUSALS]) == FIRST_BLOCKED_PAUSE
    assert not lane.breaker.works, "from some moment on the provider rejects everybody"


def test_a_lane_that_nothing_passed_through_does_not_work():
    lane = Lane()
    assert not lane.breaker.works
    lane.call(OWN)
    lane.call(BARE)
    assert not lane.breaker.works
    lane.call(Rejected("rejected:422"))
    assert lane.breaker.works, "the provider judged a message"


@pytest.mark.parametrize("outcome", [REFUSED, DOWN, LOST])
def test_who_closed_a_lane_tries_it_last(outcome):
    """A message that is refused for its own sake would else be the one that tries the lane, again and again."""
    lane = Lane()
    for _ in range(OUT_FAILURES):
        lane.now += lane.call(outcome, office=OFFICES[0])
    lane.call(outcome, office=OFFICES[0])
    shut = lane.breaker.retry_in(OFFICES[1])
    assert lane.breaker.retry_in(OFFICES[0]) == shut + LAST_PAUSE
    lane.now += shut
    assert lane.call(OK, office=OFFICES[1]) == lane.breaker.retry_in(OFFICES[0]) == 0.0


def test_a_lane_that_is_out_is_tried_by_one_call_at_a_time():
    lane = Lane()
    with lane.breaker.in_use():
        assert lane.breaker.retry_in() == 0.0, "a lane in order is used by many"
    pause = lane.call(REFUSED)
    lane.now += pause
    assert lane.breaker.retry_in() == 0.0
    with lane.breaker.in_use():
        assert lane.breaker.retry_in() == PROBE_PAUSE
    assert lane.breaker.retry_in() == 0.0
    with lane.breaker.in_use():
        lane.call(OK)
        assert lane.breaker.retry_in() == 0.0


def test_which_lanes_may_be_used():
    breakers = Breakers(lambda: 0.0)
    breakers["a"].record([REFUSED], 0.0, AN_OFFICE)
    breakers["b"].record([DOWN], 0.0, AN_OFFICE)
    found = [(breakers.usable(lane), breakers.out(lane)) for lane in "abc"]
    assert found == [(False, True), (False, False), (True, False)]


def test_a_message_that_never_left_says_nothing_of_its_lane():
    """A device whose keys are none, while its push service is out: that is not back, nor do others pass there."""
    lane = Lane()
    for _ in range(OUT_FAILURES):
        pause = lane.call(UNCLEAR)
        lane.now += pause
    began = lane.now
    for office in OFFICES:
        assert lane.call(Rejected("bad_subscription", asked=False), office=office) == 0.0
    assert (lane.breaker.outage, lane.breaker.blocked) == (UNCLEAR.reason, None)
    assert not lane.breaker.passed_since(began)
    assert not lane.breaker.works
