-- Several processes work on one day: its members. One of them, the holder in `runs`, leads.

-- Every renewal updates a row, so pages have room for new versions of it.
create table notifierd.run_members (
    day             date not null,
    name            text not null,
    host            text not null,
    version         text not null,
    config_hash     text not null,                    -- of what decides what is sent: members have the same
    shares          boolean not null,                 -- whether others may be members, too
    epoch           integer not null,                 -- the run in which it is a member
    joined_at       timestamptz not null,
    renewed_at      timestamptz not null,
    until           timestamptz not null,             -- when its membership expires
    asked           integer not null default 0,       -- the number of the last renewal
    email           integer not null,                 -- the limits granted to it: calls at once,
    push            integer not null,
    per_destination integer not null,
    per_second      float8 not null,                  -- and mail calls per second
    mails_drawn     integer not null default 0,       -- mails that it drew from the day's quota,
    mails_used      integer not null default 0,       -- and those whose offices it has finished
    primary key (day, name)
) with (fillfactor = 50);

-- Who reserved the last try: the hash of a member's name. Derived call ids are the same in every process, so a call's id
-- does not tell whose reservation it is.
alter table notifierd.deliveries
    add column try_by bigint;

-- An office belongs to the member that claimed it. Once nothing of it is open, it is done, and no longer looked at.
alter table notifierd.run_offices
    add column claimed_by text,
    drop constraint run_offices_state_check,
    add constraint run_offices_state_check check (state in ('open', 'done', 'failed')),
    set (fillfactor = 70);
create index run_offices_to_do on notifierd.run_offices (day, urgency, office_id) where state <> 'done';

-- Last, as every renewal of a lease needs its rows: it must not be locked while another table is waited for.
alter table notifierd.runs
    add column epoch integer not null default 0,      -- how often the day's run began
    add column plan jsonb,                            -- what was open after the plan of this epoch; null: not planned
    add column limits jsonb,                          -- the limits in force: the leader's
    add column mails_room integer;                    -- mails of the day's quota that nobody has drawn; null: no quota
