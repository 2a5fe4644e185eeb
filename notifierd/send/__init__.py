"""One HTTP call, and what its answer means.

A sender turns messages into one HTTP request, and the answer into outcomes. It does not retry, wait, limit or log: the
caller decides when to call, and what an outcome means for a delivery.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from notifierd.model.message import Message
from notifierd.model.outcome import Outcome, Probe

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Sender(Protocol[M_contra]):
    """The interface of a provider's module.

    Attributes:
        name: the provider's name in the ledger.
        max_batch: the most messages that one call can carry; it may shrink.
        honours_keys: whether the provider carries out a call once that is repeated under its idempotency key.
    """

    name: str
    max_batch: int
    honours_keys: bool

    def destination(self, message: M_contra) -> str:
        """Return the destination of the message: the provider account or the push service that it shares with others.

        If a destination fails, or the provider rejects our account, all calls to this destination pause; other
        destinations continue.
        """
        ...

    def encode(self, messages: Sequence[M_contra]) -> bytes:
        """Return the call's content: the same messages give the same bytes, in every process.

        Raises:
            ValueError: the messages do not fit into one call; some of them may. A sender that honours keys raises it
                only for more than *max_batch* messages, because a call whose reservation the database lost has to be
                composed again with the same messages.
        """
        ...

    async def send(self, messages: Sequence[M_contra], body: bytes, idempotency_key: str) -> list[Outcome]:
        """Make one call with *body*, the result of ``encode(messages)``; return one outcome for each message, in order.

        The caller owns the time (a cancel scope around this) and the limits. A cancellation passes through. A network
        failure and any answer, whatever it contains, become outcomes, never exceptions.
        """
        ...


@runtime_checkable
class Provable(Protocol):
    """A sender whose provider has a call that proves our key and sends nothing."""

    async def probe(self) -> Probe:
        """Make that call, and return what the answer says. Like `Sender.send`, it raises nothing."""
        ...
