"""What became of mails after they were accepted, as the pages show it."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from attrs import frozen

from notifierd.model.feedback import MailStatus
from notifierd.send.feedback.open import told_by
from notifierd.service.feedback.known import counts_of, is_complete, is_known
from notifierd.store.feedback import FeedbackDay, LookState, Loss

SHOWN = (
    MailStatus.DELIVERED,
    MailStatus.DELAYED,
    MailStatus.BOUNCED,
    MailStatus.REFUSED,
    MailStatus.SUPPRESSED,
    MailStatus.COMPLAINED,
)
"""The statuses in the order of the columns."""


@frozen
class Became:
    """What became of one provider's mails of a day.

    Attributes:
        counts: by status; None if the number is not known.
        not_known: the mails of which the provider has told nothing.
        is_silence: whether these are mails that the provider was asked about, and that it reports only if they fail.
    """

    day: date
    provider: str
    mails: int
    counts: Mapping[MailStatus, int | None]
    not_known: int
    is_silence: bool


@frozen
class Told:
    """What providers told of the mails of the last days.

    Attributes:
        mails: what became of them, by day and provider.
        looks: how far each provider was asked.
        held: the number of staff members whose mails are held back today, up to 1,000.
    """

    mails: tuple[FeedbackDay, ...] = ()
    looks: tuple[LookState, ...] = ()
    held: int = 0


def became(
    days: Sequence[FeedbackDay], looks: Sequence[LookState], ended: Mapping[date, datetime | None]
) -> tuple[Became, ...]:
    """Return what is known of the mails of *days*.

    A count of 0 is known only if the provider can report that status at all, and either has told something of the day,
    or was asked completely after the day's run.

    Args:
        ended: when the runs of the days ended.
    """
    by_provider = {look.provider: look for look in looks}
    return tuple(_became(day, by_provider.get(day.provider), ended.get(day.day)) for day in days)


def _became(day: FeedbackDay, look: LookState | None, ended: datetime | None) -> Became:
    told, tells = counts_of(day), told_by(day.provider)
    known = is_known(day, look, ended)
    return Became(
        day.day,
        day.provider,
        sum(told.values()) + day.not_known,
        {status: told[status] if told[status] or (known and status in tells) else None for status in SHOWN},
        day.not_known,
        is_complete(look, ended) and MailStatus.DELIVERED not in tells,
    )


def advice(loss: Loss) -> str:
    """Return the key of the phrase that tells staff what to do about a mail that was lost.

    The codes are those of RFC 3463: X.2.2 is a full mailbox (section 3.3), X.7.x speaks of security or policy (3.8).
    """
    subject = loss.code.partition(".")[2]
    if loss.changed:
        return "advice_changed"
    if loss.status in {MailStatus.COMPLAINED, MailStatus.SUPPRESSED}:
        return f"advice_{loss.status}"
    if subject == "2.2":
        return "advice_full"
    if loss.carrier:
        return "advice_carrier"
    if loss.status is MailStatus.BOUNCED:
        return "advice_bounced"
    return "advice_policy" if subject.startswith("7.") else "advice_refused"
