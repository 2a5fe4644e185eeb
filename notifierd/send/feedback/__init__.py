"""Ask a mail provider what became of the mails that it accepted: one module for each provider."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Protocol
from uuid import UUID

from attrs import Factory, field, frozen

from notifierd.model.feedback import MailStatus, Verdict

Keep = Callable[[Sequence[Verdict]], Awaitable[None]]
"""Writes verdicts to the ledger. Once it returns, they are durable; writing them again changes nothing."""


@frozen
class Look:
    """What is asked in one look.

    Attributes:
        since: the beginning of the time asked about, in UTC; it overlaps with the look before.
        until: its end, in UTC.
        sent: the deliveries whose mails the provider accepted in the days looked at, by its message id.
        unknown: deliveries whose answer was lost; a provider that keeps our Message-ID can still be asked about them.
    """

    since: datetime
    until: datetime
    sent: Mapping[str, UUID] = field(factory=dict, repr=False)
    unknown: AbstractSet[UUID] = Factory(frozenset)


@frozen
class Looked:
    """How a look ended.

    Attributes:
        incomplete: the code of the reason why some answers are missing; "" if the look is complete.
        enforcement: what the provider says of our account if it restricts it, such as "probation"; "" otherwise.
    """

    incomplete: str = ""
    enforcement: str = ""


class FeedbackReader(Protocol):
    """Asks one provider.

    Attributes:
        name: the provider's name.
        tells: the statuses that the provider can report at all.
    """

    name: str
    tells: AbstractSet[MailStatus]

    async def look(self, look: Look, keep: Keep) -> Looked:
        """Ask about the mails of *look*, page by page, and pass the verdicts of each page to *keep*.

        An answer that cannot be read, or that was cut short, makes the look incomplete. No answer raises.
        A cancellation, and an error of *keep*, pass through.
        """

    async def probe(self) -> str:
        """Make one small request that changes nothing; return the code of the reason why it failed, "" if it worked."""
