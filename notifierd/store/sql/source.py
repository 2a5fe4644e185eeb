"""The data of an office's messages: its open deliveries, and the rows of the five views.

Statements return one row for an office, with the rest as JSON text: the text takes a fraction of the memory that the
rows would, and is parsed when the office's turn comes.

Browsers and other programs write what the views contain, so every text is limited in length here: a name is cut, and
any other text that is too long is replaced by an invalid one. A row whose id is null is ignored.
"""

from notifierd.model.delivery import LISTED
from notifierd.store.sql import DEADLINE, DEVICES_BY_AGE, DUE, IS_MEMBER, NAME, OFFICE_NAME, OPEN_STATES, in_scope
from notifierd.store.sql.reminders import missed, previous_day

_DELIVERY = """json_build_object(
    'id', d.id, 'staff_id', d.staff_id, 'channel', d.channel, 'device_id', d.device_id,
    'state', d.state, 'attempts', d.attempts, 'try', d.try, 'call_id', d.call_id, 'call_tries', d.call_tries,
    'position', d.position, 'payload_hash', encode(d.payload_hash, 'hex'), 'doubts', d.doubts,
    'put_back', d.put_back, 'provider', d.provider, 'reason', d.reason, 'due', {due}
)"""

# An address has at most 320 characters: 64, @, 255 (RFC 5321, section 4.5.3.1). One character more makes it invalid.
_MEMBER = f"""json_build_object(
    'id', s.id, 'name', {NAME.format("s.name")}, 'email', left(s.email, 321),
    'email_enabled', s.email_enabled, 'email_days', s.email_days,
    'push_enabled', s.push_enabled, 'push_days', s.push_days
)"""

# Limits in bytes. The keys have 87 and 22 characters in base64url (RFC 8291, section 3.2), a few more in other
# encodings.
_DEVICE = """json_build_object(
    'id', v.id, 'staff_id', v.staff_id, 'endpoint', case when octet_length(v.endpoint) <= 2048 then v.endpoint end,
    'p256dh', case when octet_length(v.p256dh) <= 128 then v.p256dh end,
    'auth', case when octet_length(v.auth) <= 64 then v.auth end
)"""

# A claim is in force as long as the membership of who made it. The member's own offices are claimed again.
_OTHERS = f"""(
    select coalesce(array_agg(m.name), '{{}}') from notifierd.run_members m
    where m.day = $1::date and m.name <> $5::text and {IS_MEMBER}
)"""

# Claim offices, and read their deliveries. $2 and $3: read on after this (urgency, office); $4: how many offices; $5:
# the member; $6: how many members there are; $7: its offices that are finished; $8: the channels that it serves, null
# for all. If there are others, a member claims a quarter of its fair part of what nobody claims. So the chunks become
# smaller towards the end, and no member waits long for the last one.
CLAIM = f"""
with others as materialized (
    select {_OTHERS} as names
), finished as (
    update notifierd.run_offices r set state = 'done'
    where r.day = $1::date and r.office_id = any ($7::uuid[]) and r.state = 'open' and r.claimed_by = $5::text
      and not exists (
          select from notifierd.deliveries d
          where d.day = r.day and d.office_id = r.office_id and d.state in {OPEN_STATES}
      )
), size as materialized (
    select case $6::int when 1 then $4::int else least($4::int, greatest(1, (
        select count(*) from (
            select from notifierd.run_offices r
            where r.day = $1::date and r.state <> 'done'
              and (r.claimed_by is null or r.claimed_by <> all ((select o.names from others o)::text[]))
            limit 4 * $6::int * $4::int
        ) free
    ) / (4 * $6::int))) end as offices
), chunk as materialized (
    select r.office_id, r.urgency, r.claimed_by
    from notifierd.run_offices r
    where r.day = $1::date and r.state <> 'done' and (r.urgency, r.office_id) > ($2::int, $3::uuid)
      and (r.claimed_by is null or r.claimed_by = $5::text
           or r.claimed_by <> all ((select o.names from others o)::text[]))
      and exists (select from notifierd.deliveries d where d.day = r.day and d.office_id = r.office_id and {DUE})
      and ($8::text[] is null or not exists (
          select from notifierd.deliveries d
          where d.day = r.day and d.office_id = r.office_id and d.channel <> all ($8::text[]) and {DUE}
      ))
    order by r.urgency, r.office_id
    limit (select offices from size)
    for update of r skip locked
), claimed as (
    update notifierd.run_offices r set claimed_by = $5::text
    from chunk c
    where r.day = $1::date and r.office_id = c.office_id and c.claimed_by is distinct from $5::text
), again as materialized (
    select distinct d.call_id
    from chunk c join notifierd.deliveries d on d.day = $1::date and d.office_id = c.office_id
    where d.state = 'sending'
)
select c.urgency, c.office_id,
       array_agg(d.staff_id order by d.id) filter (where d.device_id is not null) as pushed_to,
       array_agg(d.device_id order by d.id) filter (where d.device_id is not null) as device_ids,
       json_agg({_DELIVERY.format(due=DUE)} order by d.channel, d.staff_id, d.device_id) as deliveries
from chunk c join notifierd.deliveries d on d.day = $1::date and d.office_id = c.office_id
where {DUE} or d.call_id in (select call_id from again)
group by c.urgency, c.office_id
order by c.urgency, c.office_id
"""


def _last_run(day: str, is_needed: str) -> str:
    """Return the columns for the run before *day*: its day, and if it *is_needed*, what staff of office *o* missed."""
    previous = previous_day(day)
    return f"""{previous} as previous, case when {is_needed} then (
           select json_agg(json_build_array(m.staff_id, m.channel))
           from ({missed(previous, "d.office_id = o.id")}) m
       ) end as missed"""


def _staff(day: str, is_needed: str) -> str:
    """Return the query for the staff of the offices $1. *day* and *is_needed*: see `_last_run`."""
    return f"""
select o.id as office_id, {OFFICE_NAME} as office_name,
       json_agg({_MEMBER}) filter (where s.id is not null) as members,
       {_last_run(day, is_needed)}
from notifierd.offices o
left join (select * from notifierd.staff s where s.office_id = any ($1::uuid[])) s on s.office_id = o.id
where o.id = any ($1::uuid[])
group by o.id, o.name
"""


FARTHEST = 4000
"""Rule: alerts that no mail lists are counted by their day, or by the day that is this many days before or after the
run's day if theirs is further away. So they take at most one row for each of these days, and the counts are right for
any threshold within ten years."""

# $1 offices, $2 the last day of the horizon, $3 the day, $4 overdue. Of each kind, the first LISTED alerts of an
# office in the order of `choose` are all that a mail can list; the others are counted by day.
ALERTS = f"""
with ranked as (
    select office_id, kind, due_on, recipient_id, recipient_name, cycle,
           row_number() over (
               partition by office_id, kind
               order by due_on, recipient_name collate "C", recipient_id, cycle nulls first
           ) as nth
    from (
        select office_id, kind, recipient_id, {NAME.format("recipient_name")} as recipient_name, cycle,
               case kind when 'renewal' then {DEADLINE.format("due_on")} end as due_on
        from notifierd.alerts a
        where office_id = any ($1::uuid[]) and {in_scope(day="$3::date", last="$2::date", overdue="$4")}
    ) due
)
select office_id, json_agg(alert) as alerts from (
    select office_id, json_build_object(
        'recipient_id', recipient_id, 'recipient_name', recipient_name, 'kind', kind, 'due_on', due_on, 'cycle', cycle
    ) as alert
    from ranked where nth <= {LISTED}
    union all
    select office_id, json_build_object('kind', kind, 'due_on', due_on, 'unlisted', count(*))
    from (
        select office_id, kind, case kind when 'renewal' then
                   least(greatest(due_on, $3::date - {FARTHEST}), $3::date + {FARTHEST}) end as due_on
        from ranked where nth > {LISTED}
    ) others
    group by office_id, kind, due_on
) alerts
group by office_id
"""


# Everything about offices, as of one moment. $1 to $4 as in ALERTS, $5 to $7 the devices: office, device, and owner of
# each, $8 whether it matters what staff missed. Each part is read by itself, and once.
FACTS = f"""
with people as materialized ({_staff("$3::date", "$8::bool")}), due as materialized ({ALERTS}), found as materialized (
    select w.office_id, json_agg({_DEVICE}) as devices
    from notifierd.devices v
    join unnest($5::uuid[], $6::uuid[], $7::uuid[]) as w (office_id, id, staff_id)
      on w.id = v.id and w.staff_id = v.staff_id
    group by w.office_id
)
select p.office_id, p.office_name, p.members, p.previous, p.missed, due.alerts, found.devices
from people p left join due using (office_id) left join found using (office_id)
"""

# $2 the day
STAFF_MEMBER = f"""
select s.office_id, {OFFICE_NAME} as office_name, json_build_array({_MEMBER}) as members,
       {_last_run("$2::date", "true")}
from notifierd.staff s left join notifierd.offices o on o.id = s.office_id
where s.id = $1::uuid and s.office_id is not null
order by s.office_id
"""

# $2 how many at most, the newest first
DEVICES_OF = f"""
select json_agg({_DEVICE} order by v.created_at desc nulls last, v.id desc) as devices
from (
    {DEVICES_BY_AGE.format(where="v.staff_id = $1::uuid")} order by created_at desc nulls last, v.id desc limit $2::int
) v
"""

DELIVERIES_OF = f"""
select d.office_id, json_agg({_DELIVERY.format(due="true")}) as deliveries
from notifierd.deliveries d
where d.day = $1::date and d.office_id = any ($2::uuid[]) and d.staff_id = $3::uuid
group by d.office_id
"""
