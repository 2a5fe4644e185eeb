-- An application that is not keikakun: five tables, five views. All that notifierd asks of one.

create schema app;
create table app.offices (id uuid primary key, name text not null);
create table app.staff (
    office_id uuid not null, id uuid not null, name text, email text, email_enabled bool not null, email_days int not null,
    push_enabled bool not null, push_days int not null, primary key (office_id, id)
);
create table app.alerts (
    office_id uuid not null, recipient_id uuid not null, recipient_name text, kind text not null, due_on date, cycle int
);
create table app.devices (id uuid primary key, staff_id uuid not null, endpoint text not null, p256dh text not null, auth text not null);
create table app.audit_log (
    action text not null, target_type text not null, target_id uuid not null,
    office_id uuid not null references app.offices, details jsonb not null
);

create view notifierd.offices as select * from app.offices;
create view notifierd.staff as select * from app.staff;
create view notifierd.alerts as select * from app.alerts;
create view notifierd.devices as select * from app.devices;
create view notifierd.audit_log as select * from app.audit_log;
