"""Rounds in which the database is killed, and one takes over that lacks the last commits. ``crash`` plays them.

In the middle of a run, when a random part of it is told:

    REPLICA   an asynchronous streaming replica stops receiving; some messages later the server is killed, the replica
              is promoted, and has the server's address
    BACKUP    a base backup is taken; some messages later the server is killed, and is started again from the backup

``once`` lives on, or is killed with the server and started again when the other has taken over. Who lives on waits for
its tries' real end, about 15 s, where the new database believes that they are not over.
"""

import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from random import Random

from attrs import define, evolve, frozen

from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import running_servers
from tests.experiments.fuzz import BROKEN, TROUBLE, TROUBLED, Fuzz, Journals, Round, age, figures_of, filled, wait
from tests.experiments.succession import Succession, promote, running_succession
from tests.experiments.verdict import Row, broken
from tests.support.processes import DAY, PATIENCE, running_template

REPLICA = "a replica without the last commits takes over"
BACKUP = "a base backup from the middle of the run takes over"

LATENCY_MS = (100.0, 200.0)
LIMITS = {"email": 3, "push": 12}
"""So slow that a run lasts some 4 s."""

EARLIEST, LATEST = 0.05, 0.5
"""When the new database's knowledge ends: the share of the messages that are accepted by then."""

MOST_BEHIND = 40
"""Messages that may be accepted from then on until the server is killed."""

QUIET = 3 * LATENCY_MS[1] / 1000
"""Seconds without a new message from which on no call is in flight: without a database none is begun."""

GIVES_UP = (3, 4)
"""Exit codes after which ``once`` is started again: the database was out of reach, or forgot whose day it is."""

MOST_STARTS = 4

GAVE_UP = "processes that ended as the database was away, and were started again"
ENDED_BEFORE = "rounds without another database: the process had ended before"


@frozen
class Knowledge:
    """What the database that took over had, and what was accepted by then."""

    ledger: Mapping[str, Row]
    accepted: Mapping[str, Sequence[str]]

    def figures(self) -> Counter[str]:
        """How much was forgotten."""
        states = Counter(self.forgotten().values())
        return Counter({f"rows {state} there, though begun or accepted": n for state, n in states.items()})

    def forgotten(self) -> dict[str, str]:
        """The targets of which it did not know how they had ended, as ``Story.forgotten`` has it."""
        return {
            target: row.state
            for target, row in self.ledger.items()
            if row.state == "sending" or (row.state == "planned" and target in self.accepted)
        }


@define(kw_only=True)
class Failovers(Fuzz):
    """Rounds of one kind of successor.

    Attributes:
        successor: which kind: REPLICA or BACKUP.
    """

    succession: Succession
    successor: str

    def round(self) -> Round:
        """Change the database once in the middle of a run, and judge when the run has ended."""
        began, self._number = time.monotonic(), self._number + 1
        day, dies = DAY + timedelta(days=self._number), self.random.random() < 0.5
        trouble = self.random.random() < TROUBLE
        wanted = self.prepare(day, trouble=trouble)
        journals = Journals.from_now_on(self.place.servers)
        figures, wrong = Counter({"rounds": 1, TROUBLED: int(trouble)}), list[str]()
        lost_tries: dict[str, set[int]] = defaultdict(set)
        found: list[Knowledge] = []

        with self.copies() as replica:
            strike = partial(self.change_servers, day, journals, replica, found, dies=dies)
            process = self.process(day, strike)
        if found and process.killed:
            figures["kills"] += 1
            for target, row in found[0].ledger.items():
                if row.state == "sending":
                    lost_tries[target].add(row.try_no)
            age(self.place, day)
        starts = 1
        while found and starts < MOST_STARTS and (process.killed or process.code in GIVES_UP):
            figures[GAVE_UP] += not process.killed
            wrong += process.leaks()
            process, starts = self.process(day), starts + 1

        story = self.story(day, wanted, journals, lost_tries, process)
        if found:
            story = evolve(story, took_over=True, forgotten=found[0].forgotten())
            figures += found[0].figures()
        wrong += [*process.leaks(), *broken(story)]
        figures += figures_of(story)
        took = int(1000 * (time.monotonic() - began))
        figures += Counter({ENDED_BEFORE: int(not found), BROKEN: len(wrong), "milliseconds": took})
        return Round(figures, [f"round {self._number}: {line}" for line in wrong])

    @contextmanager
    def copies(self) -> Iterator[Cluster | None]:
        """Have a replica follow, if this is about one; it goes if it does not take over in the block."""
        if self.successor != REPLICA:
            yield None
            return
        replica = self.succession.replica()
        try:
            yield replica
        finally:
            if self.succession.current is not replica:
                self.succession.discard(replica)

    def change_servers(
        self,
        day: date,
        journals: Journals,
        replica: Cluster | None,
        found: list[Knowledge],
        process: "subprocess.Popen[bytes]",
        err: Path,
        *,
        dies: bool,
    ) -> None:
        """Let another database take over at a random moment, and put into *found* what it knew; nothing if too late.

        Args:
            dies: whether the process dies with the database.
        """
        self.await_share(process, err, journals, self.random.uniform(EARLIEST, LATEST))
        if process.poll() is not None:
            return
        if replica is None:
            with stopped(process):  # or it would be at its end before, on a slow machine
                successor = self.succession.backup()
        else:
            successor = replica
            self.succession.fall_behind(replica)
        enough = journals.count() + self.random.randint(1, MOST_BEHIND)
        wait(process, lambda: journals.count() >= enough, PATIENCE)
        if process.poll() is not None:
            if replica is None:
                self.succession.discard(successor)
            return
        self.succession.fail()
        if dies:
            process.kill()
        await_quiet(journals)
        promote(successor)
        ledger = evolve(self, place=evolve(self.place, cluster=successor)).ledger(day)
        found.append(Knowledge(ledger, journals.by_target()))
        self.succession.follow(successor)


@contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Let *process* do nothing for the length of the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def await_quiet(journals: Journals) -> None:
    """Return when no message has been accepted for so long that no call is in flight any more."""
    count, since = journals.count(), time.monotonic()
    while time.monotonic() - since < QUIET:
        time.sleep(0.01)
        if journals.count() != count:
            count, since = journals.count(), time.monotonic()


@contextmanager
def open_failovers(folder: Path, successor: str, *, keys: bool, seed: int) -> Iterator[Failovers]:
    """Set everything up in *folder*."""
    with (
        running_succession(folder / "postgres") as succession,
        running_servers(folder / "servers") as servers,
        running_template(succession.address, folder) as template,
        template.place(folder, servers) as place,
    ):
        rows = filled(place, limits=LIMITS)
        yield Failovers(
            place=place,
            rows=rows,
            keys=keys,
            random=Random(seed),
            latency_ms=LATENCY_MS,
            succession=succession,
            successor=successor,
        )
