"""A short form of the simulator: every single fault, and some seeds. `make sim` does the rest."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
import trio
from attrs import evolve

from tests.experiments import plants, sim
from tests.experiments.troubles import Kind

SEEDS = [range(start, start + 25) for start in range(0, 100, 25)]

pytestmark = pytest.mark.no_cover  # measured, it would take twice as long, and show nothing that other tests do not


@pytest.fixture(autouse=True)
def _schedule_as_before() -> Iterator[None]:
    """Give Trio's scheduling back to chance afterwards."""
    yield
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = False  # type: ignore[misc]


@pytest.mark.parametrize("keyed", [True, False])
def test_every_single_fault_at_every_boundary_keeps_the_promises(keyed: bool) -> None:
    runs, struck, broken = sim.exhaustive(keyed=keyed)
    assert broken == []
    assert runs > 200
    assert set(struck) == set(sim.FAULTS)


@pytest.mark.parametrize("keyed", [True, False])
def test_single_faults_of_processes_that_share_the_day_keep_the_promises(keyed: bool) -> None:
    runs, struck, broken = sim.exhaustive(keyed=keyed, members=3, every=9)
    assert broken == []
    assert runs > 50
    assert set(struck) == set(sim.MEMBERS_FAULTS)


@pytest.mark.parametrize("seeds", SEEDS)
def test_several_faults_at_random_boundaries_keep_the_promises(seeds: range) -> None:
    ends = [sim.one_seed(seed) for seed in seeds]
    assert [(seed, line) for seed, _, broken in ends for line in broken] == []


def test_a_standby_and_a_provider_that_is_out_cost_a_simulated_window_few_steps() -> None:
    world = evolve(sim.a_quiet_world(keyed=True), standby=True, outage=(0.0, sim.WINDOW))
    sim.schedule_by(0)
    waiting = sim.Simulation(world, lambda _, __: None, Random(0))
    assert waiting.run() == []
    assert waiting._base == pytest.approx(sim.WINDOW, abs=sim.LONGEST_POLL)
    assert len(waiting.boundaries) < 2000, Counter(boundary.name for boundary in waiting.boundaries)


@pytest.mark.parametrize("kind", Kind)
def test_worlds_with_one_kind_of_trouble_keep_the_promises(kind: Kind) -> None:
    ends = [sim.one_seed(seed, {kind}) for seed in range(40)]
    assert [(seed, line) for seed, _, broken in ends for line in broken] == []


@pytest.mark.parametrize("name", plants.PLANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    first = plants.PLANTS[name].first
    assert plants.first_shown(name, range(first, first + 400)) is not None


def test_a_seed_replays_to_the_letter() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        sim.seeded(41, trace.append).run()
    assert traces[0] == traces[1]
    assert len(traces[0]) > 2
