"""Bugs to plant in a simulation, each of which some seed must show: ``python -m tests.experiments.plants [NAME ...]``.

For each it prints the first seed that shows it, the promise that it broke, and the seconds that took.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID

from attrs import frozen

from notifierd.model.delivery import Delivery
from notifierd.model.errors import StatementRefused
from notifierd.model.message import Message
from notifierd.model.outcome import Delivered, Outcome
from notifierd.rules.breaker import CircuitBreaker
from notifierd.run.record.recorder import Recorder
from tests.experiments import member_plants, sim
from tests.experiments.troubles import Kind


@contextmanager
def random_key() -> Iterator[None]:
    """Give a call another key when a database forgot it and it is composed again."""
    random, salts = Random(0), dict[str, int]()
    statement, answer = sim.Process.statement, sim.Simulation.answer

    @wraps(statement)
    async def reserving(self: sim.Process, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "reserve":
            for reservation in args[2]:
                if reservation.deliveries[0].call_tries <= 1:
                    salts[str(reservation.call_id)] = random.getrandbits(64)
        return await statement(self, name, *args, **kwargs)

    @wraps(answer)
    def salted(
        self: sim.Simulation, service: sim.Service, messages: Sequence[Message], body: bytes, key: str
    ) -> list[Outcome]:
        return answer(self, service, messages, body, f"{key} {salts[key]}")

    with patch.object(sim.Process, "statement", reserving), patch.object(sim.Simulation, "answer", salted):
        yield


@contextmanager
def late_pass() -> Iterator[None]:
    """Let a call that began before its breaker opened close the breaker."""
    record = CircuitBreaker.record

    @wraps(record)
    def recording(self: CircuitBreaker, outcomes: Sequence[Outcome], _: float, *others: Any) -> None:
        record(self, outcomes, self._clock(), *others)

    with patch.object(CircuitBreaker, "record", recording):
        yield


@contextmanager
def dropped_outcome() -> Iterator[None]:
    """Forget an outcome whose settlement was refused, though not for a lock."""
    statement = sim.Process.statement

    def knowing_none(_: Recorder, __: Iterable[Delivery]) -> set[UUID]:
        return set()

    @wraps(statement)
    async def dropping(self: sim.Process, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await statement(self, name, *args, **kwargs)
        except StatementRefused as refused:
            if name != "settle" or refused.reason.endswith("40001"):
                raise
            return set()

    with (
        patch.object(sim.Process, "statement", dropping),
        patch.object(Recorder, "settle_forgotten", knowing_none),
    ):
        yield


@contextmanager
def stale_data() -> Iterator[None]:
    """Let the process see the application's data as it was half a minute ago."""
    with patch.object(sim.Simulation, "seen_after", 30.0):
        yield


@contextmanager
def raising_parser() -> Iterator[None]:
    """Raise at some answers, after the messages were taken."""
    call = sim.Process.call

    @wraps(call)
    async def raising(
        self: sim.Process, name: str, messages: Sequence[Message], body: bytes, key: str
    ) -> list[Outcome]:
        outcomes = await call(self, name, messages, body, key)
        if isinstance(outcomes[0], Delivered) and messages[0].delivery_id.int % 5 == 0:
            raise OverflowError
        return outcomes

    with patch.object(sim.Process, "call", raising):
        yield


@frozen
class Plant:
    """A bug.

    Attributes:
        kinds: the kinds of trouble with which worlds show it.
        first: a seed from which on it is shown soon, for the test suite.
    """

    planted: Callable[[], AbstractContextManager[None]]
    kinds: frozenset[Kind]
    first: int = 0


CLUSTER = frozenset({Kind.CLUSTER})

PLANTS: Mapping[str, Plant] = {
    "random-key": Plant(random_key, frozenset({Kind.FORGETTING})),
    "late-pass": Plant(late_pass, frozenset({Kind.ANSWERS})),
    "dropped-outcome": Plant(dropped_outcome, frozenset({Kind.REFUSALS})),
    "stale-data": Plant(stale_data, frozenset({Kind.CHANGES})),
    "raising-parser": Plant(raising_parser, frozenset()),
    "grant-released-early": Plant(member_plants.grant_released_early, CLUSTER, 70),
    "others-not-counted": Plant(member_plants.others_not_counted, CLUSTER),
    "lead-taken": Plant(member_plants.lead_taken, CLUSTER),
    "epoch-ignored": Plant(member_plants.epoch_ignored, CLUSTER, 95),
    "claim-without-lease": Plant(member_plants.claim_without_lease, CLUSTER),
    "ended-without-claim": Plant(member_plants.ended_without_claim, CLUSTER, 85),
    "finished-by-anybody": Plant(member_plants.finished_by_anybody, CLUSTER),
    "reserved-by-strangers": Plant(member_plants.reserved_by_strangers, CLUSTER),
    "drawn-without-lock": Plant(member_plants.drawn_without_lock, CLUSTER),
    "draws-not-counted": Plant(member_plants.draws_not_counted, CLUSTER, 240),
    "never-recounted": Plant(member_plants.never_recounted, CLUSTER, 110),
}


def first_shown(name: str, seeds: Sequence[int]) -> tuple[int, str] | None:
    """The first of *seeds* that shows the bug *name*, and the promise that it broke; None if none does."""
    plant = PLANTS[name]
    with plant.planted():
        for seed in seeds:
            _, _, broken = sim.one_seed(seed, plant.kinds)
            if broken:
                return seed, broken[0]
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Plant bugs, and have the simulator find them.")
    parser.add_argument("names", nargs="*", default=list(PLANTS), metavar="NAME", help=", ".join(PLANTS))
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    sim.quiet()
    missed = 0
    for name in options.names:
        began = time.monotonic()
        shown = first_shown(name, range(options.runs))
        missed += shown is None
        found = f"seed {shown[0]}: {shown[1]}" if shown else f"not found in {options.runs} seeds"
        sys.stdout.write(f"{name}, {time.monotonic() - began:.1f} s: {found}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
