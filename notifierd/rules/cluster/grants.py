"""How the limits of a day are divided among its members. Pure arithmetic, the same for every ledger.

The ledger keeps a grant for each member, as part of its lease. The sum of the grants never exceeds a limit that stays
the same, also while members come and go: a member gains only what no other one keeps, and keeps what it still uses.
"""

from collections.abc import Sequence

from attrs import frozen

MANY = 1_000_000


@frozen
class ClusterLimits:
    """The limits on calls for all members together.

    Attributes:
        email: calls to the mail provider at once.
        push: calls to push services at once; *per_destination*, to one of them.
        per_second: calls to the mail provider in a second; 0: no limit.
        per_day: mails in a day; 0: no limit.
    """

    email: int = MANY
    push: int = MANY
    per_destination: int = MANY
    per_second: float = 0.0
    per_day: int = 0


@frozen
class Grant:
    """The part of the limits that one member has. Its fields are those of `ClusterLimits`."""

    email: int = 0
    push: int = 0
    per_destination: int = 0
    per_second: float = 0.0


NOTHING = Grant()


def fair_grant(limits: ClusterLimits, members: int, rank: int) -> Grant:
    """Return the fair part of the member of this *rank* among so many *members*; the eldest one has the rank 0.

    Where a limit is smaller than the number of members, the youngest ones get nothing of that channel. The rate is
    divided into whole calls per second: in any second, members with fractions of a call could begin one more each.
    """
    mailers = min(members, limits.email, max(1, int(limits.per_second)) if limits.per_second else members)
    pushers = min(members, limits.push, limits.per_destination)
    fraction = limits.per_second % 1 if rank == 0 else 0.0
    return Grant(
        _part(limits.email, mailers, rank),
        _part(limits.push, pushers, rank),
        _part(limits.per_destination, pushers, rank),
        _part(int(limits.per_second), mailers, rank) + fraction,
    )


def _part(whole: int, among: int, rank: int) -> int:
    return whole // among + (rank < whole % among) if rank < among else 0


def next_grants(
    limits: ClusterLimits, fair: Grant, others: Sequence[Grant], kept: Grant, holding: Grant
) -> tuple[Grant, Grant]:
    """Return what a member may use from now on, and what the ledger keeps for it.

    The ledger keeps more than the member may use while calls of the member are in flight that began under a larger
    grant.

    Args:
        others: what the ledger keeps for the other members.
        kept: what the ledger kept for this member so far.
        holding: the most that this member uses until it has the answer.
    """

    def usable(field: str) -> float:
        room = getattr(limits, field) - sum(getattr(other, field) for other in others)
        return float(max(0, min(getattr(fair, field), room)))

    email, push, per_destination = (int(usable(field)) for field in ("email", "push", "per_destination"))
    use = Grant(email, push, per_destination, round(usable("per_second"), 6))
    return use, Grant(
        max(use.email, min(holding.email, kept.email)),
        max(use.push, min(holding.push, kept.push)),
        max(use.per_destination, min(holding.per_destination, kept.per_destination)),
        max(use.per_second, min(holding.per_second, kept.per_second)),
    )
