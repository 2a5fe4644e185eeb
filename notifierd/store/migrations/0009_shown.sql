-- What operators see of a day that goes on, and which programs may use a schema that is newer than they are.

-- The oldest program that may use the schema as this migration left it; null: only programs that know the migration.
alter table notifierd.migrations
    add column since text;

-- Both are written by the member itself, and go with its row.
alter table notifierd.run_members
    add column tallies jsonb,                         -- what it has done since it joined, as of its last renewal
    add column interim jsonb;                         -- the counts of the day so far: one member keeps them, the leader
