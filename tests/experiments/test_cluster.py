"""Daemons that share a day, of which some are struck, or join; `make cluster` strikes more of them."""

from collections import Counter
from pathlib import Path

from tests.experiments.cluster import Played, play_all
from tests.support.processes import Template

ROUNDS = 3


async def test_whoever_is_struck_the_others_tell_everybody_once(template: Template, tmp_path: Path):
    played: list[Played] = []
    await play_all(template, tmp_path, ROUNDS, seed=2, played=played)
    assert [line for one in played for line in one.round.broken] == []
    total = sum((one.round.figures for one in played), Counter[str]())
    assert total["deliveries (email, keys)"] == 80 * ROUNDS
    assert total["accepted twice (email, keys)"] == 0
