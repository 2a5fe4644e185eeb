"""Who may work on a day, and who leads: decided from the day's row and its members, while the row is locked."""

from attrs import evolve, field, frozen

from notifierd.model.counts import Planned, Tallies
from notifierd.model.errors import ConfigsDiffer, LeaseHeld
from notifierd.rules.cluster.grants import NOTHING, ClusterLimits, Grant, fair_grant, next_grants


@frozen
class Terms:
    """What a process says about itself when it joins a day.

    Attributes:
        shares: whether it shares the day with other processes.
        host, version: for people.
        config_hash: of what decides what is sent, as `NAME=HASH` for the version and each table of the configuration,
            with spaces between; members of a day have the same.
    """

    limits: ClusterLimits = field(factory=ClusterLimits)
    shares: bool = False
    host: str = ""
    version: str = ""
    config_hash: str = ""


ALONE = Terms()
"""The terms of a process that shares nothing, and that has no limits."""


@frozen
class Use:
    """What a member reports when it renews its lease.

    Attributes:
        asked: the renewal's number; a renewal that is overtaken by a later one changes no grant.
        holding: the most that the member uses until it has the answer.
        limits: those of its configuration, which are in force if it leads; None: they are as before.
        mails_used: how many of the mails that it drew from the day's quota belong to offices that it has finished.
        tallies: what it has done so far, to be shown.
    """

    asked: int = 0
    holding: Grant = NOTHING
    limits: ClusterLimits | None = None
    mails_used: int = 0
    tallies: Tallies = field(factory=Tallies)


@frozen
class Member:
    """A process whose lease on the day has not expired.

    Attributes:
        grant: what the ledger keeps for it.
        asked: the number of the last renewal that was carried out.
    """

    name: str
    epoch: int
    grant: Grant = NOTHING
    shares: bool = False
    config_hash: str = ""
    asked: int = 0


@frozen
class Day:
    """A day as the ledger has it.

    Attributes:
        running: whether its run goes on.
        leader: who leads it; None if nobody does, or that lease has expired.
        epoch: how often the day's run began.
        planned: the plan of this epoch; None until the leader has written it.
        limits: the limits in force.
        members: the eldest first.
    """

    running: bool
    leader: str | None
    epoch: int
    planned: Planned | None
    limits: ClusterLimits | None
    members: tuple[Member, ...]

    def peers(self, name: str) -> list[Member]:
        """The other members that work on the day's run."""
        return [member for member in self.members if member.name != name and self._works(member)]

    def is_last(self, name: str) -> bool:
        """Whether process *name* works on the day's run, and nobody else does."""
        return not self.peers(name) and any(member.name == name and self._works(member) for member in self.members)

    def _works(self, member: Member) -> bool:
        return self.running and member.epoch == self.epoch

    def rank(self, name: str) -> int:
        """How many of its peers are older than member *name*; one that is not there yet is the youngest."""
        elder = [member.name for member in self.members if self._works(member) or member.name == name]
        return elder.index(name) if name in elder else len(elder)


@frozen
class Standing:
    """How a member stands after it joined or renewed its lease.

    Attributes:
        leads: whether it plans, closes and ends the day.
        begins: whether the day's run began with it.
        members: how many work on the day.
        limits: the limits in force.
        grant: what it may use; None if that was decided by a later renewal.
        kept: what the ledger keeps for it.
        over: whether the run in which it was a member is over.
    """

    epoch: int
    leads: bool
    members: int
    planned: Planned | None
    limits: ClusterLimits
    grant: Grant | None
    kept: Grant
    begins: bool = False
    over: bool = False


def join(day: Day, name: str, terms: Terms) -> Standing:
    """Return the standing of process *name*, which joins the *day*. If no other one works on it, its run begins.

    Raises:
        LeaseHeld: the others do not share the day with this process. One of them may be of an older version, which
            knows only the leader.
        ConfigsDiffer: the others would send something else.
    """
    peers = day.peers(name)
    if day.leader not in (None, name, *(peer.name for peer in peers)):
        raise LeaseHeld(str(day.leader))
    if peers:
        leader = day.leader or peers[0].name
        if not (terms.shares and all(peer.shares for peer in peers)):
            raise LeaseHeld(leader)
        for peer in peers:
            if peer.config_hash != terms.config_hash:
                raise ConfigsDiffer(leader, differing(terms.config_hash, peer.config_hash))
    begins = not peers
    leads = begins or day.leader in (None, name)
    before = Standing(
        day.epoch + begins,
        leads,
        len(peers) + 1,
        None if begins else day.planned,
        terms.limits if leads or day.limits is None else day.limits,
        None,
        NOTHING,
        begins,
    )
    return _with_grant(before, day, name, NOTHING)


def differing(ours: str, theirs: str) -> list[str]:
    """Return the names of what differs in two values of `Terms.config_hash`."""
    return sorted({part.partition("=")[0] for part in set(ours.split()) ^ set(theirs.split())})


def renew(day: Day, name: str, use: Use) -> Standing | None:
    """Return the standing of member *name*, which renews its lease; None if it is a member no more."""
    me = next((member for member in day.members if member.name == name), None)
    if me is None:
        return None
    limits = day.limits or ClusterLimits()
    if not day.running or me.epoch != day.epoch:
        return Standing(me.epoch, False, 0, day.planned, limits, None, me.grant, over=True)  # noqa: FBT003 - leads
    peers = day.peers(name)
    if day.leader not in (None, name, *(peer.name for peer in peers)):
        return None
    leads = day.leader in (None, name)
    if leads and use.limits is not None:
        limits = use.limits
    before = Standing(day.epoch, leads, len(peers) + 1, day.planned, limits, None, me.grant)
    return before if use.asked <= me.asked else _with_grant(before, day, name, use.holding)


def _with_grant(standing: Standing, day: Day, name: str, holding: Grant) -> Standing:
    others = [member.grant for member in day.members if member.name != name]
    rank = 0 if standing.begins else day.rank(name)
    fair = fair_grant(standing.limits, standing.members, rank)
    grant, kept = next_grants(standing.limits, fair, others, standing.kept, holding)
    return evolve(standing, grant=grant, kept=kept)
