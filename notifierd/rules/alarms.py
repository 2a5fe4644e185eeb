"""Alarms for the operator: their causes, and what their texts mention. Pure. messages/alarms.py has the texts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid5

from attrs import Factory, asdict, frozen

from notifierd.config.settings import WatchSettings
from notifierd.model.counts import DayCounts, Untold
from notifierd.model.message import Alarm
from notifierd.model.reasons import Reason

OUT_SECONDS = 60.0
"""Seconds for which a sender fails every call before an alarm is raised: short outages are common."""

ENOUGH_MAILS = 200
"""Mails below which a bounce rate says nothing: with a hundred, two wrong addresses are two percent."""

SILENT = timedelta(hours=24)
"""How long a provider may not be asked completely before an alarm is raised: short outages are common."""

_RUNS = UUID("5b6f9c1e-4d0b-4a53-9d2e-6e6f74696679")


@frozen
class Running:
    """A run that is under way.

    Attributes:
        seconds: since it began; 0 if another process leads it, and tells of a slow run.
        done: how many of its *offices* were processed.
        blocked: by sender, the destinations that reject our credentials or account, with the reason.
        out: by sender, the destinations that have been out for OUT_SECONDS for another reason, with the reason.
    """

    day: date
    seconds: float
    done: int = 0
    offices: int = 0
    blocked: Mapping[str, Mapping[str, str]] = Factory(dict)
    out: Mapping[str, Mapping[str, str]] = Factory(dict)


def while_running(run: Running, watch: WatchSettings) -> Iterator[Alarm]:
    """Yield the alarms of a run that is under way."""
    if watch.run_seconds and run.seconds > watch.run_seconds:
        far = {"seconds": run.seconds, "limit": watch.run_seconds, "done": run.done, "offices": run.offices}
        yield Alarm(run.day, "slow", "slow", far)
    for sender, destinations in run.blocked.items():
        by_proxy = any(map(Reason.PROXY_AUTH_REQUIRED.begins, destinations.values()))
        values = {"sender": sender, "reasons": _reasons(sender, destinations)}
        yield Alarm(run.day, f"blocked:{sender}", "proxy_blocked" if by_proxy else "blocked", values)
    for sender, destinations in run.out.items():
        values = {"sender": sender, "reasons": _reasons(sender, destinations)}
        yield Alarm(run.day, f"out:{sender}", "out", {**values, "seconds": OUT_SECONDS})


def at_end(day: date, counts: DayCounts, watch: WatchSettings) -> Iterator[Alarm]:
    """Yield the alarms of a day whose run is over."""
    if too_many_failures(counts, watch):
        lost, planned = _lost(counts)
        values = {
            "lost": lost,
            "planned": planned,
            "share": lost / planned,
            "limit": watch.failure_ratio,
            "reasons": Counter(f"{failure.channel} {failure.reason}" for failure in counts.failures),
            "listed": len(counts.failures),
        }
        offices = Counter(failure.office_id for failure in counts.failures)
        named = tuple(office for office, _ in offices.most_common())
        yield Alarm(day, "failures", "failures_cut" if counts.failures_omitted else "failures", values, named)
    if counts.untold_overdue:
        overdue = tuple(office.office_id for office in counts.untold if office.overdue)
        yield Alarm(day, "untold", "untold", {"overdue": counts.untold_overdue, "offices": len(overdue)}, overdue)


def too_many_failures(counts: DayCounts, watch: WatchSettings) -> bool:
    """Whether the run counts as failed, because too many deliveries reached nobody."""
    lost, planned = _lost(counts)
    return lost > 0 and lost >= watch.failure_ratio * planned


def untold_later(day: date, untold: Sequence[Untold]) -> Alarm:
    """Return the alarm for offices whose mails were accepted, and then reached nobody."""
    offices = tuple(office.office_id for office in sorted(untold, key=lambda office: -office.overdue))
    values = {
        "alerts": sum(office.alerts for office in untold),
        "overdue": sum(office.overdue for office in untold),
        "offices": len(offices),
    }
    return Alarm(day, "untold_later", "untold_later", values, offices)


def bounces(day: date, mails: int, bounced: int, watch: WatchSettings) -> Iterator[Alarm]:
    """Yield the alarm for too many mails that bounced in the days up to *day*."""
    if watch.bounce_ratio and mails >= ENOUGH_MAILS and bounced >= watch.bounce_ratio * mails:
        values = {"bounced": bounced, "mails": mails, "share": bounced / mails, "limit": watch.bounce_ratio}
        yield Alarm(day, "bounces", "bounces", values)


def complaint(day: date, count: int) -> Alarm:
    """Return the alarm for recipients who reported a mail of *day* as spam."""
    return Alarm(day, "complaint", "complaint", {"recipients": count})


def no_feedback(day: date, provider: str, reason: str) -> Alarm:
    """Return the alarm for a provider that could not be asked for too long."""
    values = {"provider": provider, "hours": SILENT // timedelta(hours=1), "reason": reason}
    return Alarm(day, f"feedback:{provider}", "feedback", values)


def enforcement(day: date, provider: str, status: str) -> Alarm:
    """Return the alarm for a provider that restricts our account, which is in *status*."""
    return Alarm(day, f"enforcement:{provider}", "enforcement", {"provider": provider, "status": status})


def configs_differ(day: date, leader: str, tables: Sequence[str]) -> Alarm:
    """Return the alarm for a process that does not join *day*: the others have other *tables* of the configuration."""
    values = {"leader": leader, "tables": ", ".join(f"[{table}]" for table in tables)}
    return Alarm(day, "configs_differ", "configs_differ", values)


def missed(days: Mapping[date, str]) -> Alarm:
    """Return the alarm for windows that ended without a run: at least one, each with its reason."""
    last = max(days)
    return Alarm(last, "missed", "missed", {"days": {day: days[day] for day in sorted(days, reverse=True)}}, fails=True)


def failed(day: date, why: str) -> Alarm:
    """Return the alarm for a run that could not begin, or was broken off."""
    return Alarm(day, "failed", "failed", {"why": why}, fails=True)


def crashed(day: date, error: str) -> Alarm:
    """Return the alarm for a run that an error of our own ended, a kind of *error*."""
    return Alarm(day, "failed", "crashed", {"error": error}, fails=True)


def never_resumed(day: date, reason: str, *, over: bool) -> Alarm:
    """Return the alarm for a run that was not resumed before its window ended; *over*: its date has ended, too."""
    return Alarm(day, "failed", "expired" if over else "unfinished", {"reason": reason}, fails=True)


def summary(day: date, state: str, reason: str | None, counts: DayCounts | None) -> str:
    """Return the result of a day in a few lines, for the dead man's switch."""
    lines = [f"{day} {state}" + (f" ({reason})" if reason else "")]
    if counts:
        untold = {"alerts": counts.untold_alerts, "overdue": counts.untold_overdue, "offices": len(counts.untold)}
        lines += [
            _counts("offices", {"total": counts.offices, "failed": counts.offices_failed}),
            _counts("email", asdict(counts.email)),
            _counts("push", asdict(counts.push)),
            _counts("untold", untold),
        ]
    return "\n".join(lines)


def ping_address(url: str, signal: str, day: date) -> str:
    """Return the URL for a *signal* ("start", "fail", or "" for success): https://healthchecks.io/docs/http_api/.

    Its ``rid`` depends on the day only, so the receiver matches start and end even if two processes send them.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + (f"/{signal}" if signal else "")
    rid = f"rid={uuid5(_RUNS, day.isoformat())}"
    return urlunsplit(parts._replace(path=path, query=f"{parts.query}&{rid}" if parts.query else rid, fragment=""))


def _lost(counts: DayCounts) -> tuple[int, int]:
    """Return how many deliveries reached nobody, and how many were planned."""
    return counts.email.lost + counts.push.lost, counts.email.planned + counts.push.planned


def _reasons(sender: str, destinations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the reasons; with the destinations, if the sender has several."""
    return tuple(why if name == sender else f"{name}: {why}" for name, why in sorted(destinations.items()))


def _counts(of: str, counts: Mapping[str, int]) -> str:
    return f"{of}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items())
