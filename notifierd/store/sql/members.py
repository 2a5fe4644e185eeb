"""The members of a day: their leases, their parts of the limits, and who leads.

Each change is decided in Python (`rules.cluster.membership`) from DAY and MEMBERS, in a transaction that has locked the
day's row.
"""

from notifierd.store.sql import DUE, GIVEN, IS_MEMBER, LOST_STATES, NEXT_TURN, OPEN_STATES

MOST_REASONS = 100
"""The most reasons why deliveries reached nobody that are kept while a day goes on."""

OPEN_DAY = """
insert into notifierd.runs (day, state, started_at) values ($1::date, 'running', now()) on conflict do nothing
"""

# A connection that falls silent while it has the lock would keep it, and every other renewal waiting, for longer.
DAY = """
select r.state = 'running' as running, r.epoch, r.plan::text, r.limits::text,
       case when r.lease_until > clock_timestamp() then r.holder end as leader, clock_timestamp() as at,
       set_config('idle_in_transaction_session_timeout', '3s', true)
from notifierd.runs r
where r.day = $1::date
for update
"""

# As IS_MEMBER, but at the moment $2 at which DAY found the leader $3: else one whose lease runs out between the two
# statements would lead, and be no member. The eldest first.
MEMBERS = """
select m.name, m.epoch, m.shares, m.config_hash, m.asked, m.email, m.push, m.per_destination, m.per_second
from notifierd.run_members m
where m.day = $1::date and m.until > $2::timestamptz and (m.shares or m.name = $3::text)
order by m.joined_at, m.name
"""

# What expired members drew is in no account any more: the leader counts it anew.
_EXPIRED = """
    delete from notifierd.run_members m where m.day = $1::date and m.until <= clock_timestamp() and m.name <> $2::text
"""

# $3 seconds of the lease, $4 epoch, $5 whether the run begins, $6 whether this member leads, $7 the limits in force,
# $16 whether the process is a member already: then there was no break
JOIN = f"""
with expired as ({_EXPIRED}), run as (
    update notifierd.runs r
    set state = 'running', epoch = $4::int, limits = $7::jsonb,
        holder = case when $6::bool then $2::text else r.holder end,
        lease_until = case when $6::bool then clock_timestamp() + make_interval(secs => $3::float8)
                      else r.lease_until end,
        reason = case when $5::bool then null else r.reason end,
        plan = case when $5::bool then null else r.plan end,
        mails_room = case when $5::bool then null else r.mails_room end,
        started_at = coalesce(r.started_at, now()),
        finished_at = case when $5::bool then null else r.finished_at end,
        counts = case when $5::bool then null else r.counts end,
        untold = case when $5::bool then null else r.untold end
    where r.day = $1::date
)
insert into notifierd.run_members as m (
    day, name, until, epoch, host, version, config_hash, shares, email, push, per_destination, per_second,
    joined_at, renewed_at
)
values (
    $1::date, $2::text, clock_timestamp() + make_interval(secs => $3::float8), $4::int, $8::text, $9::text, $10::text,
    $11::bool, $12::int, $13::int, $14::int, $15::float8, clock_timestamp(), clock_timestamp()
)
on conflict (day, name) do update
set until = excluded.until, epoch = excluded.epoch, host = excluded.host, version = excluded.version,
    config_hash = excluded.config_hash, shares = excluded.shares, email = excluded.email, push = excluded.push,
    per_destination = excluded.per_destination, per_second = excluded.per_second, asked = 0,
    mails_drawn = 0, mails_used = 0, renewed_at = excluded.renewed_at, tallies = null, interim = null,
    joined_at = case when $16::bool then m.joined_at else excluded.joined_at end
"""

# $3 seconds of the lease, $4 whether this member leads, $5 the limits in force, $6 the renewal's number, $7 how many of
# the mails that it drew are used, $8 to $11 what is kept for it, $12 what it has done
RENEW = f"""
with expired as ({_EXPIRED}), run as (
    update notifierd.runs r
    set holder = $2::text, lease_until = clock_timestamp() + make_interval(secs => $3::float8), limits = $5::jsonb
    where r.day = $1::date and $4::bool
)
update notifierd.run_members m
set until = clock_timestamp() + make_interval(secs => $3::float8), renewed_at = clock_timestamp(),
    asked = greatest(m.asked, $6::int), mails_used = greatest(m.mails_used, $7::int),
    email = $8::int, push = $9::int, per_destination = $10::int, per_second = $11::float8, tallies = $12::jsonb
where m.day = $1::date and m.name = $2::text
"""

# What the member drew from the quota and did not use is counted anew by the leader.
LEAVE = """
with left_it as (
    delete from notifierd.run_members m where m.day = $1::date and m.name = $2::text
)
update notifierd.runs r set holder = null, lease_until = null where r.day = $1::date and r.holder = $2::text
"""

LEAD = """
update notifierd.runs r
set holder = $2::text, lease_until = clock_timestamp() + make_interval(secs => $3::float8)
where r.day = $1::date
"""

# $3 why, $4 whether the process is a member still; else it ends only a run that it led last
INTERRUPT = """
update notifierd.runs r
set state = 'interrupted', reason = $3::text, holder = null, lease_until = null, finished_at = now()
where r.day = $1::date and ($4::bool or r.holder = $2::text)
"""

RELEASE = """
update notifierd.run_offices o set claimed_by = null
where o.day = $1::date and o.state <> 'done' and o.claimed_by = $2::text and o.office_id <> all ($3::uuid[])
"""

# Offices that were done have open deliveries again if the plan added some, or an operator had some retried.
REOPEN = f"""
update notifierd.run_offices o set state = 'open', claimed_by = null
where o.day = $1::date and o.state = 'done' and exists (
    select from notifierd.deliveries d where d.day = o.day and d.office_id = o.office_id and d.state in {OPEN_STATES}
)
"""

PLANNED = f"""
update notifierd.runs r set plan = $3::jsonb
where r.day = $1::date and r.holder = $2::text and r.lease_until > clock_timestamp()
returning (
    select count(*) from notifierd.run_members m where m.day = r.day and m.epoch = r.epoch and {IS_MEMBER}
) as members
"""

# $3 the day's quota. What a live member drew and did not use yet is given to nobody else.
RECOUNT = f"""
update notifierd.runs r
set mails_room = greatest(0, $3::int - {GIVEN} - (
    select coalesce(sum(m.mails_drawn - m.mails_used), 0)
    from notifierd.run_members m where m.day = r.day and {IS_MEMBER}
))
where r.day = $1::date and r.holder = $2::text and r.lease_until > clock_timestamp()
"""

# $3 how many it must have drawn since it joined, so that repeating the statement draws nothing more. It draws more, as
# long as the others are left their part: so it seldom has to ask.
DRAW = f"""
with me as materialized (
    select m.mails_drawn, case when $3::int > m.mails_drawn then least(
        coalesce(r.mails_room, 0),
        greatest($3::int - m.mails_drawn, r.mails_room / (2 * greatest(1, (
            select count(*)::int from notifierd.run_members m where m.day = r.day and m.epoch = r.epoch and {IS_MEMBER}
        ))))
    ) else 0 end as mails
    from notifierd.run_members m join notifierd.runs r on r.day = m.day
    where m.day = $1::date and m.name = $2::text and {IS_MEMBER}
), drawn as (
    update notifierd.run_members m set mails_drawn = m.mails_drawn + me.mails
    from me where m.day = $1::date and m.name = $2::text and me.mails > 0
), taken as (
    update notifierd.runs r set mails_room = r.mails_room - me.mails from me where r.day = $1::date and me.mails > 0
)
select mails_drawn + mails from me
"""

IS_OPEN = f"""
select exists (
    select from notifierd.run_offices o
    where o.day = $1::date and o.state <> 'done' and exists (
        select from notifierd.deliveries d
        where d.day = o.day and d.office_id = o.office_id and d.state in {OPEN_STATES}
    )
) as open
"""

# The counts of the day so far: see `Ledger.keep_interim`. One scan of the day's deliveries; only of those that reached
# nobody, the offices are told apart. Not in one statement with KEEP_INTERIM: if the lease was renewed meanwhile,
# PostgreSQL would count again, with the member's row locked, and the next renewal would have to wait.
COUNT_INTERIM = f"""
with seen as materialized (
    select d.channel, d.state, case when d.state in {LOST_STATES} then coalesce(d.reason, '') end as reason,
           case when d.state in {LOST_STATES} then d.office_id end as office_id, count(*) as n,
           count(*) filter (where d.state in {OPEN_STATES} and not {DUE}) as waiting,
           min({NEXT_TURN}) filter (where d.state in {OPEN_STATES} and not {DUE}) as next_turn
    from notifierd.deliveries d where d.day = $1::date group by 1, 2, 3, 4
), offices as (
    select count(*) as n, count(*) filter (where o.state = 'failed') as failed,
           count(*) filter (where o.state <> 'open') as done
    from notifierd.run_offices o where o.day = $1::date
)
select offices.done, jsonb_build_object(
    'at', extract(epoch from clock_timestamp()),
    'offices', offices.n, 'offices_failed', offices.failed, 'offices_done', offices.done,
    'states', (select coalesce(jsonb_agg(s), '[]') from (
        select channel, state, sum(n)::bigint as n from seen group by 1, 2
    ) s),
    'reasons', (select coalesce(jsonb_agg(s), '[]') from (
        select channel, state, reason, sum(n)::bigint as deliveries, count(*) as offices
        from seen where office_id is not null group by 1, 2, 3 order by deliveries desc, 1, 2, 3 limit {MOST_REASONS}
    ) s),
    'open', (select coalesce(jsonb_agg(s), '[]') from (
        select channel, coalesce(sum(n) filter (where state = 'planned'), 0)::bigint as planned,
               coalesce(sum(n) filter (where state = 'sending'), 0)::bigint as sending,
               sum(waiting)::bigint as waiting, min(next_turn) as next_turn
        from seen where state in {OPEN_STATES} group by 1 order by 1
    ) s)
)::text as interim
from offices
"""

KEEP_INTERIM = "update notifierd.run_members set interim = $3::jsonb where day = $1::date and name = $2::text"

# Who works on a day, the eldest first, with what they last told.
AT_WORK = f"""
select m.day, m.name, m.host, m.version, m.email, m.push, m.per_second, m.joined_at, m.renewed_at,
       m.tallies::text as tallies,
       coalesce(r.holder = m.name and r.lease_until > clock_timestamp(), false) as leads
from notifierd.runs r join notifierd.run_members m on m.day = r.day and m.epoch = r.epoch
where r.state = 'running' and {IS_MEMBER}
order by m.day, m.joined_at, m.name
"""
