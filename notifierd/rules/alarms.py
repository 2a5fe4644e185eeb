"""Alarms for the operator: their causes and their texts. Pure.

An alarm names offices by their ids, and no person: it goes to a service of a third party. Its JSON is that of
Slack's incoming webhooks (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks): a ``text``, and
one attachment with fields for programs. Mattermost and Rocket.Chat read the same.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid5

from attrs import Factory, asdict, frozen

from notifierd.config.settings import WatchSettings
from notifierd.model.counts import DayCounts, Untold, counted
from notifierd.model.reasons import Reason

MOST_NAMED = 20
"""The most offices that one alarm names."""

MOST_REASONS = 5
MOST_DAYS = 10

OUT_SECONDS = 60.0
"""Seconds for which a sender fails every call before an alarm is raised: short outages are common."""

ENOUGH_MAILS = 200
"""Mails below which a bounce rate says nothing: with a hundred, two wrong addresses are two percent."""

SILENT = timedelta(hours=24)
"""How long a provider may not be asked completely before an alarm is raised: short outages are common."""

_RUNS = UUID("5b6f9c1e-4d0b-4a53-9d2e-6e6f74696679")

_WHY_MISSED: Mapping[str, str] = {
    Reason.NOT_RUNNING: "no daemon was running",
    Reason.SLEPT_THROUGH: "the machine slept, or its clock was set",
}


@frozen
class Alarm:
    """An alarm about a day.

    Attributes:
        cause: a code; a day has at most one alarm of each cause.
        text: what happened and how many it concerns, then what to do.
        offices: the offices that it concerns, the worst first.
        fails: whether the day has no completed run; the dead man's switch is then told, too.
    """

    day: date
    cause: str
    text: str
    offices: tuple[UUID, ...] = ()
    fails: bool = False

    def words(self) -> str:
        """Return the text, with the ids of the offices."""
        if not self.offices:
            return self.text
        more = len(self.offices) - MOST_NAMED
        named = "\n".join(map(str, self.offices[:MOST_NAMED])) + (f"\nand {more:,} more" if more > 0 else "")
        return f"{self.text}\nOffices:\n{named}"

    def as_json(self, host: str, page: str) -> dict[str, Any]:
        """Return the body for the webhook, sent by *host*, whose page is at *page*; "" for no page."""
        look = "`notifierd status`, `notifierd history`" + (f", the page at {page}" if page else "")
        # Slack reads &, < and > as markup: https://docs.slack.dev/messaging/formatting-message-text#escaping
        text = escape(f"notifierd: {self.words()}\nSee {look}.", quote=False)
        fields = {"Day": str(self.day), "Cause": self.cause, "Host": escape(host, quote=False)}
        return {
            "text": text,
            "attachments": [
                {
                    "fallback": f"{self.day} {self.cause}",
                    "color": "danger" if self.fails else "warning",
                    "fields": [{"title": title, "value": value, "short": True} for title, value in fields.items()],
                }
            ],
        }


@frozen
class Running:
    """A run that is under way.

    Attributes:
        seconds: since it began.
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
        yield Alarm(
            run.day,
            "slow",
            f"the run of {run.day} has taken {run.seconds:,.0f} s so far, longer than watch.run_seconds "
            f"({watch.run_seconds:g}): {run.done:,} of {counted(run.offices, 'office')} done. It continues.",
        )
    rest = (
        "Its deliveries stay planned, and are retried or go through email.fallback; what is left when the window ends "
        "expires."
    )
    for sender, destinations in run.blocked.items():
        reasons = _reasons(sender, destinations)
        if any(map(Reason.PROXY_AUTH_REQUIRED.begins, destinations.values())):
            text = f"the proxy rejects our credentials for calls of {sender} ({reasons}). {rest} Check network.proxy."
        else:
            text = f"{sender} rejects our credentials or account ({reasons}). {rest} Check both."
        yield Alarm(run.day, f"blocked:{sender}", text)
    for sender, destinations in run.out.items():
        text = f"{sender} has failed every call for {OUT_SECONDS:.0f} s ({_reasons(sender, destinations)}). {rest}"
        yield Alarm(run.day, f"out:{sender}", text)


def at_end(day: date, counts: DayCounts, watch: WatchSettings) -> Iterator[Alarm]:
    """Yield the alarms of a day whose run is over."""
    if too_many_failures(counts, watch):
        lost, planned = _lost(counts)
        reasons = Counter(f"{failure.channel} {failure.reason}" for failure in counts.failures)
        of = f"of the first {len(counts.failures):,}, " if counts.failures_omitted else ""
        yield Alarm(
            day,
            "failures",
            f"{lost:,} of {counted(planned, 'delivery', 'deliveries')} of {day} reached nobody ({lost / planned:.1%}; "
            f"watch.failure_ratio is {watch.failure_ratio:g}): {of}{_most_common(reasons)}. After you fix the cause, "
            "`notifierd retry` plans them again, on the same day only.",
            tuple(office for office, _ in Counter(failure.office_id for failure in counts.failures).most_common()),
        )
    if counts.untold_overdue:
        offices = tuple(office.office_id for office in counts.untold if office.overdue)
        yield Alarm(
            day,
            "untold",
            f"{counted(counts.untold_overdue, 'overdue alert')} of {day} reached nobody, in "
            f"{counted(len(offices), 'office')}: no staff can be notified, or every delivery failed. Contact "
            f"{'this office' if len(offices) == 1 else 'these offices'} yourself.",
            offices,
        )


def too_many_failures(counts: DayCounts, watch: WatchSettings) -> bool:
    """Whether the run counts as failed, because too many deliveries reached nobody."""
    lost, planned = _lost(counts)
    return lost > 0 and lost >= watch.failure_ratio * planned


def untold_later(day: date, untold: Sequence[Untold]) -> Alarm:
    """Return the alarm for offices whose mails were accepted, and then reached nobody."""
    offices = tuple(office.office_id for office in sorted(untold, key=lambda office: -office.overdue))
    alerts, overdue = sum(office.alerts for office in untold), sum(office.overdue for office in untold)
    return Alarm(
        day,
        "untold_later",
        f"the provider accepted mails of {day} and reported later that they reached nobody. So "
        f"{counted(alerts, 'alert')} ({overdue:,} overdue) reached nobody, in {counted(len(offices), 'office')}. "
        f"Contact {'this office' if len(offices) == 1 else 'these offices'} yourself; `notifierd feedback` shows what "
        "became of the mails.",
        offices,
    )


def bounces(day: date, mails: int, bounced: int, watch: WatchSettings) -> Iterator[Alarm]:
    """Yield the alarm for too many mails that bounced in the days up to *day*."""
    if watch.bounce_ratio and mails >= ENOUGH_MAILS and bounced >= watch.bounce_ratio * mails:
        yield Alarm(
            day,
            "bounces",
            f"{bounced:,} of {counted(mails, 'mail')} of the last seven days bounced ({bounced / mails:.1%}; "
            f"watch.bounce_ratio is {watch.bounce_ratio:g}). Providers stop accounts with more than 4 to 10 %. Correct "
            "the addresses in the application; the provider's own page lists them.",
        )


def complaint(day: date, count: int) -> Alarm:
    """Return the alarm for recipients who reported a mail of *day* as spam."""
    are = "is" if count == 1 else "are"
    return Alarm(
        day,
        "complaint",
        f"{counted(count, 'recipient')} reported a mail of {day} as spam. Their mails {are} held back for 30 days. "
        "`notifierd feedback` lists the staff members: ask them whether they want the reminders; `notifierd lift` ends "
        "holding back.",
    )


def no_feedback(day: date, provider: str, reason: str) -> Alarm:
    """Return the alarm for a provider that could not be asked for too long."""
    return Alarm(
        day,
        f"feedback:{provider}",
        f"for more than {SILENT // timedelta(hours=1)} hours, {provider} could not be asked completely what became of "
        f"the mails ({reason}). Mails that reached nobody stay unnoticed. `notifierd check --connect` shows whether "
        "its key works.",
    )


def enforcement(day: date, provider: str, status: str) -> Alarm:
    """Return the alarm for a provider that restricts our account, which is in *status*."""
    return Alarm(
        day,
        f"enforcement:{provider}",
        f"{provider} restricts our account: its status is {status}. Read what {provider} wrote to the owner of the "
        "account, and answer it before it stops the account.",
    )


def missed(days: Mapping[date, str]) -> Alarm:
    """Return the alarm for windows that ended without a run: at least one, each with its reason."""
    last = max(days)
    listed = [f"{day} ({_WHY_MISSED.get(days[day], days[day])})" for day in sorted(days, reverse=True)]
    text = f"no run on {_some(listed, MOST_DAYS)}. Nobody was notified; the next run reports what is still due."
    return Alarm(last, "missed", text, fails=True)


def failed(day: date, why: str) -> Alarm:
    """Return the alarm for a run that could not begin, or was broken off."""
    text = f"the run of {day} failed: {why}. `notifierd check` shows what to fix."
    return Alarm(day, "failed", text, fails=True)


def never_resumed(day: date, reason: str, *, over: bool) -> Alarm:
    """Return the alarm for a run that was not resumed before its window ended; *over*: its date has ended, too."""
    left = ": its open deliveries expired." if over else ". `notifierd once` sends its open deliveries, until midnight."
    text = f"the run of {day} did not finish ({reason}){left} The next run reports what is still due."
    return Alarm(day, "failed", text, fails=True)


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


def _reasons(sender: str, destinations: Mapping[str, str]) -> str:
    """Return the reasons; with the destinations, if the sender has several."""
    reasons = sorted(destinations.items())
    return _some([why if name == sender else f"{name}: {why}" for name, why in reasons], MOST_REASONS)


def _most_common(reasons: Counter[str]) -> str:
    return _some([f"{n:,} {reason}" for reason, n in reasons.most_common()], MOST_REASONS)


def _some(items: list[str], most: int) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more:,} more" if more > 0 else "")


def _counts(of: str, counts: Mapping[str, int]) -> str:
    return f"{of}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items())
