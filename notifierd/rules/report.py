"""The report of a run, for people and programs. Pure."""

from typing import Any, Literal

from attrs import asdict, frozen

from notifierd.model.counts import ChannelCounts, DayCounts
from notifierd.model.feedback import DayFeedback
from notifierd.model.reasons import Reason
from notifierd.rules.exits import EXIT_INTERRUPTED, EXIT_OK, EXIT_OUT_OF_REACH, EXIT_TROUBLE

RunState = Literal["completed", "interrupted", "skipped", "failed", "dry-run"]


ALREADY_COMPLETED = "already_completed"
"""The reason of a run that found its day completed and had nothing to do. The run before it reported the failures."""


def channels_json(email: ChannelCounts, push: ChannelCounts) -> dict[str, dict[str, int]]:
    """Return the counts of mails and pushes for a JSON object. Mails have no "gone": only a device can be gone."""
    return {"email": {key: n for key, n in asdict(email).items() if key != "gone"}, "push": asdict(push)}


@frozen
class RunResult:
    """How a run ended, and the counts of its day at that moment."""

    state: RunState
    reason: str | None
    counts: DayCounts | None

    @property
    def will_be_resumed(self) -> bool:
        """Whether the next start goes on with the run. The end of its window ends it, even if not all was planned."""
        return self.state == "interrupted" and self.reason != Reason.PLAN_INCOMPLETE

    @classmethod
    def of(cls, counts: DayCounts, stopped: str | None, *, is_planned: bool = True) -> "RunResult":
        """Return the result of a run that ended by itself, or was *stopped* for a reason.

        Args:
            is_planned: whether the day's plan is complete.
        """
        if counts.backlog.open or (not is_planned and stopped == "signal"):
            return cls("interrupted", stopped or Reason.INTERRUPTED, counts)
        if not is_planned:
            return cls("interrupted", Reason.PLAN_INCOMPLETE, counts)
        return cls("completed", None, counts)


@frozen
class RunReport:
    """The report of one run; ``as_json`` has the shape that docs/commands.md shows.

    Attributes:
        feedback: what became of the day's mails, if the run found the day completed and had nothing to do.
    """

    day: str
    result: RunResult
    reads: int
    writes: int
    seconds: float
    feedback: DayFeedback | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        match self.result.state:
            case "interrupted":
                return EXIT_INTERRUPTED
            case "failed":
                return EXIT_OUT_OF_REACH
            case "skipped" | "dry-run":
                return EXIT_OK
        counts = self.result.counts
        if counts is None or self.result.reason == ALREADY_COMPLETED:
            return EXIT_OK
        lost = counts.email.lost + counts.push.lost
        return EXIT_TROUBLE if lost or counts.offices_failed else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        counts = self.result.counts
        email, push = (counts.email, counts.push) if counts else (ChannelCounts(), ChannelCounts())
        offices, failed = (counts.offices, counts.offices_failed) if counts else (0, 0)
        return {
            "day": self.day,
            "status": self.result.state,
            "reason": self.result.reason,
            "offices": {"total": offices, "ok": offices - failed, "failed": failed},
            **channels_json(email, push),
            "untold": {
                "alerts": counts.untold_alerts if counts else 0,
                "overdue": counts.untold_overdue if counts else 0,
                "offices": len(counts.untold_offices) if counts else 0,
            },
            "feedback": self.feedback and self.feedback.as_json(),
            "statements": {"read": self.reads, "write": self.writes},
            "seconds": round(self.seconds, 3),
            "failures": [
                {"office_id": str(failure.office_id), "channel": failure.channel.value, "reason": failure.reason}
                for failure in (counts.failures if counts else ())
            ],
            "failures_omitted": counts.failures_omitted if counts else 0,
        }
