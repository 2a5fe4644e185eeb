"""Several daemons on one day, struck at random: ``python -m tests.experiments.cluster --rounds 200``, `make cluster`.

In each round the window opens for three ``notifierd run`` that share the day. While they send, some are struck, the
leader more often than others:

    killed        with SIGKILL
    terminated    with SIGTERM
    frozen        with SIGSTOP, for less or more than their lease lasts; then they go on
    cut off       from PostgreSQL, by a proxy that refuses their connections, or falls silent; then they are reachable
    joined by     another ``notifierd run``, or a ``notifierd once``

At least one is never struck. The offices, the trouble and the judgement of what became of each message are those of
fuzz.py and verdict.py. lookout.py judges the rest: one leader, and the limits as the providers counted. In some rounds
the rate is limited, in some the day's quota, which the window's end then leaves used up.

A killed one's lease lasts 15 s, and its tries as long. In every fourth round both run out by themselves; in the others
they are put to their end after the kill, when the providers have answered its calls. The seed decides who is struck,
how, and after how many messages; what a moment hits, the machine decides. Each round has a database and providers of
its own.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import trio
from attrs import define, field, frozen

from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import running_servers
from notifierd.rules.cluster.grants import ClusterLimits
from tests.experiments.cluster_members import Member, running_member
from tests.experiments.cluster_plan import CLUSTER, STRIKES, Plan, Strike
from tests.experiments.fuzz import (
    BROKEN,
    REAL,
    TOO_LATE,
    TROUBLED,
    Fuzz,
    Journals,
    Round,
    figures_of,
    found_at_kill,
    fuzz_in,
    table,
    too_early,
)
from tests.experiments.lookout import Counted, answered, badly_shared, is_over, looking, looks, of_limits
from tests.experiments.verdict import Story, badly_done
from tests.support.daemon_process import AHEAD, TODAY
from tests.support.faults import until
from tests.support.processes import Place, Template, running_template

AT_ONCE = 2
"""Rounds that are played at once, on two processors: most of their time is waiting."""

MEMBERS = 3
LATENCY_MS = (100.0, 250.0)
ROUND_SECONDS = 240.0
"""Seconds after which a round that is not over is broken."""

# The dead one's sessions are gone before its lease is put to its end: its last statement may still be at work.
GONE = """
do $$ begin
    while exists (
        select from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()
    ) loop
        perform pg_sleep(0.002), pg_stat_clear_snapshot();
    end loop;
end $$;
"""
LEFT_BEHIND = """
select d.id from notifierd.deliveries d join notifierd.run_members m on d.try_by = hashtextextended(m.name, 0)
where d.state = 'sending' and split_part(m.name, ':', 2) = '{pid}'
"""
AGE = """
update notifierd.runs set lease_until = clock_timestamp() where split_part(holder, ':', 2) = '{pid}';
update notifierd.deliveries d set try_until = clock_timestamp()
from notifierd.run_members m
where d.try_by = hashtextextended(m.name, 0) and d.state = 'sending' and split_part(m.name, ':', 2) = '{pid}';
update notifierd.run_members set until = clock_timestamp() where split_part(name, ':', 2) = '{pid}';
"""
LEADER = "select split_part(holder, ':', 2) from notifierd.runs where lease_until > clock_timestamp()"


@define
class Scene:
    """One round under way.

    Attributes:
        tables: the configuration of all members while the window is open.
        seen: what `looking` sees.
        lost_tries: for each target, the tries that a kill found in flight.
    """

    fuzz: Fuzz
    journals: Journals
    plan: Plan
    tables: Mapping[str, Mapping[str, Any]]
    folder: Path
    seen: Path
    stack: AsyncExitStack
    nursery: trio.Nursery
    members: list[Member] = field(factory=list)
    lost_tries: dict[str, set[int]] = field(factory=dict)
    figures: Counter[str] = field(factory=Counter)
    _started: int = 0
    _struck: int = 0
    """How many are frozen or cut off at the moment."""

    @property
    def place(self) -> Place:
        return self.fuzz.place

    async def sql(self, script: str) -> str:
        """Run *script* in a thread: whoever is behind a proxy needs this one."""
        return await trio.to_thread.run_sync(self.place.sql, script)

    async def start(self, *, daemon: bool, **tables: Mapping[str, Any]) -> Member:
        """Start another member, with a configuration of its own."""
        self._started += 1
        folder = self.folder / f"member {self._started}"
        starting = running_member(self.place, folder, daemon=daemon, tables=tables)
        member = await self.stack.enter_async_context(starting)
        self.members.append(member)
        return member

    async def victim(self, strike: Strike) -> Member | None:
        """Choose whom to strike: never the last one that goes on as if nothing were."""
        well = [member for member in self.members if member.is_well]
        if len(well) < 2:
            return None
        leader = await self.sql(LEADER)
        leaders = [member for member in well if str(member.pid) == leader]
        return leaders[0] if strike.at_leader and leaders else well[strike.nth % len(well)]

    async def strike(self, strike: Strike) -> None:
        """Do what *strike* says, unless the day is over, or there is nobody to strike."""
        if strike.how == "join":
            daemon = strike.daemon or bool(self.plan.limits.per_day)  # `once` would keep the window open
            await self.start(daemon=daemon, **self.tables)
            self.figures["joined by a daemon" if daemon else "joined by `once`"] += 1
            return
        victim = await self.victim(strike)
        if victim is None:
            return
        leads = str(victim.pid) == await self.sql(LEADER)
        self.figures[f"{strike.how}{', the leader' if leads else ''}"] += 1
        if strike.how == "kill":
            self.members.remove(victim)
            await self.kill(victim)
        elif strike.how == "terminate":
            self.members.remove(victim)
            victim.process.terminate()
            await victim.over()
        else:
            victim.is_well, self._struck = False, self._struck + 1
            self.nursery.start_soon(self._trouble, victim, strike)

    async def _trouble(self, victim: Member, strike: Strike) -> None:
        async with victim.troubled(strike.how):
            await trio.sleep(strike.seconds)
        victim.is_well, self._struck = True, self._struck - 1

    async def kill(self, victim: Member) -> None:
        victim.process.kill()
        await victim.over()
        pid, killed = victim.pid, time.time()
        await until(lambda: victim.door.is_idle, "the dead one's connections to be closed")
        await self.sql(GONE)
        ids = set((await self.sql(LEFT_BEHIND.format(pid=pid))).split())
        ledger = await trio.to_thread.run_sync(self.fuzz.ledger, TODAY)
        begun = [target for target, row in ledger.items() if row.id in ids]
        self.figures += found_at_kill(ledger, begun, self.journals.by_target(), planned=bool(ledger))
        for target in begun:
            self.lost_tries.setdefault(target, set()).add(ledger[target].try_no)
        await until(partial(answered, self.place.servers, killed), "the dead one's calls to be answered")
        if not self.plan.patient:
            await self.sql(AGE.format(pid=pid))

    async def ended(self) -> None:
        """Wait for the end of the day, as each member sees it, and end all."""
        await until(lambda: not self._struck, "frozen and cut off members to go on")
        await until(partial(is_over, self.seen), "the day to be completed")  # before, some sleep until it begins
        for member in self.members:
            await member.done()

    def has_reached(self, messages: int) -> bool:
        """Whether so many messages were accepted, or there will be no more."""
        return self.journals.count() >= messages or is_over(self.seen)


@frozen
class Played:
    """What a round came to."""

    round: Round
    counted: tuple[Counted, ClusterLimits] | None


async def play(template: Template, folder: Path, number: int, seed: int, hows: tuple[str, ...] = STRIKES) -> Played:
    """Play the round of this *number*."""
    began, random = time.monotonic(), Random(f"{seed} {number}")
    plan, wrong, figures, counted = Plan.of(number, random, hows), list[str](), Counter[str](), None
    with ExitStack() as stack:
        servers = await trio.to_thread.run_sync(stack.enter_context, running_servers(folder / "servers"))
        place = await trio.to_thread.run_sync(stack.enter_context, template.place(folder, servers))
        fuzz = fuzz_in(place, keys=True, random=random, day=TODAY)
        fuzz.latency_ms = LATENCY_MS
        try:
            with trio.fail_after(ROUND_SECONDS):
                figures, wrong, counted = await _play(fuzz, folder, plan)
        except* (AssertionError, trio.TooSlowError) as group:
            wrong += [f"{type(error).__name__} {str(error)[-2000:]}" for error in _leaves(group)]
    figures += Counter({"rounds": 1, REAL: int(plan.patient), TROUBLED: int(plan.trouble), BROKEN: len(wrong)})
    figures += Counter({"milliseconds": int(1000 * (time.monotonic() - began))})
    broken = Round(figures, [f"round {number}: {line}" for line in wrong])
    return Played(broken, (counted, plan.limits) if counted else None)


async def _play(fuzz: Fuzz, folder: Path, plan: Plan) -> tuple[Counter[str], list[str], Counted]:
    place = fuzz.place
    wanted, journals = fuzz.prepare(TODAY, trouble=plan.trouble), Journals.from_now_on(place.servers)
    seen = folder / "seen"
    with looking(place, seen):
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            scene = Scene(fuzz, journals, plan, {}, folder, seen, stack, nursery)
            for _ in range(MEMBERS):
                await scene.start(daemon=True, window=AHEAD, cluster=CLUSTER)
            for member in scene.members:
                await member.asleep()
            scene.tables = plan.tables()  # a window that ends soon, from now on
            for member in scene.members:
                member.configure(**scene.tables)
                member.process.send_signal(signal.SIGHUP)
            for strike in plan.strikes:
                told = int(strike.share * len(wanted))
                await until(partial(scene.has_reached, told), "messages")
                if is_over(seen):
                    scene.figures[TOO_LATE] += strike.how == "kill"
                else:
                    await scene.strike(strike)
            wrong = list(too_early(fuzz.ledger(TODAY), journals.by_target(), wanted))
            await scene.ended()
    audit, run = fuzz.audit(TODAY)
    ledger, accepted, keyed = fuzz.ledger(TODAY), journals.by_target(), frozenset({"email"})
    if plan.limits.per_day:
        wanted |= {target: "expired" for target, row in ledger.items() if _is_beyond_quota(row.channel, row.reason)}
    story = Story(wanted, ledger, accepted, keyed, scene.lost_tries, audit, run, {}, 0, unsure=plan.is_unsure)
    wrong += badly_done(story)
    counted = Counted.by(place.servers)
    wrong += [*badly_shared(looks(seen), plan.limits), *counted.beyond(plan.limits)]
    nobody_died = not scene.figures["kills"] and not plan.is_unsure
    if nobody_died and counted.mails < min(plan.limits.per_day, sum(row.channel == "email" for row in ledger.values())):
        wrong.append(f"{counted.mails} mails of {plan.limits.per_day} in the day, though nobody died")
    return scene.figures + figures_of(story), wrong, counted


def _is_beyond_quota(channel: str, reason: str | None) -> bool:
    return channel == "email" and (reason or "").startswith("window_ended")


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The errors in a group of groups."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def play_all(template: Template, folder: Path, rounds: int, seed: int, played: list[Played]) -> None:
    """Play so many *rounds*, a few at once, and say of each what broke."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def play_one(number: int) -> None:
        async with limiter:
            played.append(await play(template, folder / str(number), number, seed))
        sys.stderr.write("".join(f"BROKEN: {line}\n" for line in played[-1].round.broken))
        if len(played) % 10 == 0:
            total = sum((one.round.figures for one in played), Counter[str]())
            sys.stderr.write(f"{len(played)} rounds, {total['kills']} kills, {total[BROKEN]} broken\n")

    async with trio.open_nursery() as nursery:
        for number in range(1, rounds + 1):
            nursery.start_soon(play_one, number)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.cluster", description="Strike daemons that share a day, judge."
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    played: list[Played] = []
    with TemporaryDirectory(prefix="notifierd-cluster-") as directory:
        folder = Path(directory)
        with running_postgres(folder / "postgres") as cluster, running_template(cluster, folder) as template:
            try:
                trio.run(play_all, template, folder, options.rounds, options.seed, played)
            except* KeyboardInterrupt:
                pass  # what was found so far is told all the same
    total = sum((one.round.figures for one in played), Counter[str]())
    total += of_limits([one.counted for one in played if one.counted])
    sys.stdout.write(f"seed {options.seed}\n{table(total, keys=True)}\n")
    return 1 if total[BROKEN] or len(played) < options.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
