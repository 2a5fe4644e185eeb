"""How often the same is told: each of an alert's days leads to one message, on the first run on or after it."""

from collections.abc import Iterator
from datetime import date, timedelta

from attrs import evolve, frozen
from hypothesis import example, given
from hypothesis import strategies as st

from notifierd.config.settings import ContentSettings, Settings, WindowSettings
from notifierd.model.delivery import Channel
from notifierd.model.office import Alert, LastRun
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import Rules, chosen
from notifierd.rules.reminders import LOOK_BACK, Reminders
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment

MAIL = Channel.EMAIL
ONE_DAY = timedelta(days=1)
MONDAY = date(2026, 11, 30)
REMINDERS = Reminders(frozenset({30, 14, 7, 3, 1}), frozenset({1, 4}), frozenset({1}))


@frozen
class World:
    """Business days from DAY on, some without a run, some whose deliveries failed; and one staff member."""

    runs: tuple[date, ...]
    failed: frozenset[date]
    threshold: int
    rules: Rules

    @property
    def within(self) -> int:
        """How many days ahead the staff member is told of renewals."""
        return min(self.threshold, self.rules.horizon_days)

    def told(self, *alerts: Alert) -> Iterator[tuple[date, date, bool]]:
        """The runs on which there is a message, each with the day of the run before, and whether that one failed."""
        staff = a_staff("taro", email_days=self.threshold)
        failed = False
        for previous, day in zip((DAY - ONE_DAY, *self.runs), self.runs, strict=False):
            last = previous if day - previous <= LOOK_BACK * ONE_DAY else day - ONE_DAY
            missed = frozenset({(staff.id, MAIL)}) if failed and last == previous else frozenset()
            told = bool(chosen(staff, MAIL, alerts, day, self.rules, LastRun(last, missed)))
            if told:
                yield day, last, bool(missed)
            failed = told and day in self.failed

    def first_on_or_after(self, days: set[date]) -> set[date]:
        """The first run on or after each of *days*, if the run before it is not more than LOOK_BACK days back."""
        found = set()
        for previous, day in zip((DAY - ONE_DAY, *self.runs), self.runs, strict=False):
            last = previous if day - previous <= LOOK_BACK * ONE_DAY else day - ONE_DAY
            found |= {day for wanted in days if last < wanted <= day}
        return found


WEEKDAYS = st.frozensets(st.integers(1, 7), min_size=1, max_size=3)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    closed = draw(st.frozensets(st.integers(0, 119), max_size=30)) | set(
        range(start := draw(st.integers(0, 119)), start + draw(st.sampled_from([0, 0, 5, 13, 14, 20])))
    )
    days = [DAY + n * ONE_DAY for n in range(120)]
    runs = tuple(day for n, day in enumerate(days) if day.isoweekday() < 6 and n not in closed)
    rules = Rules(
        horizon_days=draw(st.sampled_from([30, 60, 7, 0])),
        overdue=draw(st.sampled_from([True, True, False])),
        reminders=Reminders(
            draw(st.frozensets(st.integers(1, 40), min_size=1, max_size=5)), draw(WEEKDAYS), draw(WEEKDAYS)
        ),
    )
    return World(runs, draw(st.frozensets(st.sampled_from(days), max_size=20)), draw(st.integers(0, 45)), rules)


def weekdays(numbers: frozenset[int]) -> set[date]:
    return {day for n in range(130) if (day := DAY + n * ONE_DAY).isoweekday() in numbers}


def expected(world: World, alert: Alert) -> set[date]:
    """The runs on which *alert* is a reason by the keys, as the rule is written."""
    keys = world.rules.reminders
    if alert.due_on is None:
        return world.first_on_or_after(weekdays(keys.assessment_weekdays))
    last_days = {m for m in keys.renewal_days if m <= world.within} | ({world.within} if world.within else set())
    coming = world.first_on_or_after({alert.due_on - m * ONE_DAY for m in last_days})
    overdue = world.first_on_or_after({alert.due_on} | weekdays(keys.overdue_weekdays))
    return {day for day in coming if day < alert.due_on} | {
        day for day in overdue if day >= alert.due_on and world.rules.overdue
    }


@given(worlds(), st.integers(-20, 100) | st.none())
@example(World((DAY, DAY + 20 * ONE_DAY), frozenset(), 30, Rules(reminders=REMINDERS)), 25)
def test_each_day_of_an_alert_is_told_once_on_the_first_run_on_or_after_it(world: World, left: int | None) -> None:
    """Whatever days have no run: on a day without a reason there is no message, and no reason is lost."""
    alert = an_assessment() if left is None else a_renewal(left)
    told = {day for day, _, failed in world.told(alert) if not failed}
    again = {day for day, _, failed in world.told(alert) if failed}
    assert told | again >= expected(world, alert)
    assert told <= expected(world, alert)


@given(worlds(), st.lists(st.integers(-20, 100) | st.none(), min_size=1, max_size=3))
def test_a_message_that_did_not_arrive_is_made_again_on_the_next_run(world: World, lefts: list[int | None]) -> None:
    alerts = [a_renewal(left) if left is not None else an_assessment() for left in lefts]
    told = list(world.told(*alerts))
    due = {day for alert in alerts for day in world.runs if _in_scope(world, alert, day)}
    after = dict(zip(world.runs, world.runs[1:], strict=False))
    for day, _, _ in told:
        coming = after.get(day)
        if day in world.failed and coming in due and coming - day <= LOOK_BACK * ONE_DAY:
            assert any(told_on == coming and failed for told_on, _, failed in told)


def _in_scope(world: World, alert: Alert, day: date) -> bool:
    left = alert.days_left(day)
    return left is None or (left <= world.within and (left > 0 or world.rules.overdue))


@given(worlds(), st.integers(-20, 100) | st.none())
def test_without_keys_there_is_a_message_on_every_business_day_as_before(world: World, left: int | None) -> None:
    world = evolve(world, rules=evolve(world.rules, reminders=Reminders()))
    alert = an_assessment() if left is None else a_renewal(left)
    assert [day for day, _, _ in world.told(alert)] == [day for day in world.runs if _in_scope(world, alert, day)]


@given(worlds(), st.integers(-20, 100))
def test_a_key_alone_leaves_the_others_at_every_business_day(world: World, left: int) -> None:
    keys = world.rules.reminders
    only_renewals = evolve(world, rules=evolve(world.rules, reminders=Reminders(keys.renewal_days)), failed=frozenset())
    only_overdue = evolve(
        world,
        rules=evolve(world.rules, reminders=Reminders(overdue_weekdays=keys.overdue_weekdays)),
        failed=frozenset(),
    )
    alert = a_renewal(left)
    both = {day for day, _, _ in evolve(world, failed=frozenset()).told(alert)}
    assert alert.due_on
    assert {day for day, _, _ in only_renewals.told(alert) if day < alert.due_on} == {
        day for day in both if day < alert.due_on
    }
    assert {day for day, _, _ in only_overdue.told(alert) if day >= alert.due_on} == {
        day for day in both if day >= alert.due_on
    }
    assert len(list(only_renewals.told(an_assessment()))) == len(world.runs)


def test_one_reason_is_enough_and_the_message_lists_everything_within_the_threshold() -> None:
    """On a Tuesday, a renewal with 7 days left is a reason; the others are listed along with it."""
    alerts = [a_renewal(-5), a_renewal(7), a_renewal(20), a_renewal(31), an_assessment()]
    rules, staff, yesterday = Rules(reminders=REMINDERS), a_staff("taro"), LastRun(DAY - ONE_DAY)
    assert chosen(staff, MAIL, alerts, DAY, rules, yesterday) == (alerts[0], alerts[1], alerts[2], alerts[4])
    del alerts[1]
    assert chosen(staff, MAIL, alerts, DAY, rules, yesterday) == ()


def test_what_changed_is_a_last_day_that_has_come_or_a_deadline_that_has_come_or_passed() -> None:
    """Seen on a Monday, after a run on Friday."""
    friday = MONDAY - 3 * ONE_DAY

    def is_new(left: int, keys: Reminders = REMINDERS) -> bool:
        return keys.is_new(a_renewal(left, day=MONDAY), 30, MONDAY, friday)

    assert [left for left in range(-6, 40) if is_new(left)] == [-3, -2, -1, 0, 1, 2, 3, 5, 6, 7, 12, 13, 14, 28, 29, 30]
    assert [left for left in range(-6, 40) if is_new(left, Reminders())] == [-3, -2, -1, 0, 28, 29, 30]
    assert not REMINDERS.is_new(an_assessment(), 30, MONDAY, friday)


@given(worlds(), st.integers(-20, 100) | st.none())
@example(World((), frozenset(), 0, Rules(reminders=REMINDERS)), 100)
def test_the_next_day_is_the_next_one_on_which_there_is_a_message(world: World, left: int | None) -> None:
    """If no run is missed from DAY on."""
    closed = [DAY + n * ONE_DAY for n in range(1, 110) if DAY + n * ONE_DAY not in world.runs]
    calendar = Calendar(WindowSettings(holidays="", closed_dates=tuple(closed)))
    runs = (DAY, *(day for n in range(1, 120) if not calendar.closed(day := DAY + n * ONE_DAY)))
    alert = an_assessment() if left is None else a_renewal(left)
    rules = world.rules
    found = rules.reminders.next_day(alert, world.within, DAY, calendar, overdue=rules.overdue)
    told = [day for day, _, _ in evolve(world, runs=runs, failed=frozenset()).told(alert) if day > DAY]
    assert found == (told[0] if told else None)


def test_a_day_that_is_too_far_away_is_none() -> None:
    calendar = Calendar(WindowSettings())
    far = evolve(a_renewal(0), due_on=date.max)
    assert Reminders().next_day(far, 30, DAY, calendar) is None
    assert Reminders().next_day(a_renewal(3), -(2**31), DAY, calendar) is None


def test_the_keys_of_the_configuration_are_numbers_of_weekdays() -> None:
    content = ContentSettings(
        renewal_days=(30, 14, 7, 3, 1), overdue_weekdays=("mon", "thu"), assessment_weekdays=("mon",)
    )
    assert Rules.of(Settings(content=content)).reminders == REMINDERS
    assert REMINDERS.selective
    assert not Rules.of(Settings()).reminders.selective
