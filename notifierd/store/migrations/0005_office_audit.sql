-- With content.audit = "office", an office has one audit row for the day. A mark says that the row is owed: something was
-- sent that no row counts yet (deliveries.audit_missing). Hardly any row has the mark, so the index is small.

alter table notifierd.run_offices
    add column audit_owed boolean not null default false;
create index run_offices_audit_owed on notifierd.run_offices (day, office_id) where audit_owed;
