"""One HTTP call, and what its answer means.

A sender turns messages into one HTTP request and the answer into outcomes. It does not retry, wait, limit or log:
when to call, and what an outcome means for a delivery, is decided elsewhere.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from notifierd.model.message import Message
from notifierd.model.outcome import Outcome

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Sender(Protocol[M_contra]):
    """What a provider's module offers.

    Attributes:
        name: the provider's, as it stands in the ledger.
        max_batch: how many messages one call can carry at most; it may shrink.
        honours_keys: whether a call repeated under its idempotency key is carried out once.
    """

    name: str
    max_batch: int
    honours_keys: bool

    def lane(self, message: M_contra) -> str:
        """What the message has to pass with others: one provider account, one push service's origin.

        A lane that fails or refuses us is left alone as a whole; other lanes go on.
        """
        ...

    def encode(self, messages: Sequence[M_contra]) -> bytes:
        """The call's content: the same messages give the same bytes, in any process.

        Raises:
            ValueError: the messages cannot be put into one call; some of them perhaps can. A sender that honours keys
                raises it only for more than *max_batch* messages: calls that a database forgot have to be composed anew
                as they were.
        """
        ...

    async def send(self, messages: Sequence[M_contra], body: bytes, idempotency_key: str) -> list[Outcome]:
        """Make one call with *body* (as ``encode(messages)`` made it); one outcome for each message, in order.

        The caller owns the time (a cancel scope around this) and the limits. A cancellation passes through; what
        the network does to the call, and whatever is answered to it, is an outcome and never an exception.
        """
        ...
