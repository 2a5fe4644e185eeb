"""How much of the page's server each kind of request may have, in virtual time."""

from functools import partial

import pytest
import trio

from notifierd.web.server.places import ALIVE, METRICS, READER, READY, STRANGER, Kind, Pace, Places

SMALL = Kind("small", waiting=2, answered=2, per_second=10.0, burst=3)
OTHER = Kind("other", waiting=1, answered=1, per_second=10.0, burst=3)


async def test_after_a_burst_there_are_so_many_turns_in_a_second_first_come_first_served(autojump_clock):
    pace, turns = Pace(10.0, 3), []

    async def take(n: int) -> None:
        await trio.sleep(n * 0.001)
        await pace.turn()
        turns.append((n, round(trio.current_time(), 2)))

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(take, n)
    assert turns == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.1), (4, 0.2), (5, 0.3), (6, 0.4), (7, 0.5)]


async def test_a_quiet_time_gives_the_burst_back_and_no_more(autojump_clock):
    pace = Pace(10.0, 3)
    for quiet in (0.0, 1000.0):
        await trio.sleep(quiet)
        began = trio.current_time()
        for _ in range(5):
            await pace.turn()
        assert trio.current_time() - began == pytest.approx(0.2)


async def test_who_waits_longest_goes_when_another_one_comes_and_there_is_no_place(autojump_clock):
    places, left = Places(), []

    async def wait(n: int, kind: Kind) -> None:
        with places.waiting(kind, 100.0):
            await trio.sleep(1000.0)
        left.append((n, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for n, kind in enumerate((SMALL, OTHER, SMALL, SMALL, SMALL)):
            nursery.start_soon(wait, n, kind)
            await trio.sleep(1.0)
    assert left == [(0, 3.0), (2, 4.0), (1, 101.0), (3, 103.0), (4, 104.0)]


async def test_who_got_what_it_waited_for_has_left_its_place(autojump_clock):
    places = Places()
    with places.waiting(SMALL, 100.0):
        for _ in range(5):
            with places.waiting(SMALL, 100.0):
                await trio.sleep(1.0)
        await trio.sleep(1.0)
    assert trio.current_time() == 6.0


async def test_more_than_there_is_room_for_are_turned_away_and_other_kinds_are_not(autojump_clock):
    places, placed = Places(), []

    async def answer(kind: Kind) -> None:
        async with places.answered(kind) as has_place:
            placed.append((kind.name, has_place))
            await trio.sleep(5.0)

    async with trio.open_nursery() as nursery:
        for kind in (SMALL, SMALL, SMALL, OTHER):
            nursery.start_soon(answer, kind)
    assert sorted(placed) == [("other", True), ("small", False), ("small", True), ("small", True)]
    async with places.answered(SMALL) as has_place:
        assert has_place


async def test_who_is_cancelled_while_it_waits_for_its_turn_leaves_its_place(autojump_clock):
    places = Places()
    with trio.move_on_after(0.35):
        async with trio.open_nursery() as nursery:
            for _ in range(SMALL.answered):
                nursery.start_soon(partial(_be_answered, places))
    async with places.answered(SMALL) as has_place:
        assert has_place


async def _be_answered(places: Places) -> None:
    while True:
        async with places.answered(SMALL):
            await trio.lowlevel.checkpoint()


def test_all_connections_together_leave_descriptors_for_the_run():
    """1,024 are what systemd gives a service."""
    kinds = (STRANGER, ALIVE, READY, METRICS, READER)
    assert sum(kind.waiting + kind.answered for kind in kinds) <= 920
