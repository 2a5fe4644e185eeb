-- The ledger: which days were run, for which offices, and every delivery of them.

create table notifierd.runs (
    day         date primary key,
    state       text not null check (state in ('running', 'completed', 'interrupted', 'skipped', 'missed')),
    reason      text,
    holder      text,                                 -- who has the day's lease
    lease_until timestamptz,
    started_at  timestamptz,
    finished_at timestamptz
);

create table notifierd.run_offices (
    day       date not null,
    office_id uuid not null,
    urgency   integer not null,                       -- days to the nearest deadline; the smallest goes first
    state     text not null default 'open' check (state in ('open', 'failed')),
    reason    text,
    primary key (day, office_id)
);
create index run_offices_in_order on notifierd.run_offices (day, urgency, office_id);

-- Nearly every column changes two or three times in a delivery's life: room on the page and no index on what changes
-- keep those updates HOT.
create table notifierd.deliveries (
    id                  uuid primary key,
    day                 date not null,
    office_id           uuid not null,
    staff_id            uuid not null,
    channel             text not null check (channel in ('email', 'push')),
    device_id           uuid,
    state               text not null default 'planned'
                        check (state in ('planned', 'sending', 'sent', 'failed', 'gone', 'unknown', 'expired')),
    attempts            integer not null default 0,   -- tries that were deferred while other messages passed
    try                 integer not null default 0,   -- the last try's number: only the try that reserved a row settles it
    call_id             uuid,                         -- the HTTP call it is or was part of; the idempotency key
    call_tries          integer not null default 0,   -- how often that call was tried
    position            integer not null default 0,   -- its place in the call
    payload_hash        bytea,                        -- SHA-256 of the whole call's content
    doubts              integer not null default 0,   -- calls without a usable key whose answer was lost
    not_before          timestamptz,
    try_until           timestamptz,                  -- after this another process may take a row in 'sending' up
    provider            text,
    provider_message_id text,
    reason              text,
    audit_missing       boolean not null default false, -- settled, but the database refused its audit row
    updated_at          timestamptz not null default now(),
    check ((channel = 'push') = (device_id is not null))
) with (fillfactor = 60);
create unique index deliveries_one_mail on notifierd.deliveries (day, office_id, staff_id) where channel = 'email';
create unique index deliveries_one_push on notifierd.deliveries (day, office_id, staff_id, device_id) where channel = 'push';

create index deliveries_by_office on notifierd.deliveries (day, office_id);

-- What a try said of a delivery that was no longer its own. Evidence; changes nothing.
create table notifierd.late_outcomes (
    id                  bigint generated always as identity primary key,
    delivery_id         uuid not null,
    try                 integer not null,
    state               text not null,
    reason              text,
    provider_message_id text,
    at                  timestamptz not null default now()
);

-- A delivery's id is derived from what it is, so that planning twice, or again after the ledger was lost, names it the
-- same. RFC 9562, section 5.8 and appendix B.2 (version 8: the first 128 bits of a SHA-256 over namespace and name):
-- PostgreSQL has no SHA-1 for a version 5 without an extension. notifierd.model.delivery_id is the same in Python.
-- Version and variant are set bit by bit so that the hash is named once: only such an expression is inlined into the
-- statement that plans (1 s for a million rows, not 6).
create function notifierd.delivery_id(day date, office_id uuid, staff_id uuid, channel text, device_id uuid)
returns uuid language sql immutable parallel safe
return encode(
    set_bit(set_bit(set_bit(set_bit(set_bit(set_bit(substring(sha256(
        '\x6e6f7469666965726400000000000001'::bytea || int4send(day - date '2000-01-01') || uuid_send(office_id)
        || uuid_send(staff_id) || case channel when 'email' then '\x01'::bytea else '\x02'::bytea end
        || coalesce(uuid_send(device_id), '\x'::bytea)
    ) for 16), 55, 1), 54, 0), 53, 0), 52, 0), 71, 1), 70, 0),
    'hex'
)::uuid;
