"""Who is due: written as a day's plan, listed and counted."""

from collections.abc import Callable, Mapping

from notifierd.model.reasons import Reason
from notifierd.store.sql import DAYS_LEFT, DEVICES_BY_AGE, GIVEN, HOLDS, IS_HELD, OPEN_STATES, in_scope
from notifierd.store.sql.reminders import MISSED, REASONS, has_reason, reminder

# A null in the view means no choice, and stands for the default. For push_enabled the default is false, as a null
# counts.
BY_MAIL = "coalesce(s.email_enabled, true) and s.email <> ''"
EMAIL_DAYS = "coalesce(s.email_days, 30)"
PUSH_DAYS = "coalesce(s.push_days, 10)"

# $1 day, $2 horizon_days, $3 overdue, $4 push, $5 only_offices, $6 devices_per_person; PLAN, PLAN_NEXT and COUNT_DUE
# also take $7 mails, $8 calls and $9 batch, PLAN and PLAN_NEXT $10: how many offices one step plans
IN_SCOPE = in_scope(day="$1::date", last="$1::date + $2::int", overdue="$3")
OFFICE_IN_SCOPE = "(cardinality($5::uuid[]) = 0 or o.id = any ($5::uuid[]))"


def by_selectivity(statement: Callable[[bool], str]) -> Mapping[bool, str]:
    """Return *statement* by whether there are days on which some alert is no reason (`Reminders.selective`).

    If there are none, the statement does nothing for that.
    """
    return {selective: statement(selective) for selective in (False, True)}


def scope(first: int, *, selective: bool, among: str = "") -> str:
    """Return the tables that decide for whom offices have a reason. *first*: see `reminder`.

    Args:
        among: the table of the offices that are looked at; empty: all of them.

    The alerts are grouped by the offices' own ids: of these PostgreSQL knows how many there are, while for ids in a
    view with a UNION it assumes 200, and then reads the staff of 50,000 offices in nested loops.
    """
    return f"""
{f"{reminder(first)}," if selective else ""} scope as materialized (
    select o.id as office_id,
           min({DAYS_LEFT}) filter (where a.kind = 'renewal') as nearest,
           bool_or(a.kind = 'assessment') as assessment
           {REASONS if selective else ""}
    from notifierd.offices o join notifierd.alerts a on a.office_id = o.id
    {f"join {among} on {among}.office_id = o.id" if among else ""}
    {"cross join reminder" if selective else ""}
    where {OFFICE_IN_SCOPE} and {IN_SCOPE}
    group by o.id
)"""


def due_within(threshold: str, channel: str, *, selective: bool) -> str:
    """Return the condition that staff member *s* of office *o* is written to on *channel*."""
    within = f"(o.assessment or o.nearest <= {threshold})"
    return f"({within} and {has_reason(threshold, channel)})" if selective else within


def _who_is_due(scopes: str, *, selective: bool, offices: str = "scope", among: str = "") -> str:
    """Return the tables up to `due`: who is written to.

    Args:
        scopes: the tables of `scope`, and what restricts it.
        offices: that of them whose staff are looked at.
        among: see `scope`; what is looked up for a whole day otherwise is then looked up for these offices.
    """
    return f"""
with {scopes},
member as materialized ( -- the view is dear: it is read once, for both channels
    select o.office_id, s.id as staff_id,
           {BY_MAIL} and {due_within(EMAIL_DAYS, "email", selective=selective)} as by_mail,
           $4::bool and s.push_enabled and {due_within(PUSH_DAYS, "push", selective=selective)} as by_push,
           h.reason as held -- why their mails are held back
    from {offices} o join notifierd.staff s on s.office_id = o.office_id left join {HOLDS} h on {IS_HELD}
    {f"cross join reminder {MISSED}" if selective else ""}
    where s.id is not null -- who has no id can be told nothing, and would end the plan of all
), mail as not materialized (
    select office_id, staff_id, held from member where by_mail
), crowded as materialized ( -- nearly nobody; only their devices are put in order
    select v.staff_id from notifierd.devices v where $4::bool and v.id is not null
    {"and v.staff_id in (select staff_id from member where by_push)" if among else ""}
    group by v.staff_id having count(*) > $6::int
), newest as materialized (
    select id from (
        select v.id, row_number() over (partition by v.staff_id order by v.created_at desc nulls last, v.id desc) as nth
        from ({DEVICES_BY_AGE.format(where="v.staff_id in (select staff_id from crowded)")}) v
    ) ranked where nth <= $6::int
), push as (
    select m.office_id, m.staff_id, v.id as device_id
    from member m
    join notifierd.devices v on v.staff_id = m.staff_id
    left join crowded c on c.staff_id = v.staff_id
    left join newest n on n.id = v.id
    where m.by_push and v.id is not null and (c.staff_id is null or n.id is not null)
), told as (
    select distinct d.office_id, d.staff_id
    from notifierd.deliveries d
    where d.day = $1::date and d.channel = 'push' and d.state = 'sent'
    {f"and d.office_id in (select office_id from {among})" if among else ""}
), due as (
    select office_id, staff_id, 'email' as channel, null::uuid as device_id, held from mail
    union all
    select p.office_id, p.staff_id, 'push', p.device_id, null
    from push p left join told using (office_id, staff_id)
    where told.staff_id is null
)
"""


# How many mails of the day a provider accepted, or may have accepted; and the mails beyond the limits on mails or
# calls, for each office in open_mails (office_id, mails), most urgent first.
_EXCESS = """
given as materialized (
    select {given} as mails
), ranked as (
    select m.office_id, o.nearest, m.mails, sum(m.mails) over urgent as mails_to,
           sum(ceil(m.mails / $9::numeric)) over urgent as calls_to
    from open_mails m left join scope o on o.office_id = m.office_id
    where $7::bigint is not null or $8::bigint is not null
    window urgent as (order by o.nearest, m.office_id)
), beyond as (
    select 'email_per_day' as "limit", office_id, nearest, least(mails, mails_to - room) as mails
    from ranked, (select greatest($7::bigint - given.mails, 0) as room from given) given
    where $7::bigint is not null and mails_to > room -- greatest() passes over a null
    union all
    select 'email_per_second', office_id, nearest, mails from ranked where calls_to > $8::bigint
)
"""

_EXCESS_JSON = """(
    select coalesce(json_agg(x), '[]') from (
        select "limit", sum(mails) as mails, count(*) as offices,
               (array_agg(office_id order by nearest, office_id))[1:50] as first
        from beyond group by "limit" order by "limit"
    ) x
)"""

# The staff members of whom some devices are left out, those with the most devices first. If there are none, no row
# of the view is read.
_CROWDED_JSON = """(
    select coalesce(json_agg(x), '[]') from (
        select v.staff_id, count(*) as devices from crowded c join notifierd.devices v on v.staff_id = c.staff_id
        where v.id is not null and exists (select from member m where m.staff_id = c.staff_id and m.by_push)
        group by v.staff_id order by devices desc, v.staff_id limit 10
    ) x
)"""

_WHY_HELD = f"'{Reason.HELD}:' || held"  # null for what is not held back


def _planned(offices: str) -> str:
    """Return the tables that write what is due in *offices*: `run_offices`, and `planned`, the new deliveries."""
    return f"""
offices as (
    insert into notifierd.run_offices as r (day, office_id, urgency)
    select $1::date, o.office_id, coalesce(o.nearest, 100000)
    from {offices} o
    -- PostgreSQL hashes this in batches that fit work_mem; two exists() in an `or` only if their rows fit it at once.
    where o.office_id in (select office_id from mail union all select office_id from push)
    on conflict do nothing
    returning 1
), planned as (
    insert into notifierd.deliveries (id, day, office_id, staff_id, channel, device_id, state, reason)
    select notifierd.delivery_id($1::date, office_id, staff_id, channel, device_id) as id,
           $1::date, office_id, staff_id, channel, device_id,
           case when held is null then 'planned' else 'failed' end, {_WHY_HELD}
    from due
    order by id -- so that the primary key's index grows at its end
    on conflict (id) do nothing -- an id is derived from all that makes a delivery unique
    returning office_id, channel, state
)"""


_OPEN_MAILS = """
open_mails as (
    select office_id, sum(n)::bigint as mails from tally where channel = 'email' and state = 'planned'
    group by office_id
)"""

_COUNTS = f"""
select count(distinct office_id) filter (where state <> 'failed') as offices,
       coalesce(sum(n) filter (where channel = 'email' and state <> 'failed'), 0)::bigint as email,
       coalesce(sum(n) filter (where channel = 'push'), 0)::bigint as push,
       coalesce(sum(n) filter (where state = 'failed'), 0)::bigint as held,
       (select coalesce(sum(ceil(mails / $9::numeric)), 0)::bigint from open_mails) as calls,
       (select mails from given) as mails_given,
       {{later}} as later,
       {_CROWDED_JSON} as crowded,
       {_EXCESS_JSON} as excess
from tally
"""


def _begin(*, selective: bool) -> str:
    """Return the tables that divide the offices into those that are planned at first, and those that are later."""
    return f"""{scope(11, selective=selective)}, first as materialized (
    select * from scope order by nearest, office_id limit $10::int
), planned_now as ( -- what an earlier plan of the day had left
    delete from notifierd.offices_to_plan w using first f where w.day = $1::date and w.office_id = f.office_id
), later as (
    insert into notifierd.offices_to_plan (day, urgency, office_id)
    select $1::date, coalesce(o.nearest, 100000), o.office_id
    from (select * from scope order by nearest, office_id offset $10::int) o
    on conflict do nothing
)"""


PLAN = by_selectivity(
    lambda selective: (
        f"""
{_who_is_due(_begin(selective=selective), selective=selective, offices="first")}, {_planned("first")},
tally as materialized ( -- what is open now, and the mails that were just written as failed
    select office_id, channel, state, count(*) as n from (
        select office_id, channel, state from planned
        union all
        select office_id, channel, state from notifierd.deliveries
        where day = $1::date and state in {OPEN_STATES}
    ) there group by office_id, channel, state
), {_OPEN_MAILS}, {_EXCESS.format(given=GIVEN)}
{_COUNTS.format(later="(select greatest(0, count(*) - $10::int) from scope)")}
"""
    )
)
"""Write what is due on the day and not planned yet, mails that are held back as failed; count what is then open.

Of a day with more offices than one step plans, the most urgent ones are planned, and the others noted for PLAN_NEXT.
"""


def _go_on(*, selective: bool) -> str:
    """Return the tables that take the next offices that PLAN noted, and decide for whom they have a reason."""
    return f"""step as materialized (
    delete from notifierd.offices_to_plan w
    where w.day = $1::date and (w.urgency, w.office_id) <= (
        select n.urgency, n.office_id from (
            select n.urgency, n.office_id from notifierd.offices_to_plan n where n.day = $1::date
            order by n.urgency, n.office_id limit $10::int
        ) n
        order by n.urgency desc, n.office_id desc limit 1
    )
    returning w.office_id
), {scope(11, selective=selective, among="step")}"""


_LEFT = """(
    select count(*) from notifierd.offices_to_plan where day = $1::date
) - (select count(*) from step)"""

PLAN_NEXT = by_selectivity(
    lambda selective: (
        f"""
{_who_is_due(_go_on(selective=selective), selective=selective, among="step")}, {_planned("scope")},
tally as materialized (
    select office_id, channel, state, count(*) as n from planned group by office_id, channel, state
), {_OPEN_MAILS}, {_EXCESS.format(given="0::bigint")}
{_COUNTS.format(later=_LEFT)}
"""
    )
)
"""Do the same for the next offices that PLAN noted, and count what was written. $7 and $8: what is left for them."""

# $2: how many offices one step plans
RESUME = f"""
select (select count(*) from notifierd.run_offices r where r.day = $1::date and r.state <> 'done') as offices,
       count(*) filter (where d.channel = 'email') as email,
       count(*) filter (where d.channel = 'push') as push,
       {GIVEN} as mails_given
from notifierd.deliveries d
where d.day = $1::date and d.state in {OPEN_STATES} and (
    select count(*) from (select from notifierd.run_offices where day = $1::date limit $2::int + 1) planned
) > $2::int
having count(*) > 0
"""
"""Count what is open of a large day that was planned before."""

LIST_DUE = by_selectivity(
    lambda selective: (
        f"""
{_who_is_due(scope(7, selective=selective), selective=selective)}, todo as (
    select notifierd.delivery_id($1::date, office_id, staff_id, channel, device_id) as id,
           office_id, staff_id, channel, device_id
    from due where held is null
    union
    select id, office_id, staff_id, channel, device_id
    from notifierd.deliveries where day = $1::date and state in {OPEN_STATES}
)
select t.id, t.office_id, t.staff_id, t.channel, t.device_id, coalesce(d.state, 'planned') as state
from todo t
left join notifierd.deliveries d on d.id = t.id
left join notifierd.run_offices r on r.day = $1::date and r.office_id = t.office_id
left join scope o on o.office_id = t.office_id
where d.id is null or d.state in {OPEN_STATES}
order by coalesce(r.urgency, o.nearest, 100000), t.office_id, t.channel, t.staff_id, t.device_id
"""
    )
)
"""List what would be open after PLAN, in the order in which a run sends it."""

COUNT_DUE = by_selectivity(
    lambda selective: (
        f"""
{_who_is_due(scope(10, selective=selective), selective=selective)}, open_mails as (
    select m.office_id, count(*) as mails
    from mail m
    left join notifierd.deliveries d
        on d.day = $1::date and d.channel = 'email' and d.office_id = m.office_id and d.staff_id = m.staff_id
    where coalesce(d.state, case when m.held is null then 'planned' end) = 'planned'
    group by m.office_id
), {_EXCESS.format(given=GIVEN)}
select count(distinct office_id) as offices,
       count(*) filter (where channel = 'email') as email,
       count(*) filter (where channel = 'push') as push,
       count(*) filter (where held is not null) as held,
       {_EXCESS_JSON} as excess
from due
"""
    )
)
"""Count what PLAN would write on a day that is not planned yet."""
