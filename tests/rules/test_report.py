"""The report: its shape and the exit codes are those of docs/commands.md."""

import json
from uuid import UUID

import pytest
from attrs import evolve

from notifierd.model.counts import Backlog, ChannelCounts, DayCounts, Failure, Untold
from notifierd.model.delivery import Channel
from notifierd.rules.report import ALREADY_COMPLETED, RunReport, RunResult, RunState

DONE = Backlog(0, due_now=False, next_in=None)
OPEN = Backlog(3, due_now=True, next_in=None)
EMAIL = ChannelCounts(planned=21, sent=15, failed=1, unknown=2, expired=3)
PUSH = ChannelCounts(planned=13, sent=6, failed=1, gone=2, unknown=1, expired=3)
FAILURE = Failure(UUID(int=7), Channel.EMAIL, "rejected:422")
COUNTS = DayCounts(
    offices=9,
    offices_failed=2,
    email=EMAIL,
    push=PUSH,
    backlog=DONE,
    untold=(Untold(UUID(int=1), 3, 3), Untold(UUID(int=2), 2, 1)),
    failures=(FAILURE,),
    failures_omitted=6,
)
CLEAN = DayCounts(4, 0, ChannelCounts(planned=3, sent=3), ChannelCounts(planned=2, sent=1, gone=1), DONE)


def report(state: RunState, counts: DayCounts | None, reason: str | None = None) -> RunReport:
    return RunReport("2026-11-24", RunResult(state, reason, counts), reads=4, writes=11, seconds=1.23456)


def test_the_shape_is_the_one_that_is_promised():
    assert report("completed", COUNTS).as_json() == {
        "day": "2026-11-24",
        "status": "completed",
        "reason": None,
        "offices": {"total": 9, "ok": 7, "failed": 2},
        "email": {"planned": 21, "sent": 15, "failed": 1, "unknown": 2, "expired": 3, "open": 0},
        "push": {"planned": 13, "sent": 6, "failed": 1, "gone": 2, "unknown": 1, "expired": 3, "open": 0},
        "untold": {"alerts": 5, "overdue": 4, "offices": 2},
        "feedback": None,
        "statements": {"read": 4, "write": 11},
        "seconds": 1.235,
        "failures": [{"office_id": str(UUID(int=7)), "channel": "email", "reason": "rejected:422"}],
        "failures_omitted": 6,
    }


def test_a_skipped_day_has_the_same_shape_with_nothing_in_it():
    made = report("skipped", None, "holiday: 勤労感謝の日").as_json()
    full = report("completed", COUNTS).as_json()
    assert {key: list(part) if isinstance(part, dict) else None for key, part in made.items()} == {
        key: list(part) if isinstance(part, dict) else None for key, part in full.items()
    }
    assert (made["status"], made["reason"], made["failures"]) == ("skipped", "holiday: 勤労感謝の日", [])
    numbers = [made[part] for part in ("offices", "email", "push", "untold")]
    assert {number for part in numbers for number in part.values()} | {made["failures_omitted"]} == {0}


def test_a_report_is_json():
    assert json.loads(json.dumps(report("completed", COUNTS).as_json()))["status"] == "completed"


@pytest.mark.parametrize(
    ("state", "counts", "code"),
    [
        ("completed", CLEAN, 0),
        ("completed", None, 0),
        ("skipped", None, 0),
        ("dry-run", COUNTS, 0),
        ("completed", evolve(CLEAN, email=ChannelCounts(failed=1)), 1),
        ("completed", evolve(CLEAN, email=ChannelCounts(unknown=1)), 1),
        ("completed", evolve(CLEAN, email=ChannelCounts(expired=1)), 1),
        ("completed", evolve(CLEAN, push=ChannelCounts(failed=1)), 1),
        ("completed", evolve(CLEAN, push=ChannelCounts(unknown=1)), 1),
        ("completed", evolve(CLEAN, push=ChannelCounts(expired=1)), 1),
        ("completed", evolve(CLEAN, push=ChannelCounts(gone=9)), 0),
        ("completed", evolve(CLEAN, offices_failed=1), 1),
        ("completed", evolve(CLEAN, untold=(Untold(UUID(int=1), 3, 0),)), 0),
        ("failed", None, 3),
        ("interrupted", CLEAN, 4),
        ("interrupted", COUNTS, 4),
    ],
)
def test_the_exit_code_says_how_the_run_ended(state: RunState, counts: DayCounts | None, code: int):
    assert report(state, counts).exit_code == code


def test_a_run_that_found_its_day_completed_repeats_the_counts_and_not_the_exit_code():
    repeated = report("completed", COUNTS, ALREADY_COMPLETED)
    assert repeated.exit_code == 0
    assert repeated.as_json() == report("completed", COUNTS).as_json() | {"reason": "already_completed"}


def test_a_run_with_something_open_was_interrupted_and_says_why():
    assert RunResult.of(COUNTS, "signal") == RunResult("completed", None, COUNTS), "nothing was open when it came"
    cut = evolve(COUNTS, backlog=OPEN)
    assert RunResult.of(cut, "signal") == RunResult("interrupted", "signal", cut)
    assert RunResult.of(cut, None) == RunResult("interrupted", "interrupted", cut)
