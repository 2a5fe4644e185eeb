"""A short form of the crash fuzz (`make crash` does the rest), and its judgement judged."""

from collections import Counter
from pathlib import Path

import pytest
from attrs import evolve

from notifierd.demo.postgres import Cluster
from tests.experiments.fuzz import BROKEN, open_fuzz
from tests.experiments.verdict import Row, Story, broken

ROUNDS = 1
MAIL = Row("d1", "email", "o1", "s1", None, "sent", 1, 0, "m1", None, bare=False)
PUSH = Row("d2", "push", "o1", "s1", "phone", "sent", 1, 0, None, None, bare=False)
ONE_OF_EACH = {"planned": 1, "sent": 1, "failed": 0, "unknown": 0, "expired": 0, "open": 0}
QUIET = Story(
    wanted={"mail": "sent", "phone": "sent"},
    ledger={"mail": MAIL, "phone": PUSH},
    accepted={"mail": ["m1"], "phone": ["p1"]},
    keyed=frozenset({"email"}),
    lost_tries={},
    audit=Counter([("email_notification", "o1", "s1"), ("push_notification", "o1", "s1")]),
    run=("completed", None, 0),
    report={
        "status": "completed",
        "reason": None,
        "offices": {"total": 1, "ok": 1, "failed": 0},
        "email": ONE_OF_EACH,
        "push": ONE_OF_EACH | {"gone": 0},
        "untold": {"alerts": 0, "overdue": 0, "offices": 0},
        "failures": [],
        "failures_omitted": 0,
    },
    code=0,
)
IN_FLIGHT = {"mail": {1}, "phone": {1}}
DOUBTED = evolve(PUSH, doubts=1)


@pytest.mark.parametrize(("keys", "smtp"), [(True, False), (False, True)], ids=["keys", "smtp"])
def test_killed_and_started_again_nobody_is_lost_and_nobody_told_twice_but_where_a_kill_left_a_doubt(
    cluster: Cluster, tmp_path: Path, keys: bool, smtp: bool
):
    with open_fuzz(cluster, tmp_path, keys=keys, seed=3, smtp=smtp) as fuzz:
        rounds = [fuzz.round() for _ in range(ROUNDS)]
    assert [line for one in rounds for line in one.broken] == []
    total = sum((one.figures for one in rounds), Counter[str]())
    assert total["kills"] >= ROUNDS
    assert total["deliveries (push, no keys)"] == 96 * ROUNDS
    assert total[BROKEN] == 0


@pytest.mark.parametrize(
    "fine",
    [
        QUIET,
        evolve(QUIET, lost_tries=IN_FLIGHT, ledger={"mail": MAIL, "phone": DOUBTED}),
        evolve(
            QUIET,
            lost_tries=IN_FLIGHT,
            ledger={"mail": MAIL, "phone": DOUBTED},
            accepted={"mail": ["m1"], "phone": ["p1", "p2"]},
        ),
    ],
    ids=["quiet", "in flight at a kill", "doubled by a kill"],
)
def test_a_round_that_kept_the_promises_is_not_blamed(fine: Story):
    assert broken(fine) == []


@pytest.mark.parametrize(
    ("story", "blame"),
    [
        (evolve(QUIET, ledger={"mail": MAIL}), "lost, never planned: phone"),
        (evolve(QUIET, wanted={"mail": "sent"}), "though nothing is due: phone"),
        (evolve(QUIET, ledger={"mail": evolve(MAIL, state="sending"), "phone": PUSH}), "did not end as it should"),
        (evolve(QUIET, ledger={"mail": evolve(MAIL, state="failed"), "phone": PUSH}), "no reason"),
        (evolve(QUIET, accepted={"mail": ["m1", "m2"], "phone": ["p1"]}), "told too often"),
        (evolve(QUIET, accepted={"mail": ["m1", "m2"], "phone": ["p1"]}, lost_tries=IN_FLIGHT), "told too often"),
        (evolve(QUIET, accepted={"mail": ["m1"], "phone": ["p1", "p2"]}), "told too often"),
        (evolve(QUIET, accepted={"mail": ["m1"], "phone": ["1", "2", "3"]}, lost_tries=IN_FLIGHT), "told too often"),
        (evolve(QUIET, lost_tries=IN_FLIGHT), "the ledger does not say which were in doubt"),
        (evolve(QUIET, ledger={"mail": MAIL, "phone": DOUBTED}), "the ledger does not say which were in doubt"),
        (evolve(QUIET, accepted={"mail": ["m1"]}), "called sent, and never accepted"),
        (evolve(QUIET, accepted={"mail": ["m2"], "phone": ["p1"]}), "under an id that the provider never gave"),
        (evolve(QUIET, audit=QUIET.audit + Counter([("push_notification", "o1", "s1")])), "audit rows and ledger"),
        (evolve(QUIET, audit=Counter([("email_notification", "o1", "s1")])), "audit rows and ledger"),
        (evolve(QUIET, ledger={"mail": evolve(MAIL, bare=True), "phone": PUSH}), "lacking their audit row"),
        (evolve(QUIET, report={**QUIET.report, "email": {}}), "the report says"),
        (evolve(QUIET, report={**QUIET.report, "untold": {"offices": 1}}), "untold"),
        (evolve(QUIET, report={}), "the report says"),
        (evolve(QUIET, code=1), "exit code 1"),
        (evolve(QUIET, run=("running", "somebody", 0)), "the run is left behind"),
        (evolve(QUIET, run=("completed", None, 1)), "the run is left behind"),
    ],
)
def test_a_broken_promise_is_seen(story: Story, blame: str):
    assert [line for line in broken(story) if blame in line]
