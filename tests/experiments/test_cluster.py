"""Daemons that share a day, of which some are killed, terminated or join; `make cluster` strikes more of them."""

from collections import Counter
from pathlib import Path

from tests.experiments.cluster import play_all
from tests.experiments.fuzz import Round
from tests.support.processes import Template

ROUNDS = 3


async def test_whoever_is_struck_the_others_tell_everybody_once(template: Template, tmp_path: Path):
    played: list[Round] = []
    await play_all(template, tmp_path, ROUNDS, seed=2, played=played)
    assert [line for one in played for line in one.broken] == []
    total = sum((one.figures for one in played), Counter[str]())
    assert total["deliveries (email, keys)"] == 80 * ROUNDS
    assert total["accepted twice (email, keys)"] == 0
