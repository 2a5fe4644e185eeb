"""The life of a delivery: the new state of a delivery after an outcome. Pure.

`settle` is the table "The life of a delivery" in docs/delivery.md, for the rows that leave ``sending``. A settlement
whose state is ``sending`` keeps the call: the whole call is made again under its key.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal, assert_never

from attrs import frozen

from notifierd.model.delivery import Delivery, Settlement, State
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.rules.backoff import Backoff

BACKOFF = Backoff(first=5.0, longest=300.0)
"""Seconds between the tries of a delivery. The longest applies whatever a provider asks for, so that each delivery is
looked at again at least every five minutes."""

NOT_BEGUN = Deferred(Reason.NOT_BEGUN, blame=Blame.PROVIDER)
"""The outcome of a call that was reserved, and stopped before its request."""


@frozen
class Policy:
    """The part of the configuration that decides how a try is settled.

    Attributes:
        attempts: the number of deferred tries, while other messages pass, after which the delivery fails.
        on_unknown: what to do after a lost answer, if no idempotency key makes a repetition safe.
    """

    attempts: int = 3
    on_unknown: Literal["repeat", "hold"] = "repeat"


@frozen
class Circumstances:
    """What is known in addition to the outcome.

    Attributes:
        keyed: the sender honours the call's idempotency key.
        others_pass: other messages passed through the destination during this try.
        destination_wait: seconds until the destination may be used again.
        other_transport_preferred: another sender may be used sooner, for messages that this sender certainly did not
            accept.
        destination_works: messages have passed through the destination in this run, and it does not reject everybody by
            now.
        carried_out: the provider accepted other messages of the call, so its answer holds for the call itself, and
            not only for this try of it.
    """

    keyed: bool
    others_pass: bool = False
    destination_wait: float = 0.0
    other_transport_preferred: bool = False
    destination_works: bool = False
    carried_out: bool = False


def settle(
    delivery: Delivery,
    outcome: Outcome,
    now: Circumstances,
    policy: Policy,
    audit: Mapping[str, object] | None = None,
) -> Settlement:
    """Return how *outcome* settles *delivery*.

    Args:
        delivery: as it was reserved: its ``try_no`` and ``call_tries`` are those of this try.
        audit: the details of the audit row to write if the delivery is sent.
    """
    end = partial(
        Settlement,
        delivery,
        delivery.try_no,
        attempts=delivery.attempts,
        doubts=delivery.doubts,
        put_back=delivery.put_back,
    )
    not_begun = outcome == NOT_BEGUN  # nothing went out under the call's key, so the next call may have it
    again = partial(end, State.PLANNED, put_back=delivery.put_back + (not not_begun))
    in_doubt = now.keyed and delivery.call_tries > 1 and not now.carried_out
    match outcome:
        case Delivered(provider_message_id):
            return end(State.SENT, provider_message_id=provider_message_id, audit=audit)
        case Rejected(reason, blame) if blame is Blame.MESSAGE or now.destination_works:
            return end(State.FAILED, reason)
        case Gone(reason):
            return end(State.GONE, reason)
        case Deferred(reason) | Blocked(reason) | Rejected(reason) if (
            in_doubt
        ):  # does not tell what became of the try whose answer was lost
            return end(State.SENDING, reason, wait=_wait(outcome, now, delivery.call_tries))
        case Deferred(reason) if _costs(outcome, now):
            spent = delivery.attempts + 1
            if spent >= policy.attempts:
                return end(State.FAILED, reason, attempts=spent)
            return again(reason, attempts=spent, wait=_wait(outcome, now, spent))
        case Deferred(reason) | Blocked(reason) | Rejected(reason):
            at_once = now.other_transport_preferred and not delivery.doubts
            return again(reason, wait=0.0 if at_once else _wait(outcome, now, _odd(delivery, now)))
        case Unknown(reason, key_usable=key_usable) if now.keyed and key_usable:
            return end(State.SENDING, reason, wait=_wait(outcome, now, delivery.call_tries))
        case Unknown(reason):
            doubts = delivery.doubts + 1
            if doubts > (1 if policy.on_unknown == "repeat" else 0):
                return end(State.UNKNOWN, reason, doubts=doubts)
            return again(reason, doubts=doubts, wait=now.destination_wait)
    assert_never(outcome)


def _costs(outcome: Deferred, now: Circumstances) -> bool:
    """Whether a deferral costs an attempt. It does not if the provider is the cause, since every call fails then.

    The rejection of a whole batch costs none either: each of its messages goes alone from then on.
    """
    if Reason.BATCH.begins(outcome.reason):
        return False
    match outcome.blame:
        case Blame.MESSAGE:
            return True
        case Blame.PROVIDER | Blame.PATH:
            return False
        case Blame.UNCLEAR:
            return now.others_pass
    assert_never(outcome.blame)


def _odd(delivery: Delivery, now: Circumstances) -> int:
    """Return the number of the wait after a deferral without cost: it grows with the tries if other messages pass."""
    return delivery.try_no if now.destination_works else 1


def _wait(outcome: Deferred | Blocked | Rejected | Unknown, now: Circumstances, nth: int) -> float:
    """Return the seconds until the next try: as requested, or growing with *nth*; at least ``destination_wait``."""
    asked = None if isinstance(outcome, Rejected) else outcome.retry_after
    return min(BACKOFF.longest, max(asked or BACKOFF.pause(nth), now.destination_wait))
