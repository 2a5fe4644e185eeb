"""Who is due: written as a day's plan, counted, and compared with what reached somebody."""

from collections.abc import Callable, Mapping

from notifierd.model.reasons import Reason
from notifierd.store.sql import (
    DAYS_LEFT,
    DEVICES_BY_AGE,
    DUE,
    HOLDS,
    IS_HELD,
    LOST_STATES,
    OPEN_STATES,
    REACHED,
    in_scope,
)
from notifierd.store.sql.reminders import MISSED, REASON_ALONE, REASONS, has_reason, reminder
from notifierd.store.sql.runs import UNAUDITED_OFFICES

# A null in the view means no choice, and stands for the default. For push_enabled the default is false, as a null
# counts.
_BY_MAIL = "coalesce(s.email_enabled, true) and s.email <> ''"
_EMAIL_DAYS = "coalesce(s.email_days, 30)"
_PUSH_DAYS = "coalesce(s.push_days, 10)"

# $1 day, $2 horizon_days, $3 overdue, $4 push, $5 only_offices, $6 devices_per_person; PLAN and COUNT_DUE also take
# $7 mails, $8 calls and $9 batch
_IN_SCOPE = in_scope(day="$1::date", last="$1::date + $2::int", overdue="$3")
_OFFICE_IN_SCOPE = "(cardinality($5::uuid[]) = 0 or o.id = any ($5::uuid[]))"


def _both(statement: Callable[[bool], str]) -> Mapping[bool, str]:
    """Return *statement* by whether there are days on which some alert is no reason (`Reminders.selective`).

    If there are none, the statement does nothing for that.
    """
    return {selective: statement(selective) for selective in (False, True)}


def _scope(first: int, *, selective: bool) -> str:
    """Return the tables that decide for whom offices have a reason. *first*: see `reminder`."""
    return f"""
{f"{reminder(first)}," if selective else ""} scope as materialized (
    select a.office_id,
           min({DAYS_LEFT}) filter (where a.kind = 'renewal') as nearest,
           bool_or(a.kind = 'assessment') as assessment
           {REASONS if selective else ""}
    from notifierd.alerts a {"cross join reminder" if selective else ""}
    where {_IN_SCOPE}
    group by a.office_id
)"""


def _due_within(threshold: str, channel: str, *, selective: bool) -> str:
    """Return the condition that staff member *s* of office *o* is written to on *channel*."""
    within = f"(o.assessment or o.nearest <= {threshold})"
    return f"({within} and {has_reason(threshold, channel)})" if selective else within


def _who_is_due(first: int, *, selective: bool) -> str:
    return f"""
with {_scope(first, selective=selective)}, office as (
    select o.id, s.*
    from scope s join notifierd.offices o on o.id = s.office_id
    where {_OFFICE_IN_SCOPE}
), member as materialized ( -- the view is dear: it is read once, for both channels
    select o.id as office_id, s.id as staff_id,
           {_BY_MAIL} and {_due_within(_EMAIL_DAYS, "email", selective=selective)} as by_mail,
           $4::bool and s.push_enabled and {_due_within(_PUSH_DAYS, "push", selective=selective)} as by_push,
           h.reason as held -- why their mails are held back
    from office o join notifierd.staff s on s.office_id = o.id left join {HOLDS} h on {IS_HELD}
    {f"cross join reminder {MISSED}" if selective else ""}
    where s.id is not null -- who has no id can be told nothing, and would end the plan of all
), mail as not materialized (
    select office_id, staff_id, held from member where by_mail
), crowded as materialized ( -- nearly nobody; only their devices are put in order
    select v.staff_id from notifierd.devices v where $4::bool and v.id is not null
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
), due as (
    select office_id, staff_id, 'email' as channel, null::uuid as device_id, held from mail
    union all
    select p.office_id, p.staff_id, 'push', p.device_id, null
    from push p left join told using (office_id, staff_id)
    where told.staff_id is null
)
"""


_GIVEN = """(
    select count(*) from notifierd.deliveries d
    where d.day = $1::date and d.channel = 'email' and (d.state in ('sent', 'sending', 'unknown') or d.doubts > 0)
)"""
"""The number of mails of the day that a provider accepted, or may have accepted."""

# The mails beyond the limits on mails or calls, for each office in open_mails (office_id, mails), most urgent first.
_EXCESS = f"""
ranked as (
    select m.office_id, o.nearest, m.mails, sum(m.mails) over urgent as mails_to,
           sum(ceil(m.mails / $9::numeric)) over urgent as calls_to
    from open_mails m left join office o on o.id = m.office_id
    where $7::bigint is not null or $8::bigint is not null
    window urgent as (order by o.nearest, m.office_id)
), beyond as (
    select 'email_per_day' as "limit", office_id, nearest, least(mails, mails_to - room) as mails
    from ranked, (select greatest($7::bigint - {_GIVEN}, 0) as room) given
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

PLAN = _both(
    lambda selective: (
        f"""
{_who_is_due(10, selective=selective)}, offices as (
    insert into notifierd.run_offices as r (day, office_id, urgency)
    select $1::date, o.id, coalesce(o.nearest, 100000)
    from office o
    -- PostgreSQL hashes this in batches that fit work_mem; two exists() in an `or` only if their rows fit it at once.
    where o.id in (select office_id from mail union all select office_id from push)
    on conflict do nothing
    returning 1
), planned as (
    insert into notifierd.deliveries (id, day, office_id, staff_id, channel, device_id, state, reason)
    select notifierd.delivery_id($1::date, office_id, staff_id, channel, device_id) as id,
           $1::date, office_id, staff_id, channel, device_id,
           case when held is null then 'planned' else 'failed' end, {_WHY_HELD}
    from due
    order by id -- so that the primary key's index grows at its end
    on conflict do nothing
    returning office_id, channel, state
), waiting as (
    select office_id, channel, state from notifierd.deliveries
    where day = $1::date and state in {OPEN_STATES}
), open_mails as (
    select office_id, count(*) as mails from (
        select office_id from planned where channel = 'email' and state = 'planned'
        union all
        select office_id from waiting where channel = 'email' and state = 'planned'
    ) mails group by office_id
), {_EXCESS}
select (select count(*) from (
           select office_id from planned where state = 'planned' union select office_id from waiting
       ) there) as offices,
       (select count(*) from planned where channel = 'email' and state = 'planned')
           + (select count(*) from waiting where channel = 'email') as email,
       (select count(*) from planned where channel = 'push')
           + (select count(*) from waiting where channel = 'push') as push,
       (select count(*) from planned where state = 'failed') as held,
       {_GIVEN} as mails_given,
       {_CROWDED_JSON} as crowded,
       {_EXCESS_JSON} as excess
"""
    )
)
"""Write what is due on the day and not planned yet, mails that are held back as failed; count what is then open."""

LIST_DUE = _both(
    lambda selective: (
        f"""
{_who_is_due(7, selective=selective)}, todo as (
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
left join office o on o.id = t.office_id
where d.id is null or d.state in {OPEN_STATES}
order by coalesce(r.urgency, o.nearest, 100000), t.office_id, t.channel, t.staff_id, t.device_id
"""
    )
)
"""List what would be open after PLAN, in the order in which a run sends it."""

COUNT_DUE = _both(
    lambda selective: (
        f"""
{_who_is_due(10, selective=selective)}, open_mails as (
    select m.office_id, count(*) as mails
    from mail m
    left join notifierd.deliveries d
        on d.day = $1::date and d.channel = 'email' and d.office_id = m.office_id and d.staff_id = m.staff_id
    where coalesce(d.state, case when m.held is null then 'planned' end) = 'planned'
    group by m.office_id
), {_EXCESS}
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


def _untold(*, selective: bool) -> str:
    """Return the table `untold`: the alerts that reached nobody.

    A sent delivery tells its office's alerts that lie within the staff member's threshold. An alert beyond the
    threshold of every staff member who can be reached, and is written to on the day, is due on a later day.
    """
    within = f"(a.kind = 'assessment' or {DAYS_LEFT} <= c.days)"
    # Where nobody can be reached, there is no row. Without days, nobody is written to.
    told = f"case when c.office_id is null then {REASON_ALONE} else c.days is not null and {within} end"
    return f"""
untold as (
    select a.office_id, a.kind = 'renewal' and a.due_on <= $1::date as overdue
    from notifierd.alerts a {"cross join reminder" if selective else ""}
    join notifierd.offices o on o.id = a.office_id
    left join reached r on r.office_id = a.office_id
    left join reachable c on c.office_id = a.office_id
    where {_OFFICE_IN_SCOPE} and {_IN_SCOPE}
      and (r.days is null or (a.kind = 'renewal' and {DAYS_LEFT} > r.days))
      and {told if selective else f"(c.days is null or {within})"}
)
"""


def _reachable(first: int, *, selective: bool) -> str:
    """Return the tables `ways` and `reachable`: who can be reached, with the threshold of those who are written to.

    Whose mails are held back can still be told: an alert within their threshold is due, and reaches nobody. *first*:
    see `reminder`.
    """
    office = f"left join scope o on o.office_id = s.office_id cross join reminder {MISSED}" if selective else ""
    by_mail, by_push = (
        _due_within(days, channel, selective=True) if selective else "true"
        for days, channel in ((_EMAIL_DAYS, "email"), (_PUSH_DAYS, "push"))
    )
    return f"""
{f"{_scope(first, selective=True)}," if selective else ""} ways as (
    select s.office_id, {_EMAIL_DAYS} as days, h.reason as held, {by_mail} as due
    from notifierd.staff s left join {HOLDS} h on {IS_HELD} {office}
    where s.id is not null and {_BY_MAIL}
    union all
    select s.office_id, {_PUSH_DAYS}, null, {by_push} from notifierd.staff s {office}
    where $4::bool and s.push_enabled
      and exists (select from notifierd.devices v where v.staff_id = s.id and v.id is not null)
), reachable as (
    select office_id, max(days) filter (where due) as days from ways group by office_id
)
"""


_UNTOLD_JSON = """(
    select coalesce(json_agg(x), '[]') from (
        select office_id, count(*) as alerts, count(*) filter (where overdue) as overdue
        from untold group by office_id order by overdue desc, alerts desc, office_id
    ) x
)"""

_WAS_REACHED = f"""
reached as (
    select d.office_id,
           max(case d.channel when 'email' then coalesce(s.email_days, $2::int) else coalesce(s.push_days, $2::int) end)
               as days
    from notifierd.deliveries d
    left join notifierd.staff s on s.office_id = d.office_id and s.id = d.staff_id
    where d.day = $1::date and {REACHED}
    group by d.office_id
)
"""

COUNTS = _both(
    lambda selective: (
        f"""
with {_WAS_REACHED}, {_reachable(7, selective=selective)}, {_untold(selective=selective)}, failures as (
    select d.office_id, d.channel, d.reason,
           row_number() over (partition by d.staff_id order by d.office_id, d.channel, d.reason) as nth
    from notifierd.deliveries d
    where d.day = $1::date and d.state in {LOST_STATES}
), states as (
    select channel, state, count(*) as n
    from notifierd.deliveries d where d.day = $1::date group by channel, state
), waiting as (
    select count(*) as open,
           coalesce(bool_or({DUE}), false) as due_now,
           extract(epoch from min(greatest(d.not_before, case d.state when 'sending' then d.try_until end))
               filter (where not {DUE}) - clock_timestamp())::float8 as next_in
    from notifierd.deliveries d
    where d.day = $1::date and d.state in {OPEN_STATES}
)
select (select count(*) from notifierd.run_offices r where r.day = $1::date) as offices,
       (select count(*) from notifierd.run_offices r where r.day = $1::date and r.state = 'failed') as offices_failed,
       (select json_agg(states) from states) as states,
       (select json_agg(listed) from (
           select office_id, channel, reason from failures
           order by nth, office_id, channel, reason limit $6::int -- nobody's failures leave no place for another's
       ) listed) as failures,
       (select count(*) from failures) as failures_total,
       {_GIVEN} as mails_given,
       {UNAUDITED_OFFICES} as unaudited,
       waiting.*,
       {_UNTOLD_JSON} as untold
from waiting
"""
    )
)

# $5: the offices. The others keep what is written of them, and an office that was not there is marked as `later`.
RECOUNT = _both(
    lambda selective: (
        f"""
with {_WAS_REACHED}, {_reachable(6, selective=selective)}, {_untold(selective=selective)}, before as materialized (
    select (u.office ->> 'office_id')::uuid as office_id, u.office
    from notifierd.runs r cross join jsonb_array_elements(r.untold) as u (office)
    where r.day = $1::date
), now as materialized (
    select u.office_id,
           jsonb_build_object(
               'office_id', u.office_id, 'alerts', count(*), 'overdue', count(*) filter (where u.overdue)
           ) || case when b.office_id is null or b.office ? 'later' then '{{"later": true}}' else '{{}}' end::jsonb
               as office
    from untold u left join before b on b.office_id = u.office_id
    group by u.office_id, b.office_id, b.office
    union all
    select office_id, office from before where not office_id = any ($5::uuid[])
), written as (
    update notifierd.runs r
    set untold = (
        select coalesce(
            jsonb_agg(office order by (office -> 'overdue')::int desc, (office -> 'alerts')::int desc, office_id), '[]'
        ) from now
    )
    where r.day = $1::date and r.untold is not null
)
select coalesce(json_agg(office order by office_id), '[]') as untold
from now
where office ? 'later' and exists (select from notifierd.runs r where r.day = $1::date and r.untold is not null)
"""
    )
)

REHEARSED_UNTOLD = _both(
    lambda selective: (
        f"""
with {_reachable(6, selective=selective)}, reached as (
    select office_id, max(days) as days from ways where held is null and due group by office_id
), {_untold(selective=selective)}
select {_UNTOLD_JSON} as untold
"""
    )
)
