"""What became of mails: what providers are asked about, what they report, and whose mails are held back."""

from collections.abc import Mapping

from notifierd.config.settings import Audit
from notifierd.model.feedback import TROUBLE, MailStatus
from notifierd.store.sql import ADDRESS_KEY, HOLDS, IN_PROGRESS, IS_HELD, NOT_REACHED, OFFICE_NAME, STANDS

# $1 a day, $2 and $3: read on after this (office, staff member), $4 how many
ASKED = """
select d.office_id, d.staff_id, d.id, d.provider, d.state = 'sent' as sent, d.provider_message_id
from notifierd.deliveries d
where d.day = $1::date and d.channel = 'email' and (d.office_id, d.staff_id) > ($2::uuid, $3::uuid)
  and d.provider is not null and (d.state = 'unknown' or (d.state = 'sent' and d.provider_message_id is not null))
order by d.office_id, d.staff_id
limit $4::int
"""

_SEVERITY = f"array_position(array[{', '.join(repr(str(status)) for status in MailStatus)}], {{}})"


# $1 the provider, $2 to $6 an array for each attribute of the verdicts. *missing*: whether a mail that was unknown has
# no audit row yet, and is to have one.
def _keep(*, missing: bool, audited: str = "") -> str:
    return f"""
with said as materialized (
    select distinct on (s.id) s.*
    from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])
        with ordinality as s (id, status, code, address, message_id, place)
    order by s.id, {_SEVERITY.format("s.status")} desc, s.place
), settled as ( -- the provider knows the mail, so it had accepted it
    update notifierd.deliveries d
    set state = 'sent', provider = $1::text, reason = null,
        provider_message_id = coalesce(nullif(s.message_id, ''), d.provider_message_id),
        audit_missing = {str(missing).lower()}, updated_at = now()
    from said s
    where d.id = s.id and d.channel = 'email' and d.state = 'unknown'
    returning d.id, d.day, d.office_id, d.staff_id
){audited}, known as (
    select id, day, office_id, staff_id from settled
    union all
    select d.id, d.day, d.office_id, d.staff_id
    from said s join notifierd.deliveries d on d.id = s.id
    where d.channel = 'email' and d.state = 'sent' and d.provider = $1::text
)
insert into notifierd.feedback as f (delivery_id, day, provider, status, code, address_key, seen_at)
select k.id, k.day, $1::text, s.status, s.code, {ADDRESS_KEY.format("coalesce(nullif(s.address, ''), m.email)")}, now()
from known k join said s on s.id = k.id
left join notifierd.staff m on s.address = '' and m.office_id = k.office_id and m.id = k.staff_id
order by k.id
on conflict (delivery_id) do update
set status = excluded.status, code = excluded.code, seen_at = excluded.seen_at, grounds = false,
    provider = excluded.provider, address_key = coalesce(excluded.address_key, f.address_key)
where {_SEVERITY.format("excluded.status")} > {_SEVERITY.format("f.status")}
"""


_AUDITED = f""", audited as (
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select 'deadline_notification_sent', 'email_notification', d.staff_id, d.office_id,
           jsonb_build_object('office_name', {OFFICE_NAME})
    from settled d left join notifierd.offices o on o.id = d.office_id
)"""

_OWING = """, owing as (
    update notifierd.run_offices r set audit_owed = true
    from (select distinct day, office_id from settled) s
    where r.day = s.day and r.office_id = s.office_id
)"""

KEEP: Mapping[Audit, str] = {
    "each": _keep(missing=False, audited=_AUDITED),
    "office": _keep(missing=True, audited=_OWING),
    "none": _keep(missing=False),
}
"""Keep verdicts, by `content.audit`. A statement that names `audit_log` needs the privilege to insert there."""

KEEP_BARE = _keep(missing=True)
"""Keep verdicts without the audit rows of mails that were unknown; those are marked as lacking them."""

NOTE_LOOK = """
insert into notifierd.feedback_looks as l (provider, complete_until, looked_at, result)
values ($1::text, $2::timestamptz, now(), $3::text)
on conflict (provider) do update
set complete_until = greatest(l.complete_until, excluded.complete_until), looked_at = excluded.looked_at,
    result = excluded.result
"""

LOOKS = "select provider, complete_until, looked_at, result from notifierd.feedback_looks order by provider"

TAKE_LEASE = """
update notifierd.look_lease
set holder = $1::text, lease_until = clock_timestamp() + make_interval(secs => $2::float8)
where holder is null or holder = $1::text or lease_until <= clock_timestamp()
returning holder
"""

RENEW_LEASE = """
update notifierd.look_lease set lease_until = clock_timestamp() + make_interval(secs => $2::float8)
where holder = $1::text and lease_until > clock_timestamp()
returning holder
"""

RELEASE_LEASE = "update notifierd.look_lease set holder = null, lease_until = null where holder = $1::text"

# $1 the first day. Days without a run have no `started_at`. A run that died ended when its lease did.
RUNS = """
select r.day, coalesce(r.finished_at, r.lease_until, r.started_at) as ended,
       r.state = 'running' and coalesce(r.lease_until > clock_timestamp(), false) as running
from notifierd.runs r
where r.day >= $1::date and r.started_at is not null
order by r.day desc
"""

IS_RUNNING = """
select exists(select from notifierd.runs where state = 'running' and lease_until > clock_timestamp()) as running
"""

# $1 the first day. Few mails have another status than `delivered`.
TROUBLES = f"""
select day, status, count(*) as mails from notifierd.feedback
where day >= $1::date and status in ({", ".join(repr(str(status)) for status in MailStatus if status in TROUBLE)})
group by day, status
"""

_DOMAIN = """lower(split_part(left(s.email, 320), '@', -1) collate "C")"""

TROUBLED = 5
"""Rule: if more than a fifth of a domain's mails of a day were bounced or refused, what was reported of that domain's
mails of that day holds nobody back. So many addresses are not wrong at once: the domain refuses us, or is broken.
Suppressed mails are left out of both numbers, because no mail was sent."""

# A mail is grounds for holding mails back if the recipient complained, or the provider's list suppressed it. An
# enhanced status code 5.7.x speaks of security or policy, so of us (RFC 3463, section 3.8).
GROUNDS = f"""
with suspected as materialized (
    select f.delivery_id, f.code, {_DOMAIN} as domain
    from notifierd.feedback f
    join notifierd.deliveries d on d.id = f.delivery_id
    left join notifierd.staff s on s.office_id = d.office_id and s.id = d.staff_id
    where f.day = $1::date and f.status in ('suppressed', 'complained')
), mails as (
    select {_DOMAIN} as domain, f.status
    from notifierd.deliveries d
    join notifierd.staff s on s.office_id = d.office_id and s.id = d.staff_id
    left join notifierd.feedback f on f.delivery_id = d.id
    where d.day = $1::date and d.channel = 'email' and d.state = 'sent'
), troubled as materialized (
    select domain from mails
    where domain in (select domain from suspected)
    group by domain
    having {TROUBLED} * count(*) filter (where status in ('bounced', 'refused'))
           > count(*) filter (where status is distinct from 'suppressed')
), judged as materialized (
    select delivery_id, domain is not null and code not like '5.7.%' and domain not in (select domain from troubled)
               as grounds
    from suspected
)
update notifierd.feedback f set grounds = j.grounds
from judged j
where f.delivery_id = j.delivery_id and f.grounds <> j.grounds
"""

HOLD_DAYS = 30
"""Rule: mails are held back for 30 days after the mail that was complained of, or was suppressed last. Then one is sent
again. Firefox Relay uses the same time (mozilla/fx-private-relay#769): a mailbox may come back to life."""

# $1: only holds that last until this day or longer. "Mailed" is read from the deliveries of a staff member's offices:
# looked up row by row through `offset 0`, since a join might read every delivery.
HOLD = f"""
with grounds as materialized (
    select d.staff_id, f.address_key, f.status, f.day, f.seen_at
    from notifierd.feedback f
    join notifierd.deliveries d on d.id = f.delivery_id
    left join notifierd.lifts l on l.staff_id = d.staff_id
    where f.grounds and f.address_key is not null and (l.lifted_at is null or l.lifted_at < f.seen_at)
), suppressed as (
    select staff_id, address_key, days[1] as last, days[2] as before, seen_at
    from (
        select staff_id, address_key, array_agg(day order by day desc) as days,
               min(seen_at) filter (where nth <= 2) as seen_at
        from (
            select staff_id, address_key, day, min(seen_at) as seen_at,
                   row_number() over (partition by staff_id, address_key order by day desc) as nth
            from grounds where status = 'suppressed' group by staff_id, address_key, day
        ) by_day
        group by staff_id, address_key
    ) by_address
    where days[1] + {HOLD_DAYS} >= $1::date and cardinality(days) > 1
), wanted as (
    select distinct on (staff_id, address_key) staff_id, address_key, reason, day, seen_at from (
        select staff_id, address_key, 'complained' as reason, day, seen_at
        from grounds where status = 'complained' and day + {HOLD_DAYS} >= $1::date
        union all
        select c.staff_id, c.address_key, 'suppressed', c.last, c.seen_at
        from suppressed c
        where not exists ( -- a mail of these days that was not suppressed
            select from notifierd.runs r cross join notifierd.staff s cross join lateral (
                select m.id from notifierd.deliveries m
                where m.day = r.day and m.office_id = s.office_id and m.staff_id = c.staff_id and m.channel = 'email'
                  and m.state = 'sent'
                offset 0
            ) m
            where r.day >= c.before and s.id = c.staff_id and not exists (
                select from notifierd.feedback f
                where f.delivery_id = m.id and f.grounds and f.status = 'suppressed' and f.address_key = c.address_key
            )
        )
    ) each
    order by staff_id, address_key, day desc, reason
), over as (
    delete from notifierd.holds h
    where not exists (select from wanted w where w.staff_id = h.staff_id and w.address_key = h.address_key)
)
insert into notifierd.holds as h (staff_id, address_key, reason, since, until, seen_at)
select staff_id, address_key, reason, day + 1, day + {HOLD_DAYS}, seen_at from wanted
on conflict (staff_id, address_key) do update
set reason = excluded.reason, since = excluded.since, until = excluded.until, seen_at = excluded.seen_at
where (h.reason, h.since, h.until, h.seen_at)
      is distinct from (excluded.reason, excluded.since, excluded.until, excluded.seen_at)
"""

# The offices of the day with a mail that was accepted, and reached nobody.
NOT_REACHED_OFFICES = f"""
select distinct d.office_id
from notifierd.feedback f join notifierd.deliveries d on d.id = f.delivery_id
where f.day = $1::date and f.status in {NOT_REACHED} and d.state = 'sent'
"""

COUNT_AGAIN = f"update notifierd.runs r set counts = {STANDS} where r.day = $1::date and r.counts is not null"

# $2 how many
HELD = f"""
select distinct s.id as staff_id, h.reason, h.since, h.until
from {HOLDS} h join notifierd.staff s on {IS_HELD}
order by h.until desc, s.id
limit $2::int
"""

# $2 the staff member
HELD_IN = f"""
select s.office_id, s.id as staff_id, h.reason, h.since, h.until
from {HOLDS} h join notifierd.staff s on {IS_HELD}
where s.id = $2::uuid
"""

LIFT = """
with held as (
    select from notifierd.holds h left join notifierd.lifts l on l.staff_id = h.staff_id
    where h.staff_id = $1::uuid and (l.lifted_at is null or l.lifted_at < h.seen_at)
), lifted as (
    insert into notifierd.lifts (staff_id, lifted_at) values ($1::uuid, clock_timestamp())
    on conflict (staff_id) do update set lifted_at = excluded.lifted_at
)
select count(*) as holds from held
"""


def _each(column: str) -> str:
    """Return a list with *column* for each status."""
    return ", ".join(column.format(status) for status in MailStatus)


# $1 the last day, $2 how many days. No provider is asked while a day goes on, so its mails are not read.
DAYS = f"""
with listed as materialized (
    select r.day from (
        select * from notifierd.runs l where l.day <= $1::date order by l.day desc limit $2::int
    ) r
    where not {IN_PROGRESS}
), sent as materialized (
    select l.day, m.provider, m.mails
    from listed l cross join lateral (
        select d.provider, count(*) as mails from notifierd.deliveries d
        where d.day = l.day and d.channel = 'email' and d.state = 'sent' and d.provider is not null
        group by d.provider
    ) m
), told as materialized (
    select f.day, f.provider, count(*) as mails, {_each("count(*) filter (where f.status = '{0}') as {0}")}
    from listed l join notifierd.feedback f on f.day = l.day
    group by f.day, f.provider
)
select s.day, s.provider, {_each("coalesce(t.{0}, 0) as {0}")}, s.mails - coalesce(t.mails, 0) as not_known
from sent s left join told t on t.day = s.day and t.provider = s.provider
order by s.day desc, s.provider
"""

# $1 the first day, $2 the last one. A mail that was suppressed left nobody's server: it is no part of the rate.
BOUNCES = f"""
select (
           select coalesce(sum(c.n), 0)::bigint
           from notifierd.runs r cross join
               jsonb_to_recordset(coalesce(r.counts, {STANDS}) -> 'states') as c (channel text, state text, n bigint)
           where r.day between $1::date and $2::date and c.channel = 'email' and c.state = 'sent'
       ) - count(*) filter (where f.status = 'suppressed') as mails,
       count(*) filter (where f.status = 'bounced') as bounced
from notifierd.feedback f
where f.day between $1::date and $2::date and f.status in ('bounced', 'suppressed')
"""

CARRIERS = (
    "docomo.ne.jp",
    "au.com",
    "ezweb.ne.jp",
    "softbank.ne.jp",
    "i.softbank.jp",
    "disney.ne.jp",
    "ymobile.ne.jp",
    *(f"{area}.vodafone.ne.jp" for area in "cdhknqrst"),
)
"""The mail domains of Japanese mobile carriers. Their servers give one answer for an address that does not exist, and
for a mail that the owner's own filter refuses: for docomo see https://note.com/sendmagic/n/neb6bbe7e51cf, for others
https://github.com/sisimai/rb-sisimai, lib/sisimai/reason/filtered.rb."""

# $2 an office, or null for all; $3 how many
LOSSES = f"""
with page as materialized (
    select f.delivery_id, f.status, f.code, f.address_key, d.office_id, d.staff_id
    from notifierd.feedback f join notifierd.deliveries d on d.id = f.delivery_id
    where f.day = $1::date and (f.status in {NOT_REACHED} or f.status = '{MailStatus.COMPLAINED}')
      and ($2::uuid is null or d.office_id = $2)
    order by d.office_id, d.staff_id
    limit $3::int
), present as materialized (
    select p.delivery_id, {_DOMAIN} as domain, p.address_key <> {ADDRESS_KEY.format("s.email")} as changed
    from page p join notifierd.staff s on s.office_id = p.office_id and s.id = p.staff_id
)
select p.delivery_id, p.office_id, {OFFICE_NAME} as office_name, p.staff_id, p.status, p.code,
       coalesce(a.changed, false) as changed, coalesce(not a.changed and a.domain = any($4::text[]), false) as carrier
from page p
left join present a on a.delivery_id = p.delivery_id
left join notifierd.offices o on o.id = p.office_id
order by p.office_id, p.staff_id
"""
