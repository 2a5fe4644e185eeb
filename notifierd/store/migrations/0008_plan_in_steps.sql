-- A day with very many offices is planned in steps, the most urgent offices first, while the first messages are sent.

-- The offices of a day that are not planned yet. A step takes the first ones, and deletes their rows.
create table notifierd.offices_to_plan (
    day       date not null,
    urgency   integer not null,
    office_id uuid not null,
    primary key (day, urgency, office_id)
);
-- It is full while a day is planned, and empty otherwise: statistics of either are wrong for the other.
alter table notifierd.offices_to_plan alter column day set statistics 0;
