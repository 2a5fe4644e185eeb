-- What the operator's webhook was told of a day: a row stands before the first try, so that nobody tells it again.

create table notifierd.alarms (
    day       date not null,
    cause     text not null,
    raised_at timestamptz not null default now(),
    primary key (day, cause)
);
