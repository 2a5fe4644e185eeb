"""What became of a mail after a provider accepted it."""

from collections.abc import Mapping
from enum import StrEnum
from uuid import UUID

from attrs import field, frozen


class MailStatus(StrEnum):
    """What a provider reports of an accepted mail, in the order of severity: of several, the last one counts."""

    DELAYED = "delayed"
    """The provider is still trying."""
    DELIVERED = "delivered"
    """The receiving server accepted the mail."""
    REFUSED = "refused"
    """A final failure that does not speak of the address: a full mailbox, a policy, our reputation."""
    BOUNCED = "bounced"
    """A final failure that speaks of the address: there is no such mailbox."""
    SUPPRESSED = "suppressed"
    """The provider sent nothing, because the address is on its suppression list."""
    COMPLAINED = "complained"
    """The recipient reported the mail as spam."""

    @property
    def severity(self) -> int:
        """The position in the order of severity, from 0."""
        return list(MailStatus).index(self)


UNREACHED = frozenset({MailStatus.REFUSED, MailStatus.BOUNCED, MailStatus.SUPPRESSED})
"""The statuses of an accepted mail that reached nobody. Who complains was reached."""

TROUBLE = UNREACHED | {MailStatus.COMPLAINED}
"""The statuses from which something follows: an alert that reached nobody, or mails that are held back."""


@frozen
class Verdict:
    """What a provider reports of one mail.

    Attributes:
        code: the enhanced status code (RFC 3463) such as "5.1.1"; "" if the provider gives none.
        address: the address that the provider names as the recipient; "" if it names none.
        message_id: the provider's id of the mail, if it was found by another one; "" otherwise.
    """

    delivery_id: UUID
    status: MailStatus
    code: str = ""
    address: str = field(default="", repr=False)
    message_id: str = ""


@frozen
class DayFeedback:
    """What became of the mails of a day that providers accepted, of all providers together.

    Attributes:
        counts: the mails by status.
        not_known: the mails of which nothing was reported.
        is_known: whether each provider was asked completely after the run, or has reported anything of the day. If not,
            a count of 0 says nothing.
    """

    counts: Mapping[MailStatus, int]
    not_known: int
    is_known: bool

    @property
    def came_back(self) -> int | None:
        """The mails that reached nobody or were complained of; None if that is not known."""
        number = sum(self.counts[status] for status in TROUBLE)
        return number if number or self.is_known else None

    def as_json(self) -> dict[str, int]:
        """Return the counts as one JSON object."""
        return {status.value: self.counts[status] for status in MailStatus} | {"not_known": self.not_known}
