"""How often the same is told: on which days an alert is a reason to write. `rules.reminders` has the same rules."""

from notifierd.rules.reminders import LOOK_BACK
from notifierd.store.sql import DAYS_LEFT


def previous_day(day: str) -> str:
    """Return the day of the run before *day*: the last one within LOOK_BACK days that was planned, else the day before.

    A run that found nothing to plan has no offices, and is known by its end.
    """
    return f"""coalesce((
    select max(p.day) from notifierd.runs p
    where p.day < {day} and p.day >= {day} - {LOOK_BACK} and (
        p.state = 'completed' or exists (select from notifierd.run_offices q where q.day = p.day)
    )
), {day} - 1)"""


def missed(day: str, where: str) -> str:
    """Return the query for whom nothing was sent of what was due on a *day*: office, staff member, channel.

    It has the staff of offices that were still to be planned when the day ended, too, as perhaps something was due.
    """
    return f"""
    select d.office_id, d.staff_id, d.channel from notifierd.deliveries d
    where d.day = {day} and {where} and d.state <> 'sent' and (d.channel = 'email' or not exists (
        select from notifierd.deliveries t
        where t.day = d.day and t.office_id = d.office_id and t.staff_id = d.staff_id and t.channel = 'push'
          and t.state = 'sent'
    ))
    group by d.office_id, d.staff_id, d.channel
    union all
    select d.office_id, s.id, c.channel
    from notifierd.offices_to_plan d join notifierd.staff s on s.office_id = d.office_id,
         (values ('email'), ('push')) as c (channel)
    where d.day = {day} and {where}
"""


def reminder(first: int) -> str:
    """Return the tables `reminder`, of one row, and `missed`.

    The columns of `reminder`: the previous run's day; the days since; whether missing assessments are a reason on the
    day $1; and the days left with which a renewal is one for any threshold, and where nobody has a threshold.

    Args:
        first: the number of the first of three parameters: renewal_days, overdue_weekdays and assessment_weekdays.
    """
    renewal_days, overdue, assessments = (f"${first + n}::int[]" for n in range(3))
    return f"""
reminder as materialized (
    select p.day as previous, s.gap, {_falls_on(assessments)} as assessments, lefts,
           lefts + int4multirange(int4range(greatest($2::int - s.gap + 1, 1), $2::int + 1)) as lefts_alone
    from (select {previous_day("$1::date")} as day) p, lateral (select $1::date - p.day as gap) s, lateral (
        select range_agg(those) as lefts from (
            select case when {_falls_on(overdue)} then int4range(null, 1) else int4range(1 - s.gap, 1) end as those
            union all
            select int4range(1, null) where cardinality({renewal_days}) = 0
            union all
            select int4range(greatest(days - s.gap + 1, 1), days + 1) from unnest({renewal_days}) days
        ) each
    ) lefts
), missed as materialized (
    select m.office_id, m.staff_id, bool_or(m.channel = 'email') as email, bool_or(m.channel = 'push') as push
    from reminder, lateral ({missed("reminder.previous", "true")}) m
    group by m.office_id, m.staff_id
)"""


def _falls_on(weekdays: str) -> str:
    return f"""(cardinality({weekdays}) = 0 or exists (
        select from generate_series(0, s.gap - 1) n where extract(isodow from $1::date - n)::int = any ({weekdays})
    ))"""


REASONS = f"""
    , min({DAYS_LEFT}) filter (where a.kind = 'renewal' and reminder.lefts @> {DAYS_LEFT}) as nearest_reason
    , bool_or(a.kind = 'assessment' and reminder.assessments) as assessment_reason
    , range_agg(int4range({DAYS_LEFT}, {DAYS_LEFT}, '[]')) filter (where a.kind = 'renewal' and a.due_on > $1::date)
        as lefts
"""
"""Of the alerts *a* of an office: the nearest renewal that is a reason for any threshold, whether there is a reason
among the assessments, and the days left of the renewals that are not overdue."""

MISSED = "left join missed x on x.office_id = s.office_id and x.staff_id = s.id"
"""Joins what staff member *s* missed on the previous run's day."""


def has_reason(threshold: str, channel: str) -> str:
    """Return the condition that there is a reason to write to staff member *s* of office *o* on *channel*.

    The last days of renewals before they come within *threshold*, or within the horizon $2, are compared with the days
    left of the office's renewals. A threshold below 0 has none.
    """
    within = f"greatest(least({threshold}, $2::int), 0)"
    return f"""(
        o.assessment_reason or o.nearest_reason <= {threshold} or x.{channel}
        or o.lefts && int4range({within} - reminder.gap + 1, {within} + 1)
    )"""


REASON_ALONE = f"""(
    case a.kind when 'assessment' then reminder.assessments else reminder.lefts_alone @> {DAYS_LEFT} end
)"""
"""Condition for alert *a* to be a reason where nobody has a threshold."""
