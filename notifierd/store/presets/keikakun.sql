-- The five views for keikakun, the application that notifierd was first written for. They are the whole contract
-- between an application and notifierd; they run with their owner's rights.
--
-- "application." stands for the schema in which the role that runs this finds the table. Nothing else is looked for
-- outside of pg_catalog: a function or an operator that somebody put into the application's schema is never used.

create or replace view notifierd.offices as
select id, name::text as name
from application.offices
where deleted_at is null and not is_test_data;

-- One row for each office and staff member, also where they are linked twice. Preferences are jsonb that people and
-- old releases wrote: whatever is missing, null or odd becomes the default, and ends nobody's plan.
create or replace view notifierd.staff as
select os.office_id,
       s.id,
       s.full_name::text as name,
       s.email::text as email,
       case when jsonb_typeof(p -> 'email_notification') = 'boolean'
            then (p ->> 'email_notification')::boolean else true end as email_enabled,
       case when jsonb_typeof(p -> 'email_threshold_days') = 'number'
            then case when (p ->> 'email_threshold_days')::numeric between 0 and 3650
                       and (p ->> 'email_threshold_days')::numeric % 1 = 0
                      then (p ->> 'email_threshold_days')::numeric::integer else 30 end
            else 30 end as email_days,
       case when jsonb_typeof(p -> 'system_notification') = 'boolean'
            then (p ->> 'system_notification')::boolean else false end as push_enabled,
       case when jsonb_typeof(p -> 'push_threshold_days') = 'number'
            then case when (p ->> 'push_threshold_days')::numeric between 0 and 3650
                       and (p ->> 'push_threshold_days')::numeric % 1 = 0
                      then (p ->> 'push_threshold_days')::numeric::integer else 10 end
            else 10 end as push_days
from application.office_staffs os
join application.staffs s on s.id = os.staff_id
cross join lateral (select s.notification_preferences as p) preferences
where s.deleted_at is null
  and s.email is not null
  and not s.is_test_data
  and not exists (
      select from application.office_staffs twin
      where twin.office_id = os.office_id and twin.staff_id = os.staff_id and twin.id < os.id
  );

-- A deadline may be any date that PostgreSQL knows, -infinity and 44 BC too: no days can be counted from the one, and
-- Python has no word for the other. They become the first day and the last that can be worked with.
create or replace view notifierd.alerts as
select c.office_id,
       r.id as recipient_id,
       (r.last_name || ' ' || r.first_name)::text as recipient_name,
       'renewal'::text as kind,
       greatest(least(c.next_renewal_deadline, date '9999-12-31'), date '0001-01-01') as due_on,
       c.cycle_number as cycle
from application.support_plan_cycles c
join application.welfare_recipients r on r.id = c.welfare_recipient_id
where c.is_latest_cycle and not r.is_test_data and c.next_renewal_deadline is not null
union all
select c.office_id,
       r.id,
       (r.last_name || ' ' || r.first_name)::text,
       'assessment'::text,
       null::date,
       c.cycle_number
from application.support_plan_cycles c
join application.welfare_recipients r on r.id = c.welfare_recipient_id
where c.is_latest_cycle and not r.is_test_data
  and not exists (
      select from application.plan_deliverables d
      where d.plan_cycle_id = c.id and d.deliverable_type = 'assessment_sheet'
  );

create or replace view notifierd.devices as
select id, staff_id, endpoint, p256dh_key as p256dh, auth_key as auth, created_at
from application.push_subscriptions;

-- target_type keeps the table's own type, as a cast would make the column impossible to insert into. What else the
-- table demands stands behind the contract's columns, with defaults. Only notifierd's own actions can be written.
create or replace view notifierd.audit_log as
select action, target_type, target_id, office_id, details, actor_role, is_test_data
from application.audit_logs
where action in ('deadline_notification_sent', 'push_notification_sent')
with local check option;
alter view notifierd.audit_log alter column actor_role set default 'system';
alter view notifierd.audit_log alter column is_test_data set default false;
