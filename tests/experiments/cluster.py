"""Several daemons on one day, struck at random: ``python -m tests.experiments.cluster --rounds 200``, `make cluster`.

In each round the window opens for three ``notifierd run`` that share the day. While they send, some are struck: killed
or terminated, the leader more often than others, and another one joins. At least one goes on. The offices, the trouble
and the judgement are those of fuzz.py and verdict.py; each round has a database and providers of its own.

A killed one's lease lasts 15 s, and its tries as long. In every fourth round both run out by themselves; in the others
they are put to their end after the kill. The seed decides whom to strike, when and how; what a moment hits, the machine
decides.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio
from attrs import define, field

from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import running_servers
from tests.experiments.fuzz import (
    BROKEN,
    REAL,
    SEND_TIMEOUT,
    TROUBLE,
    TROUBLED,
    Fuzz,
    Journals,
    Round,
    figures_of,
    fuzz_in,
    table,
    too_early,
)
from tests.experiments.verdict import Story, badly_done
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import until
from tests.support.processes import Place, Template, running_template

AT_ONCE = 2
"""Rounds that are played at once, on two processors: most of their time is waiting."""

REAL_WAIT_EVERY = 4
MEMBERS = 3
STRIKES = ("kill", "kill the leader", "terminate", "terminate the leader", "join")
LIMITS = {"email": 4, "push": 8}

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
        lost_tries: for each target, the tries that a kill found in flight.
    """

    fuzz: Fuzz
    journals: Journals
    stack: AsyncExitStack
    patient: bool
    alive: list[Service] = field(factory=list)
    lost_tries: dict[str, set[int]] = field(factory=dict)
    figures: Counter[str] = field(factory=Counter)

    @property
    def place(self) -> Place:
        return self.fuzz.place

    async def start(self) -> Service:
        service = await self.stack.enter_async_context(running_service(self.place))
        self.alive.append(service)
        return service

    def leader(self) -> Service | None:
        """The daemon that leads at the moment."""
        pid = self.place.sql(LEADER)
        return next((service for service in self.alive if str(service.process.pid) == pid), None)

    async def strike(self, how: str) -> None:
        """Strike one of those that go on, unless it is the last one."""
        if how == "join":
            await self.start()
            self.figures["joined"] += 1
            return
        if len(self.alive) < 2:
            return
        victim = (self.leader() if "leader" in how else None) or self.fuzz.random.choice(self.alive)
        self.figures[how] += 1
        self.alive.remove(victim)
        if "terminate" in how:
            victim.tell(signal.SIGTERM)
            await victim.over()
        else:
            await self.kill(victim)

    async def kill(self, victim: Service) -> None:
        victim.tell(signal.SIGKILL)
        await victim.over()
        pid = victim.process.pid
        self.figures["kills"] += 1
        self.place.sql(GONE)
        ids = set(self.place.sql(LEFT_BEHIND.format(pid=pid)).split())
        for target, row in self.fuzz.ledger(TODAY).items():
            if row.id in ids:
                self.lost_tries.setdefault(target, set()).add(row.try_no)
        if not self.patient:
            self.place.sql(AGE.format(pid=pid))


async def play(template: Template, folder: Path, number: int, seed: int, strikes: tuple[str, ...] = STRIKES) -> Round:
    """Play the round of this *number*."""
    began, random, patient = time.monotonic(), Random(f"{seed} {number}"), number % REAL_WAIT_EVERY == 0
    with ExitStack() as stack:
        servers = await trio.to_thread.run_sync(stack.enter_context, running_servers(folder / "servers"))
        place = await trio.to_thread.run_sync(stack.enter_context, template.place(folder, servers))
        fuzz = fuzz_in(place, keys=True, random=random, day=TODAY)
        trouble = random.random() < TROUBLE
        wanted, journals = fuzz.prepare(TODAY, trouble=trouble), Journals.from_now_on(place.servers)
        async with AsyncExitStack() as services:
            scene = Scene(fuzz, journals, services, patient)
            place.configure(window=AHEAD, cluster={"share": True})
            for _ in range(MEMBERS):
                await scene.start()
            for service in scene.alive:
                await until(partial(service.shows, "sleeping until"), "a daemon to sleep")
            limits = {**LIMITS, **({"send_timeout": SEND_TIMEOUT} if patient else {})}
            place.configure(window=OPEN, cluster={"share": True}, limits=limits)
            for service in scene.alive:
                service.tell(signal.SIGHUP)
            for strike in sorted(random.sample(range(len(wanted)), 2)):
                await until(partial(_reached, scene, strike), "messages")
                if strike < len(wanted) - 1:
                    await scene.strike(random.choice(strikes))
            wrong = list(too_early(fuzz.ledger(TODAY), journals.by_target(), wanted))
            for service in scene.alive:
                await until(partial(service.shows, "sleeping until"), "the day to be done")
                service.tell(signal.SIGTERM)
                await service.ended(0)
        audit, run = fuzz.audit(TODAY)
        ledger, accepted, keyed = fuzz.ledger(TODAY), journals.by_target(), frozenset({"email"})
        story = Story(wanted, ledger, accepted, keyed, scene.lost_tries, audit, run, {}, 0)
    wrong += badly_done(story)
    figures = scene.figures + figures_of(story)
    figures += Counter({"rounds": 1, REAL: int(patient), TROUBLED: int(trouble), BROKEN: len(wrong)})
    figures += Counter({"milliseconds": int(1000 * (time.monotonic() - began))})
    return Round(figures, [f"round {number}: {line}" for line in wrong])


def _reached(scene: Scene, messages: int) -> bool:
    return scene.journals.count() >= messages


async def play_all(template: Template, folder: Path, rounds: int, seed: int, played: list[Round]) -> None:
    """Play so many *rounds*, a few at once, and say of each what broke."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def play_one(number: int) -> None:
        async with limiter:
            played.append(await play(template, folder / str(number), number, seed))
        sys.stderr.write("".join(f"BROKEN: {line}\n" for line in played[-1].broken))

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
    played: list[Round] = []
    with TemporaryDirectory(prefix="notifierd-cluster-") as directory:
        folder = Path(directory)
        with running_postgres(folder / "postgres") as cluster, running_template(cluster, folder) as template:
            try:
                trio.run(play_all, template, folder, options.rounds, options.seed, played)
            except* KeyboardInterrupt:
                pass  # what was found so far is told all the same
    total = sum((one.figures for one in played), Counter[str]())
    strikes = ", ".join(f"{how}: {total[how]}" for how in (*STRIKES[:-1], "joined"))
    sys.stdout.write(f"seed {options.seed}\n{strikes}\n{table(total, keys=True)}\n")
    return 1 if total[BROKEN] or len(played) < options.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
