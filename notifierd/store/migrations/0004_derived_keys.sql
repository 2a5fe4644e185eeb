-- A call's id, which is its idempotency key, is derived from its deliveries and its content. What goes into a new call
-- because the former one certainly did not carry it, or because `retry` asked for it, needs another key: it is counted.

alter table notifierd.deliveries
    add column put_back integer not null default 0;   -- how often it was put back to planned, for a new call

-- Since when the holder has had the day's lease without a break: what was reserved before that, another process reserved.
alter table notifierd.runs
    add column held_since timestamptz;
