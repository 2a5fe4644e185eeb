"""The life of a delivery after it is planned."""

from typing import get_args

from notifierd.config.settings import Audit
from notifierd.model.reasons import Reason
from notifierd.store.sql import HOLDS, IN_PROGRESS, IS_HELD, IS_MEMBER

# All deliveries of a call or none: a call that lost some of them would not match its recorded payload hash. The rows
# are locked in the order of their ids, so that two processes that want the same rows never deadlock.
RESERVE = f"""
with lease as materialized (
    select m.joined_at, hashtextextended(m.name, 0) as number
    from notifierd.run_members m join notifierd.runs r on r.day = m.day and r.epoch = m.epoch
    where m.day = $1::date and m.name = $2::text and {IS_MEMBER}
), want as materialized (
    select * from unnest($3::uuid[], $4::int[], $5::uuid[], $6::int[], $7::bytea[], $8::text[], $9::float8[])
        as w (id, try, call_id, position, payload_hash, provider, seconds)
), mine as materialized (
    select w.*, l.number
    from lease l cross join want w join notifierd.deliveries d on d.id = w.id
    where (d.try = w.try - 1 and d.state = 'planned')
       or (d.try = w.try - 1 and d.state = 'sending' and d.try_until <= clock_timestamp())
       -- Ours: the answer to this got lost. Another process may have reserved the same call as the same try, since ids
       -- are derived.
       or (d.try = w.try and d.state = 'sending' and d.call_id = w.call_id and d.try_by = l.number
           and d.updated_at >= l.joined_at)
    order by d.id
    for update of d
), whole as materialized (
    select call_id from mine group by call_id
    having count(*) = (select count(*) from want where want.call_id = mine.call_id)
)
update notifierd.deliveries d
set state = 'sending', try = m.try, try_by = m.number, call_id = m.call_id, position = m.position,
    payload_hash = m.payload_hash,
    call_tries = case when d.call_id is distinct from m.call_id then 1
                      when d.try = m.try then d.call_tries else d.call_tries + 1 end,
    provider = m.provider, try_until = clock_timestamp() + make_interval(secs => m.seconds), not_before = null,
    reason = null, updated_at = now()
from mine m join whole on whole.call_id = m.call_id
where d.id = m.id
returning d.call_id
"""

_MAIL_ROWS = """
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select 'deadline_notification_sent', 'email_notification', staff_id, office_id, audit
    from {sent} where channel = 'email'
"""

_PUSH_ROWS = """
    insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
    select distinct on (p.day, p.office_id, p.staff_id)
           'push_notification_sent', 'push_notification', p.staff_id, p.office_id, p.audit
    from {sent} p
    where p.channel = 'push' and not exists (
        select from notifierd.deliveries d
        where d.day = p.day and d.office_id = p.office_id and d.staff_id = p.staff_id
          and d.channel = 'push' and d.state = 'sent' and not d.audit_missing
    )
"""


def _rows_of(sent: str) -> str:
    """Return the CTEs that write the audit rows of the deliveries in the CTE *sent*."""
    return f", mails as ({_MAIL_ROWS.format(sent=sent)}), pushes as ({_PUSH_ROWS.format(sent=sent)})"


_MISSING = {"each": "$14::bool and s.state = 'sent'", "office": "s.state = 'sent'", "none": "false"}
"""Whether a delivery that is settled has no audit row yet, and is to have one."""

# The office's row is updated even if it has the mark: AUDIT_OFFICES may just be removing it, and has to be waited for.
_OWED = {
    "each": f", sent as (select * from settled where state = 'sent' and not $14::bool){_rows_of('sent')}",
    "office": """, owing as (
        update notifierd.run_offices r set audit_owed = true
        from (select distinct day, office_id from settled where state = 'sent') s
        where r.day = s.day and r.office_id = s.office_id
    )""",
    "none": "",
}


# A try is identified by its number and its call, because a database that lost a reservation gives its number again.
# A late outcome changes nothing, with one exception: the provider accepted what is planned by now, or what the row
# shows in an older try. Either would be sent twice.
def _settle(audit: Audit) -> str:
    return f"""
with said as materialized (
    select * from unnest(
        $1::uuid[], $2::int[], $3::text[], $4::text[], $5::int[], $6::int[], $7::int[], $8::float8[], $9::text[],
        $10::jsonb[], $11::text[], $12::uuid[], $13::text[]
    ) as s (id, try, state, reason, attempts, doubts, put_back, wait, message_id, audit, endpoint, call_id, provider)
), settled as (
    update notifierd.deliveries d
    set state = s.state, try = greatest(d.try, s.try), reason = s.reason, attempts = s.attempts, doubts = s.doubts,
        put_back = s.put_back, provider = coalesce(s.provider, d.provider),
        not_before = clock_timestamp() + make_interval(secs => s.wait),
        try_until = case s.state when 'sending' then clock_timestamp() end,
        provider_message_id = coalesce(s.message_id, d.provider_message_id),
        audit_missing = {_MISSING[audit]}, updated_at = now()
    from said s
    where d.id = s.id and (
        (d.state = 'sending' and d.try = s.try and (d.call_id = s.call_id or s.state = 'sent'))
        or (d.state = 'planned' and s.state = 'sent')  -- the try was forgotten, or put back meanwhile
        or (d.state = 'sending' and s.state = 'sent' and d.try < s.try)  -- the try was forgotten, not the one before
    )
    returning d.id, d.day, d.office_id, d.staff_id, d.channel, d.device_id, s.state, s.audit, s.endpoint
){_OWED[audit]}, gone as (
    delete from notifierd.devices v using settled s
    where s.state = 'gone' and not $14::bool and v.id = s.device_id and v.endpoint = s.endpoint
)
insert into notifierd.late_outcomes (delivery_id, try, state, reason, provider_message_id)
select s.id, s.try, s.state, s.reason, s.message_id
from said s join notifierd.deliveries d on d.id = s.id
where not exists (select from settled where settled.id = s.id)
  -- said before, and its answer lost
  and not (d.state = s.state and (d.try = s.try or coalesce(d.provider_message_id = s.message_id, false)))
returning delivery_id
"""


_DELETE_GONE = """
delete from notifierd.devices v using said s join notifierd.deliveries d on d.id = s.id
where d.try = s.try and d.state = 'gone' and v.id = d.device_id and v.endpoint = s.endpoint
"""

_SAID_EXTRAS = """
with said as materialized (
    select * from unnest($1::uuid[], $2::int[], $3::jsonb[], $4::text[]) as s (id, try, audit, endpoint)
)"""

_SETTLE_EXTRAS = f"""{_SAID_EXTRAS}, owed as (
    update notifierd.deliveries d
    set audit_missing = false
    from said s
    where d.id = s.id and d.try = s.try and d.state = 'sent' and d.audit_missing
    returning d.day, d.office_id, d.staff_id, d.channel, s.audit
){_rows_of("owed")}
{_DELETE_GONE}
"""

SETTLE = {audit: _settle(audit) for audit in get_args(Audit)}
"""Settle tries, by `content.audit`. A statement that names `audit_log` needs the privilege to insert there."""

# If the staff member of a push already has an audit row of that day and office, the push only loses its mark.
SETTLE_EXTRAS = {"each": _SETTLE_EXTRAS, "office": _SAID_EXTRAS + _DELETE_GONE, "none": _SAID_EXTRAS + _DELETE_GONE}
"""Write what SETTLE left out for bare settlements, by `content.audit`."""

_IS_CLAIMED = f"""exists (
    select from notifierd.run_members m where m.day = o.day and m.name = o.claimed_by and {IS_MEMBER}
)"""
"""Condition for the claim to office *o* to be in force. It has passed on to nobody then."""

# $5 the day, $6 the member. An office that it does not claim any more is another's, who reads its facts anew.
END_PLANNED = f"""
update notifierd.deliveries d set state = $4::text, reason = x.reason, not_before = null, updated_at = now()
from unnest($1::uuid[], $2::int[], $3::text[]) as x (id, try, reason)
where d.id = x.id and d.state = 'planned' and d.try = x.try and exists (
    select from notifierd.run_offices o
    where o.day = $5::date and o.office_id = d.office_id and o.claimed_by = $6::text and {_IS_CLAIMED}
)
returning d.id, d.channel, d.state
"""

# $4 the member
FAIL_OFFICE = f"""
with office as (
    update notifierd.run_offices o set state = 'failed', reason = $3::text
    where o.day = $1::date and o.office_id = $2::uuid and o.claimed_by = $4::text and {_IS_CLAIMED}
    returning o.office_id
)
update notifierd.deliveries d
set state = case d.state when 'planned' then 'failed' else 'unknown' end, reason = $3::text, not_before = null,
    try_until = null, updated_at = now()
from office
where d.day = $1::date and d.office_id = office.office_id
  and (d.state = 'planned' or (d.state = 'sending' and d.try_until <= clock_timestamp()))
returning d.id, d.channel, d.state
"""


def _end(why: str) -> str:
    return f"""
set state = case d.state when 'planned' then 'expired' else 'unknown' end,
    reason = case when d.doubts > 0 then '{Reason.WINDOW_ENDED_IN_DOUBT}' else '{Reason.WINDOW_ENDED}' end
             || coalesce(' (' || {why} || ')', ''),
    not_before = null, try_until = null, updated_at = now()
"""


END = _end("d.reason")

# $3: the providers that honour idempotency keys. An unknown call of theirs gets the state that a dead process would
# leave, so that the next pass repeats it under its key. -1 doubts: if repeating is impossible, the delivery goes in
# a new call, whatever on_unknown says. An expired delivery keeps its key, which also covers a ledger that lost an
# acceptance. A run that is over then has to be resumed; a run in progress finds the deliveries in its next pass. Mails
# that are held back by now stay as they are.
RETRY = f"""
with held as materialized (
    select s.office_id, s.id as staff_id from {HOLDS} h join notifierd.staff s on {IS_HELD}
), found as materialized (
    select d.id, d.state = 'unknown' and d.payload_hash is not null and coalesce(d.provider = any ($3::text[]), false)
               as same_call
    from notifierd.deliveries d
    where d.day = $1::date and d.state = any ($2::text[])
      and (d.channel <> 'email'
           or not exists (select from held h where h.office_id = d.office_id and h.staff_id = d.staff_id))
    for update of d
), again as (
    update notifierd.deliveries d
    set state = case when f.same_call then 'sending' else 'planned' end,
        try_until = case when f.same_call then clock_timestamp() end,
        doubts = case when f.same_call then -1 else 0 end,
        put_back = d.put_back + case when f.same_call or d.state = 'expired' then 0 else 1 end,
        reason = null, attempts = 0, not_before = null, updated_at = now()
    from found f
    where d.id = f.id
    returning d.office_id, d.channel
), offices as (
    update notifierd.run_offices r
    set state = 'open', reason = null, claimed_by = case r.state when 'open' then r.claimed_by end
    where r.day = $1::date and r.office_id in (select office_id from again)
), run as (
    update notifierd.runs r
    set counts = null,
        state = case when {IN_PROGRESS} then r.state else 'interrupted' end,
        reason = case when {IN_PROGRESS} then r.reason else '{Reason.RETRIED}' end
    where r.day = $1::date and exists (select from again)
)
select count(distinct office_id) as offices,
       count(*) filter (where channel = 'email') as email,
       count(*) filter (where channel = 'push') as push
from again
"""

CLOSE = f"""
update notifierd.deliveries d {_end("coalesce(d.reason, case d.channel when 'email' then $2::text end)")}
where d.day = $1::date and (d.state = 'planned' or (d.state = 'sending' and d.try_until <= clock_timestamp()))
returning d.id, d.channel, d.state
"""
