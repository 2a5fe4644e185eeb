-- What a run leaves for those who look back: the day is counted once, at the run's end, and not at each look.

alter table notifierd.runs
    add column counts jsonb,                          -- how the deliveries stood when it last ended; null: count them
    add column untold jsonb;                          -- the offices whose alerts had reached nobody by then
