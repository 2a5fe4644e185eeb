"""A day's run: its lease, its result, and the deletion of old days."""

from notifierd.model.reasons import Reason
from notifierd.store.sql import IN_PROGRESS, NAME, OPEN_STATES, STANDS
from notifierd.store.sql.deliveries import END

# A concurrent RETRY either waits for FINISH, or has committed before and is seen by it.
LOCK_RUN = "select from notifierd.runs where day = $1::date for update"

FINISH = f"""
with again as materialized (
    select $3::text = 'completed' and exists (
        select from notifierd.deliveries d where d.day = $1::date and d.state in {OPEN_STATES}
    ) as planned
), finished as (
    update notifierd.runs r
    set state = case when again.planned then 'interrupted' else $3::text end,
        reason = case when again.planned then '{Reason.RETRIED}' else $4::text end,
        finished_at = now(), holder = null, lease_until = null, counts = {STANDS}, untold = $5::jsonb
    from again
    where r.day = $1::date and r.holder = $2::text
    returning again.planned
), gone as (
    delete from notifierd.run_members m using finished where m.day = $1::date and m.name = $2::text
)
select planned from finished
"""

# The offices whose row is due: something of theirs was sent that no row counts, and nothing of theirs is open.
_UNAUDITED = f"""
    from notifierd.run_offices r
    where r.audit_owed and r.day <= $1::date and not exists (
        select from notifierd.deliveries d
        where d.day = r.day and d.office_id = r.office_id and d.state in {OPEN_STATES}
    )
"""

UNAUDITED = f"select r.day, r.office_id {_UNAUDITED} order by r.day, r.office_id"

UNAUDITED_OFFICES = f"(select count(*) {_UNAUDITED})"

# A row counts the deliveries that no row has counted yet, and removes their marks. So each is counted once, also after
# a retry or a change of `content.audit`.
AUDIT_OFFICES = f"""
with owed as materialized (
    select r.day, r.office_id {_UNAUDITED}
      and ($2::date is null or (r.day = $2::date and r.office_id = $3::uuid))
    order by r.day, r.office_id
    limit $4::int
    for update of r
), counted as (
    update notifierd.deliveries d set audit_missing = false
    from owed o
    where d.day = o.day and d.office_id = o.office_id and d.state = 'sent' and d.audit_missing
    returning d.day, d.office_id, d.staff_id, d.channel
), written as (
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select 'deadline_notification_sent', 'office', c.office_id, c.office_id, jsonb_build_object(
        'day', c.day,
        'office_name', (select {NAME.format("o.name")} from notifierd.offices o where o.id = c.office_id limit 1),
        'staff_count', count(distinct c.staff_id),
        'email_count', count(*) filter (where c.channel = 'email'),
        'push_count', count(*) filter (where c.channel = 'push')
    )
    from counted c group by c.day, c.office_id
)
update notifierd.run_offices r set audit_owed = false
from owed o where r.day = o.day and r.office_id = o.office_id
returning r.office_id
"""

GIVE_UP_AUDIT = "update notifierd.run_offices set audit_owed = false where day = $1::date and office_id = $2::uuid"

RUN = "select state, reason, finished_at from notifierd.runs where day = $1::date"

LAST_DAY = "select max(day) as day from notifierd.runs where day <= $1::date"

FIRST_TO_TELL = """
insert into notifierd.alarms (day, cause) values ($1::date, $2::text) on conflict do nothing returning day
"""

RECORD = """
insert into notifierd.runs (day, state, reason, finished_at)
select day, state, reason, now() from unnest($1::date[], $2::text[], $3::text[]) as x (day, state, reason)
on conflict (day) do nothing
returning day
"""

# The oldest day before $1 loses up to $2 deliveries; the day itself is deleted when none are left.
FORGET = """
with old as materialized (
    select day from notifierd.runs where day < $1::date order by day limit 1
), step as materialized (
    select d.id from notifierd.deliveries d join old on old.day = d.day limit $2::int
), feedback as (
    delete from notifierd.feedback f using step where f.delivery_id = step.id
), evidence as (
    delete from notifierd.late_outcomes l using step where l.delivery_id = step.id
), deliveries as (
    delete from notifierd.deliveries d using step where d.id = step.id
), offices as (
    delete from notifierd.run_offices r using old where r.day = old.day and not exists (select from step)
), alarms as (
    delete from notifierd.alarms a using old where a.day <= old.day
), holds as (
    delete from notifierd.holds h using old where h.until <= old.day
), lifts as (
    delete from notifierd.lifts l using old where l.lifted_at < old.day
), members as (
    delete from notifierd.run_members m using old where m.day <= old.day
), to_plan as (
    delete from notifierd.offices_to_plan o using old where o.day <= old.day
), runs as (
    delete from notifierd.runs r using old where r.day = old.day and not exists (select from step)
)
select day from old
"""

# The window is over, but not the date: `once` may still send what is open.
LEAVE_OPEN = f"""
with died as (
    update notifierd.runs r
    set state = 'interrupted', reason = '{Reason.RUN_DIED}', holder = null, lease_until = null, finished_at = now()
    where r.day = $1::date and r.state = 'running' and not {IN_PROGRESS}
)
select count(*) as open from notifierd.deliveries d where d.day = $1::date and d.state in {OPEN_STATES}
"""

# A day that no process resumed. Its rows are settled for the record; nothing of it is sent any more.
CLOSE_EARLIER = f"""
with left_open as (
    update notifierd.runs r
    set state = 'interrupted',
        reason = '{Reason.NEVER_RESUMED}' || coalesce(' (' || nullif(r.reason, '{Reason.RETRIED}') || ')', ''),
        holder = null, lease_until = null, finished_at = coalesce(r.finished_at, now()), counts = null
    where r.day < $1::date and not {IN_PROGRESS}
      and (r.state = 'running'
           or (r.state = 'interrupted' and coalesce(r.reason, '') not like '{Reason.NEVER_RESUMED}%'))
    returning r.day
)
update notifierd.deliveries d {END}
from left_open l where d.day = l.day and d.state in {OPEN_STATES}
returning d.id, d.channel, d.state
"""
