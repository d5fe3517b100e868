create table fair_clock (
  only_row     boolean primary key default true check (only_row),
  virtual_time bigint not null check (virtual_time >= 0)
) with (fillfactor = 10);

insert into fair_clock (virtual_time) values (0);

comment on table fair_clock is 'One row: where the queue as a whole stands in virtual time. A tenant that comes back after a pause starts here, not where it stopped.';
comment on column fair_clock.only_row is 'Always true: there is one row.';
comment on column fair_clock.virtual_time is 'Fair key of the newest claimed task, raised by advance_fair_clock() every second rather than by claims, because every claim would write this row.';
