"""What became of a mail after a provider accepted it."""

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
