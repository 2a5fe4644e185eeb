"""Who is told of what, and why."""

from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.choose import Rules, chosen, decide
from notifierd.model import Alert, Channel, Kind, Staff
from tests.people import DAY, a_renewal, a_staff, an_assessment, an_id

RULES = Rules()


def reason(staff: Staff, channel: Channel, alert: Alert, rules: Rules = RULES) -> str:
    """Why *alert* is in (with a plus) or out."""
    (decision,) = decide(staff, channel, [alert], DAY, rules)
    assert decision.alert is alert
    assert bool(chosen(staff, channel, [alert], DAY, rules)) == decision.included
    return ("+" if decision.included else "") + decision.reason


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (-400, "+overdue"),
        (-1, "+overdue"),
        (0, "+overdue"),
        (1, "+due"),
        (10, "+due"),
        (11, "beyond_threshold"),
        (30, "beyond_threshold"),
        (31, "beyond_horizon"),
    ],
)
@pytest.mark.parametrize("channel", Channel)
def test_a_renewal_is_told_of_from_the_staff_members_own_threshold_on(left, why, channel):
    staff = a_staff("taro", email_days=10 if channel is Channel.EMAIL else 0, push_enabled=True, push_days=10)
    assert reason(evolve(staff, push_days=10 if channel is Channel.PUSH else 0), channel, a_renewal(left)) == why


def test_the_horizon_bounds_a_threshold():
    staff = a_staff("taro", email_days=90)
    assert reason(staff, Channel.EMAIL, a_renewal(90)) == "beyond_horizon"
    assert reason(staff, Channel.EMAIL, a_renewal(90), Rules(horizon_days=90)) == "+due"
    assert reason(staff, Channel.EMAIL, a_renewal(91), Rules(horizon_days=100)) == "beyond_threshold"


def test_a_missing_assessment_is_always_told_of():
    staff = a_staff("taro", email_days=0)
    assert reason(staff, Channel.EMAIL, an_assessment()) == "+due"
    assert reason(staff, Channel.EMAIL, an_assessment(), Rules(horizon_days=0, overdue=False)) == "+due"


def test_overdue_renewals_can_be_left_out():
    staff = a_staff("taro")
    without = Rules(overdue=False)
    assert reason(staff, Channel.EMAIL, a_renewal(0), without) == "overdue_left_out"
    assert reason(staff, Channel.EMAIL, a_renewal(-3), without) == "overdue_left_out"
    assert reason(staff, Channel.EMAIL, a_renewal(1), without) == "+due"


def test_a_shut_channel_is_shut_for_every_alert_and_says_why():
    for alert in (a_renewal(-1), a_renewal(99), an_assessment()):
        for nothing in (None, ""):
            assert reason(a_staff("taro", email=None), Channel.EMAIL, alert) == "no_address"
            assert reason(evolve(a_staff("taro"), email=nothing), Channel.EMAIL, alert) == "no_address"
        assert reason(a_staff("taro", email_enabled=False), Channel.EMAIL, alert) == "email_off"
        assert reason(a_staff("taro", push_enabled=False), Channel.PUSH, alert) == "push_off"
        assert reason(a_staff("taro", push_enabled=True), Channel.PUSH, alert, Rules(push=False)) == "push_disabled"


def test_email_and_push_decide_apart():
    only_push = a_staff("taro", email=None, email_enabled=False, push_enabled=True, push_days=10)
    only_mail = a_staff("hanako", email_days=30)
    alerts = [a_renewal(5), a_renewal(20)]
    assert chosen(only_push, Channel.PUSH, alerts, DAY, RULES) == (alerts[0],)
    assert chosen(only_push, Channel.EMAIL, alerts, DAY, RULES) == ()
    assert chosen(only_mail, Channel.EMAIL, alerts, DAY, Rules(push=False)) == tuple(alerts)
    assert chosen(only_mail, Channel.PUSH, alerts, DAY, RULES) == ()


def test_overdue_first_then_the_nearest_deadline_then_missing_assessments():
    late, today, soon, later = (a_renewal(left) for left in (-9, 0, 3, 30))
    missing, other = an_assessment("a"), an_assessment("b")
    staff = a_staff("taro")
    told = chosen(staff, Channel.EMAIL, [other, later, missing, soon, late, today], DAY, RULES)
    assert told == (late, today, soon, later, missing, other)


NAMES = st.sampled_from(["青木", "青木", "馬場", ""])
ALERTS = st.builds(
    lambda name, left, number, cycle: Alert(
        an_id(f"r{number}"),
        name,
        Kind.ASSESSMENT if left is None else Kind.RENEWAL,
        None if left is None else DAY + timedelta(days=left),
        cycle,
    ),
    NAMES,
    st.none() | st.integers(-2, 2),
    st.integers(0, 2),
    st.integers(1, 2),
)


@settings(deadline=None)
@given(st.lists(ALERTS, max_size=6).flatmap(lambda alerts: st.tuples(st.just(alerts), st.permutations(alerts))))
def test_the_order_is_the_same_however_the_database_returns_them(pair: tuple[list[Alert], list[Alert]]):
    """Or a call could not be repeated to the byte."""
    staff = a_staff("taro")
    first, second = (chosen(staff, Channel.EMAIL, alerts, DAY, RULES) for alerts in pair)
    assert first == second
    assert sorted(map(str, first)) == sorted(map(str, pair[0]))
