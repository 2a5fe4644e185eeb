"""What happens in a round of cluster.py, as the seed has it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from attrs import frozen

from notifierd.rules.cluster.grants import ClusterLimits
from tests.experiments.fuzz import SEND_TIMEOUT, TROUBLE
from tests.support.daemon_process import OPEN

REAL_WAIT_EVERY = 4
QUOTA_EVERY = 8
MOST_STRIKES = 4
STRIKES = ("kill", "terminate", "freeze", "cut off", "silence", "join")
HARMLESS = ("terminate", "join")
"""What happens in most rounds with a quota: where nobody dies, it must be used up."""
LASTING = ("freeze", "cut off", "silence")
SHORT, LONG = (1.0, 5.0), (17.0, 21.0)
"""Seconds for which a member is frozen or cut off: for less than its lease, and for more."""

LIMITS = ClusterLimits(email=4, push=8, per_destination=2)
RATE, QUOTA = 6.0, 60
CLUSTER = {"share": True, "renew_seconds": 1.0}
WINDOW = 45.0
"""Seconds that the window stays open in a round with a quota."""


@frozen
class Strike:
    """What happens to whom, once so many messages were accepted.

    Attributes:
        share: the share of all messages that are accepted by then.
        at_leader: whether it is the leader that is struck.
        nth: who else, counted around those that can be struck.
        seconds: for how long.
        daemon: whether it is a daemon that joins.
    """

    how: str
    share: float
    at_leader: bool
    nth: int
    seconds: float
    daemon: bool


@frozen
class Plan:
    """A round as the seed has it.

    Attributes:
        trouble: whether the providers refuse some messages.
        patient: whether the lease of a killed one runs out by itself.
    """

    strikes: tuple[Strike, ...]
    trouble: bool
    patient: bool
    limits: ClusterLimits

    @classmethod
    def of(cls, number: int, random: Random, hows: tuple[str, ...]) -> "Plan":
        """Make the plan of the round of this *number*."""
        has_quota = number % QUOTA_EVERY == 6
        if has_quota and random.random() < 0.7:
            hows = HARMLESS
        strikes = sorted(
            (a_strike(random, hows) for _ in range(random.randint(1, MOST_STRIKES))), key=lambda s: s.share
        )
        per_second, per_day = random.choice([0.0, RATE]), QUOTA if has_quota else 0
        limits = ClusterLimits(LIMITS.email, LIMITS.push, LIMITS.per_destination, per_second, per_day)
        return cls(tuple(strikes), random.random() < TROUBLE, number % REAL_WAIT_EVERY == 0, limits)

    @property
    def is_unsure(self) -> bool:
        """Whether tries may be in doubt without a kill."""
        return any(strike.how in LASTING for strike in self.strikes)

    def tables(self) -> dict[str, Mapping[str, Any]]:
        """The configuration of each member, with the window open."""
        window = dict(OPEN)
        if self.limits.per_day:
            now = datetime.now(ZoneInfo(str(OPEN["timezone"])))
            window["until"] = f"{now + timedelta(seconds=WINDOW):%H:%M:%S}"
        limits: dict[str, Any] = {
            "email": self.limits.email,
            "push": self.limits.push,
            "email_per_second": self.limits.per_second,
            "email_per_day": self.limits.per_day,
        }
        if self.patient or self.is_unsure:  # else nobody waits for the end of others' tries
            limits["send_timeout"] = SEND_TIMEOUT
        return {"window": window, "cluster": CLUSTER, "limits": limits}


def a_strike(random: Random, hows: tuple[str, ...]) -> Strike:
    """Make one."""
    how, seconds = random.choice(hows), random.uniform(*random.choice([SHORT, LONG]))
    return Strike(how, random.random(), random.random() < 0.5, random.randrange(60), seconds, random.random() < 0.5)
