"""How a try ended."""

from enum import StrEnum

from attrs import frozen


@frozen
class Delivered:
    """The provider took it."""

    provider_message_id: str | None = None


class Blame(StrEnum):
    """Whose trouble it is that a message was not accepted."""

    MESSAGE = "message"
    PROVIDER = "provider"
    PATH = "path"
    """Of whatever answered in the provider's place: a proxy, a firewall, a captive portal. Says nothing of the message,
    and of the provider only if nothing passes meanwhile."""
    UNCLEAR = "unclear"
    """Told by whether other messages pass."""


@frozen
class Rejected:
    """The provider itself says that it does not accept this message.

    Attributes:
        blame: the message's if the answer names it or its address; unclear if it names neither, as a bare 400: that is
            final only where other messages have passed.
        asked: False if the message never left, as no provider could take it: that says nothing of its lane.
    """

    reason: str
    blame: Blame = Blame.MESSAGE
    asked: bool = True


@frozen
class Gone:
    """The device is no more (push 404, 410)."""

    reason: str


@frozen
class Deferred:
    """Not accepted, may be later.

    Attributes:
        retry_after: seconds that the provider asked us to wait, if it did.
        blame: the provider's if it spoke of us (429) or could not be reached; the path's if something else answered.
    """

    reason: str
    retry_after: float | None = None
    blame: Blame = Blame.UNCLEAR


@frozen
class Blocked:
    """The provider refuses *us*: a bad key, an exhausted quota, a suspended account."""

    reason: str
    retry_after: float | None = None


@frozen
class Unknown:
    """The answer was lost: the provider may or may not have taken it.

    Attributes:
        retry_after: seconds to wait before the same call goes again.
        key_usable: whether the call's idempotency key can still settle the doubt.
    """

    reason: str
    retry_after: float | None = None
    key_usable: bool = True


Outcome = Delivered | Rejected | Gone | Deferred | Blocked | Unknown
