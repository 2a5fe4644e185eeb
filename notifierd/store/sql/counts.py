"""How a day stands: its deliveries by state, what is left to do, and which alerts reached nobody."""

from notifierd.store.sql import DAYS_LEFT, DUE, GIVEN, HOLDS, IS_HELD, LOST_STATES, OPEN_STATES, REACHED
from notifierd.store.sql.plans import (
    BY_MAIL,
    EMAIL_DAYS,
    IN_SCOPE,
    OFFICE_IN_SCOPE,
    PUSH_DAYS,
    by_selectivity,
    due_within,
    scope,
)
from notifierd.store.sql.reminders import MISSED, REASON_ALONE
from notifierd.store.sql.runs import UNAUDITED_OFFICES


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
    where {OFFICE_IN_SCOPE} and {IN_SCOPE}
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
        due_within(days, channel, selective=True) if selective else "true"
        for days, channel in ((EMAIL_DAYS, "email"), (PUSH_DAYS, "push"))
    )
    return f"""
{f"{scope(first, selective=True)}," if selective else ""} ways as (
    select s.office_id, {EMAIL_DAYS} as days, h.reason as held, {by_mail} as due
    from notifierd.staff s left join {HOLDS} h on {IS_HELD} {office}
    where s.id is not null and {BY_MAIL}
    union all
    select s.office_id, {PUSH_DAYS}, null, {by_push} from notifierd.staff s {office}
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

_TURN = "greatest(d.not_before, case d.state when 'sending' then d.try_until end)"
"""When an open delivery that is not due has its turn."""

# $6 how many failures are listed, $7 whether it is enough to know what is open, as long as anything is: the rest takes
# most of the time, and is told of at the end. Only offices that are not done are then looked at. The deliveries of a
# large day are all read only if those have nothing open: an operator may have had some retried just as their office was
# done.
COUNTS = by_selectivity(
    lambda selective: (
        f"""
with to_do as materialized (
    select d.office_id, count(*) as n, bool_or({DUE}) as due_now, min({_TURN}) filter (where not {DUE}) as next_turn
    from notifierd.run_offices r join notifierd.deliveries d on d.day = r.day and d.office_id = r.office_id
    where $7::bool and r.day = $1::date and r.state <> 'done' and d.state in {OPEN_STATES}
    group by d.office_id
), everything as materialized ( -- by office only what is open
    select d.channel, d.state, case when d.state in {OPEN_STATES} then d.office_id end as office_id, count(*) as n,
           bool_or({DUE}) as due_now, min({_TURN}) filter (where d.state in {OPEN_STATES} and not {DUE}) as next_turn
    from notifierd.deliveries d
    where d.day = $1::date and not exists (select from to_do)
    group by 1, 2, 3
), by_state as materialized (
    select channel, state, sum(n)::bigint as n from everything group by 1, 2
), unsent as materialized (
    select office_id, n, due_now, next_turn from to_do
    union all
    select office_id, n, due_now, next_turn from everything where office_id is not null
), waiting as materialized (
    select coalesce(sum(n), 0)::bigint as open, coalesce(bool_or(due_now), false) as due_now,
           extract(epoch from min(next_turn) - clock_timestamp())::float8 as next_in
    from unsent
), places as materialized ( -- with a limit here, PostgreSQL would read all offices in their order
    select r.urgency, r.office_id from notifierd.run_offices r
    where r.day = $1::date and r.office_id in (select office_id from unsent)
), first_open as materialized (
    select urgency, office_id from places order by urgency, office_id limit 1
), done as ( -- the last office before that one
    select r.urgency, r.office_id from notifierd.run_offices r
    where r.day = $1::date
      and (r.urgency, r.office_id) < ((select urgency from first_open), (select office_id from first_open))
    order by r.urgency desc, r.office_id desc limit 1
), offices as (
    select count(*) as n, count(*) filter (where r.state = 'failed') as failed
    from notifierd.run_offices r where r.day = $1::date
), {_WAS_REACHED}, {_reachable(8, selective=selective)}, {_untold(selective=selective)}, failures as (
    select d.office_id, d.channel, d.reason,
           row_number() over (partition by d.staff_id order by d.office_id, d.channel, d.reason) as nth
    from notifierd.deliveries d
    where d.day = $1::date and d.state in {LOST_STATES}
      and exists (select from by_state where state in {LOST_STATES})
)
select offices.n as offices, offices.failed as offices_failed,
       case when not $7::bool or waiting.open = 0 then (
           select json_agg(json_build_object('channel', channel, 'state', state, 'n', n)) from by_state
       ) end as states,
       case when not $7::bool or waiting.open = 0 then (
           select json_agg(listed) from (
               select office_id, channel, reason from failures
               order by nth, office_id, channel, reason limit $6::int -- nobody's failures leave no place for another's
           ) listed
       ) end as failures,
       case when not $7::bool or waiting.open = 0 then (
           select coalesce(sum(n), 0)::bigint from by_state where state in {LOST_STATES}
       ) end as failures_total,
       {UNAUDITED_OFFICES} as unaudited,
       waiting.*, done.urgency, done.office_id,
       case when not $7::bool or waiting.open = 0 then {_UNTOLD_JSON} end as untold
from waiting cross join offices left join done on true
"""
    )
)

MAILS_GIVEN = f"select {GIVEN} as mails"

# $5: the offices. The others keep what is written of them, and an office that was not there is marked as `later`.
RECOUNT = by_selectivity(
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

REHEARSED_UNTOLD = by_selectivity(
    lambda selective: (
        f"""
with {_reachable(6, selective=selective)}, reached as (
    select office_id, max(days) as days from ways where held is null and due group by office_id
), {_untold(selective=selective)}
select {_UNTOLD_JSON} as untold
"""
    )
)
