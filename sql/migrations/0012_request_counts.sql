create unlogged table request_counts (
  subject  text primary key,
  minute   bigint not null,
  current  int not null,
  previous int not null,
  allowed  boolean not null
) with (fillfactor = 50);

comment on table request_counts is 'Rate limits: requests of this and the last minute by subject. Unlogged, because a count lost in a crash does no harm.';
comment on column request_counts.subject is 'Whose requests: key:<id> or tenant:<id>.';
comment on column request_counts.minute is 'The minute that current counts, since the epoch.';
comment on column request_counts.current is 'Requests allowed in that minute.';
comment on column request_counts.previous is 'Requests allowed in the minute before.';
comment on column request_counts.allowed is 'Whether the last request was allowed.';
