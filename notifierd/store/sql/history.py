"""The history of the days. The statements run beside a live run: they take no lock, and return few rows."""

from notifierd.model.reasons import Reason
from notifierd.store.sql import DUE, INTERIM, LOST_STATES, NEXT_TURN, OFFICE_NAME, OPEN_STATES, STANDS

# The counts of a day are stored when its run ends, and every few seconds while it goes on.
DAYS = f"""
select r.day, r.state, r.reason, r.started_at, r.finished_at,
       case when r.lease_until > clock_timestamp() then r.holder end as holder,
       coalesce(r.counts, {INTERIM}, {STANDS}) as counts,
       case when r.untold is not null then (
           select json_build_object('alerts', coalesce(sum(u.alerts), 0), 'overdue', coalesce(sum(u.overdue), 0),
                                    'offices', count(*))
           from jsonb_to_recordset(r.untold) as u (alerts int, overdue int)
       ) end as untold
from notifierd.runs r
where r.day between $1::date and $2::date
order by r.day desc
limit $3::int
"""

_UNCOUNTED = """(
    r.day < $1::date and r.counts is null and r.state not in ('skipped', 'missed')
    and coalesce(r.lease_until <= clock_timestamp(), true)
)"""
"""Condition for a day that DAYS counts at each query although no run of it is active: the run never ended, or its
deliveries were closed later. The day $1 is left out, as its counts may still change."""

# $2 how many days, skipped ones and missed ones included
UNCOUNTED = f"""
select count(*) filter (where {_UNCOUNTED}) as days from (
    select * from notifierd.runs r where r.day <= $1::date order by r.day desc limit $2::int
) r
"""

# The last day. Whatever changes its deliveries takes its lease first, or sets counts to null.
KEEP_COUNTS = f"""
update notifierd.runs r set counts = {STANDS}
where r.day = (select max(r.day) from notifierd.runs r where {_UNCOUNTED}) and {_UNCOUNTED}
returning r.day
"""

LAST_RUN = """
select max(r.day) as day from notifierd.runs r where r.day <= $1::date and r.state not in ('skipped', 'missed')
"""

# $2 to $5 filter the list; a null filters nothing.
_FAILURES = f"""
from notifierd.deliveries d
where d.day = $1::date and d.state in {LOST_STATES}
  and ($2::text is null or d.channel = $2) and ($3::text is null or d.state = $3)
  and ($4::text is null or d.reason = $4) and ($5::uuid is null or d.office_id = $5)
"""

# While the day goes on, they are as the process that leads last counted them, except for those of one office.
REASONS = f"""
with kept as materialized (
    select {INTERIM} as interim from notifierd.runs r where r.day = $1::date
)
select o.channel, o.state, o.reason, o.deliveries, o.offices
from kept k cross join jsonb_to_recordset(k.interim -> 'reasons')
    as o (channel text, state text, reason text, deliveries bigint, offices bigint)
where $5::uuid is null and ($2::text is null or o.channel = $2) and ($3::text is null or o.state = $3)
  and ($4::text is null or o.reason = $4)
union all
select d.channel, d.state, coalesce(d.reason, ''), count(*), count(distinct d.office_id)
{_FAILURES}
  and ($5::uuid is not null or not exists (select from kept k where k.interim is not null))
group by 1, 2, 3
order by deliveries desc, 1, 2, 3
limit $6::int
"""

FAILURES = f"""
with page as materialized (
    select d.id, d.office_id, d.staff_id, d.channel, d.state, coalesce(d.reason, '') as reason, d.provider, d.updated_at
    {_FAILURES}
      and (d.office_id, d.id) > ($6::uuid, $7::uuid)
    order by d.office_id, d.id
    limit $8::int
)
select p.*, {OFFICE_NAME} as office_name
from page p left join notifierd.offices o on o.id = p.office_id
order by p.office_id, p.id
"""

OFFICES = f"""
with page as materialized (
    select d.office_id,
           count(*) filter (where d.state = 'failed') as failed,
           count(*) filter (where d.state = 'unknown') as unknown,
           count(*) filter (where d.state = 'expired') as expired
    from notifierd.deliveries d
    where d.day = $1::date and d.state in {LOST_STATES}
    group by d.office_id
    order by count(*) desc, d.office_id
    limit $2::int
)
select p.*, {OFFICE_NAME} as office_name, case r.state when 'failed' then r.reason end as error
from page p
left join notifierd.run_offices r on r.day = $1::date and r.office_id = p.office_id
left join notifierd.offices o on o.id = p.office_id
order by p.failed + p.unknown + p.expired desc, p.office_id
"""

UNTOLD = f"""
with page as materialized (
    select u.place, (u.office ->> 'office_id')::uuid as office_id, (u.office ->> 'alerts')::int as alerts,
           (u.office ->> 'overdue')::int as overdue
    from notifierd.runs r cross join jsonb_array_elements(r.untold) with ordinality as u (office, place)
    where r.day = $1::date
    order by u.place
    limit $2::int
)
select p.office_id, p.alerts, p.overdue, {OFFICE_NAME} as office_name
from page p left join notifierd.offices o on o.id = p.office_id
order by p.place
"""

OFFICE = """
select d.id, d.office_id, d.staff_id, d.channel, d.device_id, d.state, d.reason, d.attempts, d.try as tries, d.provider,
       d.provider_message_id, d.not_before, d.updated_at
from notifierd.deliveries d
where d.day = $1::date and d.office_id = $2::uuid
order by d.channel, d.staff_id, d.device_id
limit $3::int
"""

NAME_OF_OFFICE = f"select {OFFICE_NAME} as name from notifierd.offices o where o.id = $1::uuid"

OFFICE_DAYS = """
with listed as materialized (
    select r.day from notifierd.runs r where r.day <= $2::date order by r.day desc limit $3::int
)
select l.day, jsonb_agg(s) as states
from listed l cross join lateral (
    select d.channel, d.state, count(*) as n
    from notifierd.deliveries d where d.day = l.day and d.office_id = $1::uuid group by 1, 2
) s
group by l.day
order by l.day desc
"""

# Open deliveries are those of a run that has not ended and may still be resumed. While it goes on, they are as the
# process that leads last counted them.
OPEN = f"""
with left_open as materialized (
    select r.day, {INTERIM} as interim from notifierd.runs r
    where r.state in ('running', 'interrupted') and coalesce(r.reason, '') not like '{Reason.NEVER_RESUMED}%'
)
select l.day, o.channel, o.planned, o.sending, o.waiting, o.next_turn
from left_open l cross join jsonb_to_recordset(l.interim -> 'open')
    as o (channel text, planned bigint, sending bigint, waiting bigint, next_turn timestamptz)
union all
select l.day, d.channel,
       count(*) filter (where d.state = 'planned'),
       count(*) filter (where d.state = 'sending'),
       count(*) filter (where not {DUE}),
       min({NEXT_TURN}) filter (where not {DUE})
from left_open l join notifierd.deliveries d on d.day = l.day
where l.interim is null and d.state in {OPEN_STATES}
group by l.day, d.channel
order by day, channel
"""
