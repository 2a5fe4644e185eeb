"""The ledger's statements. Each is one round trip, and one transaction.

``clock_timestamp()`` is the database's clock at the moment it is looked at: leases and tries are reckoned by no other.
"""

DUE = """(
    (d.state = 'planned' and (d.not_before is null or d.not_before <= clock_timestamp()))
    or (d.state = 'sending' and d.try_until <= clock_timestamp()
        and (d.not_before is null or d.not_before <= clock_timestamp()))
)"""
"""Whether a delivery's turn has come: planned, or left over by a try that can no longer settle it."""

# $1 day, $2 horizon_days, $3 overdue, $4 push, $5 only_offices
_WHO_IS_DUE = """
with scope as materialized (
    select a.office_id,
           min(a.due_on - $1::date) filter (where a.kind = 'renewal') as nearest,
           bool_or(a.kind = 'assessment') as assessment
    from notifierd.alerts a
    where a.kind = 'assessment'
       or (a.kind = 'renewal' and a.due_on <= $1::date + $2::int and ($3::bool or a.due_on > $1::date))
    group by a.office_id
), office as (
    select o.id, s.nearest, s.assessment
    from scope s join notifierd.offices o on o.id = s.office_id
    where cardinality($5::uuid[]) = 0 or o.id = any ($5::uuid[])
), mail as (
    select o.id as office_id, s.id as staff_id
    from office o join notifierd.staff s on s.office_id = o.id
    where s.email_enabled and s.email <> '' and (o.assessment or o.nearest <= s.email_days)
), push as (
    select o.id as office_id, s.id as staff_id, v.id as device_id
    from office o
    join notifierd.staff s on s.office_id = o.id
    join notifierd.devices v on v.staff_id = s.id
    where $4::bool and s.push_enabled and (o.assessment or o.nearest <= s.push_days)
), told as (
    select distinct d.office_id, d.staff_id
    from notifierd.deliveries d
    where d.day = $1::date and d.channel = 'push' and d.state = 'sent'
), due as (
    select office_id, staff_id, 'email' as channel, null::uuid as device_id from mail
    union all
    select p.office_id, p.staff_id, 'push', p.device_id
    from push p left join told using (office_id, staff_id)
    where told.staff_id is null
)
"""

PLAN = (
    _WHO_IS_DUE
    + """, offices as (
    insert into notifierd.run_offices as r (day, office_id, urgency)
    select $1::date, o.id, coalesce(o.nearest, 100000)
    from office o
    where exists (select from mail m where m.office_id = o.id) or exists (select from push p where p.office_id = o.id)
    on conflict do nothing
    returning 1
), planned as (
    insert into notifierd.deliveries (id, day, office_id, staff_id, channel, device_id)
    select notifierd.delivery_id($1::date, office_id, staff_id, channel, device_id),
           $1::date, office_id, staff_id, channel, device_id
    from due
    on conflict do nothing
    returning office_id, channel
), waiting as (
    select office_id, channel from notifierd.deliveries
    where day = $1::date and state in ('planned', 'sending')
)
select (select count(*) from (
           select office_id from planned union select office_id from waiting
       ) there) as offices,
       (select count(*) from planned where channel = 'email')
           + (select count(*) from waiting where channel = 'email') as email,
       (select count(*) from planned where channel = 'push')
           + (select count(*) from waiting where channel = 'push') as push
"""
)
"""Write what is due on the day and not there yet; count what is open then."""

REHEARSE = (
    _WHO_IS_DUE
    + """
select count(distinct office_id) as offices,
       count(*) filter (where channel = 'email') as email,
       count(*) filter (where channel = 'push') as push
from due
"""
)
"""What PLAN would write on a day not planned yet, counted."""

# Alerts that reached nobody. An office's sent deliveries tell of what lies within their staff member's threshold; what
# lies beyond every threshold of a staff member who can be reached will be told of another day.
_UNTOLD = """
untold as (
    select a.office_id, a.kind = 'renewal' and a.due_on <= $1::date as overdue
    from notifierd.alerts a
    join notifierd.offices o on o.id = a.office_id
    left join reached r on r.office_id = a.office_id
    left join reachable c on c.office_id = a.office_id
    where (cardinality($5::uuid[]) = 0 or o.id = any ($5::uuid[]))
      and (a.kind = 'assessment'
           or (a.kind = 'renewal' and a.due_on <= $1::date + $2::int and ($3::bool or a.due_on > $1::date)))
      and (r.days is null or (a.kind = 'renewal' and a.due_on - $1::date > r.days))
      and (c.days is null or a.kind = 'assessment' or a.due_on - $1::date <= c.days)
)
"""

_REACHABLE = """
reachable as (
    select office_id, max(days) as days from (
        select s.office_id, s.email_days as days from notifierd.staff s where s.email_enabled and s.email <> ''
        union all
        select s.office_id, s.push_days from notifierd.staff s
        where $4::bool and s.push_enabled and exists (select from notifierd.devices v where v.staff_id = s.id)
    ) ways group by office_id
)
"""

_UNTOLD_JSON = """(
    select json_build_object(
        'alerts', count(*), 'overdue', count(*) filter (where overdue),
        'offices', coalesce((select json_agg(x.office_id) from (
            select office_id from untold group by office_id order by bool_or(overdue) desc, office_id
        ) x), '[]'))
    from untold
)"""

COUNTS = f"""
with reached as (
    select d.office_id,
           max(case d.channel when 'email' then coalesce(s.email_days, $2::int) else coalesce(s.push_days, $2::int) end)
               as days
    from notifierd.deliveries d
    left join notifierd.staff s on s.office_id = d.office_id and s.id = d.staff_id
    where d.day = $1::date and d.state = 'sent'
    group by d.office_id
), {_REACHABLE}, {_UNTOLD}, failures as (
    select d.office_id, d.channel, d.reason
    from notifierd.deliveries d
    where d.day = $1::date and d.state in ('failed', 'unknown', 'expired')
), states as (
    select channel, state, count(*) as n
    from notifierd.deliveries d where d.day = $1::date group by channel, state
), waiting as (
    select count(*) as open,
           coalesce(bool_or({DUE}), false) as due_now,
           extract(epoch from min(greatest(d.not_before, case d.state when 'sending' then d.try_until end))
               filter (where not {DUE}) - clock_timestamp())::float8 as next_in
    from notifierd.deliveries d
    where d.day = $1::date and d.state in ('planned', 'sending')
)
select (select count(*) from notifierd.run_offices r where r.day = $1::date) as offices,
       (select count(*) from notifierd.run_offices r where r.day = $1::date and r.state = 'failed') as offices_failed,
       (select json_agg(states) from states) as states,
       (select json_agg(listed) from (
           select * from failures order by office_id, channel, reason limit $6::int
       ) listed) as failures,
       (select count(*) from failures) as failures_total,
       waiting.*,
       {_UNTOLD_JSON} as untold
from waiting
"""

REHEARSED_UNTOLD = f"""
with {_REACHABLE}, reached as (select office_id, days from reachable), {_UNTOLD}
select {_UNTOLD_JSON} as untold
"""

# $2 and $3: after which (urgency, office); $4: how many offices
WORK = f"""
with chunk as materialized (
    select r.office_id, r.urgency
    from notifierd.run_offices r
    where r.day = $1::date and (r.urgency, r.office_id) > ($2::int, $3::uuid)
      and exists (select from notifierd.deliveries d where d.day = r.day and d.office_id = r.office_id and {DUE})
    order by r.urgency, r.office_id
    limit $4::int
), again as materialized (
    select distinct d.call_id
    from chunk c join notifierd.deliveries d on d.day = $1::date and d.office_id = c.office_id
    where d.state = 'sending' and {DUE}
)
select c.urgency, d.id, d.office_id, d.staff_id, d.channel, d.device_id, d.state, d.attempts, d.try, d.call_id,
       d.call_tries, d.position, d.payload_hash, d.doubts, d.provider, d.reason, {DUE} as due
from chunk c join notifierd.deliveries d on d.day = $1::date and d.office_id = c.office_id
where {DUE} or d.call_id in (select call_id from again)
order by c.urgency, c.office_id, d.channel, d.staff_id, d.device_id
"""

STAFF = """
select o.id as office_id, o.name as office_name, s.id, s.name, s.email, s.email_enabled, s.email_days,
       s.push_enabled, s.push_days
from notifierd.offices o
left join (select * from notifierd.staff s where s.office_id = any ($1::uuid[])) s on s.office_id = o.id
where o.id = any ($1::uuid[])
"""

# $1 offices, $2 the last day of the horizon
ALERTS = """
select office_id, recipient_id, recipient_name, kind, case kind when 'renewal' then due_on end as due_on, cycle
from notifierd.alerts
where office_id = any ($1::uuid[]) and (kind = 'assessment' or (kind = 'renewal' and due_on <= $2::date))
"""

DEVICES = """
select v.id, v.staff_id, v.endpoint, v.p256dh, v.auth
from notifierd.devices v
join unnest($1::uuid[], $2::uuid[]) as w (id, staff_id) on w.id = v.id and w.staff_id = v.staff_id
"""

# The lease -----------------------------------------------------------------------------------------------------------

TAKE_LEASE = """
insert into notifierd.runs as r (day, state, holder, lease_until, started_at)
values ($1::date, 'running', $2::text, clock_timestamp() + make_interval(secs => $3::float8), now())
on conflict (day) do update
set state = 'running', reason = null, holder = excluded.holder, lease_until = excluded.lease_until,
    started_at = coalesce(r.started_at, excluded.started_at), finished_at = null
where r.holder is null or r.holder = excluded.holder or r.lease_until <= clock_timestamp()
returning holder
"""

HOLDER = "select holder from notifierd.runs where day = $1::date"

RENEW_LEASE = """
update notifierd.runs set lease_until = clock_timestamp() + make_interval(secs => $3::float8)
where day = $1::date and holder = $2::text and lease_until > clock_timestamp()
returning holder
"""

FINISH = """
update notifierd.runs
set state = $3::text, reason = $4::text, finished_at = now(), holder = null, lease_until = null
where day = $1::date and holder = $2::text
"""

SKIP = """
insert into notifierd.runs (day, state, reason, finished_at) values ($1::date, 'skipped', $2::text, now())
on conflict (day) do nothing
"""

# The oldest day that is to be forgotten loses up to $2 deliveries; when it has none left, it goes itself.
FORGET = """
with old as materialized (
    select day from notifierd.runs where day < $1::date order by day limit 1
), step as materialized (
    select d.id from notifierd.deliveries d join old on old.day = d.day limit $2::int
), evidence as (
    delete from notifierd.late_outcomes l using step where l.delivery_id = step.id
), deliveries as (
    delete from notifierd.deliveries d using step where d.id = step.id
), offices as (
    delete from notifierd.run_offices r using old where r.day = old.day and not exists (select from step)
), runs as (
    delete from notifierd.runs r using old where r.day = old.day and not exists (select from step)
)
select day from old
"""

# A delivery's life ---------------------------------------------------------------------------------------------------

# All of a call's deliveries or none: a call that lost some would not be the one whose payload hash is written.
RESERVE = """
with want as materialized (
    select * from unnest($3::uuid[], $4::int[], $5::uuid[], $6::int[], $7::bytea[], $8::text[], $9::float8[])
        as w (id, try, call_id, position, payload_hash, provider, seconds)
), mine as materialized (
    select w.*
    from want w join notifierd.deliveries d on d.id = w.id
    where exists (
        select from notifierd.runs r
        where r.day = $1::date and r.holder = $2::text and r.lease_until > clock_timestamp()
    ) and (
        (d.try = w.try - 1 and d.state = 'planned')
        or (d.try = w.try - 1 and d.state = 'sending' and d.try_until <= clock_timestamp())
        or (d.try = w.try and d.state = 'sending' and d.call_id = w.call_id)  -- ours: the answer to this got lost
    )
    for update of d
), whole as materialized (
    select call_id from mine group by call_id
    having count(*) = (select count(*) from want where want.call_id = mine.call_id)
)
update notifierd.deliveries d
set state = 'sending', try = m.try, call_id = m.call_id, position = m.position, payload_hash = m.payload_hash,
    call_tries = case when d.call_id is distinct from m.call_id then 1
                      when d.try = m.try then d.call_tries else d.call_tries + 1 end,
    provider = m.provider, try_until = clock_timestamp() + make_interval(secs => m.seconds), not_before = null,
    reason = null, updated_at = now()
from mine m join whole on whole.call_id = m.call_id
where d.id = m.id
returning d.call_id
"""

SETTLE = """
with said as materialized (
    select * from unnest(
        $1::uuid[], $2::int[], $3::text[], $4::text[], $5::int[], $6::int[], $7::float8[], $8::text[], $9::jsonb[],
        $10::text[]
    ) as s (id, try, state, reason, attempts, doubts, wait, message_id, audit, endpoint)
), settled as (
    update notifierd.deliveries d
    set state = s.state, reason = s.reason, attempts = s.attempts, doubts = s.doubts,
        not_before = clock_timestamp() + make_interval(secs => s.wait),
        try_until = case s.state when 'sending' then clock_timestamp() end,
        provider_message_id = coalesce(s.message_id, d.provider_message_id),
        audit_missing = $11::bool and s.state = 'sent', updated_at = now()
    from said s
    where d.id = s.id and d.state = 'sending' and d.try = s.try
    returning d.id, d.day, d.office_id, d.staff_id, d.channel, d.device_id, s.state, s.audit, s.endpoint
), mails as (
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select 'deadline_notification_sent', 'email_notification', staff_id, office_id, audit
    from settled
    where state = 'sent' and channel = 'email' and not $11::bool
), pushes as (
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select distinct on (p.day, p.office_id, p.staff_id)
           'push_notification_sent', 'push_notification', p.staff_id, p.office_id, p.audit
    from settled p
    where p.state = 'sent' and p.channel = 'push' and not $11::bool and not exists (
        select from notifierd.deliveries d
        where d.day = p.day and d.office_id = p.office_id and d.staff_id = p.staff_id
          and d.channel = 'push' and d.state = 'sent'
    )
), gone as (
    delete from notifierd.devices v using settled s
    where s.state = 'gone' and not $11::bool and v.id = s.device_id and v.endpoint = s.endpoint
)
insert into notifierd.late_outcomes (delivery_id, try, state, reason, provider_message_id)
select s.id, s.try, s.state, s.reason, s.message_id
from said s join notifierd.deliveries d on d.id = s.id
where not exists (select from settled where settled.id = s.id)
  and not (d.try = s.try and d.state = s.state)  -- said before, and its answer lost
returning delivery_id
"""

EXPIRE = """
update notifierd.deliveries d set state = 'expired', reason = x.reason, not_before = null, updated_at = now()
from unnest($1::uuid[], $2::int[], $3::text[]) as x (id, try, reason)
where d.id = x.id and d.state = 'planned' and d.try = x.try
returning d.id
"""

FAIL_OFFICE = """
with office as (
    update notifierd.run_offices set state = 'failed', reason = $3::text
    where day = $1::date and office_id = $2::uuid
)
update notifierd.deliveries d
set state = case d.state when 'planned' then 'failed' else 'unknown' end, reason = $3::text, not_before = null,
    try_until = null, updated_at = now()
where d.day = $1::date and d.office_id = $2::uuid
  and (d.state = 'planned' or (d.state = 'sending' and d.try_until <= clock_timestamp()))
returning d.id, d.channel, d.state
"""

_END = """
set state = case d.state when 'planned' then 'expired' else 'unknown' end,
    reason = 'window_ended' || case when d.doubts > 0 then '_in_doubt' else '' end
             || coalesce(' (' || d.reason || ')', ''),
    not_before = null, try_until = null, updated_at = now()
"""

RETRY = """
with again as (
    update notifierd.deliveries d
    set state = 'planned', reason = null, attempts = 0, doubts = 0, call_id = null, call_tries = 0, not_before = null,
        updated_at = now()
    where d.day = $1::date and d.state = any ($2::text[])
    returning d.office_id, d.channel
), offices as (
    update notifierd.run_offices r set state = 'open', reason = null
    where r.day = $1::date and r.office_id in (select office_id from again)
)
select count(distinct office_id) as offices,
       count(*) filter (where channel = 'email') as email,
       count(*) filter (where channel = 'push') as push
from again
"""

CLOSE = f"""
update notifierd.deliveries d {_END}
where d.day = $1::date and (d.state = 'planned' or (d.state = 'sending' and d.try_until <= clock_timestamp()))
returning d.id
"""

# A day that no process came back to. Its rows are settled for the record; nothing of it is sent any more.
CLOSE_EARLIER = f"""
with left_open as (
    update notifierd.runs r
    set state = 'interrupted', reason = coalesce(r.reason, 'never_resumed'), holder = null, lease_until = null,
        finished_at = coalesce(r.finished_at, now())
    where r.day < $1::date and (r.holder is null or r.lease_until <= clock_timestamp())
      and (r.state = 'running' or (r.state = 'interrupted' and r.reason is distinct from 'never_resumed'))
    returning r.day
)
update notifierd.deliveries d {_END}
from left_open l where d.day = l.day and d.state in ('planned', 'sending')
returning d.id
"""
