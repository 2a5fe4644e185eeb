"""What an office's messages are made of: its open deliveries, and the rows of the five views."""

from notifierd.statements import DUE

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

STAFF_MEMBER = """
select s.office_id, o.name as office_name, s.id, s.name, s.email, s.email_enabled, s.email_days, s.push_enabled,
       s.push_days
from notifierd.staff s left join notifierd.offices o on o.id = s.office_id
where s.id = $1::uuid
order by s.office_id
"""

DEVICES_OF = """
select id, staff_id, endpoint, p256dh, auth from notifierd.devices where staff_id = $1::uuid
"""

DELIVERIES_OF = """
select d.id, d.office_id, d.staff_id, d.channel, d.device_id, d.state, d.attempts, d.try, d.call_id, d.call_tries,
       d.position, d.payload_hash, d.doubts, d.provider, d.reason, true as due
from notifierd.deliveries d
where d.day = $1::date and d.office_id = any ($2::uuid[]) and d.staff_id = $3::uuid
"""
