"""The parts of the limits never exceed a limit, whoever joins, leaves, dies or renews, in whatever order."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.rules.cluster.grants import NOTHING, ClusterLimits, Grant, fair_grant, next_grants

LIMITS = st.builds(
    ClusterLimits,
    email=st.integers(1, 12),
    push=st.integers(1, 30),
    per_destination=st.integers(1, 8),
    per_second=st.sampled_from([0.0, 0.4, 1.0, 2.5, 7.0]),
)
FIELDS = ("email", "push", "per_destination", "per_second")


@settings(max_examples=60)
@given(LIMITS, st.integers(1, 9))
def test_fair_parts_are_the_whole_limit_and_the_eldest_has_a_part_of_each(limits: ClusterLimits, members: int) -> None:
    parts = [fair_grant(limits, members, rank) for rank in range(members)]
    for field in FIELDS:
        assert abs(sum(getattr(part, field) for part in parts) - getattr(limits, field)) < 1e-9
    assert all(getattr(parts[0], field) for field in FIELDS if getattr(limits, field))
    for part in parts:
        assert bool(part.email) == bool(part.per_second) or not limits.per_second
        assert bool(part.push) == bool(part.per_destination)
    assert all(part.per_second % 1 == 0 for part in parts[1:]), "so that no second has more calls than the limit"


@settings(max_examples=60)
@given(LIMITS, st.data())
def test_the_sum_never_exceeds_the_limit_and_no_member_uses_more_than_the_ledger_keeps(
    limits: ClusterLimits, data: st.DataObject
) -> None:
    """Each member has its calls in flight: what it may use, and what began before it might use less."""
    kept: dict[int, Grant] = {}
    used: dict[int, Grant] = {}
    names = itertools.count()
    for _ in range(25):
        step = data.draw(st.sampled_from(["join", "renew", "renew", "renew", "leave"]))
        if step == "join" and len(kept) < 7:
            name = next(names)
            kept[name] = used[name] = NOTHING
        elif kept:
            name = data.draw(st.sampled_from(sorted(kept)))
        else:
            continue
        if step == "leave":
            del kept[name], used[name]
            continue
        others = [grant for other, grant in kept.items() if other != name]
        fair = fair_grant(limits, len(kept), sorted(kept).index(name))
        usable, keeps = next_grants(limits, fair, others, kept[name], used[name])
        kept[name] = keeps
        landed = data.draw(st.booleans())
        used[name] = usable if landed else Grant(*(max(getattr(usable, f), getattr(used[name], f)) for f in FIELDS))
        for field in FIELDS:
            assert sum(getattr(grant, field) for grant in kept.values()) <= getattr(limits, field) + 1e-6
            assert all(getattr(used[one], field) <= getattr(kept[one], field) + 1e-6 for one in kept)
