"""Several processes on one day, in virtual time: the real run of each over one ledger in memory and one provider."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from itertools import pairwise

import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs

from notifierd.model.counts import DayCounts, Tallies
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import LedgerUnavailable
from notifierd.rules.cluster.membership import Standing, Terms, Use
from notifierd.rules.due import Rules
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.day import run_day
from notifierd.run.record.grants import Grants
from notifierd.run.record.interim import COUNT_SECONDS
from notifierd.run.record.passes import IDLE
from notifierd.run.record.tally import Tally
from notifierd.store.ledger import LEASE_SECONDS
from tests.support.memory import Application
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run, limited, most_at_once, spans

SHARED = Terms(shares=True, config_hash="window=1 content=1")


@define
class Members:
    """Processes that share the day, and one provider: each process has a sender of its own, the calls are looked at
    together."""

    ledger: ShakyLedger
    seconds: float = 0.5
    slots: int = 5
    per_second: float = 0.0
    contexts: dict[str, RunContext] = field(factory=dict)
    senders: dict[str, ScriptedSender] = field(factory=dict)
    results: dict[str, RunResult] = field(factory=dict)
    scopes: dict[str, trio.CancelScope] = field(factory=dict)

    async def work(self, name: str, after: float = 0.0, **more: object) -> None:
        """Let process *name* run the day, from so many seconds on."""
        await trio.sleep_until(after)
        self.senders[name] = email = ScriptedSender(max_batch=1, seconds=self.seconds)
        sender = limited(email, self.slots, per_second=self.per_second)
        self.contexts[name] = a_run(self.ledger, sender, holder=name, terms=SHARED, **more)  # type: ignore[arg-type]
        with trio.CancelScope() as self.scopes[name]:
            self.results[name] = await run_day(DAY, self.contexts[name])

    def spans(self) -> list[tuple[float, float]]:
        """When each call began and ended, over all processes."""
        return sorted(span for sender in self.senders.values() for span in spans(sender.calls))

    def told(self) -> Counter[str]:
        return Counter(to for sender in self.senders.values() for to in sender.told)

    def shares(self) -> dict[str, int]:
        """How many calls each process made."""
        return {name: len(sender.calls) for name, sender in self.senders.items()}


async def all_of(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    with trio.fail_after(86_400):
        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(work)


def together(members: Members, **begin: float) -> list[Callable[[], Awaitable[None]]]:
    """One process for each name, which begins at that time."""

    def one(name: str, after: float) -> Callable[[], Awaitable[None]]:
        return lambda: members.work(name, after)

    return [one(name, after) for name, after in begin.items()]


def everybody_was_told_once(members: Members, number: int) -> bool:
    return (
        members.ledger.states() == {State.SENT: number}
        and len(members.told()) == number
        and set(members.told().values()) == {1}
    )


async def test_four_processes_share_a_day_and_its_limit(autojump_clock):
    """800 mails of 0.5 s, 8 at once: 50 s. Each process has two slots once the first one's calls have landed."""
    members = Members(ShakyLedger(some_offices(400, staff=2)), slots=8)
    await all_of(together(members, a=0.0, b=0.1, c=0.1, d=0.1))
    assert everybody_was_told_once(members, 800)
    assert most_at_once(members.spans()) == 8
    assert min(members.shares().values()) > 150
    assert trio.current_time() < 50 / 0.9
    assert {result.state for result in members.results.values()} == {"completed"}
    assert (members.ledger.runs[DAY].state, members.ledger.runs[DAY].epoch) == ("completed", 1)
    assert not members.ledger.memberships


async def test_a_process_that_joins_in_mid_run_takes_its_part(autojump_clock):
    members = Members(ShakyLedger(some_offices(400, staff=2)), slots=8)
    await all_of(together(members, a=0.0, b=20.0))
    assert everybody_was_told_once(members, 800)
    assert most_at_once(members.spans()) == 8
    assert members.shares()["b"] > 150


async def test_where_there_are_more_processes_than_slots_the_youngest_waits_until_an_elder_dies(autojump_clock):
    members = Members(ShakyLedger(some_offices(60, staff=2)), slots=2)

    async def kill() -> None:
        await trio.sleep_until(10.0)
        assert members.shares()["c"] == 0
        members.scopes["b"].cancel()

    await all_of([*together(members, a=0.0, b=0.1, c=0.2), kill])
    assert members.ledger.states() == {State.SENT: 120}
    assert members.shares()["c"] > 10
    assert most_at_once(members.spans()) == 2


@pytest.mark.parametrize("victim", ["a", "b"])
async def test_when_a_process_dies_the_others_go_on_at_once_and_one_of_them_leads(victim: str, autojump_clock):
    """Its own offices are taken up when its lease is over, and its tries are repeated after their time."""
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)

    async def kill() -> None:
        await trio.sleep_until(12.0)
        members.scopes[victim].cancel()

    await all_of([*together(members, a=0.0, b=0.1, c=0.2), kill])
    assert members.ledger.states() == {State.SENT: 400}
    assert sum(members.told().values()) <= 400 + 6, "only calls that were in flight are repeated"
    gaps = [began for began, _ in members.spans() if 12.0 < began < 12.0 + LEASE_SECONDS]
    assert len(gaps) > 40, "the others do not wait for the lease"
    assert most_at_once(members.spans()) <= 6
    assert {name: result.state for name, result in members.results.items() if name != victim} == dict.fromkeys(
        {"a", "b", "c"} - {victim}, "completed"
    )


@pytest.mark.parametrize("leaver", ["a", "b"])
async def test_a_process_that_is_terminated_leaves_the_day_to_the_others(leaver: str, autojump_clock):
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)

    async def terminate() -> None:
        await trio.sleep_until(12.0)
        members.contexts[leaver].stop.set("signal", 5.0)

    await all_of([*together(members, a=0.0, b=0.1), terminate])
    assert everybody_was_told_once(members, 400)
    assert members.results[leaver].state == "interrupted"
    (other,) = {"a", "b"} - {leaver}
    assert members.results[other].state == members.ledger.runs[DAY].state == "completed"


async def test_the_last_one_that_is_terminated_interrupts_the_run(autojump_clock):
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)

    async def terminate() -> None:
        for name, when in (("a", 5.0), ("b", 8.0)):
            await trio.sleep_until(when)
            members.contexts[name].stop.set("signal", 5.0)

    await all_of([*together(members, a=0.0, b=0.1), terminate])
    assert (members.ledger.runs[DAY].state, members.ledger.runs[DAY].reason) == ("interrupted", "signal")
    assert not members.ledger.memberships


async def test_at_the_windows_end_the_last_one_closes_the_day(autojump_clock):
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)
    works = [
        lambda: members.work("a", 0.0, window_left=20.0),
        lambda: members.work("b", 0.1, window_left=20.0),
        lambda: members.work("c", 0.2, window_left=10.0),
    ]
    await all_of(works)
    states = members.ledger.states()
    assert set(states) == {State.SENT, State.EXPIRED}
    assert states[State.SENT] == sum(members.told().values())
    assert sorted(result.state for result in members.results.values()) == ["completed", "interrupted", "interrupted"]
    assert members.ledger.runs[DAY].state == "completed"
    assert max(began for began, _ in members.spans()) > 19.0, "who has less time does not end the day for all"


async def test_who_leads_at_the_windows_end_closes_the_day_although_another_one_has_just_died(autojump_clock):
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)

    async def kill() -> None:
        await trio.sleep_until(18.0)
        members.scopes["b"].cancel()

    await all_of([lambda: members.work("a", 0.0, window_left=20.0), lambda: members.work("b", 0.1), kill])
    assert members.results["a"].state == members.ledger.runs[DAY].state == "completed"
    assert set(members.ledger.states()) <= {State.SENT, State.EXPIRED, State.UNKNOWN}


async def test_calls_per_second_are_those_of_all_processes_together(autojump_clock):
    """Three a second, and one process more than that."""
    members = Members(ShakyLedger(some_offices(60, staff=2)), slots=8, per_second=3.0)
    await all_of(together(members, a=0.0, b=0.1, c=0.2, d=7.3))
    assert everybody_was_told_once(members, 120)
    began = [began for began, _ in members.spans()]
    assert all(sum(at <= other < at + 1.0 - 1e-6 for other in began) <= 3 for at in began)
    assert trio.current_time() < 120 / 3 * 1.35


async def test_the_days_quota_is_used_up_to_the_last_mail_and_never_exceeded(autojump_clock):
    """40 mails, of which 33 may go; one process leaves, another dies."""
    members = Members(ShakyLedger(some_offices(20, staff=2)), slots=4, seconds=2.0)

    async def trouble() -> None:
        await trio.sleep_until(7.0)
        members.contexts["b"].stop.set("signal", 5.0)

    def one(name: str, after: float) -> Callable[[], Awaitable[None]]:
        return lambda: members.work(name, after, email_per_day=33, window_left=300.0)

    await all_of([one("a", 0.0), one("b", 0.1), one("c", 0.2), trouble])
    states = members.ledger.states()
    assert (states[State.SENT], states[State.EXPIRED]) == (33, 7)
    assert sum(members.told().values()) == 33


async def test_a_process_that_joins_again_numbers_its_renewals_on(autojump_clock):
    """A renewal of its first membership may be carried out in the second: it must not overtake those of that one."""
    ledger = ShakyLedger(some_offices(1))
    context = a_run(ledger, ScriptedSender(), terms=SHARED)
    tally = Tally(context.progress)
    first, second = Grants(context, tally), Grants(context, tally)
    assert first.ask().asked < first.ask().asked < second.ask().asked


async def test_mails_whose_draw_was_not_answered_are_sent_all_the_same(autojump_clock):
    """Every other draw is carried out, and its answer lost."""

    class Forgetful(ShakyLedger):
        draws = 0

        async def draw_mails(self, day, holder, needed):
            drawn = await super().draw_mails(day, holder, needed)
            self.draws += 1
            if self.draws % 2:
                raise LedgerUnavailable("database_unavailable:08006")
            return drawn

    members = Members(Forgetful(some_offices(20, staff=2)), slots=4)

    def one(name: str, after: float) -> Callable[[], Awaitable[None]]:
        return lambda: members.work(name, after, email_per_day=33, window_left=120.0)

    await all_of([one("a", 0.0), one("b", 0.1)])
    states = members.ledger.states()
    assert (states[State.SENT], states[State.EXPIRED]) == (33, 7)


async def test_who_closes_the_day_knows_what_the_plan_exceeded_although_another_one_planned(autojump_clock):
    """Two calls a second for 100 s, and the leader ends after 10 s."""
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=4, per_second=2.0)

    async def terminate() -> None:
        await trio.sleep_until(10.0)
        members.contexts["a"].stop.set("signal", 5.0)

    works = [lambda name=name: members.work(name, 0.1 * (name == "b"), window_left=100.0) for name in "ab"]
    await all_of([*works, terminate])
    late = {reason for state, reason in members.ledger.reasons() if state is State.EXPIRED}
    assert "window_ended (email_per_second)" in late
    assert "window_ended" not in late


@define
class WatchedLedger(ShakyLedger):
    """Notes when days were counted, and what members told.

    Attributes:
        seconds: how long it takes to keep the counts of the day so far.
    """

    seconds: float = 0.0
    counted: list[float] = field(factory=list)
    kept: list[tuple[float, str]] = field(factory=list)
    told: list[tuple[str, Tallies]] = field(factory=list)

    async def renew_lease(self, day: date, holder: str, use: Use = Use()) -> Standing | None:  # noqa: B008 - it is frozen
        self.told.append((holder, use.tallies))
        return await super().renew_lease(day, holder, use)

    async def counts(self, day: date, rules: Rules, *, interim: bool = False) -> DayCounts:
        self.counted.append(trio.current_time())
        return await super().counts(day, rules, interim=interim)

    async def keep_interim(self, day: date, holder: str) -> int:
        self.kept.append((trio.current_time(), holder))
        await trio.sleep(self.seconds)
        return await super().keep_interim(day, holder)


async def test_a_process_that_finds_nothing_to_claim_counts_nothing_and_asks_once_a_second(autojump_clock):
    """One office, whose mail takes a minute."""
    ledger = WatchedLedger(some_offices(1, staff=1))
    members, theirs = Members(ledger, seconds=60.0, slots=4), evolve(ledger, counted=[], reads=[])
    idle = evolve(members, ledger=theirs)
    await all_of([lambda: members.work("a", send_timeout=90.0), lambda: idle.work("b", 1.0, send_timeout=90.0)])
    assert everybody_was_told_once(members, 1)
    during = [at for at in theirs.reads if 5.0 < at < 60.0]
    assert len(during) > 50
    assert min(later - earlier for earlier, later in pairwise(during)) >= IDLE
    assert [at for at in theirs.counted if at < 60.0] == []


async def test_the_process_that_leads_keeps_the_counts_of_the_day_and_pauses_longer_the_longer_it_takes(
    autojump_clock,
):
    """At first 2 s, so once a minute; then at once, so every five seconds; then the one that leads dies."""
    ledger = WatchedLedger(some_offices(400, staff=2), seconds=2.0)
    members = Members(ledger, seconds=5.0, slots=8)

    async def trouble() -> None:
        await trio.sleep_until(100.0)
        ledger.seconds = 0.0
        await trio.sleep_until(200.0)
        members.scopes["a"].cancel()

    await all_of([*together(members, a=0.0, b=0.1), trouble])
    by_a, by_b = ([at for at, holder in ledger.kept if holder == name] for name in "ab")
    assert [round(at) for at in by_a[:3]] == [5, 67, 129]
    assert {round(later - earlier, 1) for earlier, later in pairwise(by_a[2:])} == {COUNT_SECONDS}
    assert max(by_a) < 200.0 < min(by_b) < 200.0 + LEASE_SECONDS + COUNT_SECONDS
    assert members.contexts["b"].progress.all_done > 0


async def test_a_member_tells_what_it_has_done_with_each_renewal(autojump_clock):
    ledger = WatchedLedger(some_offices(400, staff=2))
    members = Members(ledger, slots=8)
    await all_of(together(members, a=0.0, b=0.1))
    told = [tallies for holder, tallies in ledger.told if holder == "a"]
    mails = [tallies.of(Channel.EMAIL) for tallies in told]
    assert mails == sorted(mails)
    middle = told[len(told) // 2]
    assert middle.rate == pytest.approx(8.0, abs=1.0), "half of the slots, half a second for each mail"
    assert middle.offices_in_hand > 0
    assert middle.offices_done == pytest.approx(middle.of(Channel.EMAIL) / 2, abs=5)


async def test_a_process_of_another_configuration_stays_out(autojump_clock):
    members = Members(ShakyLedger(some_offices(20, staff=1)))
    other = evolve(SHARED, config_hash="window=2 content=1")
    context = a_run(members.ledger, ScriptedSender(), holder="b", terms=other)

    async def join() -> None:
        await trio.sleep_until(1.0)
        with pytest.raises(Exception, match=r"led by a, which would send something else: other \[window\]$"):
            await run_day(DAY, context)

    await all_of([*together(members, a=0.0), join])
    assert everybody_was_told_once(members, 20)


async def test_the_log_says_who_joins_leads_and_leaves(autojump_clock):
    members = Members(ShakyLedger(some_offices(200, staff=2)), slots=6)

    async def trouble() -> None:
        await trio.sleep_until(10.0)
        members.contexts["b"].stop.set("signal", 5.0)
        await trio.sleep_until(20.0)
        members.scopes["a"].cancel()

    with capture_logs() as lines:
        await all_of([*together(members, a=0.0, b=0.1, c=0.2), trouble])
    events = {"day_joined", "day_left", "lead_taken"}
    assert [(line["event"], line["members"], line.get("leads")) for line in lines if line["event"] in events] == [
        ("day_joined", 1, True),
        ("day_joined", 2, False),
        ("day_joined", 3, False),
        ("day_left", 2, None),
        ("lead_taken", 1, None),
    ]


async def test_a_day_without_anything_due_ends_for_all(autojump_clock):
    members = Members(ShakyLedger(Application()))
    await all_of(together(members, a=0.0, b=0.0, c=0.0))
    assert {result.state for result in members.results.values()} == {"completed"}
