"""Who is told of what, and why."""

from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.model.delivery import Channel, Delivery, State, delivery_id
from notifierd.model.office import Alert, Device, Kind, LastRun, Notice, OfficeWork, Staff
from notifierd.rules.due import Rules, Skip, channel_decisions, chosen, decide, notice_for
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_assessment, an_id

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


# A delivery, and every way to tell somebody --------------------------------------------------------------------------

OFFICE = an_id("office")
TARO = a_staff("taro", push_enabled=True)
PHONE, TABLET = a_device(TARO, "phone"), a_device(TARO, "tablet")


def a_delivery(
    channel: Channel = Channel.EMAIL, device: Device | None = None, state: State = State.PLANNED
) -> Delivery:
    key = device.id if device else None
    return Delivery(delivery_id(DAY, OFFICE, TARO.id, channel, key), OFFICE, TARO.id, channel, key, state)


def an_office(*deliveries: Delivery, staff: Staff = TARO, alerts: tuple[Alert, ...] | None = None) -> OfficeWork:
    """TARO's office with a renewal in five days, and their phone and tablet."""
    due = (a_renewal(5),) if alerts is None else alerts
    return OfficeWork(OFFICE, "Office", deliveries, {staff.id: staff}, due, {PHONE.id: PHONE, TABLET.id: TABLET}, 0.0)


def test_a_delivery_tells_its_staff_member_what_is_chosen_for_them():
    work = an_office(alerts=(a_renewal(40), a_renewal(5), a_renewal(-1)))
    notice = notice_for(a_delivery(), work, DAY, RULES)
    told = (a_renewal(-1), a_renewal(5))
    assert notice == Notice(DAY, OFFICE, "Office", TARO, Channel.EMAIL, told, news=told[:1])
    assert notice_for(a_delivery(Channel.PUSH, PHONE), work, DAY, Rules(only_offices=frozenset({OFFICE}))) == evolve(
        notice, channel=Channel.PUSH
    )


@pytest.mark.parametrize(
    ("why", "changes", "rules"),
    [
        ("office_gone", {"name": None, "staff": {}}, RULES),
        ("office_left_out", {}, Rules(only_offices=frozenset({an_id("another")}))),
        ("staff_gone", {"staff": {}}, RULES),
        ("no_longer_due", {"alerts": (a_renewal(31),)}, RULES),
        ("no_longer_due", {"staff": {TARO.id: evolve(TARO, push_enabled=False)}}, RULES),
        ("no_longer_due", {}, Rules(push=False)),
        ("device_gone", {"devices": {TABLET.id: TABLET}}, RULES),
        ("device_gone", {"devices": {PHONE.id: evolve(PHONE, staff_id=an_id("colleague"))}}, RULES),
    ],
)
def test_a_delivery_that_tells_nothing_any_more_says_why(why, changes, rules):
    work = evolve(an_office(), **changes)
    assert notice_for(a_delivery(Channel.PUSH, PHONE), work, DAY, rules) == Skip(why)


def targets(work: OfficeWork, staff: Staff = TARO, rules: Rules = RULES) -> dict[str, list[str]]:
    """Each channel's reasons, device by device; with a plus for what would be sent."""
    found = {
        decided.channel.value: ["+" * target.included + target.reason for target in decided.targets]
        for decided in channel_decisions(staff, work, DAY, rules)
    }
    assert list(found) == ["email", "push"]
    return found


def test_who_is_due_is_told_by_mail_and_on_every_device():
    assert targets(an_office()) == {"email": ["+due"], "push": ["+due", "+due"]}
    assert targets(evolve(an_office(), devices={})) == {"email": ["+due"], "push": ["no_device"]}


@pytest.mark.parametrize(
    ("why", "staff", "rules"),
    [
        ("no_address", evolve(TARO, email=""), RULES),
        ("email_off", evolve(TARO, email_enabled=False), RULES),
        ("push_off", evolve(TARO, push_enabled=False), RULES),
        ("push_disabled", TARO, Rules(push=False)),
        ("nothing_due", evolve(TARO, email_days=4, push_days=4), RULES),
        ("office_left_out", TARO, Rules(only_offices=frozenset({an_id("another")}))),
    ],
)
def test_who_is_not_told_learns_why(why, staff, rules):
    reasons = {reason for each in targets(an_office(staff=staff), staff, rules).values() for reason in each}
    assert reasons - {"+due"} == {why}


def test_an_office_without_alerts_tells_nobody_anything():
    assert targets(an_office(alerts=())) == {"email": ["no_alerts"], "push": ["no_alerts", "no_alerts"]}


def test_a_channel_that_is_shut_says_so_also_where_there_is_no_device():
    off = evolve(TARO, push_enabled=False)
    assert targets(evolve(an_office(staff=off), devices={}), off)["push"] == ["push_off"]


@pytest.mark.parametrize("state", State)
def test_what_is_settled_is_not_sent_again_and_what_is_open_is(state):
    found = targets(an_office(a_delivery(state=state)))
    assert found["email"] == ["+due" if state in {State.PLANNED, State.SENDING} else f"already_{state}"]
    assert found["push"] == ["+due", "+due"]


def test_who_was_pushed_to_on_one_device_is_not_pushed_to_on_another_that_is_new():
    first, second = sorted((PHONE, TABLET), key=lambda device: device.id)
    sent = a_delivery(Channel.PUSH, first, State.SENT)
    assert targets(an_office(sent))["push"] == ["already_sent", "told_on_another_device"]
    assert targets(an_office(sent, a_delivery(Channel.PUSH, second)))["push"] == ["already_sent", "+due"]
    failed = a_delivery(Channel.PUSH, first, State.FAILED)
    assert targets(an_office(failed, a_delivery(state=State.SENT)))["push"] == ["already_failed", "+due"]


def test_every_alert_of_the_office_is_decided_on_in_the_order_of_a_mail():
    work = an_office(alerts=(an_assessment(), a_renewal(40), a_renewal(20), a_renewal(5)))
    mail, push = channel_decisions(TARO, work, DAY, RULES)
    assert [decision.alert for decision in mail.decisions] == sorted(work.alerts, key=when)
    assert [decision.reason for decision in mail.decisions] == ["due", "due", "beyond_horizon", "due"]
    assert [decision.reason for decision in push.decisions] == ["due", "beyond_threshold", "beyond_horizon", "due"]


def when(alert: Alert) -> int:
    left = alert.days_left(DAY)
    return 10**6 if left is None else left


def test_a_notice_names_what_changed_since_the_run_before() -> None:
    """After a run on Friday, on a Tuesday: within the threshold of 30 days, or due, or overdue since then."""
    alerts = [a_renewal(left) for left in (-5, -4, -1, 0, 1, 26, 27, 30)] + [an_assessment()]
    work = evolve(an_office(alerts=tuple(alerts)), last_run=LastRun(DAY - timedelta(days=4)))
    found = notice_for(a_delivery(), work, DAY, RULES)
    assert isinstance(found, Notice)
    assert [alert.days_left(DAY) for alert in found.news] == [-4, -1, 0, 27, 30]
    yesterday = notice_for(a_delivery(), evolve(work, last_run=None), DAY, RULES)
    assert isinstance(yesterday, Notice)
    assert [alert.days_left(DAY) for alert in yesterday.news] == [-1, 0, 30]
