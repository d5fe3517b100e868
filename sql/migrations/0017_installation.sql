create table installation (
  only_row boolean primary key default true check (only_row),
  id       uuid not null default gen_random_uuid()
);

insert into installation default values;

comment on table installation is 'One row: which installation this database is. Its object store is marked with the id, so that nobody sweeps the audio of another.';
comment on column installation.only_row is 'Always true: there is one row.';
comment on column installation.id is 'Made with the database, and the same in a restored copy of it.';
