-- What providers reported of mails after they had accepted them, and whose mails are held back because of it.

-- One row for each mail of which something is known; the worst status that was reported. No address, no provider's text.
create table notifierd.feedback (
    delivery_id uuid primary key,
    day         date not null,
    provider    text not null,
    status      text not null
                check (status in ('delayed', 'delivered', 'refused', 'bounced', 'suppressed', 'complained')),
    code        text not null,                        -- enhanced status code (RFC 3463); empty: none was given
    address_key bytea check (octet_length(address_key) = 16),  -- null: the address is not known any more
    seen_at     timestamptz not null,                 -- when that status was first seen
    grounds     boolean not null default false        -- it counts for holding mails back
);
create index feedback_by_status on notifierd.feedback (day, status, provider);
create index feedback_grounds on notifierd.feedback (delivery_id) where grounds;

-- How far each provider has been asked.
create table notifierd.feedback_looks (
    provider       text primary key,
    complete_until timestamptz,                       -- until then every answer was read; null: no look was complete
    looked_at      timestamptz not null,
    result         text not null                      -- why the last look was not complete; empty: it was
);

-- The lease of the one process that asks: a single row.
create table notifierd.look_lease (
    single      boolean primary key default true check (single),
    holder      text,
    lease_until timestamptz
);
insert into notifierd.look_lease default values;

-- Staff members whose mails are held back while the application has that address for them.
create table notifierd.holds (
    staff_id    uuid not null,
    address_key bytea not null check (octet_length(address_key) = 16),
    reason      text not null check (reason in ('complained', 'suppressed')),
    since       date not null,                        -- the first day without mails, and the last one
    until       date not null,
    seen_at     timestamptz not null,                 -- when the first of the reports behind it was seen
    primary key (staff_id, address_key)
);

-- What was reported of a staff member before this moment holds no mail back any more.
create table notifierd.lifts (
    staff_id  uuid primary key,
    lifted_at timestamptz not null
);

-- An address is compared by HMAC-SHA-256 under a random key. PostgreSQL has no HMAC without an extension, but RFC 2104,
-- section 2, needs only a hash function and two pads: the key, filled up with zeros to a block of SHA-256 (64 bytes), and
-- combined with 0x36 and 0x5c by exclusive or. A version 4 UUID has 122 random bits; four of them make 32 bytes of key.
create table notifierd.address_pads (
    single    boolean primary key default true check (single),
    inner_pad bytea not null check (octet_length(inner_pad) = 64),
    outer_pad bytea not null check (octet_length(outer_pad) = 64)
);
with block as materialized (
    select sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    ) || decode(repeat('00', 32), 'hex') as bytes
)
insert into notifierd.address_pads (inner_pad, outer_pad)
select string_agg(set_byte('\x00'::bytea, 0, get_byte(bytes, n) # 54), ''::bytea order by n),
       string_agg(set_byte('\x00'::bytea, 0, get_byte(bytes, n) # 92), ''::bytea order by n)
from block, generate_series(0, 63) as n;
