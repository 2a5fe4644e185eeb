"""The table "Life of a delivery", row by row, and what holds for every outcome in every circumstance."""

from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notifierd.model.delivery import Channel, Delivery, Settlement, State
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.rules.lifecycle import BACKOFF, NOT_BEGUN, Circumstances, Policy, settle

POLICY = Policy(attempts=3, on_unknown="repeat")
HOLD = Policy(attempts=3, on_unknown="hold")
KEYED = Circumstances(keyed=True)
KEYLESS = Circumstances(keyed=False)


def tried(attempts: int = 0, doubts: int = 0, call_tries: int = 1) -> Delivery:
    """A delivery as it stands while its call is made."""
    return Delivery(
        UUID(int=1),
        UUID(int=2),
        UUID(int=3),
        Channel.EMAIL,
        state=State.SENDING,
        attempts=attempts,
        try_no=7,
        call_tries=call_tries,
        doubts=doubts,
    )


def ends(settlement: Settlement) -> tuple[State, str | None, int, int, float | None]:
    """What a settlement writes: state, reason, attempts, doubts, wait."""
    return settlement.state, settlement.reason, settlement.attempts, settlement.doubts, settlement.wait


# The table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [KEYED, KEYLESS])
@pytest.mark.parametrize("delivery", [tried(), tried(attempts=2), tried(doubts=1), tried(call_tries=4)])
@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (Delivered("m-1"), State.SENT, None),
        (Rejected("rejected:422"), State.FAILED, "rejected:422"),
        (Gone("gone:410"), State.GONE, "gone:410"),
    ],
)
def test_a_final_answer_ends_the_delivery(outcome, state, reason, delivery, now):
    settlement = settle(delivery, outcome, now, POLICY)
    assert ends(settlement) == (state, reason, delivery.attempts, delivery.doubts, None)
    assert settlement.try_no == 7
    assert settlement.delivery is delivery
    assert settlement.provider_message_id == ("m-1" if state is State.SENT else None)


@pytest.mark.parametrize(
    ("blame", "others_pass", "costs"),
    [
        (Blame.MESSAGE, False, True),
        (Blame.MESSAGE, True, True),
        (Blame.UNCLEAR, True, True),
        (Blame.UNCLEAR, False, False),
        (Blame.PROVIDER, True, False),
        (Blame.PROVIDER, False, False),
        (Blame.PATH, True, False),
        (Blame.PATH, False, False),
    ],
)
def test_a_deferral_costs_an_attempt_when_the_message_is_to_blame(blame, others_pass, costs):
    now = Circumstances(keyed=True, others_pass=others_pass)
    settlement = settle(tried(attempts=1), Deferred("busy", blame=blame), now, POLICY)
    waits = BACKOFF.first * 2 if costs else BACKOFF.first
    assert ends(settlement) == (State.PLANNED, "busy", 2 if costs else 1, 0, waits)


@pytest.mark.parametrize("outcome", [Deferred("proxy", blame=Blame.PATH), Blocked("blocked:403")])
def test_one_that_never_passes_where_others_do_waits_for_longer_each_time(outcome):
    works = Circumstances(keyed=True, destination_works=True, destination_wait=15.0)
    waits = [settle(evolve(tried(), try_no=n), outcome, works, POLICY).wait for n in range(1, 9)]
    assert waits == [15.0, 15.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


@pytest.mark.parametrize("policy", [POLICY, HOLD])
@pytest.mark.parametrize("now", [KEYED, KEYLESS])
@pytest.mark.parametrize("call_tries", [1, 2])
@pytest.mark.parametrize(
    "outcome",
    [
        Delivered(),
        Rejected("rejected:400", Blame.UNCLEAR),
        Deferred("busy", blame=Blame.MESSAGE),
        Deferred("busy", blame=Blame.PROVIDER),
        Blocked("blocked:401"),
        Unknown("timeout"),
        Unknown("key_conflict:409", key_usable=False),
    ],
)
def test_what_is_put_back_for_a_new_call_is_counted_and_nothing_else(outcome, call_tries, now, policy):
    delivery = evolve(tried(call_tries=call_tries), put_back=2)
    settlement = settle(delivery, outcome, now, policy)
    assert settlement.put_back == (3 if settlement.state is State.PLANNED else 2)


def test_a_mail_that_was_taken_keeps_its_id_and_what_its_audit_row_says():
    settlement = settle(tried(), Delivered("m-1"), KEYED, POLICY, {"renewal_count": 1})
    assert (settlement.provider_message_id, settlement.audit) == ("m-1", {"renewal_count": 1})


@pytest.mark.parametrize("now", [KEYED, KEYLESS])
def test_a_call_that_was_not_begun_leaves_its_key_to_the_next(now: Circumstances):
    """A database may forget a call under the same key that was accepted: the next call then meets its acceptance."""
    settlement = settle(evolve(tried(), put_back=2), NOT_BEGUN, now, POLICY)
    assert (settlement.state, settlement.put_back) == (State.PLANNED, 2)


def test_after_retry_asked_for_the_former_call_once_more_one_doubt_is_free():
    """The call cannot be repeated: it is a new call once, also with "hold", and then counts as any other."""
    lost = Unknown("process_died", key_usable=False)
    for policy in (POLICY, HOLD):
        settlement = settle(tried(doubts=-1, call_tries=2), lost, KEYED, policy)
        assert (settlement.state, settlement.doubts, settlement.put_back) == (State.PLANNED, 0, 1)
    assert settle(tried(doubts=0), lost, KEYED, HOLD).state is State.UNKNOWN
    still = settle(tried(doubts=-1, call_tries=2), Unknown("timeout"), KEYED, HOLD)
    assert (still.state, still.doubts) == (State.SENDING, -1), "its key can still settle it"


def test_the_last_attempt_fails():
    deferred = Deferred("busy", 60.0, Blame.MESSAGE)
    assert ends(settle(tried(attempts=1), deferred, KEYED, POLICY)) == (State.PLANNED, "busy", 2, 0, 60.0)
    assert ends(settle(tried(attempts=2), deferred, KEYED, POLICY)) == (State.FAILED, "busy", 3, 0, None)
    assert ends(settle(tried(), deferred, KEYED, Policy(attempts=1))) == (State.FAILED, "busy", 1, 0, None)
    assert settle(tried(attempts=2), Deferred("busy", blame=Blame.PROVIDER), KEYED, POLICY).state is State.PLANNED


@pytest.mark.parametrize("blame", [Blame.MESSAGE, Blame.UNCLEAR])
def test_a_batch_that_is_refused_as_a_whole_costs_nobody_an_attempt(blame):
    """However few there are: each goes alone then, and that call tells whose trouble it is."""
    refused = Deferred("batch_rejected:422", blame=blame)
    now = Circumstances(keyed=True, others_pass=True, destination_works=True)
    delivery = evolve(tried(), try_no=1)
    for policy in (POLICY, Policy(attempts=1)):
        assert ends(settle(delivery, refused, now, policy)) == (State.PLANNED, refused.reason, 0, 0, BACKOFF.first)


def test_a_rejection_that_names_no_message_is_final_only_where_others_have_passed():
    bare = Rejected("rejected:400", Blame.UNCLEAR)
    assert ends(settle(tried(attempts=2), bare, KEYED, POLICY)) == (State.PLANNED, bare.reason, 2, 0, BACKOFF.first)
    assert settle(tried(call_tries=2), bare, KEYED, POLICY).state is State.SENDING, "the first try is still in doubt"
    works = Circumstances(keyed=True, destination_works=True)
    assert ends(settle(tried(), bare, works, POLICY)) == (State.FAILED, bare.reason, 0, 0, None)
    assert settle(tried(), Rejected("rejected:400"), KEYED, POLICY).state is State.FAILED, "it names the message"


def test_nobody_waits_for_longer_than_a_look_again_whatever_was_asked_for():
    assert wait_of(Deferred("busy", 86_400.0)) == wait_of(Blocked("quota:429", 3600.0)) == BACKOFF.longest


def test_a_refusal_of_us_fails_nobody():
    for delivery in (tried(), tried(attempts=2), tried(doubts=1)):
        settlement = settle(delivery, Blocked("blocked:401", 20.0), KEYLESS, POLICY)
        assert ends(settlement) == (State.PLANNED, "blocked:401", delivery.attempts, delivery.doubts, 20.0)


def test_a_lost_answer_keeps_the_call_where_its_key_can_settle_the_doubt():
    for policy in (POLICY, HOLD):
        assert ends(settle(tried(), Unknown("cut"), KEYED, policy)) == (State.SENDING, "cut", 0, 0, BACKOFF.first)
        again = settle(tried(call_tries=3, doubts=1), Unknown("cut"), KEYED, policy)
        assert ends(again) == (State.SENDING, "cut", 0, 1, BACKOFF.first * 4)


@pytest.mark.parametrize(("now", "outcome"), [(KEYLESS, Unknown("cut")), (KEYED, Unknown("cut", key_usable=False))])
def test_a_lost_answer_that_no_key_can_settle_is_repeated_once(now, outcome):
    assert ends(settle(tried(attempts=1), outcome, now, POLICY)) == (State.PLANNED, "cut", 1, 1, 0.0)
    assert ends(settle(tried(doubts=1), outcome, now, POLICY)) == (State.UNKNOWN, "cut", 0, 2, None)
    assert ends(settle(tried(), outcome, now, HOLD)) == (State.UNKNOWN, "cut", 0, 1, None)


@pytest.mark.parametrize("outcome", [Deferred("busy", 3.0, Blame.MESSAGE), Blocked("blocked:403", 3.0)])
def test_what_is_in_doubt_is_not_put_back_by_an_answer_that_says_nothing_of_it(outcome):
    """Asked to wait, the repeated call says nothing of the first; one without a key never was the same call."""
    assert ends(settle(tried(call_tries=2), outcome, KEYED, POLICY)) == (State.SENDING, outcome.reason, 0, 0, 3.0)
    assert settle(tried(call_tries=2), outcome, KEYLESS, POLICY).state is State.PLANNED
    assert settle(tried(call_tries=1), outcome, KEYED, POLICY).state is State.PLANNED


# Waits --------------------------------------------------------------------------------------------------------------


def wait_of(outcome: Outcome, *, attempts: int = 0, destination_wait: float = 0.0, call_tries: int = 1) -> float | None:
    now = Circumstances(keyed=True, destination_wait=destination_wait)
    return settle(tried(attempts, call_tries=call_tries), outcome, now, Policy(attempts=100)).wait


def test_a_wait_is_what_the_provider_asked_for_and_never_less_than_the_destination_waits():
    assert wait_of(Deferred("busy", 7.0)) == 7.0
    assert wait_of(Deferred("busy", 7.0), destination_wait=2.0) == 7.0
    assert wait_of(Deferred("busy", 7.0), destination_wait=30.0) == 30.0
    assert wait_of(Blocked("blocked:401"), destination_wait=15.0) == 15.0
    assert wait_of(Unknown("in_progress:409", 2.0)) == 2.0
    lost = Circumstances(keyed=False, destination_wait=9.0)
    assert settle(tried(), Unknown("cut", 60.0), lost, POLICY).wait == 9.0, "a new call waits for its destination alone"


def test_what_another_sender_may_take_over_waits_for_nothing_unless_it_is_in_doubt():
    out = Circumstances(keyed=False, destination_wait=60.0, other_transport_preferred=True)
    for outcome in (Deferred("busy", 7.0), Blocked("blocked:401", 3600.0)):
        assert ends(settle(tried(), outcome, out, POLICY)) == (State.PLANNED, outcome.reason, 0, 0, 0.0)
        assert settle(tried(doubts=1), outcome, out, POLICY).wait == min(
            BACKOFF.longest, max(60.0, outcome.retry_after or 0.0)
        )
    assert settle(tried(), Deferred("greylisted", blame=Blame.MESSAGE), out, POLICY).wait == 60.0
    assert settle(tried(), Unknown("cut"), out, POLICY).wait == 60.0


def test_a_wait_that_nobody_asked_for_grows_and_has_an_end():
    own = Deferred("greylisted", blame=Blame.MESSAGE)
    assert [wait_of(own, attempts=n) for n in range(7)] == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0]
    assert wait_of(own, attempts=98) == BACKOFF.longest
    assert [wait_of(Unknown("cut"), call_tries=n) for n in (1, 2, 3, 2000)] == [5.0, 10.0, 20.0, BACKOFF.longest]
    assert wait_of(Deferred("busy", 0.0)) == BACKOFF.first, "'now' is no answer to whom it has just put off"


# What always holds --------------------------------------------------------------------------------------------------

REASONS = st.sampled_from(["busy", "cut"])
WAITS = st.none() | st.floats(0, 10_000)
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Delivered, st.none() | st.text()),
    st.builds(Rejected, REASONS, st.sampled_from([Blame.MESSAGE, Blame.UNCLEAR])),
    st.builds(Gone, REASONS),
    st.builds(Deferred, REASONS, WAITS, st.sampled_from(Blame)),
    st.builds(Blocked, REASONS, WAITS),
    st.builds(Unknown, REASONS, WAITS, st.booleans()),
)
POLICIES = st.builds(Policy, st.integers(1, 5), st.sampled_from(["repeat", "hold"]))
CIRCUMSTANCES = st.builds(
    Circumstances, st.booleans(), st.booleans(), st.floats(0, BACKOFF.longest), st.booleans(), st.booleans()
)
DELIVERIES = st.builds(tried, st.integers(0, 4), st.integers(0, 1), st.integers(1, 5))


@settings(deadline=None)
@given(DELIVERIES, OUTCOMES, CIRCUMSTANCES, POLICIES)
@example(tried(call_tries=2), Deferred("busy"), KEYED, POLICY)
def test_in_every_circumstance(delivery: Delivery, outcome: Outcome, now: Circumstances, policy: Policy):
    settlement = settle(delivery, outcome, now, policy)
    assert settlement.try_no == delivery.try_no
    assert settlement.attempts in (delivery.attempts, delivery.attempts + 1)
    assert settlement.doubts in (delivery.doubts, delivery.doubts + 1)
    assert settlement.state in (State.SENDING, State.PLANNED, State.SENT, State.FAILED, State.GONE, State.UNKNOWN)
    back = settlement.state in (State.PLANNED, State.SENDING)
    assert (settlement.wait is not None) == back, "who is tried again knows when"
    assert settlement.reason or settlement.state is State.SENT, "everybody but the sent has a reason"
    if back and settlement.wait is not None:
        assert settlement.wait >= now.destination_wait or (
            settlement.wait == 0.0 and now.other_transport_preferred and not delivery.doubts
        )
    if settlement.state is State.SENDING:
        assert now.keyed, "only a key makes the same call again"
        assert not isinstance(outcome, Delivered | Gone)
        assert (settlement.attempts, settlement.doubts) == (delivery.attempts, delivery.doubts)
    if settlement.state is State.PLANNED:
        assert settlement.attempts < policy.attempts or settlement.attempts == delivery.attempts
        assert settlement.doubts <= 1
    if settlement.state is State.UNKNOWN:
        assert isinstance(outcome, Unknown)
    if isinstance(outcome, Blocked):
        assert settlement.state is not State.FAILED
    in_doubt = now.keyed and delivery.call_tries > 1
    if isinstance(outcome, Rejected):
        assert (settlement.state is State.FAILED) == (outcome.blame is Blame.MESSAGE or now.destination_works)
    if in_doubt and isinstance(outcome, Deferred | Blocked):
        assert settlement.state is State.SENDING, "no new call while the first one's answer is open"


@settings(deadline=None)
@given(st.lists(OUTCOMES, min_size=40, max_size=40), st.booleans(), POLICIES)
def test_no_delivery_is_called_anew_for_ever_by_its_own_fault(outcomes: list[Outcome], keyed: bool, policy: Policy):
    """Followed from try to try: at most `attempts` costly deferrals, and one repeat after a lost answer."""
    delivery, costly, lost = tried(), 0, 0
    for outcome in outcomes:
        settlement = settle(delivery, outcome, Circumstances(keyed, others_pass=True), policy)
        costly += settlement.attempts > delivery.attempts
        lost += settlement.doubts > delivery.doubts
        if settlement.state not in (State.PLANNED, State.SENDING):
            break
        same = settlement.state is State.SENDING
        call_tries = delivery.call_tries + 1 if same else 1
        delivery = tried(settlement.attempts, settlement.doubts, call_tries)
    assert costly <= policy.attempts
    assert lost <= (2 if policy.on_unknown == "repeat" else 1)
