"""The outcome of a try."""

from enum import StrEnum

from attrs import frozen


@frozen
class Delivered:
    """The provider accepted the message."""

    provider_message_id: str | None = None


class Blame(StrEnum):
    """What prevented a message from being accepted."""

    MESSAGE = "message"
    PROVIDER = "provider"
    PATH = "path"
    """Something in the provider's place answered: a proxy, a firewall, a captive portal. The answer says nothing about
    the message, and something about the provider only if no other message passes meanwhile."""
    UNCLEAR = "unclear"
    """Decided by whether other messages pass."""


@frozen
class Rejected:
    """The provider itself does not accept this message.

    Attributes:
        blame: MESSAGE if the answer names the message or its address; UNCLEAR if it names neither, as a bare 400: that
            is final only if other messages have passed.
        asked: False if the message never left, because no provider could accept it. This says nothing about its
            destination.
    """

    reason: str
    blame: Blame = Blame.MESSAGE
    asked: bool = True


@frozen
class Gone:
    """The device no longer exists (push 404, 410)."""

    reason: str


@frozen
class Deferred:
    """Not accepted now, perhaps later.

    Attributes:
        retry_after: seconds that the provider asked us to wait, if it did.
        blame: PROVIDER if it spoke of us (429) or could not be reached; PATH if something else answered.
    """

    reason: str
    retry_after: float | None = None
    blame: Blame = Blame.UNCLEAR


@frozen
class Blocked:
    """The provider rejects our credentials or account: a bad key, an exhausted quota, a suspended account.

    Or a proxy on the way rejects our credentials.
    """

    reason: str
    retry_after: float | None = None


@frozen
class Unknown:
    """The answer was lost: the provider may or may not have accepted the message.

    Attributes:
        retry_after: seconds to wait before the same call is repeated.
        key_usable: whether repeating the call under its idempotency key can still settle the outcome.
    """

    reason: str
    retry_after: float | None = None
    key_usable: bool = True


Outcome = Delivered | Rejected | Gone | Deferred | Blocked | Unknown


@frozen
class Probe:
    """What a provider answers to a call that proves our key and sends nothing.

    Attributes:
        call: that call, in words for an operator, as ``GET /server``.
        outcome: Delivered if the provider accepts the key, Blocked if it rejects us; any other outcome tells neither.
        notes: what else the answer says that an operator should know, in words of ours.
    """

    call: str
    outcome: Outcome
    notes: tuple[str, ...] = ()
