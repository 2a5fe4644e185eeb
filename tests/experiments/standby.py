"""Two daemons on one database, and the active one killed: ``python -m tests.experiments.standby --rounds 20``.

In each round the window opens for two ``notifierd run``: one has the day, the other stands by. When a random part of
the messages has been accepted, the one is killed with SIGKILL, and the other goes on. The offices, the trouble and the
judgement are those of fuzz.py and verdict.py; each round has a database and providers of its own.

The dead one's lease lasts 15 s, and its tries as long. In every fourth round both run out by themselves; in the others
they are put to their end after the kill. The seed decides when to kill; what a moment hits, the machine decides.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio
from attrs import frozen

from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import running_servers
from tests.experiments.fuzz import (
    BROKEN,
    JITTER,
    REAL,
    SEND_TIMEOUT,
    TROUBLE,
    TROUBLED,
    Ended,
    Fuzz,
    Journals,
    Round,
    age,
    figures_of,
    fuzz_in,
    landed,
    sessions_gone,
    table,
    too_early,
)
from tests.experiments.verdict import Story, badly_done
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import until
from tests.support.processes import Template, running_template

AT_ONCE = 3
"""Rounds that are played at once, on two processors: most of their time is waiting."""

REAL_WAIT_EVERY = 4


@frozen
class Played:
    """What a round came to.

    Attributes:
        idle: seconds from the kill until the other had the day.
        patient: the lease was left to run out by itself.
    """

    round: Round
    idle: float
    patient: bool


async def play(template: Template, folder: Path, number: int, seed: int) -> Played:
    """Play the round of this *number*."""
    random, patient = Random(f"{seed} {number}"), number % REAL_WAIT_EVERY == 0
    with ExitStack() as stack:
        servers = await trio.to_thread.run_sync(stack.enter_context, running_servers(folder / "servers"))
        place = await trio.to_thread.run_sync(stack.enter_context, template.place(folder, servers))
        fuzz = fuzz_in(place, keys=True, random=random, day=TODAY)
        place.configure(window=AHEAD)
        async with running_service(place) as active, running_service(place) as standby:
            return await kill_one(fuzz, active, standby, number, patient=patient)


async def kill_one(fuzz: Fuzz, active: Service, standby: Service, number: int, *, patient: bool) -> Played:
    """Kill the *active* one in mid-run, see how the other goes on, and judge."""
    began, place, random = time.monotonic(), fuzz.place, fuzz.random
    trouble = random.random() < TROUBLE
    wanted, journals = fuzz.prepare(TODAY, trouble=trouble), Journals.from_now_on(place.servers)
    told = int(random.random() * len(wanted))
    await asleep(active, standby)
    # Nobody waits for the others' tries to end, so their calls may be held up for long, as on a busy machine.
    place.configure(window=OPEN, limits={"send_timeout": SEND_TIMEOUT} if patient else {})
    await open_window(active, standby)
    await until(lambda: journals.count() >= told, "messages")
    await trio.sleep(random.uniform(0.0, JITTER))
    active.tell(signal.SIGKILL)
    killed, done = time.monotonic(), await active.over()

    place.sql(sessions_gone(place))
    ledger, accepted = fuzz.ledger(TODAY), journals.by_target()
    wrong = list(too_early(ledger, accepted, wanted))
    begun = [target for target, row in ledger.items() if row.state == "sending"]
    figures = Counter({"rounds": 1, REAL: int(patient), TROUBLED: int(trouble)})
    figures += landed(Ended(done.code, done.out, done.err), ledger, begun, accepted)
    lost_tries = {target: {ledger[target].try_no} for target in begun}
    if not patient:
        age(place, TODAY)
    await until(lambda: standby.said("planned") or standby.shows("sleeping until"), "the other to go on")
    idle = time.monotonic() - killed
    await until(lambda: standby.shows("sleeping until"), "the day to be done")
    standby.tell(signal.SIGTERM)
    await standby.ended(0)

    audit, run = fuzz.audit(TODAY)
    story = Story(wanted, fuzz.ledger(TODAY), journals.by_target(), frozenset({"email"}), lost_tries, audit, run, {}, 0)
    wrong += badly_done(story)
    figures += figures_of(story)
    figures += Counter({BROKEN: len(wrong), "milliseconds": int(1000 * (time.monotonic() - began))})
    return Played(Round(figures, [f"round {number}: {line}" for line in wrong]), idle, patient)


async def asleep(*services: Service) -> None:
    """Wait until they all are up, and sleep."""
    for service in services:
        await until(partial(service.shows, "sleeping until"), "a daemon to sleep")


async def open_window(active: Service, standby: Service) -> None:
    """Have two sleeping daemons load their files, in which the window is open now.

    Returns when the one has calls in flight and the other stands by; no provider answers meanwhile.
    """
    with active.place.frozen_servers():
        active.tell(signal.SIGHUP)
        await until(lambda: active.place.calls_in_flight() > 0, "calls in flight")
        standby.tell(signal.SIGHUP)
        await until(lambda: standby.said("standing_by"), "the other to stand by")


async def play_all(template: Template, folder: Path, rounds: int, seed: int, played: list[Played]) -> None:
    """Play so many *rounds*, a few at once, and say of each what broke."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def play_one(number: int) -> None:
        async with limiter:
            played.append(await play(template, folder / str(number), number, seed))
        sys.stderr.write("".join(f"BROKEN: {line}\n" for line in played[-1].round.broken))

    async with trio.open_nursery() as nursery:
        for number in range(1, rounds + 1):
            nursery.start_soon(play_one, number)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.standby", description="Kill one of two daemons, judge."
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    played: list[Played] = []
    with TemporaryDirectory(prefix="notifierd-standby-") as directory:
        folder = Path(directory)
        with running_postgres(folder / "postgres") as cluster, running_template(cluster, folder) as template:
            try:
                trio.run(play_all, template, folder, options.rounds, options.seed, played)
            except* KeyboardInterrupt:
                pass  # what was found so far is told all the same
    total = sum((one.round.figures for one in played), Counter[str]())
    idle = [one.idle for one in played if one.patient]
    sys.stdout.write(f"seed {options.seed}\n{table(total, keys=True)}\n")
    if idle:
        sys.stdout.write(f"where the lease ran out by itself, nobody had the day for {max(idle):.1f} s at most\n")
    return 1 if total[BROKEN] or len(played) < options.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
