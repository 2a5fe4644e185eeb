"""What daemons that share a day do together, as the database and the providers see it, and what of that is too much."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from attrs import fields, frozen

from notifierd.demo.servers.process import Servers
from notifierd.rules.cluster.grants import ClusterLimits, Grant
from tests.support.processes import PATIENCE, Place
from tests.support.scripted_senders import most_at_once

EVERY = 0.1
"""Seconds between two looks at the database."""

TAIL = 16384
"""Bytes that hold the last look."""

JITTER = 0.25
"""Seconds by which two calls may come closer together on their way to a provider, on a busy machine."""

LOOK = """
select json_build_object(
    'state', r.state, 'leader', case when r.lease_until > clock_timestamp() then r.holder end,
    'members', (
        select coalesce(json_object_agg(m.name, json_build_object(
            'joined', m.joined_at, 'email', m.email, 'push', m.push, 'per_destination', m.per_destination,
            'per_second', m.per_second
        )), '{}') from notifierd.run_members m where m.day = r.day and m.until > clock_timestamp()
    )
) from notifierd.runs r
"""


@frozen
class Look:
    """The day at one moment: its run's state, who leads, and what each member is granted, whose lease is in force."""

    state: str
    leader: str | None
    members: Mapping[str, Mapping[str, Any]]


@contextmanager
def looking(place: Place, file: Path) -> Iterator[None]:
    """Have a psql look at the day again and again during the block; *file* gets what it sees."""
    command = [str(place.cluster.bin_dir / "psql"), "-XqAt", "-d", place.cluster.dsn(place.database)]
    with file.open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as process:
        assert process.stdin
        try:
            process.stdin.write(f"{LOOK.strip()}\n\\watch {EVERY}\n".encode())
            process.stdin.flush()
            yield
        finally:
            process.kill()
            process.stdin.close()


def looks(file: Path) -> list[Look]:
    """What was seen."""
    return [Look(**json.loads(line)) for line in _whole_lines(file.read_bytes())]


def is_over(file: Path) -> bool:
    """Whether the run was completed at the last look."""
    with file.open("rb") as seen:
        seen.seek(max(0, file.stat().st_size - TAIL))
        lines = _whole_lines(seen.read())
    return bool(lines) and json.loads(lines[-1])["state"] == "completed"


def _whole_lines(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines(keepends=True) if line.startswith(b"{") and line.endswith(b"}\n")]


def badly_shared(seen: Sequence[Look], limits: ClusterLimits) -> Iterator[str]:
    """Judge what was seen in the database: one leader, who keeps the lead, and no more granted than there is."""
    for one in fields(Grant):
        limit = getattr(limits, one.name)
        most = max((sum(member[one.name] for member in look.members.values()) for look in seen), default=0)
        if limit and most > limit:
            yield f"{most:g} of {limit:g} {one.name} were granted"
    for before, now in pairwise(seen):
        if before.leader is None or now.leader in {None, before.leader}:
            continue
        joined = now.members.get(before.leader, {}).get("joined")
        if joined and joined == before.members.get(before.leader, {}).get("joined"):
            yield f"{now.leader} took the lead from {before.leader}, which lives"


@frozen
class Calls:
    """The calls that a provider got: when each came and was answered, in seconds."""

    spans: Sequence[tuple[float, float]]
    in_progress: Sequence[float]

    @classmethod
    def to(cls, url: str) -> "Calls":
        """Ask the provider at *url*."""
        told = httpx.get(f"{url}/_received", timeout=PATIENCE).json()
        return cls([(call["began"], call["time"]) for call in told["calls"]], told["in_progress"])

    @property
    def most_at_once(self) -> int:
        """How many were in flight at once at most."""
        return most_at_once(self.spans)

    def most_within(self, seconds: float) -> int:
        """How many came within so many *seconds* at most."""
        moments = sorted(began for began, _ in self.spans)
        most = first = 0
        for last, moment in enumerate(moments):
            while moments[first] <= moment - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def answered(servers: Servers, since: float) -> bool:
    """Whether the providers answered all calls that had come by a moment of time.time()."""
    return all(began > since for url in (servers.mail_url, servers.push_url) for began in Calls.to(url).in_progress)


@frozen
class Counted:
    """What the providers counted, over all processes: the most calls at once and in a second, and the mails."""

    mail_calls: int
    pushes: int
    in_a_second: int
    in_less: int
    mails: int

    @classmethod
    def by(cls, servers: Servers) -> "Counted":
        """Ask the providers."""
        mails, pushes = Calls.to(servers.mail_url), Calls.to(servers.push_url)
        within = mails.most_within(1.0), mails.most_within(1.0 - JITTER)
        return cls(mails.most_at_once, pushes.most_at_once, *within, len(servers.mails()))

    def beyond(self, limits: ClusterLimits) -> Iterator[str]:
        """Judge it by the limits. All pushes go to one push service."""
        if self.mail_calls > limits.email:
            yield f"{self.mail_calls} mail calls in flight at once, of {limits.email}"
        if self.pushes > limits.per_destination:
            yield f"{self.pushes} pushes in flight at once to one push service, of {limits.per_destination}"
        if limits.per_second and self.in_less > limits.per_second:
            yield f"{self.in_less} mail calls within {1.0 - JITTER:g} s, of {limits.per_second:g} in a second"
        if limits.per_day and self.mails > limits.per_day:
            yield f"{self.mails} mails accepted, of {limits.per_day} in the day"


def of_limits(all_counted: Sequence[tuple[Counted, ClusterLimits]]) -> Counter[str]:
    """How many rounds reached a limit, and the most that a provider ever counted."""
    found: Counter[str] = Counter()
    for counted, limits in all_counted:
        found["rounds with as many mail calls at once as the limit"] += counted.mail_calls == limits.email
        found["rounds with as many pushes at once as the limit"] += counted.pushes == limits.per_destination
        if limits.per_second:
            found["rounds with a limited rate"] += 1
            key = "most mail calls within a second, where the rate is limited"
            found[key] = max(found[key], counted.in_a_second)
        if limits.per_day:
            found["rounds with a quota"] += 1
            found["rounds with a quota that was used up"] += counted.mails == limits.per_day
    return found
