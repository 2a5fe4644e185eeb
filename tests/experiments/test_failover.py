"""A short form of the rounds in which another database takes over (`make crash ARGS=--failover`, `ARGS=--restore`)."""

from collections import Counter
from pathlib import Path

import pytest
from attrs import evolve

from tests.experiments.failover import BACKUP, ENDED_BEFORE, REPLICA, Knowledge, open_failovers
from tests.experiments.test_crash import DOUBTED, MAIL, PUSH, QUIET
from tests.experiments.verdict import Story, broken

SEED = 3
"""With it 38 messages are forgotten, and the process dies with the database: who lives on waits 15 s longer."""

TWICE = {"mail": ["m1"], "phone": ["p1", "p2"]}
LATER = evolve(QUIET, took_over=True, run=("completed", None, 2))


@pytest.mark.parametrize("successor", [REPLICA, BACKUP], ids=["replica", "backup"])
def test_a_database_that_forgot_the_last_commits_loses_nobody_and_doubles_nobody_whose_key_is_honoured(
    tmp_path: Path, successor: str
):
    with open_failovers(tmp_path, successor, keys=True, seed=SEED) as fuzz:
        played = fuzz.round()
    assert played.broken == []
    assert played.figures["kills"] == 1
    assert not played.figures[ENDED_BEFORE]


@pytest.mark.parametrize(
    "fine",
    [
        LATER,
        evolve(LATER, forgotten={"phone": "planned"}, accepted=TWICE),
        evolve(LATER, forgotten={"phone": "sending"}),
        evolve(LATER, forgotten={"phone": "sending"}, ledger={"mail": MAIL, "phone": DOUBTED}),
        evolve(LATER, forgotten={"phone": "sending"}, ledger={"mail": MAIL, "phone": DOUBTED}, accepted=TWICE),
    ],
    ids=["late outcomes", "planned and doubled", "written again", "in doubt", "in doubt and doubled"],
)
def test_what_cannot_be_known_after_a_database_took_over_is_not_blamed(fine: Story):
    assert broken(fine) == []


@pytest.mark.parametrize(
    ("story", "blame"),
    [
        (evolve(LATER, accepted=TWICE), "told too often: phone"),
        (evolve(LATER, forgotten={"phone": "sending"}, accepted=TWICE), "told too often: phone"),
        (evolve(LATER, forgotten={"phone": "planned"}, accepted={"phone": ["1", "2", "3"]}), "told too often: phone"),
        (evolve(LATER, forgotten={"mail": "planned"}, accepted={"mail": ["m1", "m2"]}), "told too often: mail"),
        (evolve(LATER, ledger={"mail": MAIL, "phone": DOUBTED}), "does not say which were in doubt: phone"),
        (evolve(LATER, forgotten={"phone": "planned"}, accepted={"mail": ["m1"]}), "never accepted: phone"),
        (evolve(LATER, ledger={"mail": MAIL}), "lost, never planned: phone"),
        (evolve(LATER, run=("interrupted", None, 0)), "the run is left behind"),
    ],
)
def test_a_promise_that_was_broken_when_a_database_took_over_is_seen(story: Story, blame: str):
    assert [line for line in broken(story) if blame in line]


def test_what_a_database_forgot_is_what_is_open_there_and_was_begun():
    waiting = evolve(PUSH, state="planned")
    ledger = {"told": waiting, "waiting": waiting, "begun": evolve(PUSH, state="sending"), "known": PUSH}
    knowledge = Knowledge(ledger, accepted={"told": ["p1"], "known": ["p2"]})
    assert knowledge.forgotten() == {"told": "planned", "begun": "sending"}
    assert Counter(knowledge.figures()).total() == 2
